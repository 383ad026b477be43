//! The FLIP authors' parameters, under their names.

use super::super::flip::{POSITIONS, pieces};
use super::super::{InteropError, NewFolder};
use super::open_clip::positions;
use super::{Export, cannot, tokenizer};
use crate::model::{ModelConfig, Preset, TowerConfig};

/// Writes `flip.safetensors`, `model.json` and the tokenizer. Names are the paths in the authors' tree of parameters,
/// such as `img_encoder/Transformer/encoderblock_00/LayerNorm_0/scale`; dense kernels are `[inputs, outputs]`.
///
/// # Errors
/// A model with choices that are not FLIP's, or a file that cannot be written.
pub fn flip(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    let model = export.model;
    let tower = |tower: &TowerConfig| TowerConfig::new(tower.layers, tower.width, tower.heads);
    let own = ModelConfig {
        image_size: model.image_size,
        patch_size: model.patch_size,
        vision: tower(&model.vision),
        text: tower(&model.text),
        context: model.context,
        vocab: model.vocab,
        embed_dim: model.embed_dim,
        ln_eps: model.ln_eps,
        normalisation: model.normalisation,
        positions: model.positions,
        ..Preset::Tiny.config()
    };
    if *model != own {
        return Err(cannot("flip", "a choice of OpenCLIP's models", "open_clip, hf or onnx"));
    }
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
