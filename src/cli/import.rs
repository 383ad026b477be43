//! `flipk import`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::logging::busy;
use super::put;
use crate::data::TokenizerOptions;
use crate::interop::NewFolder;
use crate::train::{Weights, checkpoint, open_tokenizer};

/// Make a checkpoint of flipk from a model of OpenCLIP or Hugging Face
///
/// It takes a folder with open_clip_config.json or config.json and its safetensors, or that safetensors file.
/// Vision towers are OpenCLIP's own, or plain ViTs of timm.
/// Every flipk command takes such a folder as it is, too; an imported one is checked once and has checksums.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk import ViT-B-16-laion/ --out vit-b-16
  flipk train --init-from vit-b-16 --data 'cc12m/{00000..01242}.tar' --epochs 1")]
pub(super) struct Import {
    /// Folder or file of the model
    path: PathBuf,
    /// Folder to create
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Tokenizer to keep with it [default: the one beside the model, or CLIP's if that is the model's]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(self) -> Result<ExitCode> {
        let weights = Weights::open(&self.path)?;
        let busy = busy(format!("writing {}", self.out.display()));
        let (flip, values) = weights.values()?;
        let folder = NewFolder::create(&self.out)?;
        let file = checkpoint::path_of(&folder.file(""), 0);
        checkpoint::save_weights(&file, weights.model(), weights.loss(), flip.layout(), &values)?;
        folder.write("model.json", &(serde_json::to_string_pretty(weights.model())? + "\n"))?;
        let path = self.tokenizer.or_else(|| weights.tokenizer());
        // Rewritten: the file then says how the model expects its texts.
        let missing = match open_tokenizer(path.as_deref(), &weights.described(), TokenizerOptions::default()) {
            Ok(Some(tokenizer)) => {
                folder.write("tokenizer.json", &tokenizer.to_json()?)?;
                None
            }
            Ok(None) => Some("there is no tokenizer.json beside the model: pass --tokenizer".to_owned()),
            Err(error) if path.is_none() => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let out = folder.finish()?;
        drop(busy);
        let parameters = flip.layout().count();
        put(format_args!("{}: {:.1} M parameters\n", out.display(), parameters as f64 / 1e6))?;
        if let Some(missing) = missing {
            tracing::warn!("{missing}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
