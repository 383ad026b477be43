//! A vision tower of timm in an OpenCLIP model: the mean over all tokens, CLS included, which is the paper's.

use serde_json::{Value, json};

use super::super::Trunk;
use super::super::timm::{POSITIONS, piece};
use super::super::{InteropError, NewFolder};
use super::values::{biased_positions, mlp_ratio, positions, shortest};
use super::{Export, Tensor, cannot};
use crate::autograd::Activation;
use crate::model::ModelConfig;

/// Models of timm by the epsilon of their LayerNorms, which is no argument; everything else is given as one.
const MODELS: [(f32, &str); 2] = [(1e-6, "vit_base_patch16_224"), (1e-5, "vit_base_patch16_clip_224")];

/// `vision_cfg`, and the folder `timm` that it names: OpenCLIP 3.3 passes no other arguments to timm.
///
/// # Errors
/// An epsilon that no model of timm has, or a file that cannot be written.
pub(super) fn config(model: &ModelConfig, folder: &NewFolder) -> Result<Value, InteropError> {
    let vision = &model.vision;
    let eps = vision.ln_eps.unwrap_or(model.ln_eps);
    let Some((_, architecture)) = MODELS.into_iter().find(|(theirs, _)| *theirs == eps) else {
        let choice = format!("the mean over all tokens with a LayerNorm epsilon of {}", shortest(eps));
        return Err(cannot("open_clip", &choice, "flip or onnx"));
    };
    let activation = match vision.activation {
        Activation::GeluTanh => "gelu_tanh",
        Activation::GeluExact => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    let arguments = json!({
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "embed_dim": vision.width,
        "depth": vision.layers,
        "num_heads": vision.heads,
        "mlp_ratio": mlp_ratio(vision),
        "act_layer": activation,
        "init_values": vision.layer_scale.map(shortest),
        "pre_norm": model.ln_pre,
        "pool_include_prefix": true,
        "fc_norm": model.ln_after_pool,
    });
    let file = json!({
        "architecture": architecture,
        "num_classes": 0,
        "num_features": vision.width,
        "pretrained_cfg": {"input_size": [3, model.image_size, model.image_size]},
        "model_args": arguments,
    });
    folder.subfolder("timm")?;
    folder.write("timm/config.json", &(serde_json::to_string_pretty(&file)? + "\n"))?;
    Ok(json!({
        "image_size": model.image_size,
        "timm_model_name": format!("local-dir:{}", folder.path().join("timm").display()),
        "timm_pool": "avg",
        "timm_proj": "linear",
    }))
}

/// The tensors of the model.
pub(super) fn tensors(export: &Export<'_>) -> Vec<Tensor> {
    let model = export.model;
    let width = model.vision.width;
    let trunk = Trunk { fc_norm: model.ln_after_pool, no_embed_class: false };
    let separate = ["visual.conv1.bias", "visual.positional_embedding"];
    let specs = export.layout.specs().iter().filter(|spec| !separate.contains(&spec.name.as_str()));
    let mut tensors: Vec<Tensor> = specs.map(|spec| export.tensor(spec.offset, piece(spec, trunk))).collect();
    // timm's patch embedding always has a bias, except where a norm follows it.
    let table = if model.ln_pre {
        biased_positions(export)
    } else {
        let bias = export.value("visual.conv1.bias").map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
        tensors.push(("visual.trunk.patch_embed.proj.bias".to_owned(), vec![width], bias));
        positions(export)
    };
    tensors.push((POSITIONS.to_owned(), vec![1, table.len() / width, width], table));
    tensors
}
