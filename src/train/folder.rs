//! What lies in a run folder, which describes its run on its own.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Options, TrainError, checkpoint};
use crate::data::Tokenizer;

/// A run folder: `config.toml`, `tokenizer.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `curve.svg` and, at the
/// end, `summary.json`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Begins a run in `path`, or in the first free `runs/NAME-001`.
    ///
    /// # Errors
    /// If the folder holds a run already, or cannot be written.
    pub fn create(path: Option<&Path>, name: &str) -> Result<Self, TrainError> {
        let numbered = |number| PathBuf::from("runs").join(format!("{name}-{number:03}"));
        let free = || (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(0));
        let this = Self { path: path.map_or_else(free, Path::to_owned) };
        if this.config().exists() {
            let problem = format!(
                "{} holds a run already: go on with `flipk train --resume {0}`, or choose another --out",
                this.path.display()
            );
            return Err(TrainError::Settings { problem });
        }
        let checkpoints = this.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(|why| TrainError::io("create", &checkpoints, why))?;
        Ok(this)
    }

    /// Opens the folder of a run that was begun.
    ///
    /// # Errors
    /// If it has no `config.toml`.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let this = Self { path: path.to_owned() };
        match this.config().is_file() {
            true => Ok(this),
            false => {
                let problem = format!("{} is not a run folder: it has no config.toml", path.display());
                Err(TrainError::Settings { problem })
            }
        }
    }

    /// Writes what the run is made of.
    pub fn describe(&self, options: &Options, tokenizer: &Tokenizer) -> Result<(), TrainError> {
        // The configuration comes last: a folder that has one has the rest.
        self.write("tokenizer.json", &tokenizer.to_json()?)?;
        let head = "# Every option of this run. Repeat it with: flipk train --config FILE\n";
        self.write("config.toml", &(head.to_owned() + &options.to_toml()?))
    }

    /// Writes a JSON file.
    pub fn write_json(&self, name: &str, content: &impl Serialize) -> Result<PathBuf, TrainError> {
        let path = self.path.join(name);
        let text = serde_json::to_string_pretty(content).map_err(|why| TrainError::io("write", &path, why.into()))?;
        self.write(name, &(text + "\n"))?;
        Ok(path)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.path.join(name);
        let partial = self.path.join(format!("{name}.partial"));
        let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|why| TrainError::io("write", &path, why))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The newest checkpoint, if there is one.
    pub fn newest(&self) -> Option<PathBuf> {
        checkpoint::list(&self.checkpoints()).pop()
    }
}
