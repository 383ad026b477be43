//! Transformer blocks: pre-normalised, biases everywhere, MLP of four times the width.

use super::config::TowerConfig;
use crate::autograd::{Activation, Init, Layout, ParamId, Tape, Var};
use crate::ops::AllOps;
use crate::ops::layernorm::Norm;
use crate::ops::linear::Weights;

/// Adds `prefix.weight` (ones) and `prefix.bias` (zeros), which do not decay.
pub(super) fn norm(layout: &mut Layout, prefix: &str, width: usize, eps: f32) -> Norm {
    Norm {
        gamma: layout.add(format!("{prefix}.weight"), &[width], Init::Constant(1.0), false),
        beta: layout.add(format!("{prefix}.bias"), &[width], Init::Constant(0.0), false),
        eps,
    }
}

/// Adds a weight `[outputs, inputs]`, Xavier-uniform, and a bias of zeros.
pub(super) fn linear(layout: &mut Layout, [weight, bias]: [String; 2], outputs: usize, inputs: usize) -> Weights {
    Weights {
        weight: layout.add(weight, &[outputs, inputs], Init::Xavier { fan_in: inputs, fan_out: outputs }, true),
        bias: Some(layout.add(bias, &[outputs], Init::Constant(0.0), false)),
    }
}

/// Adds a projection `[inputs, outputs]` without bias, Xavier-uniform.
pub(super) fn projection(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) -> ParamId {
    layout.add(name, &[inputs, outputs], Init::Xavier { fan_in: inputs, fan_out: outputs }, true)
}

struct Block {
    norm1: Norm,
    qkv: Weights,
    out: Weights,
    norm2: Norm,
    up: Weights,
    down: Weights,
}

/// Which tokens a tower's embedding is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokens {
    All,
    First,
}

/// A stack of blocks with the normalisation after it.
pub(super) struct Transformer {
    blocks: Vec<Block>,
    heads: usize,
    final_norm: Norm,
}

impl Transformer {
    /// Parameters `{prefix}.resblocks.{i}...` and `{final_norm}.*`, named as in OpenCLIP.
    pub(super) fn new(layout: &mut Layout, prefix: &str, final_norm: &str, config: &TowerConfig, eps: f32) -> Self {
        let width = config.width;
        let blocks = (0..config.layers)
            .map(|index| {
                let block = format!("{prefix}.resblocks.{index}");
                let dense = |name: &str| [format!("{block}.{name}.weight"), format!("{block}.{name}.bias")];
                let packed = [format!("{block}.attn.in_proj_weight"), format!("{block}.attn.in_proj_bias")];
                Block {
                    norm1: norm(layout, &format!("{block}.ln_1"), width, eps),
                    qkv: linear(layout, packed, 3 * width, width),
                    out: linear(layout, dense("attn.out_proj"), width, width),
                    norm2: norm(layout, &format!("{block}.ln_2"), width, eps),
                    up: linear(layout, dense("mlp.c_fc"), 4 * width, width),
                    down: linear(layout, dense("mlp.c_proj"), width, 4 * width),
                }
            })
            .collect();
        Self { blocks, heads: config.heads, final_norm: norm(layout, final_norm, width, eps) }
    }

    /// `x: [batch, tokens, width]` to the `read` tokens of the same shape, normalised. Each residual sum is fused with
    /// the normalisation after it, so a block returns its stream and its last branch separately.
    ///
    /// Only attention mixes tokens. So if only the first token is read, the last block works on that token alone after
    /// its attention; model FLOPs do not count the others either.
    pub(super) fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: Var<D::Act>, read: Tokens) -> Var<D::Act> {
        let (mut stream, mut branch) = (x, None);
        for (index, block) in self.blocks.iter().enumerate() {
            let name = format!("block_{index:02}");
            let first = read == Tokens::First && index + 1 == self.blocks.len();
            (stream, branch) = tape.scope(&name, |tape| {
                tape.block(|tape| {
                    let (sum, normal) = tape.residual_layernorm(stream, branch, block.norm1);
                    let (sum, attended) = tape.scope("attention", |tape| {
                        let qkv = tape.linear(normal, block.qkv, None);
                        let (mut sum, mut attended) = (sum, tape.attention(qkv, self.heads, false));
                        if first {
                            (sum, attended) = (tape.first_tokens(sum), tape.first_tokens(attended));
                        }
                        (sum, tape.linear(attended, block.out, None))
                    });
                    let (sum, normal) = tape.residual_layernorm(sum, Some(attended), block.norm2);
                    let mlp = tape.scope("mlp", |tape| {
                        let hidden = tape.linear(normal, block.up, Some(Activation::GeluTanh));
                        tape.linear(hidden, block.down, None)
                    });
                    (sum, Some(mlp))
                })
            });
        }
        tape.scope("final_norm", |tape| tape.residual_layernorm(stream, branch, self.final_norm).1)
    }
}
