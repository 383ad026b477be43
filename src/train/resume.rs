//! What `--resume` stands for, what a run goes on from, and where that leaves which it does not go on from.
//!
//! Nothing is removed: checkpoints and lines of metrics that come after the point from which a run goes on are moved into a
//! folder `set-aside/NNN` of the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::checkpoint::{self, Checkpoint};
use super::metrics::MetricsLog;
use super::{RunFolder, TrainError};

/// The word for the newest run.
const LATEST: &str = "latest";

/// The run folder that `word` means, and the checkpoint if one is named: a run folder, its `checkpoints`, a file in it, or
/// `latest`.
///
/// # Errors
/// If there is no such run.
pub fn find(word: &Path) -> Result<(RunFolder, Option<PathBuf>), TrainError> {
    if word == Path::new(LATEST) && RunFolder::open(word).is_err() {
        let newest = newest_run(Path::new(RunFolder::RUNS)).ok_or_else(|| TrainError::Settings {
            problem: format!(
                "`{LATEST}` is not a run folder, and there is no run under {}/ here: give the folder that the run lies in",
                RunFolder::RUNS
            ),
        })?;
        eprintln!("the newest run under {}/ is {}", RunFolder::RUNS, newest.display());
        return Ok((RunFolder::open(&newest)?, None));
    }
    if word.is_file() {
        let folder =
            word.parent().filter(|folder| folder.file_name().is_some_and(|name| name == RunFolder::CHECKPOINTS));
        return match folder.and_then(Path::parent).map(RunFolder::open) {
            Some(Ok(folder)) => Ok((folder, Some(word.to_owned()))),
            _ => {
                let problem = format!(
                    "{0} does not lie in the {1}/ of a run folder, which a run needs to go on; start a new run from its \
                     weights with --init-from {0}",
                    word.display(),
                    RunFolder::CHECKPOINTS
                );
                Err(TrainError::Settings { problem })
            }
        };
    }
    if word.file_name().is_some_and(|name| name == RunFolder::CHECKPOINTS)
        && let Some(folder) = word.parent()
        && let Ok(folder) = RunFolder::open(folder)
    {
        return Ok((folder, None));
    }
    Ok((RunFolder::open(word)?, None))
}

/// The run in `runs` that was last written to.
fn newest_run(runs: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = folders.filter(|path| RunFolder::open(path).is_ok());
    runs.filter_map(|path| Some((written(&path)?, path))).max().map(|(_, path)| path)
}

fn written(run: &Path) -> Option<SystemTime> {
    let own = ["config.toml", "metrics.jsonl", "summary.json"].map(|name| run.join(name));
    let checkpoints = checkpoint::list(&run.join(RunFolder::CHECKPOINTS));
    let files = own.iter().chain(&checkpoints);
    files.filter_map(|path| path.metadata().ok()?.modified().ok()).max()
}

/// Where a run goes on.
#[derive(Default)]
pub struct Point {
    /// None: at the very start.
    pub checkpoint: Option<Checkpoint>,
    /// Checkpoints of later steps, from which it does not go on.
    later: Vec<PathBuf>,
}

impl Point {
    /// The checkpoint that was `named`, or else the newest that is whole; tells which are passed over.
    ///
    /// # Errors
    /// If the named one, or every one, is no whole checkpoint, or one cannot be read.
    pub fn choose(folder: &RunFolder, named: Option<&Path>) -> Result<Self, TrainError> {
        let all = checkpoint::list(&folder.checkpoints());
        if let Some(named) = named {
            let checkpoint = Checkpoint::open_checked(named)?;
            let later = all.into_iter().filter(|path| path.file_name() > named.file_name()).collect();
            return Ok(Self { checkpoint: Some(checkpoint), later });
        }
        let mut broken = Vec::new();
        for (place, path) in all.iter().enumerate().rev() {
            match Checkpoint::open_whole(path) {
                Ok(checkpoint) => {
                    for error in &broken {
                        eprintln!("warning: {error}");
                    }
                    if !broken.is_empty() {
                        eprintln!("going on from the newest whole one, {}", path.display());
                    }
                    return Ok(Self { checkpoint: Some(checkpoint), later: all[place + 1..].to_vec() });
                }
                Err(error @ TrainError::Checkpoint { .. }) => broken.push(error),
                Err(error) => return Err(error),
            }
        }
        match broken.into_iter().next() {
            None => {
                eprintln!("{} has no checkpoint yet; the run begins anew", folder.path().display());
                Ok(Self::default())
            }
            Some(TrainError::Checkpoint { path, problem }) => {
                let problem = format!("{problem}; nor is any other in the folder whole");
                Err(TrainError::Checkpoint { path, problem })
            }
            Some(error) => Err(error),
        }
    }

    /// Optimizer steps made.
    pub fn step(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.state.step)
    }

    /// Moves what comes after this point out of the way of what the run will write, and says what and where to; the
    /// summary only if the run is `unfinished`.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn set_aside(&self, folder: &RunFolder, unfinished: bool) -> Result<Option<String>, TrainError> {
        let lines = MetricsLog::after(folder.path(), self.step())?;
        let ended = ["summary.json", "diverged.json"].map(|name| folder.path().join(name));
        let ended = ended.into_iter().filter(|path| unfinished && path.exists());
        // Checkpoints first: should this be interrupted, the next resume finds this point as the newest.
        let files: Vec<PathBuf> = self.later.iter().cloned().chain(ended).collect();
        if files.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        let aside = numbered(&folder.path().join("set-aside"))?;
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
        Ok(Some(format!("from after step {}, set aside in {}: {}", self.step(), aside.display(), moved.join(", "))))
    }
}

/// A new folder in `parent`, the first free number.
fn numbered(parent: &Path) -> Result<PathBuf, TrainError> {
    fs::create_dir_all(parent).map_err(|why| TrainError::io("create", parent, why))?;
    let mut number = 1;
    loop {
        let path = parent.join(format!("{number:03}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(why) => return Err(TrainError::io("create", &path, why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_run_is_the_one_last_written_to() {
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
    fn run_folders_are_found_by_what_lies_in_them() {
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
        assert!(error.contains("does not lie in the checkpoints/ of a run folder") && error.contains("--init-from"));
        assert!(found(runs.path()).unwrap_err().to_string().contains("is not a run folder"));
    }
}
