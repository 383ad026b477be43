//! Sizes of a model, and the presets of the paper.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::autograd::Activation;
use crate::data::image::ResizeMode;
use crate::ops::gather_patches::Normalisation;

/// One transformer tower. Choices have FLIP's values by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerConfig {
    /// Transformer blocks.
    pub layers: usize,
    /// Width of a token.
    pub width: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Width of an MLP's hidden layer, unless it is four times that of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_width: Option<usize>,
    /// The MLPs' activation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: Activation,
    /// Start of the factors that scale each residual branch, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f32>,
    /// LayerNorm's epsilon, unless it is the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ln_eps: Option<f32>,
}

impl TowerConfig {
    /// FLIP's tower of these sizes.
    pub fn new(layers: usize, width: usize, heads: usize) -> Self {
        let activation = Activation::default();
        Self { layers, width, heads, mlp_width: None, activation, layer_scale: None, ln_eps: None }
    }

    /// Width of an MLP's hidden layer.
    pub fn mlp_width(&self) -> usize {
        self.mlp_width.unwrap_or(self.width.saturating_mul(4))
    }
}

/// What the embedding of an image is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum ImagePool {
    /// The mean over all tokens, with CLS: FLIP's
    #[default]
    All,
    /// The mean over the patches, without CLS: CLIPA's, OpenCLIP's `avg`
    Patches,
    /// The CLS token: CLIP's
    Class,
}

/// Which token of a caption its embedding is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The first: FLIP's.
    #[default]
    First,
    /// The last.
    Last,
    /// The first of the largest ids: CLIP's, whose end token is the largest.
    Argmax,
    /// The first with this id, or the first of all if there is none.
    Id(u32),
}

/// The position table of the vision tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Fixed 2-D sines and cosines: FLIP's.
    #[default]
    Sincos,
    /// A parameter: CLIP's.
    Learned,
}

/// Sizes and choices of a model. Choices have FLIP's values by default; others make it an OpenCLIP model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Pixels of a side; images are square.
    pub image_size: usize,
    /// Pixels of a patch's side; divides `image_size`.
    pub patch_size: usize,
    /// The tower for images.
    pub vision: TowerConfig,
    /// The tower for captions.
    pub text: TowerConfig,
    /// Tokens of a caption; shorter ones are padded, longer ones cut.
    pub context: usize,
    /// Rows of the token table.
    pub vocab: usize,
    /// Width of the space that both towers project to.
    pub embed_dim: usize,
    /// LayerNorm's epsilon.
    #[serde(default = "default_ln_eps")]
    pub ln_eps: f32,
    /// The shift and scale of pixels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalisation: Normalisation,
    /// How images become squares when the model is used; training crops them at random.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resize_mode: ResizeMode,
    /// Whether the patch embedding has a bias.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub patch_bias: bool,
    /// The vision tower's positions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub positions: Positions,
    /// Whether the vision tower has a LayerNorm in front of its blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ln_pre: bool,
    /// What the embedding of an image is computed from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_pool: ImagePool,
    /// Whether the vision tower's last LayerNorm comes after the pooling, not before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ln_after_pool: bool,
    /// Whether a token of a caption sees only those before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub causal: bool,
    /// Which token of a caption its embedding is computed from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text_pool: TextPool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// That of all of FLIP's LayerNorms (docs/method.md, "Vision tower").
fn default_ln_eps() -> f32 {
    1e-6
}

/// The models of the paper (docs/method.md, "Model"), and a small one for the embedded data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A small model of 48 px for the embedded data
    Tiny,
    /// ViT-B/16
    B16,
    /// ViT-L/16
    L16,
    /// ViT-L/14
    L14,
    /// ViT-H/14
    H14,
}

/// What the towers are trained to minimise; [`crate::ops::pairwise`] has the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Softmax over the batch, both ways: the paper's
    #[default]
    Infonce,
    /// A yes-or-no decision per pair: SigLIP's
    Sigmoid,
}

impl fmt::Display for Preset {
    /// As the command line spells it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Tiny => "tiny",
            Self::B16 => "b16",
            Self::L16 => "l16",
            Self::L14 => "l14",
            Self::H14 => "h14",
        })
    }
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tiny, Self::B16, Self::L16, Self::L14, Self::H14];

    /// Its sizes.
    pub fn config(self) -> ModelConfig {
        let tower = TowerConfig::new;
        let tiny = ModelConfig {
            image_size: 48,
            patch_size: 8,
            vision: tower(4, 128, 4),
            text: tower(1, 128, 4),
            context: 16,
            vocab: 4096,
            embed_dim: 128,
            ln_eps: default_ln_eps(),
            normalisation: Normalisation::IMAGENET,
            resize_mode: ResizeMode::Shortest,
            patch_bias: true,
            positions: Positions::Sincos,
            ln_pre: false,
            image_pool: ImagePool::All,
            ln_after_pool: false,
            causal: false,
            text_pool: TextPool::First,
        };
        let paper = |patch_size, vision, text, embed_dim| ModelConfig {
            image_size: 224,
            patch_size,
            vision,
            text,
            context: 32,
            vocab: 30_523,
            embed_dim,
            ..tiny.clone()
        };
        match self {
            Self::Tiny => tiny,
            Self::B16 => paper(16, tower(12, 768, 12), tower(12, 512, 8), 512),
            Self::L16 => paper(16, tower(24, 1024, 16), tower(12, 768, 12), 768),
            Self::L14 => paper(14, tower(24, 1024, 16), tower(12, 768, 12), 768),
            Self::H14 => paper(14, tower(32, 1280, 16), tower(24, 1024, 16), 1024),
        }
    }
}

impl ModelConfig {
    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Numbers in a patch.
    pub fn patch_len(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Checks that a model can have these sizes.
    ///
    /// # Errors
    /// The first size that is zero, too large, or does not divide another as it must, or an epsilon that is no number.
    pub fn check(&self) -> Result<(), ModelError> {
        let [vision, text] = [&self.vision, &self.text];
        // Far above any model: larger numbers would only lead to an overflow, or to an allocation that fails.
        for (name, value, max) in [
            ("image_size", self.image_size, 1 << 14),
            ("patch_size", self.patch_size, 1 << 14),
            ("context", self.context, 1 << 16),
            ("vocab", self.vocab, 1 << 24),
            ("embed_dim", self.embed_dim, 1 << 16),
            ("vision.width", vision.width, 1 << 16),
            ("text.width", text.width, 1 << 16),
            ("vision.heads", vision.heads, 1 << 16),
            ("text.heads", text.heads, 1 << 16),
            ("vision.mlp_width", vision.mlp_width(), 1 << 18),
            ("text.mlp_width", text.mlp_width(), 1 << 18),
            ("vision.layers", vision.layers, 1 << 12),
            ("text.layers", text.layers, 1 << 12),
        ] {
            if value > max {
                return Err(ModelError::TooLarge { name, value, max });
            }
            if value == 0 {
                return Err(ModelError::Zero { name });
            }
        }
        let epsilons = [Some(self.ln_eps), vision.ln_eps, text.ln_eps];
        if let Some(eps) = epsilons.into_iter().flatten().find(|eps| !(eps.is_finite() && *eps >= 0.0)) {
            return Err(ModelError::Epsilon { value: eps.to_string() });
        }
        for (name, value, divisor, by) in [
            ("vision.width", vision.width, vision.heads, "vision.heads"),
            ("text.width", text.width, text.heads, "text.heads"),
            ("image_size", self.image_size, self.patch_size, "patch_size"),
        ] {
            if !value.is_multiple_of(divisor) {
                return Err(ModelError::Indivisible { name, value, by: format!("{by} = {divisor}") });
            }
        }
        match self.positions == Positions::Learned || vision.width.is_multiple_of(4) {
            true => Ok(()),
            false => Err(ModelError::Indivisible {
                name: "vision.width",
                value: vision.width,
                by: "4 (the position table)".to_owned(),
            }),
        }
    }
}

/// Sizes that no model can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A size above the limit.
    #[error("{name} = {value} is invalid: it must be at most {max}")]
    TooLarge {
        /// The size's name, as in [`ModelConfig`].
        name: &'static str,
        /// Its value.
        value: usize,
        /// The limit.
        max: usize,
    },
    /// A size of zero.
    #[error("{name} must be at least 1")]
    Zero {
        /// The size's name, as in [`ModelConfig`].
        name: &'static str,
    },
    /// An epsilon of a LayerNorm that is negative or no number.
    #[error("ln_eps = {value} is invalid: it must be a number of at least 0")]
    Epsilon {
        /// Its value.
        value: String,
    },
    /// A size that is not a multiple of another.
    #[error("{name} = {value} is not a multiple of {by}")]
    Indivisible {
        /// The size's name, as in [`ModelConfig`].
        name: &'static str,
        /// Its value.
        value: usize,
        /// What must divide it.
        by: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound() {
        for preset in Preset::ALL {
            preset.config().check().unwrap();
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.to_string());
        }
    }

    #[test]
    fn impossible_sizes_are_named() {
        let error = |change: fn(&mut ModelConfig)| {
            let mut config = Preset::Tiny.config();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(error(|model| model.vision.heads = 3), "vision.width = 128 is not a multiple of vision.heads = 3");
        assert_eq!(error(|model| model.patch_size = 7), "image_size = 48 is not a multiple of patch_size = 7");
        assert_eq!(error(|model| model.patch_size = 0), "patch_size must be at least 1");
        assert_eq!(error(|model| model.text.layers = 0), "text.layers must be at least 1");
        assert_eq!(error(|model| model.vision.mlp_width = Some(0)), "vision.mlp_width must be at least 1");
        assert!(error(|model| model.text.width = usize::MAX).starts_with("text.width = "));
        assert!(error(|model| model.text.ln_eps = Some(-1.0)).starts_with("ln_eps = -1 is invalid"));
        let narrow = |model: &mut ModelConfig| (model.vision.width, model.vision.heads) = (6, 2);
        assert_eq!(error(narrow), "vision.width = 6 is not a multiple of 4 (the position table)");
        let long = error(|model| model.context = 1 << 30);
        assert_eq!(long, "context = 1073741824 is invalid: it must be at most 65536");
    }
}
