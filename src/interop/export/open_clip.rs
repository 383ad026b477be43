//! A folder for `open_clip.create_model_and_transforms("local-dir:FOLDER")`.

use serde_json::{Map, Value, json};

use super::super::open_clip::piece;
use super::super::{InteropError, NewFolder};
use super::values::{biased_positions, mlp_ratio, shortest};
use super::{Export, Tensor, cannot, timm, tokenizer};
use crate::autograd::Activation;
use crate::model::{ImagePool, Loss, ModelConfig, Positions, TextPool, TowerConfig};

/// Writes `open_clip_config.json`, `open_clip_model.safetensors` and the tokenizer. A model that pools all tokens gets
/// a vision tower of timm, since OpenCLIP's own leaves the CLS token out of the mean.
///
/// # Errors
/// A choice that OpenCLIP does not have, or a file that cannot be written.
pub fn open_clip(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    let model = export.model;
    let quick = [&model.vision, &model.text].map(|tower| tower.activation == Activation::QuickGelu);
    let is_timm = model.image_pool == ImagePool::All;
    // A tower of timm has an activation of its own.
    if quick[0] != quick[1] && !is_timm {
        return Err(cannot("open_clip", "quick GELU in one tower alone", "onnx"));
    }
    let (vision, tensors) = match is_timm {
        true => (timm::config(model, folder)?, timm::tensors(export)),
        false => (native(model), native_tensors(export)),
    };
    let mut text = tower(&model.text, model.ln_eps);
    text.extend(object(json!({
        "context_length": model.context,
        "vocab_size": model.vocab,
        "heads": model.text.heads,
        "no_causal_mask": !model.causal,
    })));
    let pool = match model.text_pool {
        TextPool::First => json!({"pool_type": "first"}),
        TextPool::Last => json!({"pool_type": "last"}),
        TextPool::Argmax => json!({"pool_type": "argmax"}),
        TextPool::Id(id) => json!({"pool_type": "eos", "eos_id": id}),
    };
    text.extend(object(pool));
    if export.tokenizer.is_some_and(|json| !tokenizer::is_clip(json)) {
        // Any name: with `local-dir:`, OpenCLIP reads the tokenizer from the folder.
        text.insert("hf_tokenizer_name".to_owned(), json!("tokenizer.json"));
        if export.tokenizer.is_some_and(tokenizer::strips_end) {
            text.insert("tokenizer_kwargs".to_owned(), json!({"strip_sep_token": true}));
        }
    }
    let mut config = json!({"embed_dim": model.embed_dim, "vision_cfg": vision, "text_cfg": text});
    if quick[1] {
        config["quick_gelu"] = json!(true);
    }
    if export.loss == Loss::Sigmoid {
        config["init_logit_bias"] = json!(export.value("logit_bias").map_or(0.0, |bias| bias[0]));
    }
    let preprocess = json!({
        "mean": model.normalisation.mean.map(shortest),
        "std": model.normalisation.std.map(shortest),
        "interpolation": "bicubic",
        "resize_mode": model.resize_mode,
    });
    let file = json!({"model_cfg": config, "preprocess_cfg": preprocess});
    folder.write("open_clip_config.json", &(serde_json::to_string_pretty(&file)? + "\n"))?;
    export.save(folder, "open_clip_model.safetensors", tensors)?;
    tokenizer::write(export, folder)
}

pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The keys that both towers have.
fn tower(tower: &TowerConfig, model_eps: f32) -> Map<String, Value> {
    let mut keys = object(json!({"layers": tower.layers, "width": tower.width}));
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    if tower.mlp_width.is_some() {
        set("mlp_ratio", json!(mlp_ratio(tower)));
    }
    if tower.activation == Activation::GeluTanh {
        set("act_kwargs", json!({"approximate": "tanh"}));
    }
    let eps = tower.ln_eps.unwrap_or(model_eps);
    // PyTorch's.
    if eps != 1e-5 {
        set("norm_kwargs", json!({"eps": shortest(eps)}));
    }
    if let Some(start) = tower.layer_scale {
        set("ls_init_value", json!(shortest(start)));
    }
    keys
}

/// OpenCLIP's own vision tower.
fn native(model: &ModelConfig) -> Value {
    let mut keys = tower(&model.vision, model.ln_eps);
    keys.extend(object(json!({
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "head_width": model.vision.width / model.vision.heads,
        "no_ln_pre": !model.ln_pre,
        "pool_type": if model.image_pool == ImagePool::Patches { "avg" } else { "tok" },
    })));
    if model.ln_after_pool {
        keys.insert("final_ln_after_pool".to_owned(), json!(true));
    }
    // A bias is added to the positions of the patches, so that they are no longer sines.
    if model.positions == Positions::Sincos && !model.patch_bias {
        keys.insert("pos_embed_type".to_owned(), json!("sin_cos_2d"));
    }
    Value::Object(keys)
}

fn native_tensors(export: &Export<'_>) -> Vec<Tensor> {
    let separate = ["visual.conv1.bias", "visual.positional_embedding"];
    let specs = export.layout.specs().iter().filter(|spec| !separate.contains(&spec.name.as_str()));
    let mut tensors: Vec<Tensor> = specs.map(|spec| export.tensor(spec.offset, piece(spec))).collect();
    let (table, width) = (biased_positions(export), export.model.vision.width);
    tensors.push(("visual.positional_embedding".to_owned(), vec![table.len() / width, width], table));
    tensors
}
