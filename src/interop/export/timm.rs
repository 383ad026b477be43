//! A vision tower of timm in an OpenCLIP model: the mean over all tokens, CLS included, which is the paper's.

use serde_json::{Value, json};

use super::super::piece::{Order, Piece};
use super::super::{InteropError, NewFolder};
use super::open_clip::{mlp_ratio, positions, shortest};
use super::{Export, Tensor, cannot};
use crate::autograd::Activation;
use crate::model::ModelConfig;

/// timm's epsilon.
const EPS: f32 = 1e-6;

/// `vision_cfg`, and the folder `timm` that it names: OpenCLIP 3.3 passes no other arguments to timm.
///
/// # Errors
/// An epsilon that is not timm's, or a file that cannot be written.
pub(super) fn config(model: &ModelConfig, folder: &NewFolder) -> Result<Value, InteropError> {
    let vision = &model.vision;
    let eps = vision.ln_eps.unwrap_or(model.ln_eps);
    if eps != EPS {
        let choice = format!("the mean over all tokens with a LayerNorm epsilon of {}", shortest(eps));
        return Err(cannot("open_clip", &choice, "flip or onnx"));
    }
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
        "architecture": "vit_base_patch16_224",
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

/// The tensors of the tower.
pub(super) fn tensors(export: &Export<'_>) -> Vec<Tensor> {
    let model = export.model;
    let (width, patch) = (model.vision.width, model.patch_size);
    let mut tensors = Vec::new();
    for spec in export.layout.specs() {
        let Some(name) = spec.name.strip_prefix("visual.") else { continue };
        let (theirs, shape, order) = match name {
            "conv1.weight" => {
                ("trunk.patch_embed.proj.weight".to_owned(), vec![width, 3, patch, patch], Order::ChannelsFirst)
            }
            "conv1.bias" => ("trunk.patch_embed.proj.bias".to_owned(), spec.shape.clone(), Order::Same),
            "class_embedding" => ("trunk.cls_token".to_owned(), vec![1, 1, width], Order::Same),
            "positional_embedding" => continue,
            "proj" => ("head.proj.weight".to_owned(), vec![spec.shape[1], spec.shape[0]], Order::Transposed),
            _ => (trunk(name, model.ln_after_pool), spec.shape.clone(), Order::Same),
        };
        let piece = Piece { name: format!("visual.{theirs}"), shape, offset: 0, order };
        tensors.push(export.tensor(spec.offset, piece));
    }
    let table = positions(export);
    tensors.push(("visual.trunk.pos_embed".to_owned(), vec![1, table.len() / width, width], table));
    if !model.patch_bias {
        // timm's patch embedding has one in any case.
        tensors.push(("visual.trunk.patch_embed.proj.bias".to_owned(), vec![width], vec![0.0; width]));
    }
    tensors
}

/// Their name of a parameter of a block or of a norm.
fn trunk(name: &str, after_pool: bool) -> String {
    let name = name.replace("transformer.resblocks.", "blocks.");
    let last = if after_pool { "fc_norm" } else { "norm" };
    let names = [
        ("ln_pre", "norm_pre"),
        ("ln_post", last),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("attn.in_proj_", "attn.qkv."),
        ("attn.out_proj", "attn.proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("ls_1", "ls1"),
        ("ls_2", "ls2"),
    ];
    format!("trunk.{}", names.iter().fold(name, |name, (ours, theirs)| name.replace(ours, theirs)))
}
