//! Models of flipk in the forms of other programs.

mod flip;
mod hugging_face;
mod onnx;
mod open_clip;
mod timm;
mod tokenizer;
mod values;

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{InteropError, NewFolder, Piece};
use crate::autograd::Layout;
use crate::model::{Loss, ModelConfig};

pub use self::flip::flip;
pub use self::hugging_face::hugging_face;
pub use self::onnx::onnx;
pub use self::open_clip::open_clip;

/// The numbers of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Numbers {
    /// 32 bits
    #[default]
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
}

/// A model to export.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// Sizes and choices.
    pub model: &'a ModelConfig,
    /// The loss that it was trained with.
    pub loss: Loss,
    /// Where the parameters are in `values`.
    pub layout: &'a Layout,
    /// `[layout.arena_len()]`.
    pub values: &'a [f32],
    /// Its `tokenizer.json`.
    pub tokenizer: Option<&'a str>,
    /// The type of the numbers.
    pub numbers: Numbers,
}

/// A tensor of another program: name, shape and numbers.
type Tensor = (String, Vec<usize>, Vec<f32>);

impl Export<'_> {
    fn value(&self, name: &str) -> Option<&[f32]> {
        let spec = self.layout.specs().iter().find(|spec| spec.name == name)?;
        Some(&self.values[spec.range()])
    }

    /// A piece of the parameter at `offset` in the arena, as their tensor.
    fn tensor(&self, offset: usize, piece: Piece) -> Tensor {
        let ours = &self.values[offset + piece.offset..][..piece.count()];
        let theirs = piece.to_theirs(ours);
        (piece.name, piece.shape, theirs)
    }

    /// Writes `tensors` to the safetensors file `name`.
    fn save(&self, folder: &NewFolder, name: &str, tensors: Vec<Tensor>) -> Result<(), InteropError> {
        tensors.iter().try_for_each(|(name, _, values)| self.numbers.check(name, values))?;
        let encoded: Vec<(String, Vec<usize>, Vec<u8>)> =
            tensors.into_iter().map(|(name, shape, values)| (name, shape, self.numbers.encode(&values))).collect();
        let views = encoded.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(self.numbers.dtype(), shape.clone(), bytes);
            (name.as_str(), view.expect("a tensor's shape is its length"))
        });
        // What PyTorch's readers ask for.
        let header = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(header), &folder.file(name)).map_err(|why| match why {
            safetensors::SafeTensorError::IoError(why) => folder.failed(name, why),
            why => folder.failed(name, std::io::Error::other(why)),
        })
    }
}

impl Numbers {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Refuses numbers that would become infinite.
    fn check(self, name: &str, values: &[f32]) -> Result<(), InteropError> {
        let too_large = |value: &&f32| value.is_finite() && f16::from_f32(**value).is_infinite();
        match values.iter().find(too_large).filter(|_| self == Self::F16) {
            None => Ok(()),
            Some(value) => {
                let problem =
                    format!("has the value {value}, beyond the largest of f16, 65504; export with --dtype f32");
                Err(InteropError::Parameter { name: name.to_owned(), problem })
            }
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        }
    }
}

/// The error of a choice that a format does not have.
fn cannot(format: &'static str, choice: &str, instead: &str) -> InteropError {
    InteropError::Inexpressible { format, choice: choice.to_owned(), instead: instead.to_owned() }
}
