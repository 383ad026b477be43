//! Transformer blocks as nodes: the formulas of `model/blocks.rs` and its ops.

use super::super::super::InteropError;
use super::super::super::piece::Order;
use super::graph::{Graph, Value, float, int, ints};
use crate::autograd::Activation;
use crate::model::TowerConfig;

/// The place of the token that an embedding is computed from.
pub(super) enum Pick {
    /// At this place of every sequence.
    At(i64),
    /// `[batch, 1]`, the place in each sequence.
    Each(Value),
}

/// A tower's blocks.
pub(super) struct Transformer<'a> {
    /// Sizes and choices.
    pub(super) tower: &'a TowerConfig,
    /// Its parameters are `{prefix}.resblocks.{i}...`.
    pub(super) prefix: &'a str,
    /// LayerNorm's epsilon.
    pub(super) eps: f32,
    /// `[tokens, tokens]`, added to the scores.
    pub(super) mask: Option<Value>,
}

impl Transformer<'_> {
    /// `x: [batch, tokens, width]` to the same shape, or to `[batch, width]` if only one token is needed. The last
    /// block then works on that token alone after its attention.
    pub(super) fn nodes(&self, graph: &mut Graph<'_>, x: Value, only: Option<&Pick>) -> Result<Value, InteropError> {
        let mut x = x;
        for index in 0..self.tower.layers {
            let only = only.filter(|_| index + 1 == self.tower.layers);
            x = self.block(graph, x, &format!("{}.resblocks.{index}", self.prefix), only)?;
        }
        Ok(x)
    }

    fn block(&self, graph: &mut Graph<'_>, x: Value, block: &str, only: Option<&Pick>) -> Result<Value, InteropError> {
        graph.scope(format!("{block}.attn"));
        let normal = layer_norm(graph, &x, &format!("{block}.ln_1"), self.eps)?;
        let attended = self.attention(graph, &normal, block)?;
        let (x, attended) = match only {
            None => (x, attended),
            Some(place) => (pick(graph, &x, place), pick(graph, &attended, place)),
        };
        let names = [format!("{block}.attn.out_proj.weight"), format!("{block}.attn.out_proj.bias")];
        let branch = linear(graph, &attended, &names)?;
        let branch = self.scaled(graph, branch, &format!("{block}.ls_1.gamma"))?;
        let x = graph.node("Add", &[&x, &branch], &[]);

        graph.scope(format!("{block}.mlp"));
        let dense = |name: &str| [format!("{block}.mlp.{name}.weight"), format!("{block}.mlp.{name}.bias")];
        let normal = layer_norm(graph, &x, &format!("{block}.ln_2"), self.eps)?;
        let hidden = linear(graph, &normal, &dense("c_fc"))?;
        let hidden = activation(graph, &hidden, self.tower.activation);
        let branch = linear(graph, &hidden, &dense("c_proj"))?;
        let branch = self.scaled(graph, branch, &format!("{block}.ls_2.gamma"))?;
        Ok(graph.node("Add", &[&x, &branch], &[]))
    }

    /// `x: [batch, tokens, width]` to the heads' results side by side, in the same shape. Queries are scaled before the
    /// product, whose sums in f16 are then smaller.
    fn attention(&self, graph: &mut Graph<'_>, x: &str, block: &str) -> Result<Value, InteropError> {
        let &TowerConfig { width, heads, .. } = self.tower;
        let names = [format!("{block}.attn.in_proj_weight"), format!("{block}.attn.in_proj_bias")];
        let packed = linear(graph, x, &names)?;
        let split = graph.ints(&[0, 0, 3, heads as i64, (width / heads) as i64]);
        let packed = graph.node("Reshape", &[&packed, &split], &[]);
        let packed = graph.node("Transpose", &[&packed], &[ints("perm", &[2, 0, 3, 1, 4])]);
        let [query, key, value] = [0, 1, 2].map(|which| {
            let which = graph.int(which);
            graph.node("Gather", &[&packed, &which], &[int("axis", 0)])
        });
        let scale = graph.scalar(1.0 / ((width / heads) as f32).sqrt());
        let query = graph.node("Mul", &[&query, &scale], &[]);
        let key = graph.node("Transpose", &[&key], &[ints("perm", &[0, 1, 3, 2])]);
        let mut scores = graph.node("MatMul", &[&query, &key], &[]);
        if let Some(mask) = &self.mask {
            scores = graph.node("Add", &[&scores, mask], &[]);
        }
        let weights = graph.node("Softmax", &[&scores], &[int("axis", -1)]);
        let mixed = graph.node("MatMul", &[&weights, &value], &[]);
        let mixed = graph.node("Transpose", &[&mixed], &[ints("perm", &[0, 2, 1, 3])]);
        let together = graph.ints(&[0, 0, width as i64]);
        Ok(graph.node("Reshape", &[&mixed, &together], &[]))
    }

    fn scaled(&self, graph: &mut Graph<'_>, x: Value, gamma: &str) -> Result<Value, InteropError> {
        if self.tower.layer_scale.is_none() {
            return Ok(x);
        }
        let gamma = graph.parameter(gamma, Order::Same)?;
        Ok(graph.node("Mul", &[&x, &gamma], &[]))
    }
}

/// `x Wᵀ + b`, with `W` stored as `[inputs, outputs]`.
fn linear(graph: &mut Graph<'_>, x: &str, [weight, bias]: &[String; 2]) -> Result<Value, InteropError> {
    let weight = graph.parameter(weight, Order::Transposed)?;
    let bias = graph.parameter(bias, Order::Same)?;
    let product = graph.node("MatMul", &[x, &weight], &[]);
    Ok(graph.node("Add", &[&product, &bias], &[]))
}

/// LayerNorm over the last axis, with the parameters `{name}.weight` and `{name}.bias`.
pub(super) fn layer_norm(graph: &mut Graph<'_>, x: &str, name: &str, eps: f32) -> Result<Value, InteropError> {
    let gamma = graph.parameter(&format!("{name}.weight"), Order::Same)?;
    let beta = graph.parameter(&format!("{name}.bias"), Order::Same)?;
    Ok(graph.node("LayerNormalization", &[x, &gamma, &beta], &[int("axis", -1), float("epsilon", eps)]))
}

/// `x: [batch, tokens, width]` to one token of each sequence, `[batch, width]`.
fn pick(graph: &mut Graph<'_>, x: &str, place: &Pick) -> Value {
    match place {
        Pick::At(place) => {
            let place = graph.int(*place);
            graph.node("Gather", &[x, &place], &[int("axis", 1)])
        }
        Pick::Each(places) => graph.node("GatherND", &[x, places], &[int("batch_dims", 1)]),
    }
}

/// GELU in the forms that runtimes recognise and fuse; ONNX has an operator for it only from opset 20 on.
fn activation(graph: &mut Graph<'_>, x: &str, kind: Activation) -> Value {
    if kind == Activation::QuickGelu {
        let slope = graph.scalar(1.702);
        let inner = graph.node("Mul", &[x, &slope], &[]);
        let gate = graph.node("Sigmoid", &[&inner], &[]);
        return graph.node("Mul", &[x, &gate], &[]);
    }
    let [half, one] = [0.5, 1.0].map(|value| graph.scalar(value));
    let odd = if kind == Activation::GeluExact {
        let root = graph.scalar(std::f32::consts::SQRT_2);
        let inner = graph.node("Div", &[x, &root], &[]);
        graph.node("Erf", &[&inner], &[])
    } else {
        let [three, cubic, slope] = [3.0, 0.044_715, 0.797_884_6].map(|value| graph.scalar(value));
        let cube = graph.node("Pow", &[x, &three], &[]);
        let cube = graph.node("Mul", &[&cube, &cubic], &[]);
        let inner = graph.node("Add", &[x, &cube], &[]);
        let inner = graph.node("Mul", &[&inner, &slope], &[]);
        graph.node("Tanh", &[&inner], &[])
    };
    let gate = graph.node("Add", &[&odd, &one], &[]);
    let gated = graph.node("Mul", &[x, &gate], &[]);
    graph.node("Mul", &[&gated, &half], &[])
}
