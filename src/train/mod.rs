//! Training: from options to a run folder.
//!
//! | file | what it does |
//! |---|---|
//! | `options`, `precision`, `settings` | what the user asks for, and the complete configuration that results |
//! | `duration` | times as users write them |
//! | `access` | how shards are fetched |
//! | `trainer` | one optimizer step: batch in, loss out, weights updated |
//! | `pass` | the gradient of a step: in one pass over the batch, or in micro-batches; the memory that it needs |
//! | `plan`, `resume` | what a run is made of; which run and checkpoint to resume from |
//! | `pace` | what is known only on the device: how many samples fit a time, and the precision |
//! | `run`, `summary` | the loop: data, steps, metrics, checkpoints, evaluation; its result |
//! | `ranks`, `stragglers` | what the ranks of a run agree on; which of them is slow |
//! | `held_out` | the data for evaluation |
//! | `bound` | what a run waits for, if it waits for data |
//! | `advice` | warnings about settings that cannot work, and about training that learns nothing |
//! | `introduction` | what is printed about the captions before the first step |
//! | `folder` | the files of a run folder |
//! | `checkpoint`, `weights` | saving and loading; a model to start from, of flipk or of another program |
//! | `metrics`, `window`, `tensorboard`, `curve`, `progress` | what is reported during training |

mod access;
mod advice;
mod bound;
pub mod checkpoint;
mod curve;
mod duration;
mod error;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod held_out;
mod introduction;
mod metrics;
mod options;
mod pace;
mod pass;
mod plan;
mod precision;
mod progress;
#[cfg(test)]
mod proptests;
mod ranks;
mod resume;
mod run;
mod settings;
mod stragglers;
mod summary;
mod tensorboard;
mod tokenizer;
mod trainer;
mod weights;
mod window;

pub(crate) use self::pass::{buffer_bytes, master_bytes};
pub use self::{
    duration::time,
    error::{Cause, TrainError},
    folder::RunFolder,
    metrics::Metrics,
    options::Options,
    pass::{Keep, MicroBatches, StepSize, largest_batch, step_bytes},
    plan::{Plan, described, tokenizer},
    precision::Precision,
    progress::{Progress, Report},
    run::train,
    settings::{Length, Settings},
    summary::{Ended, Summary},
    tokenizer::open_tokenizer,
    trainer::{StepOutcome, Trainer},
    weights::Weights,
};
