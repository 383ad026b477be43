//! The files of a run folder, which is a complete description of its run.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::info;

use super::{Settings, TrainError};
use crate::data::Tokenizer;

/// Time between attempts to lock a folder.
const PAUSE: Duration = Duration::from_millis(50);

/// Keeps other processes from training in a run folder until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

/// A run folder: `config.toml`, `model.json`, `tokenizer.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`,
/// `curve.svg` and, at the end, `summary.json`; `set-aside/` holds what a resume left behind, and `ranks/` heartbeats
/// while several ranks train.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Where runs are created unless `--out` says otherwise.
    pub const RUNS: &str = "runs";
    /// The folder of a run's checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// The file with the model of a run.
    pub(super) const MODEL: &str = "model.json";

    /// Creates the folder of a run: `path`, or the first free one of `runs/NAME-001`, `runs/NAME-002`, ...
    ///
    /// # Errors
    /// If the folder already contains a run, is locked, or cannot be written.
    pub fn create(path: Option<&Path>, name: &str) -> Result<(Self, Lock), TrainError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => create_numbered(Path::new(Self::RUNS), &format!("{name}-"))?,
        };
        let this = Self { path };
        let checkpoints = this.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(|why| TrainError::io("create", &checkpoints, why))?;
        let lock = this.lock()?;
        if this.config().exists() {
            let problem = format!(
                "{} already contains a run: continue it with `flipk train --resume {0}`, or choose another --out",
                this.path.display()
            );
            return Err(TrainError::Settings { problem });
        }
        this.prepare()?;
        Ok((this, lock))
    }

    /// A folder that rank 0 has created or opened.
    pub(super) fn of_root(path: PathBuf) -> Self {
        Self { path }
    }

    /// Creates the folder of checkpoints if there is none, and removes files that a killed process left half written.
    ///
    /// # Errors
    /// If no checkpoint could be written: a run should find that out at its start.
    pub fn prepare(&self) -> Result<(), TrainError> {
        let folder = self.checkpoints();
        fs::create_dir_all(&folder).map_err(|why| TrainError::io("create", &folder, why))?;
        tempfile::tempfile_in(&folder).map_err(|why| TrainError::io("write to", &folder, why))?;
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".tmp") || name.ends_with(".partial") {
                // It only takes up space.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Locks the folder. The operating system releases the lock when the process ends, however that happens.
    ///
    /// # Errors
    /// If another process holds the lock.
    pub fn lock(&self) -> Result<Lock, TrainError> {
        let path = self.path.join(".lock");
        // Some file systems cannot lock, or the folder is read-only: train without a lock then.
        let Ok(mut file) = File::options().create(true).truncate(false).read(true).write(true).open(&path) else {
            return Ok(Lock { _file: None });
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let id = fs::read_to_string(&path).unwrap_or_default();
                let id = if id.trim().is_empty() { String::new() } else { format!(" (process {})", id.trim()) };
                let problem = format!(
                    "another flipk{id} is training in {}: wait until it ends, stop it, or choose another folder",
                    self.path.display()
                );
                Err(TrainError::Locked { problem })
            }
            Err(TryLockError::Error(_)) => Ok(Lock { _file: None }),
            Ok(()) => {
                // For the message above, which leaves the number out if this fails.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Lock { _file: Some(file) })
            }
        }
    }

    /// As [`Self::lock`], but waits up to `limit` for another process that is about to end, unless `gives_up`: ranks
    /// whose launcher was killed save a checkpoint first.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_within(&self, limit: Duration, gives_up: impl Fn() -> bool) -> Result<Lock, TrainError> {
        let begun = Instant::now();
        let mut says = true;
        loop {
            match self.lock() {
                Err(_) if begun.elapsed() < limit && !gives_up() => {
                    if std::mem::take(&mut says) {
                        let seconds = limit.as_secs();
                        info!("waiting up to {seconds} s for another flipk to end in {}", self.path.display());
                    }
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Opens the folder of an existing run.
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

    /// Writes `tokenizer.json`, `model.json` and `config.toml`.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn describe(&self, settings: &Settings, tokenizer: &Tokenizer) -> Result<(), TrainError> {
        // The configuration comes last: a folder that has it is complete.
        self.write("tokenizer.json", &tokenizer.to_json()?)?;
        self.write_json(Self::MODEL, &settings.model)?;
        let head = "# Every option of this run. Repeat it with: flipk train --config FILE\n";
        self.write("config.toml", &(head.to_owned() + &settings.options.to_toml()?))
    }

    /// Writes a JSON file and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_json(&self, name: &str, content: &impl Serialize) -> Result<PathBuf, TrainError> {
        let path = self.path.join(name);
        let text = serde_json::to_string_pretty(content).map_err(|why| TrainError::io("write", &path, why.into()))?;
        self.write(name, &(text + "\n"))?;
        Ok(path)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.path.join(name);
        let partial = self.path.join(format!("{name}.partial"));
        // Synced before the rename: after a power failure, the file is the old one or the new one.
        let written = File::create(&partial)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&partial, &path));
        written.map_err(|why| TrainError::io("write", &path, why))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The path of `tokenizer.json`.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// The path of the checkpoints' folder.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(Self::CHECKPOINTS)
    }
}

/// Creates the first free folder `PREFIX001`, `PREFIX002`, ... in `parent`. Processes that do so at the same time each
/// get their own.
///
/// # Errors
/// If it cannot be created.
pub(super) fn create_numbered(parent: &Path, prefix: &str) -> Result<PathBuf, TrainError> {
    fs::create_dir_all(parent).map_err(|why| TrainError::io("create", parent, why))?;
    let mut number = 1;
    loop {
        let path = parent.join(format!("{prefix}{number:03}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(why) => return Err(TrainError::io("create", &path, why)),
        }
    }
}
