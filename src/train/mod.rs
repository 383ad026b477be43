//! Training: from options to a run folder.
//!
//! | file | what it does |
//! |---|---|
//! | `options`, `settings` | what the user says, and what it comes to |
//! | `trainer` | one step: batch in, loss out, weights moved |
//! | `run` | the loop: data, steps, metrics, checkpoints, evaluation |
//! | `folder` | what lies in a run folder |
//! | `resume` | which run and checkpoint to go on from |
//! | `checkpoint` | saving and loading |
//! | `metrics`, `tensorboard`, `curve`, `progress` | what is told while it goes |

pub mod checkpoint;
mod curve;
mod error;
mod folder;
mod metrics;
mod options;
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
    options::Options,
    run::{Ended, Plan, Summary, tokenizer, train},
    settings::{Length, Settings},
    trainer::{StepOutcome, Trainer},
};
