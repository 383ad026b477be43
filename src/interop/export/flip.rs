//! The FLIP authors' parameters, under their names.

use super::super::flip::{POSITIONS, pieces};
use super::super::{InteropError, NewFolder};
use super::values::positions;
use super::{Export, cannot, tokenizer};
use crate::autograd::Activation;
use crate::model::{ImagePool, Loss, ModelConfig, TextPool};

/// Writes `flip.safetensors`, `model.json` and the tokenizer. Names are the paths in the authors' tree of parameters,
/// such as `img_encoder/Transformer/encoderblock_00/LayerNorm_0/scale`; dense kernels are `[inputs, outputs]`.
///
/// # Errors
/// A model with choices that are not FLIP's, or a file that cannot be written.
pub fn flip(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    let model = export.model;
    check(model, export.loss)?;
    let mut tensors = Vec::new();
    for spec in export.layout.specs().iter().filter(|spec| spec.name != "visual.positional_embedding") {
        tensors.extend(pieces(spec).into_iter().map(|piece| export.tensor(spec.offset, piece)));
    }
    let table = positions(export);
    let width = model.vision.width;
    tensors.push((POSITIONS.to_owned(), vec![1, table.len() / width, width], table));
    folder.write("model.json", &(serde_json::to_string_pretty(model)? + "\n"))?;
    export.save(folder, "flip.safetensors", tensors)?;
    tokenizer::write(export, folder)
}

/// Names the first choice that is not FLIP's.
fn check(model: &ModelConfig, loss: Loss) -> Result<(), InteropError> {
    let towers = [&model.vision, &model.text];
    let choices = [
        (loss == Loss::Sigmoid, "the bias of the sigmoid loss"),
        (model.image_pool != ImagePool::All, "an image embedding that is not the mean over all tokens (--pool)"),
        (model.ln_after_pool, "a last LayerNorm after the pooling"),
        (model.ln_pre, "a LayerNorm in front of the vision tower"),
        (!model.patch_bias, "a patch embedding without a bias"),
        (model.causal, "texts with a causal mask"),
        (model.text_pool != TextPool::First, "a text embedding that is not of the first token"),
        (towers.iter().any(|tower| tower.activation != Activation::GeluTanh), "another activation than tanh GELU"),
        (
            towers.iter().any(|tower| tower.mlp_width() != 4 * tower.width),
            "MLPs that are not four times as wide as a token",
        ),
        (towers.iter().any(|tower| tower.layer_scale.is_some()), "layer scale"),
        (towers.iter().any(|tower| tower.ln_eps.is_some()), "a LayerNorm epsilon of one tower"),
    ];
    match choices.iter().find(|(has, _)| *has) {
        None => Ok(()),
        Some((_, choice)) => Err(cannot("flip", choice, "open_clip or onnx")),
    }
}
