//! OpenCLIP's models by name, as in its `model_configs/`.

use serde_json::json;

use super::config::{Described, describe};

/// Names that [`named`] knows, besides the same with `-quickgelu`.
pub const NAMES: [&str; 9] = [
    "ViT-S-16",
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-14",
    "ViT-H-14",
    "ViT-g-14",
    "ViT-bigG-14",
    "ViT-L-14-CLIPA",
    "ViT-H-14-CLIPA",
];

/// The model of this name.
pub fn named(name: &str) -> Option<Described> {
    let (plain, quick) = match name.strip_suffix("-quickgelu") {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    if !NAMES.contains(&plain) {
        return None;
    }
    let (size, clipa) = match plain.strip_suffix("-CLIPA") {
        Some(size) => (size, true),
        None => (plain, false),
    };
    // Patch; width, layers, width of a head and MLP ratio of the vision tower; width, layers and heads of the text
    // tower.
    let (patch, vision, text, embed) = match size {
        "ViT-S-16" => (16, (384, 12, 64, 4.0), (384, 12, 6), 384),
        "ViT-B-32" => (32, (768, 12, 64, 4.0), (512, 12, 8), 512),
        "ViT-B-16" => (16, (768, 12, 64, 4.0), (512, 12, 8), 512),
        "ViT-L-14" => (14, (1024, 24, 64, 4.0), (768, 12, 12), 768),
        "ViT-H-14" => (14, (1280, 32, 80, 4.0), (1024, 24, 16), 1024),
        "ViT-g-14" => (14, (1408, 40, 88, 4.3637), (1024, 24, 16), 1024),
        "ViT-bigG-14" => (14, (1664, 48, 104, 4.9231), (1280, 32, 20), 1280),
        _ => return None,
    };
    let mut config = json!({
        "embed_dim": embed,
        "quick_gelu": quick,
        "vision_cfg": {
            "patch_size": patch, "width": vision.0, "layers": vision.1, "head_width": vision.2, "mlp_ratio": vision.3,
        },
        "text_cfg": {"width": text.0, "layers": text.1, "heads": text.2},
    });
    if clipa {
        let mut set = |part: &str, key: &str, value: serde_json::Value| config[part][key] = value;
        set("vision_cfg", "no_ln_pre", json!(true));
        set("vision_cfg", "pool_type", json!("avg"));
        set("vision_cfg", "final_ln_after_pool", json!(true));
        set("text_cfg", "context_length", json!(32));
        set("text_cfg", "vocab_size", json!(32_000));
        set("text_cfg", "hf_tokenizer_name", json!("bert-base-uncased"));
        set("text_cfg", "tokenizer_kwargs", json!({"strip_sep_token": true}));
        set("text_cfg", "pool_type", json!("last"));
        set("text_cfg", "no_causal_mask", json!(true));
    }
    describe(&config.to_string(), None).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Activation;
    use crate::model::Flip;

    #[test]
    fn every_name_is_a_model() {
        for name in NAMES {
            let plain = named(name).unwrap().model;
            let quick = named(&format!("{name}-quickgelu")).unwrap().model;
            assert_eq!(quick.vision.activation, Activation::QuickGelu, "{name}");
            assert_ne!(plain, quick, "{name}");
        }
        assert!(named("ViT-B-17").is_none() && named("-quickgelu").is_none());
    }

    /// The numbers of parameters are those of `open_clip.create_model(name)`.
    #[test]
    fn models_have_open_clips_numbers_of_parameters() {
        for (name, parameters) in [("ViT-B-32", 151_277_313), ("ViT-B-16", 149_620_737), ("ViT-L-14", 427_616_513)] {
            assert_eq!(Flip::new(&named(name).unwrap().model, true).layout().count(), parameters, "{name}");
        }
    }
}
