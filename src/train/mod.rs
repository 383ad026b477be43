//! Training: from options to a run folder.
//!
//! | file | what it does |
//! |---|---|
//! | `options`, `settings` | what the user says, and what it comes to |
//! | `trainer` | one step: batch in, loss out, weights moved |
//! | `pace` | what only the device can tell: the samples that fit a time, the precision |
//! | `run` | the loop: data, steps, metrics, checkpoints, evaluation |
//! | `held_out` | the data that it is evaluated on |
//! | `advice` | settings that cannot work, and training that learns nothing |
//! | `introduction` | what is told before the first step |
//! | `folder` | what lies in a run folder |
//! | `resume` | which run and checkpoint to go on from |
//! | `checkpoint` | saving and loading |
//! | `metrics`, `tensorboard`, `curve`, `progress` | what is told while it goes |

mod advice;
pub mod checkpoint;
mod curve;
mod error;
mod folder;
mod held_out;
mod introduction;
mod metrics;
mod options;
mod pace;
mod progress;
mod resume;
mod run;
mod settings;
mod tensorboard;
mod trainer;

pub use self::{
    error::TrainError,
    folder::RunFolder,
    metrics::Metrics,
    options::{Options, Precision},
    run::{Ended, Plan, Summary, tokenizer, train},
    settings::{Length, Settings},
    trainer::{StepOutcome, Trainer},
};
