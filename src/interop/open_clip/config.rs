//! OpenCLIP's description of a model, in JSON.
//!
//! Defaults and meanings are those of `CLIPVisionCfg` and `CLIPTextCfg` in `open_clip/model.py`.

use std::path::Path;

use serde_json::{Value, json};

use super::super::InteropError;
use super::super::keys::Keys;
use super::super::timm;
use super::super::vision::{Trunk, VisionTower};
use crate::autograd::Activation;
use crate::data::image::ResizeMode;
use crate::model::{ImagePool, Loss, ModelConfig, Positions, TextPool, TowerConfig};
use crate::ops::gather_patches::Normalisation;

/// A model as a file describes it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Sizes and choices.
    pub model: ModelConfig,
    /// What it was trained with: a model with `logit_bias` has the sigmoid loss.
    pub loss: Loss,
    /// The tokenizer that belongs to it.
    pub tokens: Tokens,
    /// Only if the vision tower's tensors have timm's names.
    pub trunk: Option<Trunk>,
}

/// The tokenizer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Whichever it is trained with.
    Unknown,
    /// CLIP's, behind OpenCLIP's cleaning.
    Clip,
    /// CLIP's, as Hugging Face's `transformers` has it: without cleaning.
    TransformersClip,
    /// One of Hugging Face.
    HuggingFace {
        /// Its name there.
        name: String,
        /// Whether its separator is left out (`strip_sep_token`).
        strip_sep: bool,
    },
}

/// Reads `open_clip_config.json`, one of OpenCLIP's `model_configs/*.json`, or the same object. `beside` is the folder
/// that it is in, where a vision tower of timm may be described.
///
/// # Errors
/// Names the first key that asks for what flipk's models do not have.
pub fn describe(text: &str, beside: Option<&Path>) -> Result<Described, InteropError> {
    let mut file = Keys::new("", serde_json::from_str(text)?)?;
    let (mut model, preprocess) = match file.take("model_cfg") {
        Some(model) => (Keys::new("model_cfg", model)?, file.take("preprocess_cfg")),
        None => (file, None),
    };
    let described = architecture(&mut model, beside)?;
    model.end()?;
    match preprocess {
        None => Ok(described),
        Some(preprocess) => {
            let mut keys = Keys::new("preprocess_cfg", preprocess)?;
            let modes = [("shortest", ResizeMode::Shortest), ("squash", ResizeMode::Squash)];
            let resize_mode = keys.one_of("resize_mode", &modes)?;
            keys.one_of("interpolation", &[("bicubic", ()), ("random", ())])?;
            let normalisation = normalisation(keys, ["mean", "std"])?;
            Ok(Described { model: ModelConfig { normalisation, resize_mode, ..described.model }, ..described })
        }
    }
}

/// The `config` of a golden state: a model with the shift and scale of its pixels, and what made it.
///
/// # Errors
/// As [`describe`].
pub fn describe_state(config: Value) -> Result<Described, InteropError> {
    let mut keys = Keys::new("", config)?;
    let pixels = Keys::new("", json!({"mean": keys.take("mean"), "std": keys.take("std")}))?;
    keys.ignore(&["batch", "open_clip"]);
    let described = architecture(&mut keys, None)?;
    keys.end()?;
    Ok(Described {
        model: ModelConfig { normalisation: normalisation(pixels, ["mean", "std"])?, ..described.model },
        ..described
    })
}

fn architecture(keys: &mut Keys, beside: Option<&Path>) -> Result<Described, InteropError> {
    let (mut vision, mut text) = (keys.object("vision_cfg")?, keys.object("text_cfg")?);
    let embed_dim = keys.required_size("embed_dim")?;
    let quick = keys.flag("quick_gelu")?;
    let loss = if keys.number("init_logit_bias")?.is_some() { Loss::Sigmoid } else { Loss::Infonce };
    // Where tensors are, and how training starts: no part of the model.
    keys.ignore(&["custom_text", "init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict"]);
    for (key, what) in [("hf_model_name", "a text tower of Hugging Face"), ("embed_cls", "CoCa's class token")] {
        refuse(&mut text, key, what)?;
    }
    let images = match vision.text("timm_model_name")?.filter(|name| !name.is_empty()) {
        Some(name) => timm::tower(&mut vision, &name, beside)?,
        None => native(&mut vision, quick)?,
    };
    let model = ModelConfig {
        image_size: images.image_size,
        patch_size: images.patch_size,
        vision: images.tower,
        embed_dim,
        ln_eps: 1e-5,
        normalisation: Normalisation::OPENAI,
        resize_mode: ResizeMode::Shortest,
        patch_bias: images.patch_bias,
        positions: images.positions,
        ln_pre: images.ln_pre,
        image_pool: images.image_pool,
        // Of a single token, the norm before and after pooling are the same, and so are those of a text tower.
        ln_after_pool: images.ln_after_pool && images.image_pool != ImagePool::Class,
        context: text.size("context_length", 77)?,
        vocab: text.size("vocab_size", 49_408)?,
        causal: !text.flag("no_causal_mask")?,
        text_pool: text_pool(&mut text)?,
        text: {
            let (width, heads) = (text.size("width", 512)?, text.size("heads", 8)?);
            tower(&mut text, width, heads, quick)?
        },
    };
    let model = with_one_epsilon(model);
    model.check()?;
    let mut options = Keys::new("tokenizer_kwargs", text.take("tokenizer_kwargs").unwrap_or_else(|| json!({})))?;
    let strip_sep = options.flag("strip_sep_token")?;
    let tokens = text.text("hf_tokenizer_name")?.map_or(Tokens::Clip, |name| Tokens::HuggingFace { name, strip_sep });
    // How texts are cleaned, which is not a choice here.
    options.one_of("clean", &[(if tokens == Tokens::Clip { "lower" } else { "whitespace" }, ())])?;
    options.end()?;
    text.one_of("proj_type", &[("linear", ())])?;
    text.ignore(&["pad_id", "final_ln_after_pool", "output_tokens", "tokenizer_mode"]);
    text.ignore(&["hf_model_pretrained", "hf_proj_type", "hf_pooler_type"]);
    vision.end()?;
    text.end()?;
    Ok(Described { model, loss, tokens, trunk: images.trunk })
}

/// A vision tower of OpenCLIP's own.
fn native(vision: &mut Keys, quick: bool) -> Result<VisionTower, InteropError> {
    let width = vision.size("width", 768)?;
    let head_width = vision.size("head_width", 64)?;
    let heads = width / vision.above_zero("head_width", head_width)?;
    let found = VisionTower {
        image_size: vision.square("image_size", 224)?,
        patch_size: vision.square("patch_size", 16)?,
        tower: tower(vision, width, heads, quick)?,
        patch_bias: false,
        positions: vision
            .one_of("pos_embed_type", &[("learnable", Positions::Learned), ("sin_cos_2d", Positions::Sincos)])?,
        ln_pre: !vision.flag("no_ln_pre")?,
        image_pool: vision.one_of("pool_type", &[("tok", ImagePool::Class), ("avg", ImagePool::Patches)])?,
        ln_after_pool: vision.flag("final_ln_after_pool")?,
        trunk: None,
    };
    // Dropping patches is how a model is trained: here it is the mask ratio.
    vision.ignore(&["patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"]);
    vision.ignore(&["timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop", "timm_drop_path"]);
    Ok(found)
}

/// An epsilon that both towers share is the model's.
fn with_one_epsilon(mut model: ModelConfig) -> ModelConfig {
    let [vision, text] = [&model.vision, &model.text].map(|tower| tower.ln_eps.unwrap_or(model.ln_eps));
    if vision == text {
        model.ln_eps = vision;
        (model.vision.ln_eps, model.text.ln_eps) = (None, None);
    }
    model
}

fn refuse(keys: &mut Keys, key: &str, what: &str) -> Result<(), InteropError> {
    match keys.take(key) {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(value) => Err(keys.error(key, format!("is {value}: {what}, which flipk's models do not have"))),
    }
}

/// The keys that both towers have.
fn tower(keys: &mut Keys, width: usize, heads: usize, quick: bool) -> Result<TowerConfig, InteropError> {
    let layers = match keys.take("layers") {
        Some(Value::Array(_)) => {
            return Err(keys.error("layers", "is a list, as of a ResNet; flipk has ViTs".to_owned()));
        }
        Some(layers) => Keys::new("", json!({ "layers": layers }))?
            .size("layers", 0)
            .map_err(|_| keys.error("layers", "is not a size".to_owned()))?,
        None => 12,
    };
    let ratio = keys.number("mlp_ratio")?.unwrap_or(4.0);
    // As Python's `int(width * mlp_ratio)`.
    let hidden = (width as f64 * ratio) as usize;
    if width > 0 {
        keys.above_zero("mlp_ratio", hidden)?;
    }
    let activation = activation(keys, quick)?;
    let ln_eps = match keys.take("norm_kwargs") {
        None => None,
        Some(options) => match (options["eps"].as_f64(), options.as_object().map(|options| options.len())) {
            (Some(eps), Some(1)) => Some(eps as f32),
            (None, Some(0)) => None,
            _ => return Err(keys.error("norm_kwargs", format!("is {options}; flipk has {{\"eps\": NUMBER}}"))),
        },
    };
    keys.one_of("block_type", &[("default", ())])?;
    Ok(TowerConfig {
        mlp_width: (hidden != width.saturating_mul(4)).then_some(hidden),
        activation,
        layer_scale: keys.number("ls_init_value")?.map(|start| start as f32),
        ln_eps,
        ..TowerConfig::new(layers, width, heads)
    })
}

/// The activation, of which `act_kwargs` has the arguments.
fn activation(keys: &mut Keys, quick: bool) -> Result<Activation, InteropError> {
    let plain = if quick { Activation::QuickGelu } else { Activation::GeluExact };
    let Some(options) = keys.take("act_kwargs") else { return Ok(plain) };
    let mut given = options.as_object().cloned().unwrap_or_default();
    // Where the result is stored changes no number.
    given.remove("inplace");
    let form = given.remove("approximate");
    match (form.as_ref().map(Value::as_str), quick) {
        _ if !options.is_object() || !given.is_empty() => {}
        (None, _) => return Ok(plain),
        (Some(Some("none")), false) => return Ok(plain),
        (Some(Some("tanh")), false) => return Ok(Activation::GeluTanh),
        _ => {}
    }
    let choice = if quick { "quick_gelu without arguments" } else { "{\"approximate\": \"tanh\"}" };
    Err(keys.error("act_kwargs", format!("is {options}; flipk has {choice}")))
}

fn text_pool(text: &mut Keys) -> Result<TextPool, InteropError> {
    let id = text.size("eos_id", 2)?;
    let id = u32::try_from(id).map_err(|_| text.error("eos_id", format!("is {id}, which is no token")))?;
    text.one_of(
        "pool_type",
        &[
            ("argmax", TextPool::Argmax),
            ("first", TextPool::First),
            ("last", TextPool::Last),
            ("eos", TextPool::Id(id)),
        ],
    )
}

/// How images are prepared. What it says about resizing belongs to the data, not to the model.
pub(in crate::interop) fn normalisation(
    mut keys: Keys,
    [mean_key, std_key]: [&str; 2],
) -> Result<Normalisation, InteropError> {
    let mut three = |key: &str, default: [f32; 3]| match keys.take(key) {
        None => Ok(default),
        Some(value) => {
            let numbers: Option<Vec<f32>> =
                value.as_array().map(|list| list.iter().filter_map(|number| Some(number.as_f64()? as f32)).collect());
            let three = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
            three.ok_or_else(|| keys.error(key, format!("is {value}, expected three numbers")))
        }
    };
    let Normalisation { mean, std } = Normalisation::OPENAI;
    let normalisation = Normalisation { mean: three(mean_key, mean)?, std: three(std_key, std)? };
    match normalisation.std.iter().all(|std| *std > 0.0) {
        true => Ok(normalisation),
        false => Err(keys.error(std_key, "must be above 0".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut config = json!({"embed_dim": 64, "vision_cfg": {"width": 128}, "text_cfg": {"width": 64, "heads": 1}});
        change(&mut config);
        describe(&config.to_string(), None).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_open_clip() {
        let model = describe(r#"{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}"#, None).unwrap().model;
        let expected = super::super::named("ViT-B-16").unwrap();
        assert_eq!(model, expected.model);
        assert_ne!(model, Preset::B16.config());
    }

    #[test]
    fn choices_are_read() {
        let config = r#"{"model_cfg": {"embed_dim": 64, "custom_text": true, "init_logit_bias": -10,
            "vision_cfg": {"image_size": [32, 32], "layers": 2, "width": 128, "patch_size": 8, "no_ln_pre": true,
                "pool_type": "avg", "final_ln_after_pool": true, "pos_embed_type": "sin_cos_2d", "mlp_ratio": 4.3637,
                "ls_init_value": 0.1, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6},
                "patch_dropout": 0.5, "qk_norm": false},
            "text_cfg": {"width": 64, "heads": 1, "pool_type": "eos", "eos_id": 7, "no_causal_mask": true,
                "hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": true}}},
            "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic",
                "resize_mode": "squash"}}"#;
        let Described { model, loss, tokens, trunk } = describe(config, None).unwrap();
        let vision = TowerConfig {
            mlp_width: Some(558),
            layer_scale: Some(0.1),
            ln_eps: Some(1e-6),
            ..TowerConfig::new(2, 128, 2)
        };
        assert_eq!((model.vision, model.image_size, model.positions), (vision, 32, Positions::Sincos));
        assert_eq!((model.image_pool, model.ln_after_pool, model.ln_pre), (ImagePool::Patches, true, false));
        assert_eq!(
            (model.text_pool, model.causal, model.text.activation),
            (TextPool::Id(7), false, Activation::GeluExact)
        );
        assert_eq!((model.normalisation.mean, model.normalisation.std), ([0.5; 3], [0.25; 3]));
        assert_eq!((loss, trunk, model.resize_mode), (Loss::Sigmoid, None, ResizeMode::Squash));
        assert_eq!(tokens, Tokens::HuggingFace { name: "bert-base-uncased".to_owned(), strip_sep: true });
    }

    #[test]
    fn what_flipk_does_not_have_is_named() {
        let timm = error(|config| config["vision_cfg"]["timm_model_name"] = json!("convnext_base"));
        assert_eq!(
            timm,
            "`vision_cfg.timm_model_name` is `convnext_base`; of timm's towers, flipk has plain ViTs such as \
             vit_base_patch16_224"
        );
        let pool = error(|config| config["vision_cfg"]["attentional_pool"] = json!(true));
        assert_eq!(pool, "`vision_cfg.attentional_pool` is true, which flipk's models do not have");
        assert!(error(|config| config["text_cfg"]["hf_model_name"] = json!("roberta-base")).contains("hf_model_name"));
        assert!(error(|config| config["text_cfg"]["qk_norm"] = json!(true)).contains("`text_cfg.qk_norm` is true"));
        assert!(error(|config| config["text_cfg"]["proj_bias"] = json!(true)).contains("`text_cfg.proj_bias` is true"));
        assert!(error(|config| config["vision_cfg"]["layers"] = json!([3, 4, 6, 3])).contains("ResNet"));
        assert!(error(|config| config["vision_cfg"]["image_size"] = json!([224, 112])).contains("is not square"));
        assert!(error(|config| config["multimodal_cfg"] = json!({})).contains("`multimodal_cfg` is {}"));
        assert!(error(|config| config["embed_dim"] = json!("many")).contains("is \"many\", expected a size"));
        assert_eq!(error(|config| config["embed_dim"] = Value::Null), "`embed_dim` is missing");
        assert_eq!(error(|config| config["embed_dim"] = json!(0)), "`embed_dim` is too small");
        assert_eq!(error(|config| config["vision_cfg"]["mlp_ratio"] = json!(0)), "`vision_cfg.mlp_ratio` is too small");
        assert_eq!(
            error(|config| config["vision_cfg"]["head_width"] = json!(0)),
            "`vision_cfg.head_width` is too small"
        );
        let options = |options: Value| error(|config| config["text_cfg"]["act_kwargs"] = options);
        for bad in [json!({"beta": 1}), json!({"approximate": 3}), json!({"approximate": "tanh", "beta": 1}), json!([])]
        {
            assert!(options(bad.clone()).contains(&format!("`text_cfg.act_kwargs` is {bad}; flipk has")), "{bad}");
        }
        let quick = error(|config| {
            config["quick_gelu"] = json!(true);
            config["text_cfg"]["act_kwargs"] = json!({"approximate": "tanh"});
        });
        assert!(quick.contains("flipk has quick_gelu without arguments"), "{quick}");
        let kwargs = |kwargs: Value| error(|config| config["text_cfg"]["tokenizer_kwargs"] = kwargs);
        assert!(kwargs(json!({"clean": "canonicalize"})).contains("`tokenizer_kwargs.clean` is `canonicalize`"));
        assert!(kwargs(json!({"reduction_mask": "syntax"})).contains("`tokenizer_kwargs.reduction_mask`"));
        for (key, value) in [("resize_mode", "longest"), ("interpolation", "bilinear")] {
            let model = json!({"embed_dim": 64, "vision_cfg": {"width": 128}, "text_cfg": {"width": 64, "heads": 1}});
            let config = json!({"model_cfg": model, "preprocess_cfg": {key: value}});
            let error = describe(&config.to_string(), None).unwrap_err().to_string();
            assert!(error.contains(&format!("`preprocess_cfg.{key}` is `{value}`")), "{error}");
        }
        assert!(error(|config| config["text_cfg"]["pool_type"] = json!("none")).contains("argmax, first, last, eos"));
        assert!(error(|config| config["text_cfg"] = Value::Null).contains("`text_cfg` is missing"));
        assert!(describe("[]", None).unwrap_err().to_string().contains("expected an object"));
        assert!(describe("{", None).unwrap_err().to_string().contains("not a model configuration"));
    }
}
