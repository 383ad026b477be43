//! How a run ends.

use std::path::PathBuf;

use serde::Serialize;

use crate::data::Skipped;

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It reached its length.
    Finished(Box<Summary>),
    /// It was stopped; it can be resumed from this checkpoint.
    Interrupted {
        /// Steps done.
        step: u64,
        /// The checkpoint that was saved.
        checkpoint: PathBuf,
    },
}

/// The results of a finished run, as in `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// On the held-out data, in [0, 1]; `null` without held-out data.
    pub zero_shot_top1: Option<f64>,
    /// As `zero_shot_top1`.
    pub zero_shot_top5: Option<f64>,
    /// Classes of the held-out data.
    pub classes: Option<usize>,
    /// Speed while training, without evaluation and checkpoints.
    pub samples_per_second: f64,
    /// Time of the whole run, including evaluation and checkpoints.
    pub wall_seconds: f64,
    /// Samples seen.
    pub samples: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// The loss in the last line of metrics, in nats.
    pub final_loss: f64,
    /// Model FLOPs per second while training, in units of 10^9.
    pub gflops: f64,
    /// Parameters of the model.
    pub parameters: usize,
    /// Bytes of a step's activations.
    pub activation_bytes: usize,
    /// As the device describes itself.
    pub device: String,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Share of patches left out.
    pub mask_ratio: f64,
    /// Broken samples since the run was last started or resumed, by kind.
    pub skipped: Skipped,
    /// Broken samples of the held-out data, by kind.
    pub eval_skipped: Skipped,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}
