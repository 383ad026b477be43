//! Which run `--resume` refers to, and which checkpoint to resume from.
//!
//! Nothing is deleted: checkpoints and lines of metrics later than that checkpoint are moved into the run's
//! `set-aside/NNN`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{info, warn};

use super::checkpoint::{self, Checkpoint};
use super::folder::create_numbered;
use super::metrics::MetricsLog;
use super::{RunFolder, TrainError};

/// What `--resume` accepts for the newest run.
const LATEST: &str = "latest";

impl RunFolder {
    /// The folder of the run that `target` refers to: a run folder, its `checkpoints` folder, a file in that, or
    /// `latest`.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn find(target: &Path) -> Result<Self, TrainError> {
        find(target).map(|(folder, _)| folder)
    }
}

/// The run folder that `target` refers to, and the checkpoint if `target` is one. `target`: a run folder, its
/// `checkpoints` folder, a file in that, or `latest`.
///
/// # Errors
/// If there is no such run.
pub(super) fn find(target: &Path) -> Result<(RunFolder, Option<PathBuf>), TrainError> {
    if target == Path::new(LATEST) && RunFolder::open(target).is_err() {
        let newest = newest_run(Path::new(RunFolder::RUNS)).ok_or_else(|| TrainError::Settings {
            problem: format!(
                "`{LATEST}` is not a run folder, and there is no run under {}/ here: pass the run's folder",
                RunFolder::RUNS
            ),
        })?;
        info!("the newest run under {}/ is {}", RunFolder::RUNS, newest.display());
        return Ok((RunFolder::open(&newest)?, None));
    }
    if target.is_file() {
        let folder =
            target.parent().filter(|folder| folder.file_name().is_some_and(|name| name == RunFolder::CHECKPOINTS));
        return match folder.and_then(Path::parent).map(RunFolder::open) {
            Some(Ok(folder)) => Ok((folder, Some(target.to_owned()))),
            _ => {
                let problem = format!(
                    "{0} is not in the {1}/ of a run folder, so there is no run to resume; start a new run from its weights \
                     with --init-from {0}",
                    target.display(),
                    RunFolder::CHECKPOINTS
                );
                Err(TrainError::Settings { problem })
            }
        };
    }
    if target.file_name().is_some_and(|name| name == RunFolder::CHECKPOINTS)
        && let Some(folder) = target.parent()
        && let Ok(folder) = RunFolder::open(folder)
    {
        return Ok((folder, None));
    }
    Ok((RunFolder::open(target)?, None))
}

/// The run in `runs` that was written to most recently.
fn newest_run(runs: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = folders.filter(|path| RunFolder::open(path).is_ok());
    runs.filter_map(|path| Some((last_written(&path)?, path))).max().map(|(_, path)| path)
}

fn last_written(run: &Path) -> Option<SystemTime> {
    let own = ["config.toml", "metrics.jsonl", "summary.json"].map(|name| run.join(name));
    let checkpoints = checkpoint::list(&run.join(RunFolder::CHECKPOINTS));
    let files = own.iter().chain(&checkpoints);
    files.filter_map(|path| path.metadata().ok()?.modified().ok()).max()
}

/// The point from which a run is resumed.
#[derive(Default)]
pub(super) struct Point {
    /// `None` for the very start.
    pub checkpoint: Option<Checkpoint>,
    /// Checkpoints of later steps, oldest first.
    later: Vec<PathBuf>,
}

impl Point {
    /// The checkpoint that rank 0 has chosen. It was verified there; tensors are verified again as they are read.
    ///
    /// # Errors
    /// If this rank cannot read it.
    pub(super) fn of_root(path: &Path) -> Result<Self, TrainError> {
        Ok(Self { checkpoint: Some(Checkpoint::open(path)?), later: Vec::new() })
    }

    /// The checkpoint `named`, or else the newest intact one, with a warning about each that is skipped.
    ///
    /// # Errors
    /// If `named`, or every checkpoint in the folder, is damaged; if a file cannot be read.
    pub(super) fn choose(folder: &RunFolder, named: Option<&Path>) -> Result<Self, TrainError> {
        let all = checkpoint::list(&folder.checkpoints());
        if let Some(named) = named {
            return Ok(Self::at(Checkpoint::open_checked(named)?, &all));
        }
        let mut broken = Vec::new();
        for path in all.iter().rev() {
            match Checkpoint::open_intact(path) {
                Ok(checkpoint) => {
                    for error in &broken {
                        warn!("{error}");
                    }
                    if !broken.is_empty() {
                        info!("resuming from the newest intact one, {}", path.display());
                    }
                    return Ok(Self::at(checkpoint, &all));
                }
                Err(error @ TrainError::Checkpoint { .. }) => broken.push(error),
                Err(error) => return Err(error),
            }
        }
        match broken.into_iter().next() {
            None => {
                info!("{} has no checkpoint yet; the run starts over", folder.path().display());
                Ok(Self::default())
            }
            Some(TrainError::Checkpoint { path, problem, source }) => {
                let problem = format!("{problem}; no other checkpoint in the folder is intact either");
                Err(TrainError::Checkpoint { path, problem, source })
            }
            Some(error) => Err(error),
        }
    }

    /// `checkpoint`, and those of `all` that are of later steps.
    fn at(checkpoint: Checkpoint, all: &[PathBuf]) -> Self {
        let step = checkpoint.state.step;
        let is_later = |path: &&PathBuf| path != &checkpoint.path() && checkpoint::step_of(path) > Some(step);
        let later = all.iter().filter(is_later).cloned().collect();
        Self { checkpoint: Some(checkpoint), later }
    }

    /// Optimizer steps done.
    pub(super) fn step(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.state.step)
    }

    /// Moves everything later than this point into `set-aside/NNN`, and returns a line that says what went where. The
    /// summary is moved only if the run has steps left (`unfinished`).
    ///
    /// # Errors
    /// If a file cannot be moved or written.
    pub(super) fn set_aside(&self, folder: &RunFolder, unfinished: bool) -> Result<Option<String>, TrainError> {
        let lines = MetricsLog::after(folder.path(), self.step())?;
        let ended = ["summary.json", "diverged.json"].map(|name| folder.path().join(name));
        let ended = ended.into_iter().filter(|path| unfinished && path.exists());
        // The newest checkpoint first, and all of them before the metrics are cut: if this is interrupted, every
        // checkpoint that is left still has the ones before it and its lines of metrics.
        let files: Vec<PathBuf> = self.later.iter().rev().cloned().chain(ended).collect();
        if files.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        let aside = create_numbered(&folder.path().join("set-aside"), "")?;
        let mut moved = Vec::new();
        for from in &files {
            let Some(name) = from.file_name() else { continue };
            fs::rename(from, aside.join(name)).map_err(|why| TrainError::io("move", from, why))?;
            moved.push(name.to_string_lossy().into_owned());
        }
        if !lines.is_empty() {
            let copy = aside.join("metrics.jsonl");
            fs::write(&copy, &lines).map_err(|why| TrainError::io("write", &copy, why))?;
            moved.push(match lines.iter().filter(|&&byte| byte == b'\n').count() {
                1 => "a line of metrics".to_owned(),
                count => format!("{count} lines of metrics"),
            });
        }
        let (aside, moved) = (aside.display(), moved.join(", "));
        Ok(Some(format!("moved what is later than step {} to {aside}: {moved}", self.step())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_run_is_the_one_written_to_last() {
        let runs = tempfile::tempdir().unwrap();
        let write = |name: &str, seconds: u64| {
            let path = runs.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        assert_eq!(newest_run(runs.path()), None);
        write("no-run/metrics.jsonl", 90);
        write("tiny-001/config.toml", 10);
        write("tiny-002/config.toml", 20);
        assert_eq!(newest_run(runs.path()), Some(runs.path().join("tiny-002")));
        write("tiny-001/checkpoints/step-00000009.safetensors", 30);
        assert_eq!(newest_run(runs.path()), Some(runs.path().join("tiny-001")));
    }

    #[test]
    fn a_run_folder_its_checkpoints_or_one_file_can_be_named() {
        let runs = tempfile::tempdir().unwrap();
        let run = runs.path().join("run");
        let file = run.join("checkpoints/step-00000009.safetensors");
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        for path in [&file, &run.join("config.toml"), &runs.path().join("copy.safetensors")] {
            fs::write(path, "").unwrap();
        }
        let found = |path: &Path| find(path).map(|(folder, named)| (folder.path().to_owned(), named));
        assert_eq!(found(&run).unwrap(), (run.clone(), None));
        assert_eq!(found(&run.join("checkpoints")).unwrap(), (run.clone(), None));
        assert_eq!(found(&file).unwrap(), (run.clone(), Some(file)));
        let error = found(&runs.path().join("copy.safetensors")).unwrap_err().to_string();
        assert!(error.contains("is not in the checkpoints/ of a run folder") && error.contains("--init-from"));
        assert!(found(runs.path()).unwrap_err().to_string().contains("is not a run folder"));
    }
}
