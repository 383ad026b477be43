//! The description of a plain ViT of timm.
//!
//! How OpenCLIP builds a tower of it is in `open_clip/timm_model.py`; names, arguments and their defaults are in
//! `timm/models/vision_transformer.py`, and what a `config.json` means in `timm/models/_hub.py` and `_builder.py`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::InteropError;
use super::super::keys::Keys;
use super::super::vision::{Trunk, VisionTower};
use crate::autograd::Activation;
use crate::model::{ImagePool, Positions, TowerConfig};

/// The arguments of a ViT, and the epsilon of its LayerNorms unless an argument names another norm.
struct Vit {
    arguments: Map<String, Value>,
    eps: f32,
}

/// timm's own epsilon.
const EPS: f32 = 1e-6;

/// The vision tower that the keys of `vision_cfg` ask for, of which `name` is `timm_model_name`. `beside` is the folder
/// of the description.
///
/// # Errors
/// A tower that is not a plain ViT, or a key that asks for what flipk's models do not have.
pub(in crate::interop) fn tower(
    keys: &mut Keys,
    name: &str,
    beside: Option<&Path>,
) -> Result<VisionTower, InteropError> {
    let pool = match keys.text_or("timm_pool", "avg")?.as_str() {
        "avg" => Some(ImagePool::Patches),
        "token" => Some(ImagePool::Class),
        // The tower's own.
        "" => None,
        other => return Err(keys.error("timm_pool", format!("is `{other}`; flipk has avg and token"))),
    };
    match keys.text_or("timm_proj", "linear")?.as_str() {
        "linear" => {}
        other => return Err(keys.error("timm_proj", format!("is `{other}`; flipk has linear"))),
    }
    let found = match name.split_once(':') {
        None => {
            let vit = named(name).ok_or_else(|| {
                let problem =
                    format!("is `{name}`; of timm's towers, flipk has plain ViTs such as vit_base_patch16_224");
                keys.error("timm_model_name", problem)
            })?;
            vit.tower(pool)?
        }
        Some(("local-dir", folder)) => {
            let file = local(Path::new(folder), beside).ok_or_else(|| {
                let problem = format!("is `{name}`, but there is no config.json in that folder");
                keys.error("timm_model_name", problem)
            })?;
            let text = std::fs::read_to_string(&file);
            let text = text.map_err(|source| InteropError::Open { path: file.clone(), source })?;
            let vit = described(&text);
            vit.and_then(|vit| vit.tower(pool)).map_err(|why| why.within(&file))?
        }
        Some(_) => {
            let problem = format!("is `{name}`, which flipk does not download; name a folder by local-dir:FOLDER");
            return Err(keys.error("timm_model_name", problem));
        }
    };
    let side = keys.square("image_size", 224)?;
    if side != found.image_size {
        let problem = format!("is {side}, but the tower of timm takes images of {} pixels", found.image_size);
        return Err(keys.error("image_size", problem));
    }
    // Choices of OpenCLIP's own towers, which it does not look at here.
    keys.ignore(&[
        "layers",
        "width",
        "head_width",
        "mlp_ratio",
        "patch_size",
        "ls_init_value",
        "act_kwargs",
        "norm_kwargs",
    ]);
    keys.ignore(&["pool_type", "attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "final_ln_after_pool"]);
    keys.ignore(&["no_ln_pre", "pos_embed_type", "block_type", "output_tokens"]);
    // How the tower is trained.
    keys.ignore(&["timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout"]);
    Ok(found)
}

/// The `config.json` of the folder that a description names. An export has its own beside its description, which stays
/// the right one when the export is moved, or when another takes its place.
fn local(folder: &Path, beside: Option<&Path>) -> Option<PathBuf> {
    let own = beside.filter(|_| folder.ends_with("timm") || !folder.is_dir()).map(|beside| beside.join("timm"));
    own.into_iter().chain([folder.to_owned()]).map(|folder| folder.join("config.json")).find(|file| file.is_file())
}

/// A `config.json` of timm: the name of an architecture, and what it changes.
fn described(text: &str) -> Result<Vit, InteropError> {
    let mut file = Keys::new("", serde_json::from_str(text)?)?;
    let name = file.text("architecture")?.ok_or_else(|| file.error("architecture", "is missing".to_owned()))?;
    let Some(Vit { mut arguments, eps }) = named(&name) else {
        let problem = format!("is `{name}`; of timm's towers, flipk has plain ViTs such as vit_base_patch16_224");
        return Err(file.error("architecture", problem));
    };
    // In files of earlier versions, the file itself has its keys.
    let changes = file.take("model_args");
    let mut weights = match file.take("pretrained_cfg") {
        Some(object) => Keys::new("pretrained_cfg", object)?,
        None => file,
    };
    arguments.remove("img_size");
    if weights.flag("fixed_input_size")?
        && let Some(size) = weights.take("input_size")
    {
        arguments.insert("in_chans".to_owned(), size[0].clone());
        arguments.insert("img_size".to_owned(), json!([size[1], size[2]]));
    }
    if let Some(changes) = changes {
        arguments.extend(Keys::new("model_args", changes)?.into_values());
    }
    Ok(Vit { arguments, eps })
}

/// The ViT of this name: `vit_SIZE_patchN_SIDE`, or with `_clip` or `_clip_quickgelu` before the side. What follows a
/// dot names weights.
fn named(name: &str) -> Option<Vit> {
    let parts: Vec<&str> = name.split('.').next()?.split('_').collect();
    let (size, patch, clip, quick, side) = match parts[..] {
        ["vit", size, patch, side] => (size, patch, false, false, side),
        ["vit", size, patch, "clip", side] => (size, patch, true, false, side),
        ["vit", size, patch, "clip", "quickgelu", side] => (size, patch, true, true, side),
        _ => return None,
    };
    let (width, depth, heads, ratio) = match (size, clip) {
        ("tiny", false) => (192, 12, 3, 4.0),
        ("small", false) => (384, 12, 6, 4.0),
        ("xsmall", true) => (256, 10, 4, 4.0),
        ("medium", true) => (512, 12, 8, 4.0),
        ("betwixt", true) => (640, 12, 10, 4.0),
        ("base", _) => (768, 12, 12, 4.0),
        ("large", _) => (1024, 24, 16, 4.0),
        ("huge", _) => (1280, 32, 16, 4.0),
        ("giant", _) => (1408, 40, 16, 48.0 / 11.0),
        ("gigantic", _) => (1664, 48, 16, 64.0 / 13.0),
        _ => return None,
    };
    let patch: usize = patch.strip_prefix("patch")?.parse().ok()?;
    let side: usize = side.parse().ok()?;
    let mut arguments = Map::new();
    for (key, value) in [
        ("img_size", json!(side)),
        ("patch_size", json!(patch)),
        ("embed_dim", json!(width)),
        ("depth", json!(depth)),
        ("num_heads", json!(heads)),
        ("mlp_ratio", json!(ratio)),
        ("pre_norm", json!(clip)),
        ("act_layer", if quick { json!("quick_gelu") } else { Value::Null }),
    ] {
        arguments.insert(key.to_owned(), value);
    }
    Some(Vit { arguments, eps: if clip { 1e-5 } else { EPS } })
}

impl Vit {
    /// The tower, with the pooling `pool`, or its own if that is `None`.
    fn tower(self, pool: Option<ImagePool>) -> Result<VisionTower, InteropError> {
        let mut keys = Keys::new("model_args", Value::Object(self.arguments))?;
        let width = keys.size("embed_dim", 768)?;
        // As Python's `int(width * mlp_ratio)`.
        let hidden = (width as f64 * keys.number("mlp_ratio")?.unwrap_or(4.0)) as usize;
        let choices = [
            ("gelu", Activation::GeluExact),
            ("gelu_tanh", Activation::GeluTanh),
            ("quick_gelu", Activation::QuickGelu),
        ];
        let activation = keys.one_of("act_layer", &choices)?;
        let eps = match keys.text("norm_layer")? {
            None => self.eps,
            Some(norm) if norm.replace('_', "").eq_ignore_ascii_case("layernorm") => EPS,
            Some(norm) => return Err(keys.error("norm_layer", format!("is `{norm}`; flipk has layernorm"))),
        };
        let own = keys.one_of("global_pool", &[("token", ImagePool::Class), ("avg", ImagePool::Patches)])?;
        let with_cls = keys.flag("pool_include_prefix")?;
        // OpenCLIP chooses the pooling after timm has placed the norm.
        let fc_norm = keys.flag_or("fc_norm", own == ImagePool::Patches)?;
        let image_pool = match pool.unwrap_or(own) {
            ImagePool::Patches if with_cls => ImagePool::All,
            pool => pool,
        };
        let tower = VisionTower {
            image_size: keys.square("img_size", 224)?,
            patch_size: keys.square("patch_size", 16)?,
            ln_pre: keys.flag("pre_norm")?,
            image_pool,
            ln_after_pool: fc_norm,
            positions: Positions::Learned,
            patch_bias: false,
            tower: TowerConfig {
                mlp_width: (hidden != width.saturating_mul(4)).then_some(hidden),
                activation,
                layer_scale: keys.number("init_values")?.map(|start| start as f32),
                ln_eps: Some(eps),
                ..TowerConfig::new(keys.size("depth", 12)?, width, keys.size("num_heads", 12)?)
            },
            trunk: Some(Trunk { fc_norm, no_embed_class: keys.flag("no_embed_class")? }),
        };
        keys.one_of("pos_embed", &[("learn", ())])?;
        for key in ["class_token", "qkv_bias", "proj_bias", "final_norm"] {
            if !keys.flag_or(key, true)? {
                return Err(keys.error(key, "is false, which flipk's models do not have".to_owned()));
            }
        }
        for (key, only) in [("reg_tokens", 0), ("in_chans", 3)] {
            let found = keys.size(key, only)?;
            if found != only {
                return Err(keys.error(key, format!("is {found}; flipk has {only}")));
            }
        }
        // Nothing changes for images of the model's own size.
        keys.ignore(&["num_classes", "dynamic_img_size", "dynamic_img_pad", "strict_img_size"]);
        // How it is trained.
        keys.ignore(&["drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"]);
        keys.ignore(&["drop_path_rate", "weight_init", "fix_init"]);
        keys.end()?;
        // The norm in front of the blocks takes the place of the bias.
        Ok(VisionTower { patch_bias: !tower.ln_pre, ..tower })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(change: Value) -> Keys {
        Keys::new("vision_cfg", change).unwrap()
    }

    fn by_name(name: &str, change: Value) -> VisionTower {
        tower(&mut keys(change), name, None).unwrap()
    }

    fn by_file(file: &Value) -> Result<VisionTower, String> {
        let vit = described(&file.to_string()).and_then(|vit| vit.tower(None));
        vit.map_err(|why| why.to_string())
    }

    /// As `timm.create_model(name)` has it.
    #[test]
    fn names_are_timms() {
        let tiny = by_name("vit_tiny_patch16_224.augreg_in21k", json!({}));
        let expected =
            TowerConfig { activation: Activation::GeluExact, ln_eps: Some(EPS), ..TowerConfig::new(12, 192, 3) };
        assert_eq!((tiny.tower, tiny.image_size, tiny.patch_size), (expected, 224, 16));
        assert_eq!((tiny.image_pool, tiny.ln_after_pool), (ImagePool::Patches, false));
        assert_eq!((tiny.patch_bias, tiny.ln_pre, tiny.positions), (true, false, Positions::Learned));
        let clip = by_name("vit_large_patch14_clip_quickgelu_336", json!({"image_size": 336, "timm_pool": "token"}));
        let expected =
            TowerConfig { activation: Activation::QuickGelu, ln_eps: Some(1e-5), ..TowerConfig::new(24, 1024, 16) };
        assert_eq!(
            (clip.tower, clip.image_pool, clip.ln_pre, clip.patch_bias),
            (expected, ImagePool::Class, true, false)
        );
        assert_eq!(by_name("vit_giant_patch14_224", json!({})).tower.mlp_width, Some(6144));
        assert_eq!(by_name("vit_gigantic_patch14_224", json!({})).tower.mlp_width, Some(8192));
        for name in
            ["vit_tiny_patch16_clip_224", "vit_base_patch_224", "vit_base_patch16_224_miil", "flexivit_base", "vit", ""]
        {
            assert!(named(name).is_none(), "{name}");
        }
    }

    /// A file may have its keys in `pretrained_cfg` or, in earlier versions, in itself.
    #[test]
    fn files_are_read_as_timm_reads_them() {
        let cfg = json!({"input_size": [3, 384, 384], "fixed_input_size": true, "url": ""});
        let mut early = cfg.clone();
        early["architecture"] = json!("vit_small_patch16_224");
        assert_eq!(by_file(&early).unwrap().image_size, 384);
        let mut file = json!({"architecture": "vit_small_patch16_384", "pretrained_cfg": cfg});
        assert_eq!(by_file(&file).unwrap().image_size, 384);
        // Without `fixed_input_size`, the size is no argument.
        file["pretrained_cfg"]["fixed_input_size"] = json!(false);
        assert_eq!(by_file(&file).unwrap().image_size, 224);
        // The norm comes after the pooling if timm itself pools by mean.
        file["model_args"] = json!({"global_pool": "avg"});
        let found = by_file(&file).unwrap();
        assert_eq!((found.image_pool, found.ln_after_pool), (ImagePool::Patches, true));
        file["model_args"] = json!({"img_size": [32, 32], "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2,
            "mlp_ratio": 3, "init_values": 0.1, "global_pool": "avg", "fc_norm": false,
            "pool_include_prefix": true, "no_embed_class": true,
            "act_layer": "gelu_tanh", "norm_layer": "layernorm", "dynamic_img_size": true, "drop_path_rate": 0.1});
        let found = by_file(&file).unwrap();
        let vit = TowerConfig {
            mlp_width: Some(192),
            activation: Activation::GeluTanh,
            layer_scale: Some(0.1),
            ln_eps: Some(EPS),
            ..TowerConfig::new(2, 64, 2)
        };
        assert_eq!((found.tower, found.image_size, found.patch_size), (vit, 32, 8));
        assert_eq!((found.image_pool, found.ln_after_pool), (ImagePool::All, false));
        assert_eq!(found.trunk, Some(Trunk { fc_norm: false, no_embed_class: true }));
        let error = by_file(&json!({"pretrained_cfg": {}})).unwrap_err();
        assert_eq!(error, "`architecture` is missing");
    }
}
