//! Sizes of a model, and the presets of the paper.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ops::gather_patches::Normalisation;

/// One transformer tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerConfig {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
}

/// All sizes of a FLIP model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Pixels of a side; images are square.
    pub image_size: usize,
    /// Pixels of a patch's side; divides `image_size`.
    pub patch_size: usize,
    pub vision: TowerConfig,
    pub text: TowerConfig,
    /// Tokens of a caption; shorter ones are padded, longer ones cut.
    pub context: usize,
    pub vocab: usize,
    /// Width of the space that both towers project to.
    pub embed_dim: usize,
    /// Layer normalisation's epsilon.
    #[serde(default = "default_ln_eps")]
    pub ln_eps: f32,
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
    Tiny,
    B16,
    L16,
    L14,
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
    /// A yes or no for each pair: SigLIP's
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
    pub fn config(self) -> ModelConfig {
        let tower = |layers, width, heads| TowerConfig { layers, width, heads };
        let paper = |patch_size, vision, text, embed_dim| ModelConfig {
            image_size: 224,
            patch_size,
            vision,
            text,
            context: 32,
            vocab: 30_523,
            embed_dim,
            ln_eps: default_ln_eps(),
        };
        match self {
            Self::Tiny => ModelConfig {
                image_size: 48,
                patch_size: 8,
                vision: tower(4, 128, 4),
                text: tower(1, 128, 4),
                context: 16,
                vocab: 4096,
                embed_dim: 128,
                ln_eps: default_ln_eps(),
            },
            Self::B16 => paper(16, tower(12, 768, 12), tower(12, 512, 8), 512),
            Self::L16 => paper(16, tower(24, 1024, 16), tower(12, 768, 12), 768),
            Self::L14 => paper(14, tower(24, 1024, 16), tower(12, 768, 12), 768),
            Self::H14 => paper(14, tower(32, 1280, 16), tower(24, 1024, 16), 1024),
        }
    }
}

impl ModelConfig {
    /// The shift and scale of pixels.
    pub const NORMALISATION: Normalisation = Normalisation::IMAGENET;

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Numbers in a patch.
    pub fn patch_len(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// What is wrong with the sizes, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let tower = |name: &str, tower: &TowerConfig| match tower {
            TowerConfig { layers: 0, .. } | TowerConfig { width: 0, .. } | TowerConfig { heads: 0, .. } => {
                Err(format!("{name}: layers, width and heads must be at least 1"))
            }
            TowerConfig { width, heads, .. } if width % heads != 0 => {
                Err(format!("{name}.width = {width} is not a multiple of {name}.heads = {heads}"))
            }
            _ => Ok(()),
        };
        // Far above any model: numbers beyond would end in an allocation that fails, or overflow.
        let [vision, text] = [&self.vision, &self.text];
        for (name, value, most) in [
            ("image_size", self.image_size, 1 << 14),
            ("context", self.context, 1 << 16),
            ("vocab", self.vocab, 1 << 24),
            ("embed_dim", self.embed_dim, 1 << 16),
            ("vision.width", vision.width.max(vision.heads), 1 << 16),
            ("text.width", text.width.max(text.heads), 1 << 16),
            ("vision.layers", vision.layers, 1 << 12),
            ("text.layers", text.layers, 1 << 12),
        ] {
            if value > most {
                return Err(format!("{name} = {value} is not possible: it must be at most {most}"));
            }
        }
        tower("vision", &self.vision)?;
        tower("text", &self.text)?;
        if !self.vision.width.is_multiple_of(4) {
            return Err(format!("vision.width = {} is not a multiple of 4 (the position table)", self.vision.width));
        }
        if self.patch_size == 0 || self.image_size == 0 {
            return Err("image_size and patch_size must be at least 1".to_owned());
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(format!(
                "image_size = {} is not a multiple of patch_size = {}",
                self.image_size, self.patch_size
            ));
        }
        if self.context == 0 || self.vocab == 0 || self.embed_dim == 0 {
            return Err("context, vocab and embed_dim must be at least 1".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound() {
        for preset in [Preset::Tiny, Preset::B16, Preset::L16, Preset::L14, Preset::H14] {
            preset.config().check().unwrap();
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.to_string());
        }
    }
}
