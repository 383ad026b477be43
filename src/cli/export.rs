//! `flipk export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::logging::busy;
use super::put;
use crate::data::TokenizerOptions;
use crate::interop::NewFolder;
use crate::interop::export::{Export as Model, Numbers, flip, hugging_face, onnx, open_clip};
use crate::train::{Weights, open_tokenizer};

/// Convert a model to the format of another program
#[derive(Args)]
#[command(after_help = "Examples:
  flipk export runs/b16-001 --format open_clip --out b16
  python -c \"import open_clip; open_clip.create_model_and_transforms('local-dir:b16')\"
  flipk export runs/b16-001 --format onnx --dtype f16 --out b16-onnx")]
pub(super) struct Export {
    /// Run folder (its newest checkpoint), checkpoint file, or folder of an OpenCLIP or Hugging Face model
    model: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    format: Format,
    /// Folder to create
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Tokenizer to write with it [default: the one beside the model, or CLIP's if that is the model's]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Type of the numbers
    #[arg(long, value_enum, default_value_t)]
    dtype: Numbers,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Format {
    /// OpenCLIP: open_clip_config.json and open_clip_model.safetensors, for local-dir:FOLDER
    OpenClip,
    /// Hugging Face: a CLIPModel of transformers
    Hf,
    /// The FLIP authors' parameters under their names
    Flip,
    /// ONNX: image.onnx and text.onnx for onnxruntime, opset 17, any batch size
    Onnx,
}

impl Export {
    pub(super) fn run(self) -> Result<ExitCode> {
        let weights = Weights::open(&self.model)?;
        let busy = busy(format!("writing {}", self.out.display()));
        let (flip_model, values) = weights.values()?;
        let path = self.tokenizer.or_else(|| weights.tokenizer());
        let tokenizer = match open_tokenizer(path.as_deref(), &weights.described(), TokenizerOptions::default()) {
            Ok(Some(tokenizer)) => Some(tokenizer.to_json()?),
            Ok(None) => {
                tracing::warn!("there is no tokenizer.json beside the model, so the export has none: pass --tokenizer");
                None
            }
            // These formats are used without it, too.
            Err(error) if path.is_none() && matches!(self.format, Format::Flip | Format::Onnx) => {
                tracing::warn!("the tokenizer is left out: {error}");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let model = Model {
            model: weights.model(),
            loss: weights.loss(),
            layout: flip_model.layout(),
            values: &values,
            tokenizer: tokenizer.as_deref(),
            numbers: self.dtype,
        };
        let folder = NewFolder::create(&self.out)?;
        match self.format {
            Format::OpenClip => open_clip(&model, &folder)?,
            Format::Hf => hugging_face(&model, &folder)?,
            Format::Flip => flip(&model, &folder)?,
            Format::Onnx => onnx(&model, &folder)?,
        }
        let out = folder.finish()?;
        drop(busy);
        put(format_args!("{}\n", out.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
