//! `config.json` of a `CLIPModel`. Defaults are those of `CLIPTextConfig` and `CLIPVisionConfig`.

use serde_json::Value;

use super::super::InteropError;
use super::super::keys::Keys;
use super::super::open_clip::{Described, Tokens, normalisation};
use crate::autograd::Activation;
use crate::data::image::ResizeMode;
use crate::model::{ImagePool, Loss, ModelConfig, Positions, TextPool, TowerConfig};

/// Reads `config.json` and, if there is one, `preprocessor_config.json`.
///
/// Files of earlier versions hold hundreds of keys that have nothing to do with the model, so others are not looked at.
///
/// # Errors
/// Names a key that asks for what flipk's models do not have.
pub fn describe(text: &str, preprocessor: Option<&str>) -> Result<Described, InteropError> {
    let mut file = Keys::new("", serde_json::from_str(text)?)?;
    file.one_of("model_type", &[("clip", ())])?;
    let (mut vision, mut text) = (file.object("vision_config")?, file.object("text_config")?);
    let image_size = vision.square("image_size", 224)?;
    let (resize_mode, normalisation) = match preprocessor {
        None => {
            let none = Keys::new("", Value::Object(Default::default()))?;
            (ResizeMode::Shortest, normalisation(none, ["mean", "std"])?)
        }
        Some(text) => {
            let mut keys = Keys::new("preprocessor_config", serde_json::from_str(text)?)?;
            (pixels(&mut keys, image_size)?, normalisation(keys, ["image_mean", "image_std"])?)
        }
    };
    let eos = text.size("eos_token_id", 49_407)?;
    let model = ModelConfig {
        image_size,
        patch_size: vision.square("patch_size", 32)?,
        vision: tower(&mut vision, [768, 3072, 12, 12])?,
        context: text.size("max_position_embeddings", 77)?,
        vocab: text.size("vocab_size", 49_408)?,
        text: tower(&mut text, [512, 2048, 12, 8])?,
        embed_dim: file.size("projection_dim", 512)?,
        ln_eps: 1e-5,
        normalisation,
        resize_mode,
        patch_bias: false,
        positions: Positions::Learned,
        ln_pre: true,
        image_pool: ImagePool::Class,
        ln_after_pool: false,
        causal: true,
        // In `transformers`, 2 stands for what models had before the token was looked for: the largest.
        text_pool: match u32::try_from(eos) {
            Ok(2) => TextPool::Argmax,
            Ok(id) => TextPool::Id(id),
            Err(_) => return Err(text.error("eos_token_id", format!("is {eos}, which is no token"))),
        },
    };
    model.check()?;
    Ok(Described { model, loss: Loss::Infonce, tokens: Tokens::TransformersClip, trunk: None })
}

/// How images become squares. Refuses what makes other pixels than that and [`normalisation`].
fn pixels(keys: &mut Keys, image_size: usize) -> Result<ResizeMode, InteropError> {
    let is_true = |value: &Value| *value == true;
    // Rounded in some files.
    let is_255th = |value: &Value| value.as_f64().is_some_and(|factor| (factor * 255.0 - 1.0).abs() < 1e-4);
    let checks: [(&str, &dyn Fn(&Value) -> bool, &str); 5] = [
        ("do_resize", &is_true, "true"),
        ("do_rescale", &is_true, "true"),
        ("do_normalize", &is_true, "true"),
        ("resample", &|value| *value == 3, "3 (bicubic)"),
        ("rescale_factor", &is_255th, "1 / 255"),
    ];
    for (key, holds, expected) in checks {
        if let Some(value) = keys.take(key).filter(|value| !holds(value)) {
            return Err(keys.error(key, format!("is {value}; flipk has {expected}")));
        }
    }
    let side = Some(image_size as u64);
    let is_square =
        |value: &Value| ["height", "width"].iter().all(|key| value.get(key).unwrap_or(value).as_u64() == side);
    let crops = keys.flag_or("do_center_crop", true)?;
    let (size, crop) = (keys.take("size"), keys.take("crop_size"));
    if let Some(crop) = crop.filter(|crop| crops && !is_square(crop)) {
        let problem = format!("is {crop}; in flipk it is the size of the model's images, {image_size}");
        return Err(keys.error("crop_size", problem));
    }
    match size {
        None if crops => Ok(ResizeMode::Shortest),
        Some(size) if size.get("height").is_some() && is_square(&size) => Ok(ResizeMode::Squash),
        Some(size) if crops && size.get("shortest_edge").unwrap_or(&size).as_u64() == side => Ok(ResizeMode::Shortest),
        size => {
            let (size, crop) = (size.unwrap_or_default(), if crops { "" } else { " without a crop" });
            let of = |size: &str| {
                format!("{{\"shortest_edge\": {size}}} with a crop, and {{\"height\": {size}, \"width\": {size}}}")
            };
            let problem = format!("is {size}{crop}; flipk has {}", of(&image_size.to_string()));
            Err(keys.error("size", problem))
        }
    }
}

fn tower(keys: &mut Keys, [width, hidden, layers, heads]: [usize; 4]) -> Result<TowerConfig, InteropError> {
    let width = keys.size("hidden_size", width)?;
    let hidden = keys.size("intermediate_size", hidden)?;
    let activation = keys.one_of(
        "hidden_act",
        &[
            ("quick_gelu", Activation::QuickGelu),
            ("gelu", Activation::GeluExact),
            ("gelu_pytorch_tanh", Activation::GeluTanh),
            ("gelu_new", Activation::GeluTanh),
        ],
    )?;
    Ok(TowerConfig {
        mlp_width: (hidden != width.saturating_mul(4)).then_some(hidden),
        activation,
        ln_eps: keys.number("layer_norm_eps")?.map(|eps| eps as f32).filter(|eps| *eps != 1e-5),
        ..TowerConfig::new(keys.size("num_hidden_layers", layers)?, width, keys.size("num_attention_heads", heads)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::open_clip::named;

    /// OpenAI's ViT-B/32 is the default of both libraries.
    #[test]
    fn defaults_are_those_of_transformers() {
        let found = describe(r#"{"model_type": "clip", "vision_config": {}, "text_config": {}}"#, None).unwrap().model;
        let theirs = named("ViT-B-32-quickgelu").unwrap().model;
        assert_eq!(found, ModelConfig { text_pool: TextPool::Id(49_407), ..theirs });
    }

    #[test]
    fn choices_are_read() {
        let config = r#"{"model_type": "clip", "projection_dim": 64, "logit_scale_init_value": 2.6,
            "vision_config": {"hidden_size": 32, "intermediate_size": 100, "num_hidden_layers": 2,
                "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 32,
                "patch_size": 8, "dropout": 0.0},
            "text_config": {"eos_token_id": 2, "hidden_size": 16, "intermediate_size": 64}}"#;
        let pixels = r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}"#;
        let model = describe(config, Some(pixels)).unwrap().model;
        let vision = TowerConfig {
            mlp_width: Some(100),
            activation: Activation::GeluExact,
            ln_eps: Some(1e-6),
            ..TowerConfig::new(2, 32, 2)
        };
        assert_eq!((model.vision, model.embed_dim, model.text_pool), (vision, 64, TextPool::Argmax));
        assert_eq!((model.text.activation, model.normalisation.mean), (Activation::QuickGelu, [0.5; 3]));
        let error = |text: &str| describe(text, None).unwrap_err().to_string();
        assert!(error(r#"{"model_type": "siglip"}"#).contains("`model_type` is `siglip`; flipk has clip"));
        let swish = r#"{"vision_config": {"hidden_act": "silu"}, "text_config": {}}"#;
        let pixels = |text: &str| describe(config, Some(text)).unwrap_err().to_string();
        for (text, problem) in [
            (r#"{"do_normalize": false}"#, "`preprocessor_config.do_normalize` is false; flipk has true"),
            (r#"{"rescale_factor": 0.00784}"#, "rescale_factor` is 0.00784; flipk has 1 / 255"),
            (r#"{"resample": 2}"#, "resample` is 2; flipk has 3 (bicubic)"),
            (r#"{"size": {"height": 32, "width": 16}}"#, "size` is {\"height\":32,\"width\":16}; flipk has"),
            (r#"{"size": {"shortest_edge": 48}, "crop_size": 32}"#, "size` is {\"shortest_edge\":48}; flipk has"),
            (
                r#"{"size": 32, "do_center_crop": false}"#,
                "size` is 32 without a crop; flipk has {\"shortest_edge\": 32}",
            ),
            (r#"{"crop_size": {"height": 32, "width": 16}}"#, "crop_size` is {\"height\":32,\"width\":16}"),
            (r#"{"size": 32, "crop_size": 48}"#, "crop_size` is 48; in flipk it is the size of the model's images"),
        ] {
            assert!(pixels(text).contains(problem), "{}", pixels(text));
        }
        let usual = r#"{"size": 32, "crop_size": {"height": 32, "width": 32}, "rescale_factor": 0.00392156862745098}"#;
        assert_eq!(describe(config, Some(usual)).unwrap().model.resize_mode, ResizeMode::Shortest);
        let squash = r#"{"size": {"height": 32, "width": 32}, "do_center_crop": false}"#;
        assert_eq!(describe(config, Some(squash)).unwrap().model.resize_mode, ResizeMode::Squash);
        assert!(error(swish).contains("`vision_config.hidden_act` is `silu`; flipk has quick_gelu, gelu"));
    }
}
