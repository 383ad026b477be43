//! What lies in a run folder, which describes its run on its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Options, TrainError};
use crate::data::Tokenizer;

/// As long as it lives, no other program trains in the run folder.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

/// A run folder: `config.toml`, `tokenizer.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `curve.svg` and, at the
/// end, `summary.json`; `set-aside/` holds what a resume left behind.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Where runs lie if nothing else is said.
    pub const RUNS: &str = "runs";
    /// The folder of a run's checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";

    /// Begins a run in `path`, or in the first free `runs/NAME-001`.
    ///
    /// # Errors
    /// If the folder holds a run already, or cannot be written.
    pub fn create(path: Option<&Path>, name: &str) -> Result<(Self, Lock), TrainError> {
        let path = path.map_or_else(|| Self::numbered(name), |path| Ok(path.to_owned()))?;
        let this = Self { path };
        let checkpoints = this.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(|why| TrainError::io("create", &checkpoints, why))?;
        let lock = this.lock()?;
        if this.config().exists() {
            let problem = format!(
                "{} holds a run already: go on with `flipk train --resume {0}`, or choose another --out",
                this.path.display()
            );
            return Err(TrainError::Settings { problem });
        }
        this.make_ready()?;
        Ok((this, lock))
    }

    /// Makes room for checkpoints, and removes what a program that was killed left of one.
    ///
    /// # Errors
    /// If no checkpoint could be written: a run should not find that out at its end.
    pub fn make_ready(&self) -> Result<(), TrainError> {
        let folder = self.checkpoints();
        fs::create_dir_all(&folder).map_err(|why| TrainError::io("create", &folder, why))?;
        tempfile::tempfile_in(&folder).map_err(|why| TrainError::io("write to", &folder, why))?;
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".tmp") || name.ends_with(".partial") {
                // It only takes room.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Makes the first free `runs/NAME-001`; of several programs at once, each gets its own.
    fn numbered(name: &str) -> Result<PathBuf, TrainError> {
        let runs = Path::new(Self::RUNS);
        fs::create_dir_all(runs).map_err(|why| TrainError::io("create", runs, why))?;
        let mut number = 1;
        loop {
            let path = runs.join(format!("{name}-{number:03}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(why) => return Err(TrainError::io("create", &path, why)),
            }
        }
    }

    /// Keeps other programs from training in this folder as long as the lock lives; the system takes it from a program
    /// that ends, however it does.
    ///
    /// # Errors
    /// If another program has it.
    pub fn lock(&self) -> Result<Lock, TrainError> {
        let path = self.path.join(".lock");
        // A folder or a file system without locks is no reason not to train.
        let Ok(mut file) = File::options().create(true).truncate(false).read(true).write(true).open(&path) else {
            return Ok(Lock { _file: None });
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let id = fs::read_to_string(&path).unwrap_or_default();
                let id = if id.trim().is_empty() { String::new() } else { format!(" (process {})", id.trim()) };
                let problem = format!(
                    "another flipk{id} trains in {}: wait until it ends, stop it, or choose another folder",
                    self.path.display()
                );
                Err(TrainError::Settings { problem })
            }
            Err(TryLockError::Error(_)) => Ok(Lock { _file: None }),
            Ok(()) => {
                // For the message above, which does without if this fails.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Lock { _file: Some(file) })
            }
        }
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
                let problem = match path.exists() {
                    true => format!("{} is not a run folder: it has no config.toml", path.display()),
                    false => format!("{} is not a run folder: it does not exist", path.display()),
                };
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
        self.path.join(Self::CHECKPOINTS)
    }
}
