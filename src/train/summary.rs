//! How a run ends.

use std::path::PathBuf;

use serde::Serialize;

use crate::data::Skipped;

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    Finished(Box<Summary>),
    /// It was asked to stop; it can be resumed from this checkpoint.
    Interrupted {
        step: u64,
        checkpoint: PathBuf,
    },
}

/// The results of a finished run, as in `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// On the held-out data, in [0, 1]; `null` without held-out data.
    pub zero_shot_top1: Option<f64>,
    pub zero_shot_top5: Option<f64>,
    pub classes: Option<usize>,
    /// While training, without evaluation and checkpoints.
    pub samples_per_second: f64,
    /// Of the whole run, including evaluation and checkpoints.
    pub wall_seconds: f64,
    pub samples: u64,
    pub steps: u64,
    /// The loss in the last line of metrics, in nats.
    pub final_loss: f64,
    /// Model FLOPs per second while training, in units of 10^9.
    pub gflops: f64,
    pub parameters: usize,
    pub activation_bytes: usize,
    pub device: String,
    pub seed: u64,
    pub mask_ratio: f64,
    /// Broken samples since the run was last started or resumed, by kind.
    pub skipped: Skipped,
    /// Broken samples of the held-out data, by kind.
    pub eval_skipped: Skipped,
    pub checkpoint: PathBuf,
}
