//! Both towers as graphs: the formulas of `model/flip.rs`, with all patches visible.

use super::super::super::InteropError;
use super::super::super::piece::Order;
use super::super::values::positions;
use super::super::{Export, Numbers};
use super::blocks::{Pick, Transformer, layer_norm};
use super::graph::{Graph, Value, int, ints};
use super::proto::DataType;
use crate::model::{ImagePool, TextPool};

/// As in `ops/l2norm`.
const NORM_EPS: f32 = 1e-8;

/// From `pixels: [batch, 3, side, side]`, in 0..1, to embeddings of length 1, `[batch, embed_dim]`. From the last
/// LayerNorm on all is f32.
pub(super) fn image(graph: &mut Graph<'_>, export: &Export<'_>, pixels: &str) -> Result<Value, InteropError> {
    let model = export.model;
    let eps = model.vision.ln_eps.unwrap_or(model.ln_eps);
    let x = embed_patches(graph, export, pixels)?;
    let x = if model.ln_pre { layer_norm(graph, &x, "visual.ln_pre", eps)? } else { x };
    let blocks = Transformer { tower: &model.vision, prefix: "visual.transformer", eps, mask: None };
    let only = (model.image_pool == ImagePool::Class).then_some(Pick::At(0));
    let x = blocks.nodes(graph, x, only.as_ref())?;
    graph.scope("visual.pool");
    let mut x = graph.cast(x, Numbers::F32);
    // For a single token, it makes no difference whether the norm comes before or after it is selected.
    if only.is_none() && model.ln_after_pool {
        x = mean(graph, x, model.image_pool);
    }
    x = layer_norm(graph, &x, "visual.ln_post", eps)?;
    if only.is_none() && !model.ln_after_pool {
        x = mean(graph, x, model.image_pool);
    }
    project(graph, &x, "visual.proj")
}

/// Normalised patches with their positions and the CLS token before them, `[batch, patches + 1, width]`.
fn embed_patches(graph: &mut Graph<'_>, export: &Export<'_>, pixels: &str) -> Result<Value, InteropError> {
    let model = export.model;
    graph.scope("preprocess");
    let mean = graph.tensor("mean", &[3, 1, 1], &model.normalisation.mean)?;
    let std = graph.tensor("std", &[3, 1, 1], &model.normalisation.std)?;
    let x = graph.node("Sub", &[pixels, &mean], &[]);
    let x = graph.node("Div", &[&x, &std], &[]);
    let x = graph.cast(x, export.numbers);

    graph.scope("visual.embed");
    let mut inputs = vec![x, graph.parameter("visual.conv1.weight", Order::ChannelsFirst)?];
    if model.patch_bias {
        inputs.push(graph.parameter("visual.conv1.bias", Order::Same)?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let patch = [model.patch_size as i64; 2];
    let x = graph.node("Conv", &inputs, &[ints("kernel_shape", &patch), ints("strides", &patch)]);
    let width = model.vision.width;
    let rows = graph.ints(&[0, width as i64, model.patches() as i64]);
    let x = graph.node("Reshape", &[&x, &rows], &[]);
    let x = graph.node("Transpose", &[&x], &[ints("perm", &[0, 2, 1])]);

    // A row of zeros before the patches becomes the CLS token, which is the same in all images, with its position.
    let before = graph.ints(&[0, 1, 0, 0, 0, 0]);
    let x = graph.node("Pad", &[&x, &before], &[]);
    let mut table = positions(export);
    for (position, cls) in table.iter_mut().zip(export.value("visual.class_embedding").unwrap_or_default()) {
        *position += cls;
    }
    let table = graph.tensor("visual.positional_embedding", &[model.patches() + 1, width], &table)?;
    Ok(graph.node("Add", &[&x, &table], &[]))
}

/// The mean of the tokens, `[batch, tokens, width] -> [batch, width]`.
fn mean(graph: &mut Graph<'_>, x: Value, pool: ImagePool) -> Value {
    let x = if pool == ImagePool::Patches {
        let [one, end] = [1, i64::MAX].map(|value| graph.ints(&[value]));
        graph.node("Slice", &[&x, &one, &end, &one], &[])
    } else {
        x
    };
    graph.node("ReduceMean", &[&x], &[ints("axes", &[1]), int("keepdims", 0)])
}

/// `x: [batch, width]` to a row of length 1 in the shared space.
fn project(graph: &mut Graph<'_>, x: &str, projection: &str) -> Result<Value, InteropError> {
    graph.scope(projection);
    let weight = graph.parameter(projection, Order::Same)?;
    let x = graph.node("MatMul", &[x, &weight], &[]);
    let norm = graph.node("ReduceL2", &[&x], &[ints("axes", &[-1]), int("keepdims", 1)]);
    let eps = graph.scalar(NORM_EPS);
    let norm = graph.node("Add", &[&norm, &eps], &[]);
    Ok(graph.node("Div", &[&x, &norm], &[]))
}

/// From `tokens: [batch, context]` to embeddings of length 1, `[batch, embed_dim]`. From the last LayerNorm on all is
/// f32.
pub(super) fn text(graph: &mut Graph<'_>, export: &Export<'_>, tokens: &str) -> Result<Value, InteropError> {
    let model = export.model;
    let eps = model.text.ln_eps.unwrap_or(model.ln_eps);
    graph.start(export.numbers);
    graph.scope("text.embed");
    let table = graph.parameter("token_embedding.weight", Order::Same)?;
    let positions = graph.parameter("positional_embedding", Order::Same)?;
    let x = graph.node("Gather", &[&table, tokens], &[int("axis", 0)]);
    let x = graph.node("Add", &[&x, &positions], &[]);
    let place = place(graph, model.text_pool, model.context, tokens);
    let mask = model.causal.then(|| causal_mask(graph, model.context)).transpose()?;
    let blocks = Transformer { tower: &model.text, prefix: "transformer", eps, mask };
    let x = blocks.nodes(graph, x, Some(&place))?;
    graph.scope("text.pool");
    let x = graph.cast(x, Numbers::F32);
    let x = layer_norm(graph, &x, "ln_final", eps)?;
    project(graph, &x, "text_projection")
}

/// Which token an embedding is computed from, as `ops/select_token` finds it.
fn place(graph: &mut Graph<'_>, pool: TextPool, context: usize, tokens: &str) -> Pick {
    let ranks = match pool {
        TextPool::First => return Pick::At(0),
        TextPool::Last => return Pick::At(context as i64 - 1),
        TextPool::Argmax => tokens.to_owned(),
        TextPool::Id(id) => {
            let id = graph.int(id.into());
            graph.node("Equal", &[tokens, &id], &[])
        }
    };
    // onnxruntime has no `ArgMax` of booleans, and of 64 bits only on some devices.
    let ranks = graph.node("Cast", &[&ranks], &[int("to", DataType::Int32 as i64)]);
    // The first of equal ones; without any, the first of all.
    Pick::Each(graph.node("ArgMax", &[&ranks], &[int("axis", 1), int("keepdims", 1)]))
}

/// `[context, context]`: nothing for keys up to the query, minus infinity for later ones.
fn causal_mask(graph: &mut Graph<'_>, context: usize) -> Result<Value, InteropError> {
    let row = |query: usize| (0..context).map(move |key| if key <= query { 0.0 } else { f32::NEG_INFINITY });
    let values: Vec<f32> = (0..context).flat_map(row).collect();
    graph.tensor("causal_mask", &[context, context], &values)
}
