//! Where a training step spends its time: per op, forwards and backwards, each next to its limit.
//!
//! Times are the medians over several steps of a real run: real batches from the loader, the device's own clock
//! ([events](crate::device::Device::record_event)). In emulation they are estimates of an H100's.

pub(crate) mod benches;
mod ceilings;
mod compare;
#[cfg(feature = "cuda")]
mod fit;
mod picture;
mod report;
pub mod scale;
mod trace;

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::autograd::{Step, Work};
use crate::data::{Batch, Loader, Position, Tokenizer, TrainingData};
use crate::device::{DeviceError, GpuState, KernelCounts};
use crate::model::Flip;
use crate::ops::AllOps;
use crate::train::{Settings, TrainError, Trainer};

pub use benches::{BenchRow, Benches, Verdict};
pub use ceilings::{Ceilings, measure_ceilings, product_ceiling};
pub use compare::compare;
#[cfg(feature = "cuda")]
pub use fit::{bytes_of_size, largest_batch, step_bytes};
pub use picture::svg;
pub use report::{Group, Line, group};
pub use trace::chrome_trace;

/// One op in one direction, or another part of the step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scope {
    /// `vision/block_03/attention`; `optimizer`, `upload`.
    pub scope: String,
    /// Its name; `upload`, `add` and `copy` are not ops of the tape.
    pub op: String,
    /// `forward`, `backward`, `recompute` (in the backward pass), or `update`.
    pub direction: String,
    /// Median over the steps.
    pub seconds: f64,
    /// FLOPs of matrix products; model work, except in lines of recomputation.
    pub flops: u64,
    /// The minimum that its passes read and write ([`Work`]).
    pub bytes: u64,
    /// Those that were read and written, if [the device counts them](crate::device::Device::moved_bytes).
    #[serde(default)]
    pub moved_bytes: Option<u64>,
    /// The minimum time that the ceilings allow.
    pub limit_seconds: f64,
    /// What sets that: `compute` or `memory`.
    pub bound: String,
}

/// A profiled step; what `--json` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// As the device describes itself.
    pub device: String,
    /// The preset.
    pub model: String,
    /// Share of patches left out.
    pub mask_ratio: f64,
    /// Pairs per step.
    pub batch: usize,
    /// Speed of steps as training runs them, or if these are not measured, by [`Self::step_seconds`]; without waiting
    /// for data.
    pub samples_per_second: f64,
    /// Upload, forward, backward and update, op by op: the sum of the scopes.
    pub step_seconds: f64,
    /// A step as training runs it: replayed from a graph while the next batch is prefetched, without events in between.
    /// `None` in emulation.
    #[serde(default)]
    pub training_step_seconds: Option<f64>,
    /// How many such steps were timed.
    #[serde(default)]
    pub training_steps: Option<usize>,
    /// The first step, which also loads kernels. `None` in emulation.
    #[serde(default)]
    pub first_step_seconds: Option<f64>,
    /// Median wait for the next batch before a step.
    pub data_wait_seconds: f64,
    /// FLOPs of forward and backward matrix products, without recomputation.
    pub model_flops_per_sample: u64,
    /// Model FLOPs over time, as a share of the ceiling.
    pub model_flop_utilisation: f64,
    /// Memory of the device that was in use at most.
    pub peak_memory_bytes: usize,
    /// Bytes by what holds them.
    pub memory: Vec<(String, usize)>,
    /// Bytes of activations by scope (`vision/block_*/mlp` for all of a tower's blocks), if no buffers shared memory;
    /// largest first.
    #[serde(default)]
    pub activations: Vec<(String, usize)>,
    /// Seconds of the parts of a step.
    pub totals: BTreeMap<String, f64>,
    /// What the limits are computed from.
    pub ceilings: Ceilings,
    /// The GPU's clocks, power and temperature: before the first step, after the steps that were timed op by op, and
    /// during the steps as training runs them. Empty where they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<(String, GpuState)>,
    /// In the order in which they run.
    pub scopes: Vec<Scope>,
    /// Counts of the last step's kernels; only in emulation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<KernelCounts>,
}

/// What is profiled.
pub struct Job {
    /// The run whose step is profiled.
    pub settings: Settings,
    /// Its training data.
    pub data: TrainingData,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The preset.
    pub model: String,
    /// Steps before those that count: two, so that the second can be captured.
    pub warm_up: usize,
    /// Steps to time op by op, and least number to time as training runs them.
    pub steps: usize,
    /// The least time for which steps are run as training runs them.
    pub time: Duration,
}

/// Steps made so far, and steps to make in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps done.
    pub done: usize,
    /// Steps to do; it grows if there is time for more.
    pub total: usize,
}

fn median<T: Copy + Default>(values: impl Iterator<Item = T>, compare: impl Fn(&T, &T) -> Ordering) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(compare);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Runs a few training steps and times their parts. `report` is called after each step.
///
/// # Errors
/// As training.
pub fn profile<D: AllOps>(
    device: Arc<D>,
    job: &Job,
    ceilings: Ceilings,
    report: &mut dyn FnMut(Progress),
) -> Result<Profile, TrainError> {
    let settings = &job.settings;
    let (batch, kept) = (settings.loader.batch, settings.loader.kept());
    let mut loader = Loader::new(
        job.data.clone(),
        job.tokenizer.clone(),
        settings.loader.clone(),
        Position::start(settings.loader.streams),
    )?;
    let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
    let values = flip.layout().initial_values(settings.seed);
    let mut trainer = Trainer::new(device.clone(), flip, &values, settings.adamw, batch, kept, settings.recompute)?;
    // The time that emulation takes is not that of a GPU.
    let as_training = !device.estimates();
    let counted = job.warm_up + job.steps;
    let mut progress = Progress { done: 0, total: if as_training { 2 * counted + 1 } else { counted } };
    let mut count_step = || {
        progress.done += 1;
        progress.total = progress.total.max(progress.done);
        report(progress);
    };
    let mut gpu = Vec::new();
    let mut note_gpu = |when: &str| gpu.extend(device.gpu_state().map(|state| (when.to_owned(), state)));
    note_gpu("before");
    let OpByOp { waits, times, moved, first_step } = op_by_op(&mut trainer, &mut loader, job, &mut count_step)?;
    note_gpu("after op by op");
    let training = match as_training {
        true => Some(training_step(&mut trainer, &loader.next_batch()?, job, &mut count_step)?),
        false => None,
    };
    let (training, training_steps) = training.unzip();
    if training.is_some() {
        note_gpu("as trained");
    }
    trainer.drain()?;
    let kernels = device.take_kernels();
    let seconds = |place: usize| median(times.iter().map(|spent| spent[place]), f64::total_cmp);
    let moved = |place: usize| median(moved.iter().map(|moved| moved[place]), Ord::cmp);
    let scopes = scopes(&trainer, &ceilings, |place| (seconds(place), moved(place)));
    let step_seconds: f64 = scopes.iter().map(|scope| scope.seconds).sum();
    let (flops, per_step) = (trainer.step_flops(), training.unwrap_or(step_seconds));
    let mut totals = BTreeMap::from([("data wait".to_owned(), median(waits.into_iter(), f64::total_cmp))]);
    for scope in &scopes {
        let part = scope.scope.split('/').next().unwrap_or_default().to_owned();
        *totals.entry(part).or_default() += scope.seconds;
    }
    let (peak_memory_bytes, memory) = memory(&trainer);
    Ok(Profile {
        device: device.describe(),
        model: job.model.clone(),
        mask_ratio: settings.loader.mask_ratio,
        batch,
        samples_per_second: batch as f64 / per_step,
        step_seconds,
        training_step_seconds: training,
        training_steps,
        first_step_seconds: first_step.filter(|_| training.is_some()),
        data_wait_seconds: totals["data wait"],
        model_flops_per_sample: flops / batch as u64,
        model_flop_utilisation: flops as f64 / per_step / ceilings.flops_per_second,
        peak_memory_bytes,
        memory,
        activations: activations(&trainer),
        totals,
        ceilings,
        gpu,
        scopes,
        kernels,
    })
}

/// What steps with an event after each op took; the inner vectors have one element per interval between events.
struct OpByOp {
    /// Seconds that each step waited for its batch.
    waits: Vec<f64>,
    times: Vec<Vec<f64>>,
    moved: Vec<Vec<Option<u64>>>,
    /// Seconds of the first step, with loading kernels.
    first_step: Option<f64>,
}

fn op_by_op<D: AllOps>(
    trainer: &mut Trainer<D>,
    loader: &mut Loader,
    job: &Job,
    count_step: &mut dyn FnMut(),
) -> Result<OpByOp, TrainError> {
    let device = trainer.device().clone();
    let mut found = OpByOp { waits: Vec::new(), times: Vec::new(), moved: Vec::new(), first_step: None };
    for step in 0..job.warm_up + job.steps {
        let data = loader.next_batch()?;
        device.take_kernels();
        let start = Instant::now();
        let events = trainer.step_with_events(&data, 0.0)?;
        let between = events.windows(2).map(|pair| device.seconds(&pair[0], &pair[1]));
        let spent = between.collect::<Result<Vec<f64>, _>>()?;
        found.first_step.get_or_insert(start.elapsed().as_secs_f64());
        if step >= job.warm_up {
            found.waits.push(data.waited.as_secs_f64());
            found.times.push(spent);
            found.moved.push(events.windows(2).map(|pair| device.moved_bytes(&pair[0], &pair[1])).collect());
        }
        loader.recycle(data);
        count_step();
    }
    Ok(found)
}

/// Seconds of a step as training runs it, and the number of steps that were timed: from the end of one step to the end
/// of another. The device is busy all along, and still busy with the last step when this returns.
fn training_step<D: AllOps>(
    trainer: &mut Trainer<D>,
    batch: &Batch,
    job: &Job,
    count_step: &mut dyn FnMut(),
) -> Result<(f64, usize), DeviceError> {
    // Returns when the previous step has ended. The second step is captured, if the device can do that.
    let mut submit = || {
        count_step();
        trainer.submit(batch, 0.0)
    };
    for _ in 0..=job.warm_up {
        submit()?;
    }
    let (start, mut steps) = (Instant::now(), 0);
    while steps < job.steps.max(1) || start.elapsed() < job.time {
        submit()?;
        steps += 1;
    }
    Ok((start.elapsed().as_secs_f64() / steps as f64, steps))
}

/// The parts of a step in order; `measured` gives the seconds and moved bytes between an event and the next, by the
/// index of the first.
fn scopes<D: AllOps>(
    trainer: &Trainer<D>,
    ceilings: &Ceilings,
    measured: impl Fn(usize) -> (f64, Option<u64>),
) -> Vec<Scope> {
    let program = trainer.program();
    let scope = |scope: &str, op: &str, direction: &str, place: usize, work: Work| {
        let ((limit_seconds, bound), (seconds, moved_bytes)) = (ceilings.limit(work), measured(place));
        Scope {
            scope: scope.to_owned(),
            op: op.to_owned(),
            direction: direction.to_owned(),
            seconds,
            flops: work.flops,
            bytes: work.bytes,
            moved_bytes,
            limit_seconds,
            bound: bound.to_owned(),
        }
    };
    // The upload crosses the bus, which has a limit of its own: its bytes are not counted.
    let mut scopes = vec![scope("upload", "upload", "forward", 0, Work::default())];
    for (index, step) in program.steps().iter().enumerate() {
        let place = index + 1;
        scopes.push(match *step {
            Step::Forward(op) => {
                let (name, within, cost) = program.op(op);
                scope(within, name, "forward", place, cost.forward)
            }
            Step::Backward(op) => {
                let (name, within, cost) = program.op(op);
                scope(within, name, "backward", place, cost.backward)
            }
            Step::Recompute { op, cheap } => {
                let (name, within, _) = program.op(op);
                scope(within, name, "recompute", place, program.recompute_work(op, cheap))
            }
            Step::Add { into, .. } => {
                let work = Work { flops: 0, bytes: 3 * program.slot_bytes(into) as u64 };
                scope(program.slot_scope(into), "add", "backward", place, work)
            }
            Step::Copy { into, .. } => {
                let work = Work { flops: 0, bytes: 2 * program.slot_bytes(into) as u64 };
                scope(program.slot_scope(into), "copy", "backward", place, work)
            }
        });
    }
    // Weights, gradients and moments read, weights and moments written, the norm's pass over the gradients, and the
    // copy.
    let parameters = trainer.params().layout().arena_len() as u64;
    let shadow = if D::SHADOW_WEIGHTS { size_of::<D::Act>() as u64 } else { 0 };
    let work = Work { flops: 0, bytes: parameters * (7 * 4 + 4 + shadow) };
    scopes.push(scope("optimizer", "adamw", "update", program.steps().len() + 1, work));
    scopes
}

fn memory<D: AllOps>(trainer: &Trainer<D>) -> (usize, Vec<(String, usize)>) {
    let arena = 4 * trainer.params().layout().arena_len();
    let shadow = if D::SHADOW_WEIGHTS { arena / 4 * size_of::<D::Act>() } else { 0 };
    let ahead = trainer.program().prefetch_bytes();
    let fixed = [
        ("weights", arena),
        ("gradients", arena),
        ("moments", 2 * arena),
        ("compute copy of weights", shadow),
        ("the next batch", ahead),
    ];
    let activations = trainer.activation_bytes();
    let total = activations + fixed.iter().map(|(_, bytes)| bytes).sum::<usize>();
    let mut held = vec![("activations".to_owned(), activations)];
    held.extend(fixed.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(what, bytes)| (what.to_owned(), bytes)));
    (total, held)
}

/// Activations by scope, a tower's blocks together, if no buffers shared memory; largest first.
fn activations<D: AllOps>(trainer: &Trainer<D>) -> Vec<(String, usize)> {
    let mut alike = BTreeMap::<String, usize>::new();
    for (scope, bytes) in trainer.program().bytes_by_scope() {
        *alike.entry(in_every_block(scope)).or_default() += bytes;
    }
    let mut alike: Vec<_> = alike.into_iter().collect();
    alike.sort_by_key(|(_, bytes)| Reverse(*bytes));
    alike
}

/// `vision/block_*/mlp` for `vision/block_03/mlp`: a tower's blocks hold the same.
fn in_every_block(scope: &str) -> String {
    let part = |part| if str::starts_with(part, "block_") { "block_*" } else { part };
    scope.split('/').map(part).collect::<Vec<_>>().join("/")
}
