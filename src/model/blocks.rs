//! Transformer blocks: pre-normalised, with biases everywhere, perhaps with layer scale.

use super::config::TowerConfig;
use crate::autograd::{Activation, Init, Layout, ParamId, Slot, Tape, Var};
use crate::ops::AllOps;
use crate::ops::layernorm::Norm;
use crate::ops::linear::Weights;
use crate::ops::select_token::Place;

/// Adds `prefix.weight` (ones) and `prefix.bias` (zeros), which do not decay.
pub(super) fn norm(layout: &mut Layout, prefix: &str, width: usize, eps: f32) -> Norm {
    Norm {
        gamma: layout.add(format!("{prefix}.weight"), &[width], Init::Constant(1.0), false),
        beta: layout.add(format!("{prefix}.bias"), &[width], Init::Constant(0.0), false),
        eps,
    }
}

/// Adds a weight `[outputs, inputs]`, Xavier-uniform, and perhaps a bias of zeros.
pub(super) fn linear(
    layout: &mut Layout,
    [weight, bias]: [String; 2],
    outputs: usize,
    inputs: usize,
    has_bias: bool,
) -> Weights {
    let xavier = Init::Xavier { fan_in: inputs, fan_out: outputs };
    Weights {
        weight: layout.add_rounded(weight, &[outputs, inputs], xavier, true),
        bias: has_bias.then(|| layout.add_rounded(bias, &[outputs], Init::Constant(0.0), false)),
    }
}

/// `x` with layer scale, if there is any.
fn scaled<D: AllOps>(tape: &mut Tape<D>, x: Var<D::Act>, gamma: Option<ParamId>) -> Var<D::Act> {
    match gamma {
        Some(gamma) => tape.layer_scale(x, gamma),
        None => x,
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
    scale1: Option<ParamId>,
    norm2: Norm,
    up: Weights,
    down: Weights,
    scale2: Option<ParamId>,
}

/// A stack of blocks with the normalisation after it.
pub(super) struct Transformer {
    blocks: Vec<Block>,
    heads: usize,
    activation: Activation,
    causal: bool,
    final_norm: Norm,
}

impl Transformer {
    /// Parameters `{prefix}.resblocks.{i}...` and `{final_norm}.*`, named as in OpenCLIP.
    pub(super) fn new(
        layout: &mut Layout,
        [prefix, final_norm]: [&str; 2],
        config: &TowerConfig,
        eps: f32,
        causal: bool,
    ) -> Self {
        let &TowerConfig { layers, width, heads, activation, layer_scale, ln_eps, .. } = config;
        let (hidden, eps) = (config.mlp_width(), ln_eps.unwrap_or(eps));
        let blocks = (0..layers)
            .map(|index| {
                let block = format!("{prefix}.resblocks.{index}");
                let dense = |name: &str| [format!("{block}.{name}.weight"), format!("{block}.{name}.bias")];
                let packed = [format!("{block}.attn.in_proj_weight"), format!("{block}.attn.in_proj_bias")];
                let scale = |layout: &mut Layout, name: &str| {
                    layer_scale.map(|start| {
                        layout.add(format!("{block}.{name}.gamma"), &[width], Init::Constant(start), false)
                    })
                };
                Block {
                    norm1: norm(layout, &format!("{block}.ln_1"), width, eps),
                    qkv: linear(layout, packed, 3 * width, width, true),
                    out: linear(layout, dense("attn.out_proj"), width, width, true),
                    scale1: scale(layout, "ls_1"),
                    norm2: norm(layout, &format!("{block}.ln_2"), width, eps),
                    up: linear(layout, dense("mlp.c_fc"), hidden, width, true),
                    down: linear(layout, dense("mlp.c_proj"), width, hidden, true),
                    scale2: scale(layout, "ls_2"),
                }
            })
            .collect();
        Self { blocks, heads, activation, causal, final_norm: norm(layout, final_norm, width, eps) }
    }

    /// `x: [batch, tokens, width]` to the same shape, or to `[batch, 1, width]` if only the token at `only` is needed.
    /// Each residual sum is fused with the normalisation after it, so what is returned is the residual stream and the
    /// branch to add to it.
    ///
    /// Only attention mixes tokens. So if only one token is needed, the last block works on that token alone after its
    /// attention; model FLOPs do not count the others either.
    fn stream<D: AllOps>(
        &self,
        tape: &mut Tape<D>,
        x: Var<D::Act>,
        only: Option<Place<Slot<u32>>>,
    ) -> (Var<D::Act>, Option<Var<D::Act>>) {
        let (mut stream, mut branch) = (x, None);
        for (index, block) in self.blocks.iter().enumerate() {
            let name = format!("block_{index:02}");
            let only = only.filter(|_| index + 1 == self.blocks.len());
            (stream, branch) = tape.scope(&name, |tape| {
                tape.block(|tape| {
                    let (sum, normal) = tape.residual_layernorm(stream, branch, block.norm1);
                    let (sum, attended) = tape.scope("attention", |tape| {
                        let qkv = tape.linear(normal, block.qkv, None);
                        let (mut sum, mut attended) = (sum, tape.attention(qkv, self.heads, self.causal));
                        if let Some(place) = only {
                            (sum, attended) = (tape.select_token(sum, place), tape.select_token(attended, place));
                        }
                        let out = tape.linear(attended, block.out, None);
                        (sum, scaled(tape, out, block.scale1))
                    });
                    let (sum, normal) = tape.residual_layernorm(sum, Some(attended), block.norm2);
                    let mlp = tape.scope("mlp", |tape| {
                        let hidden = tape.linear(normal, block.up, Some(self.activation));
                        let out = tape.linear(hidden, block.down, None);
                        scaled(tape, out, block.scale2)
                    });
                    (sum, Some(mlp))
                })
            });
        }
        (stream, branch)
    }

    /// `x: [batch, tokens, width]` to the token at `place`, normalised: `[batch, width]`.
    pub(super) fn token<D: AllOps>(&self, tape: &mut Tape<D>, x: Var<D::Act>, place: Place<Slot<u32>>) -> Var<f32> {
        let (stream, branch) = self.stream(tape, x, Some(place));
        self.normalised_mean(tape, stream, branch, 0)
    }

    /// `x: [batch, tokens, width]` to the mean of the tokens from number `skip` on, normalised before or `after`:
    /// `[batch, width]`.
    pub(super) fn mean<D: AllOps>(&self, tape: &mut Tape<D>, x: Var<D::Act>, skip: usize, after: bool) -> Var<f32> {
        let (stream, branch) = self.stream(tape, x, None);
        if !after {
            return self.normalised_mean(tape, stream, branch, skip);
        }
        let mean = tape.scope("project", |tape| {
            let mean = tape.residual_pool(stream, branch, skip);
            tape.cast(mean)
        });
        self.normalised_mean(tape, mean, None, 0)
    }

    /// The mean of the normalised tokens from number `skip` on.
    fn normalised_mean<D: AllOps>(
        &self,
        tape: &mut Tape<D>,
        stream: Var<D::Act>,
        branch: Option<Var<D::Act>>,
        skip: usize,
    ) -> Var<f32> {
        let normal = tape.scope("final_norm", |tape| tape.residual_layernorm(stream, branch, self.final_norm).1);
        tape.scope("project", |tape| tape.pool(normal, skip))
    }
}
