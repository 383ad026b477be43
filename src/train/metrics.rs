//! What a run reports during training: lines of `metrics.jsonl`, which also go to TensorBoard and the curve.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::tensorboard::EventFile;

const METRICS: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`; means are over the steps since the line before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Optimizer steps done.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Passes over the data, broken samples included.
    pub epoch: f64,
    /// Mean of the contrastive loss, in nats.
    pub loss: f64,
    /// Share of images whose own text is the nearest in the batch, averaged with the same share of texts.
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// L2 norm of all gradients together, before clipping, at the last step.
    pub grad_norm: f64,
    /// Inverse temperature, `exp` of the clipped parameter.
    pub logit_scale: f64,
    /// Evaluation and checkpoints not counted.
    pub samples_per_second: f64,
    /// Model FLOPs (forward and backward matrix products, nothing recomputed) per second, in units of 10^9.
    pub gflops: f64,
    /// Share of the time that was spent waiting for data.
    pub data_wait: f64,
    /// Images decoded per second, also those of batches that are still waiting.
    #[serde(default)]
    pub images_per_second: f64,
    /// Mean number of cores on which the process computed.
    #[serde(default)]
    pub cores_busy: f64,
    /// Seconds since the run began, evaluation, checkpoints and time before it was resumed included.
    #[serde(default)]
    pub seconds: f64,
    /// If there are several ranks: the one that computed longest, for which the others wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_rank: Option<usize>,
    /// Seconds per step that this rank computed: it waited neither for data nor for others. On GPUs that NCCL connects,
    /// those of its backward pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_compute: Option<f64>,
    /// As `slowest_compute`, the median of all ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_compute: Option<f64>,
    /// If there are several ranks: the one that waited longest for data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_data_rank: Option<usize>,
    /// As `data_wait`, of that rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_data_wait: Option<f64>,
    /// On the held-out data, at steps where it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot_top1: Option<f64>,
    /// As `zero_shot_top1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot_top5: Option<f64>,
}

impl Metrics {
    /// The quantities with their names in TensorBoard.
    fn scalars(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let always = [
            ("train/loss", self.loss),
            ("train/accuracy", self.accuracy),
            ("train/learning_rate", self.learning_rate),
            ("train/grad_norm", self.grad_norm),
            ("train/logit_scale", self.logit_scale),
            ("speed/samples_per_second", self.samples_per_second),
            ("speed/gflops", self.gflops),
            ("speed/data_wait", self.data_wait),
            ("speed/images_per_second", self.images_per_second),
            ("speed/cores_busy", self.cores_busy),
        ];
        let at_times = [("eval/zero_shot_top1", self.zero_shot_top1), ("eval/zero_shot_top5", self.zero_shot_top5)];
        always.into_iter().chain(at_times.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

/// The open files of a run's metrics.
pub(super) struct MetricsLog {
    path: PathBuf,
    file: File,
    events: EventFile,
    history: Vec<Metrics>,
}

impl MetricsLog {
    /// Opens the metrics of the run in `folder`, which is at `step`. Pending lines, which a killed run may have written
    /// after its last checkpoint, are removed; earlier ones stay as they are, byte for byte.
    ///
    /// # Errors
    /// If the files cannot be read or written.
    pub(super) fn open(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let path = folder.join(METRICS);
        let (history, kept, ends) = {
            let text = read(&path)?;
            let (before, _) = split(&text, step);
            (history(before), before.len(), before.last().is_none_or(|&byte| byte == b'\n'))
        };
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let mut file = file.map_err(|why| TrainError::io("open", &path, why))?;
        let cut = file.set_len(kept as u64).and_then(|()| if ends { Ok(()) } else { file.write_all(b"\n") });
        cut.map_err(|why| TrainError::io("write", &path, why))?;
        let events = EventFile::create(&folder.join("tensorboard"), step)?;
        Ok(Self { path, file, events, history })
    }

    /// The complete lines that [`Self::open`] would remove.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn after(folder: &Path, step: u64) -> Result<Vec<u8>, TrainError> {
        let text = read(&folder.join(METRICS))?;
        let (_, after) = split(&text, step);
        let complete = after.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        Ok(after[..complete].to_vec())
    }

    /// Appends one line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        self.history.push(*metrics);
        let written = line(metrics).and_then(|line| self.file.write_all(line.as_bytes()));
        written.map_err(|why| TrainError::io("write", &self.path, why))?;
        self.events.write(metrics.step, metrics.scalars())
    }

    /// The last line.
    pub(super) fn last(&self) -> Option<Metrics> {
        self.history.last().copied()
    }

    /// All lines.
    pub(super) fn history(&self) -> &[Metrics] {
        &self.history
    }
}

fn line(metrics: &Metrics) -> io::Result<String> {
    Ok(serde_json::to_string(metrics)? + "\n")
}

/// The lines that can be read.
pub(super) fn history(text: &[u8]) -> Vec<Metrics> {
    text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// The bytes of a file that may not exist yet.
fn read(path: &Path) -> Result<Vec<u8>, TrainError> {
    match fs::read(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|why| TrainError::io("read", path, why)),
    }
}

/// Splits lines of metrics after `step`. Lines in another format stay with those before them, except an incomplete last
/// line, as a killed process or a power failure leaves it.
pub(super) fn split(text: &[u8], step: u64) -> (&[u8], &[u8]) {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    let mut at = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let later = match serde_json::from_slice::<Step>(line) {
            Ok(line) => line.step > step,
            Err(_) => !line.ends_with(b"\n"),
        };
        if later {
            break;
        }
        at += line.len();
    }
    text.split_at(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_removes_lines_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let at = |step| Metrics { step, loss: 1.0 / step as f64, ..Metrics::default() };
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        for step in [10, 20, 30] {
            log.write(&at(step)).unwrap();
        }
        let path = folder.path().join("metrics.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\": 4").unwrap();
        let after = format!("{}\n", serde_json::to_string(&at(30)).unwrap());
        assert_eq!(MetricsLog::after(folder.path(), 20).unwrap(), after.as_bytes());
        let mut log = MetricsLog::open(folder.path(), 20).unwrap();
        log.write(&at(25)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Metrics> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [at(10), at(20), at(25)]);
        assert_eq!(log.history(), [at(10), at(20), at(25)]);
    }

    #[test]
    fn earlier_lines_stay_as_they_are_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        // A float that changes if it is parsed and printed again, a note, and lines of a version with more fields.
        let line = |step, loss| format!("{{\"step\":{step},\"loss\":{loss},\"more\": [1]}}\n");
        let kept = format!("{}{}a note\n\n{}", line(1, "3.0517578125000004e-5"), line(2, "4.1"), line(3, "1e400"));
        for rest in ["", "{\"step\":4,\"lo", "\0\0\0\0\0", &line(4, "1.5"), "half a note"] {
            fs::write(&path, format!("{kept}{rest}")).unwrap();
            let log = MetricsLog::open(folder.path(), 3).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), kept, "{rest:?}");
            drop(log);
        }
        // A last line that lacks only its newline is complete.
        fs::write(&path, kept.trim_end()).unwrap();
        MetricsLog::open(folder.path(), 3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        assert_eq!(MetricsLog::after(folder.path(), 1).unwrap(), kept.split_once('\n').unwrap().1.as_bytes());
    }
}
