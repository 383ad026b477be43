//! A folder for `transformers.CLIPModel.from_pretrained(FOLDER)`.

use serde_json::{Value, json};

use super::super::hugging_face::pieces;
use super::super::{InteropError, NewFolder};
use super::values::shortest;
use super::{Export, Tensor, cannot, tokenizer};
use crate::autograd::Activation;
use crate::data::image::ResizeMode;
use crate::model::{ImagePool, Loss, ModelConfig, Positions, TextPool, TowerConfig, sincos_2d};

/// Writes `config.json`, `model.safetensors`, `preprocessor_config.json` and the tokenizer.
///
/// # Errors
/// A choice that a `CLIPModel` does not have, or a file that cannot be written.
pub fn hugging_face(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    let model = export.model;
    check(model, export.loss)?;
    let mut text = tower(&model.text, model);
    text["vocab_size"] = json!(model.vocab);
    text["max_position_embeddings"] = json!(model.context);
    // In `transformers`, 2 stands for the largest token.
    text["eos_token_id"] = json!(if let TextPool::Id(id) = model.text_pool { id } else { 2 });
    let mut vision = tower(&model.vision, model);
    vision["image_size"] = json!(model.image_size);
    vision["patch_size"] = json!(model.patch_size);
    let config = json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.embed_dim,
        "text_config": text,
        "vision_config": vision,
    });
    let side = model.image_size;
    let square = json!({"height": side, "width": side});
    let (size, crops) = match model.resize_mode {
        ResizeMode::Shortest => (json!({"shortest_edge": side}), true),
        ResizeMode::Squash => (square.clone(), false),
    };
    let preprocessor = json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true,
        "size": size,
        "resample": 3,
        "do_center_crop": crops,
        "crop_size": square,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "do_convert_rgb": true,
        "image_mean": model.normalisation.mean.map(shortest),
        "image_std": model.normalisation.std.map(shortest),
    });
    folder.write("config.json", &(serde_json::to_string_pretty(&config)? + "\n"))?;
    folder.write("preprocessor_config.json", &(serde_json::to_string_pretty(&preprocessor)? + "\n"))?;
    export.save(folder, "model.safetensors", tensors(export))?;
    tokenizer::write(export, folder)
}

/// Names the first choice that a `CLIPModel` does not have.
fn check(model: &ModelConfig, loss: Loss) -> Result<(), InteropError> {
    let towers = [&model.vision, &model.text];
    let choices = [
        (model.text_pool == TextPool::Id(2), "an end of text with the number 2, which there stands for the largest"),
        (model.image_pool != ImagePool::Class, "an image embedding that is not of the CLS token (--pool)"),
        (!model.ln_pre, "no LayerNorm in front of the vision tower"),
        (!model.causal, "texts without a causal mask"),
        (matches!(model.text_pool, TextPool::First | TextPool::Last), "a text embedding that is not of the end token"),
        (model.patch_bias, "a bias of the patch embedding"),
        (towers.iter().any(|tower| tower.layer_scale.is_some()), "layer scale"),
        (loss == Loss::Sigmoid, "the bias of the sigmoid loss"),
    ];
    match choices.iter().find(|(has, _)| *has) {
        None => Ok(()),
        Some((_, choice)) => Err(cannot("hf", choice, "open_clip or onnx")),
    }
}

fn tower(tower: &TowerConfig, model: &ModelConfig) -> Value {
    let activation = match tower.activation {
        Activation::QuickGelu => "quick_gelu",
        Activation::GeluExact => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    json!({
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width(),
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": activation,
        "layer_norm_eps": shortest(tower.ln_eps.unwrap_or(model.ln_eps)),
        "projection_dim": model.embed_dim,
    })
}

fn tensors(export: &Export<'_>) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for spec in export.layout.specs() {
        tensors.extend(pieces(spec).into_iter().map(|piece| export.tensor(spec.offset, piece)));
    }
    let ModelConfig { image_size, patch_size, vision, .. } = export.model;
    if export.model.positions == Positions::Sincos {
        let table = sincos_2d(image_size / patch_size, vision.width);
        let name = "vision_model.embeddings.position_embedding.weight".to_owned();
        tensors.push((name, vec![table.len() / vision.width, vision.width], table));
    }
    tensors
}
