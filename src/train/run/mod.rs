//! The loop of a run.

mod divergence;
mod report;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::bound::Watch;
use super::checkpoint::{self, State};
use super::held_out::HeldOut;
use super::metrics::{Metrics, MetricsLog};
use super::ranks::{self, Agreed, Vote};
use super::stragglers::Stragglers;
use super::window::{Start, Window};
use super::{Ended, Plan, Progress, Report, Settings, StepOutcome, Summary, TrainError, Trainer};
use crate::data::{Batch, Found, Loader, Position, Skipped, Tally};
use crate::device::Device;
use crate::eval::{self, Encoder, EvalError, ZeroShot};
use crate::group::Phase;
use crate::log;
use crate::model::Flip;
use crate::ops::AllOps;
use crate::optim::Schedule;

/// Trains `plan` to its end, or until `stop` is set. `report` receives the progress; everything else is logged.
///
/// # Errors
/// See [`TrainError`]. Checkpoints that were already written are kept.
pub fn train<D: AllOps>(
    device: Arc<D>,
    mut plan: Plan,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<Ended, TrainError> {
    let notes = plan.fix(&device)?;
    let mut run = Run::new(device, plan, report)?;
    if run.is_root() {
        log::lines(&notes);
    }
    let group = run.plan.group.clone();
    while run.state.step < run.total {
        group.enter(Phase::Data, run.state.step + 1);
        let mut start = Start::now(&*group);
        match run.next(&mut start, stop)? {
            Next::Step(batch) => run.step(start, batch, stop)?,
            Next::Fail(error) => {
                run.save_before_failing()?;
                // The end of any rank ends rank 0, which may still be writing.
                group.meet()?;
                return Err(error);
            }
            Next::Stop => {
                let checkpoint = run.save()?;
                group.meet()?;
                return Ok(Ended::Interrupted { step: run.state.step, checkpoint });
            }
        }
    }
    let ended = run.finish(stop)?;
    group.meet()?;
    Ok(ended)
}

/// The state at the beginning of a run.
fn fresh(plan: &Plan) -> State {
    let settings = &plan.settings;
    State {
        model: settings.model.clone(),
        loss: settings.loss,
        step: 0,
        samples: 0,
        position: Position::start(settings.loader.streams),
        seed: settings.seed,
        fingerprint: plan.data.fingerprint(),
        seconds: 0.0,
        arithmetic: None,
        micro_batches: None,
        found: Found::default(),
    }
}

/// What all ranks do next.
enum Next {
    Step(Batch),
    /// The user asked for it.
    Stop,
    /// With the data of this rank, or of another.
    Fail(TrainError),
}

struct Run<'a, D: Device> {
    plan: Plan,
    trainer: Trainer<D>,
    loader: Loader,
    schedule: Schedule,
    /// Only on rank 0.
    log: Option<MetricsLog>,
    report: &'a mut Report<'a>,
    encoder: Option<Encoder<D>>,
    state: State,
    total: u64,
    begun: Instant,
    seconds_before: f64,
    window: Window,
    watch: Watch,
    stragglers: Stragglers,
    /// Steps of this process, and the time they took.
    steps: u64,
    stepping: Duration,
    latest: Metrics,
    saved: Option<PathBuf>,
    /// What this rank found up to the last step, and did not tell others.
    pending: Vec<Tally>,
    log_failed: bool,
    /// Samples that the last evaluation skipped.
    eval_skipped: Option<Skipped>,
    /// Whether the collapse of the model was already reported.
    collapse_reported: bool,
    /// The batch of the last step, until its outcome is known.
    in_flight: Option<Batch>,
}

impl<'a, D: AllOps> Run<'a, D> {
    fn new(device: Arc<D>, mut plan: Plan, report: &'a mut Report<'a>) -> Result<Self, TrainError> {
        let point = plan.resume.take();
        let settings = &plan.settings;
        let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
        let layout = flip.layout().clone();
        let resume = point.as_ref().and_then(|point| point.checkpoint.as_ref());
        let values = match resume {
            Some(checkpoint) => checkpoint.weights(&layout)?,
            None => plan.initial_values(&layout)?,
        };
        let mut state = resume.map_or_else(|| fresh(&plan), |checkpoint| checkpoint.state.clone());
        state.micro_batches = Some(settings.micro_batches).filter(|&count| count > 1);
        let before = state.arithmetic.replace(device.arithmetic());
        let another = before.filter(|before| Some(before) != state.arithmetic.as_ref());
        let mut loader = plan.loader(state.position.clone())?;
        loader.resume(state.found.clone());
        state.found.clone_from(loader.found());
        let (size, group) = (settings.step_size(), plan.group.clone());
        let mut trainer = Trainer::in_group(device, flip, &values, settings.adamw, size, group)?;
        if let Some(checkpoint) = resume {
            trainer.set_moments(&checkpoint.moments(&layout)?)?;
        }
        let total = plan.steps();
        let schedule = Schedule { peak: settings.peak_lr, warmup: settings.warmup_steps(total), total };
        if let Some(before) = another.filter(|_| plan.group.is_root()) {
            info!(
                "changed: the checkpoint was computed in {before}, and the run continues in {}; the weights will differ from \
                 those of the original run",
                state.arithmetic.as_deref().unwrap_or_default()
            );
        }
        // Nothing in the run folder changes until everything that can fail has succeeded.
        if let Some(point) = point.as_ref().filter(|_| plan.group.is_root()) {
            let moved = point.set_aside(&plan.folder, state.step < total)?;
            log::lines(&moved);
            plan.folder.describe(settings, &plan.tokenizer)?;
        }
        let log = plan.group.is_root().then(|| MetricsLog::open(plan.folder.path(), state.step)).transpose()?;
        let last = log.as_ref().and_then(MetricsLog::last).map_or(0.0, |metrics| metrics.seconds);
        let stragglers = Stragglers::new(&*plan.group)?;
        let this = Self {
            seconds_before: state.seconds.max(last),
            saved: resume.map(|checkpoint| checkpoint.path().to_owned()),
            watch: Watch::new(plan.group.cores(), plan.settings.decoding),
            plan,
            trainer,
            loader,
            schedule,
            log,
            report,
            encoder: None,
            state,
            total,
            begun: Instant::now(),
            window: Window::default(),
            stragglers,
            steps: 0,
            stepping: Duration::ZERO,
            latest: Metrics::default(),
            pending: Vec::new(),
            log_failed: false,
            eval_skipped: None,
            collapse_reported: false,
            in_flight: None,
        };
        if this.is_root() {
            this.log_header();
        }
        Ok(this)
    }

    /// Whether this is rank 0, which writes files and prints.
    fn is_root(&self) -> bool {
        self.plan.group.is_root()
    }

    /// Waits for a batch, and agrees with the other ranks on what to do.
    fn next(&mut self, start: &mut Start, stop: &AtomicBool) -> Result<Next, TrainError> {
        let group = self.plan.group.clone();
        // The data may be far away.
        let batch = self.loader.wait(stop).then(|| self.loader.next_batch());
        start.has_data();
        let own = match &batch {
            Some(Err(_)) => Vote::Fail,
            _ if stop.load(Ordering::Relaxed) => Vote::Stop,
            _ => Vote::Go,
        };
        let Agreed { vote, rank, tallies } = ranks::agree(&*group, own, &self.loader.pending())?;
        let mut next = match (vote, batch) {
            (Vote::Go, Some(Ok(batch))) => Next::Step(batch),
            (Vote::Fail, Some(Err(error))) if rank == group.rank() => Next::Fail(error.into()),
            (Vote::Fail, _) => Next::Fail(TrainError::OtherRank { rank }),
            _ => Next::Stop,
        };
        if !tallies.is_empty() {
            let counted = self.loader.count(&tallies);
            // All ranks count the same, but one may know more about its copy of the data.
            let failed = ranks::first_failed(&*group, counted.is_err())?;
            if let (Some(rank), Next::Step(_) | Next::Stop) = (failed, &next) {
                next = Next::Fail(match counted {
                    Err(error) if rank == group.rank() => error.into(),
                    _ => TrainError::OtherRank { rank },
                });
            }
        }
        log::lines(self.loader.take_warnings());
        Ok(next)
    }

    /// `start`: when this rank began to wait for `batch`. `stop` ends an evaluation after this step.
    fn step(&mut self, start: Start, batch: Batch, stop: &AtomicBool) -> Result<(), TrainError> {
        self.plan.group.enter(Phase::Step, self.state.step + 1);
        // The device computes this step while the next batch is fetched, so the outcome is read one step later.
        let before = self.trainer.submit(&batch, self.schedule.at(self.state.step))?;
        self.record_outcome(before, self.state.step)?;
        self.state.step += 1;
        self.state.samples += self.plan.settings.loader.batch as u64;
        self.state.position.clone_from(&batch.next);
        self.state.found.clone_from(self.loader.found());
        self.pending = self.loader.pending();
        self.in_flight = Some(batch);
        self.steps += 1;
        self.stepping += self.window.add(&*self.plan.group, start);
        if self.is_root() {
            (self.report)(Progress::Step { done: self.state.step, total: self.total });
        }
        let Settings { log_every, save_every, eval_every, .. } = self.plan.settings;
        let (step, last) = (self.state.step, self.state.step == self.total);
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        // The last evaluation may take long; save the weights before it.
        if last && self.plan.evaluates() {
            match self.save() {
                Err(error @ TrainError::Io { .. }) => warn!("{error}"),
                saved => drop(saved?),
            }
        }
        let evaluates = (due(eval_every) || last) && self.plan.evaluates();
        if evaluates {
            self.trainer.settle()?;
        }
        let evaluated = match evaluates && self.is_root() {
            true => match self.evaluate(stop) {
                // A problem with the held-out data must not lose the trained weights.
                Err(error @ TrainError::Eval(_)) if last => {
                    // Other ranks take no part, and the checkpoint above is theirs, too.
                    if self.plan.group.size() == 1 {
                        self.save()?;
                    }
                    return Err(error);
                }
                Err(error @ TrainError::Eval(_)) => {
                    warn!("{error}; training continues");
                    None
                }
                evaluated => evaluated?,
            },
            false => None,
        };
        if due(log_every) || last || evaluates {
            self.report(evaluated)?;
        }
        if due(save_every) && !last {
            // The disk may have room again by then, so a failed checkpoint does not end the run.
            match self.save() {
                Err(error @ TrainError::Io { .. }) => {
                    let next = step + save_every;
                    warn!("{error}; training continues, next attempt at step {next}");
                }
                saved => drop(saved?),
            }
        }
        Ok(())
    }

    /// Waits until all submitted steps are computed, and records the last one's outcome.
    fn drain(&mut self) -> Result<(), TrainError> {
        let start = Start::now(&*self.plan.group);
        let outcome = self.trainer.drain()?;
        self.record_outcome(outcome, self.state.step)?;
        self.stepping += self.window.add(&*self.plan.group, start);
        Ok(())
    }

    /// Adds the outcome of step number `step` to the window, and returns its batch to the loader.
    fn record_outcome(&mut self, outcome: Option<StepOutcome>, step: u64) -> Result<(), TrainError> {
        let (Some(outcome), Some(batch)) = (outcome, self.in_flight.take()) else { return Ok(()) };
        let quantities = [(divergence::LOSS, outcome.loss), ("gradient norm", outcome.grad_norm)];
        if let Some((what, value)) = quantities.into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(self.diverged(what, value, step, &batch)?);
        }
        let window = &mut self.window;
        window.steps += 1;
        window.loss += outcome.loss;
        window.accuracy += outcome.accuracy;
        window.grad_norm = outcome.grad_norm;
        self.loader.recycle(batch);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }

    /// All ranks take part; rank 0 writes.
    fn save(&mut self) -> Result<PathBuf, TrainError> {
        self.drain()?;
        let start = Instant::now();
        let group = &*self.plan.group;
        group.enter(Phase::Saving, self.state.step);
        ranks::gather_positions(group, &mut self.state.position, ranks::own_streams(&self.plan.settings, group))?;
        let mut state = self.state.clone();
        ranks::gather_pending(group, &mut state.found, &self.pending)?;
        state.found.forget_before(state.position.streams.iter().map(|at| at.epoch).min().unwrap_or_default());
        let folder = self.plan.folder.checkpoints();
        let path = checkpoint::path_of(&folder, self.state.step);
        let Some((weights, moments)) = self.trainer.download()? else { return Ok(path) };
        checkpoint::save(&path, &state, self.trainer.params().layout(), &weights, &moments)?;
        checkpoint::prune(&folder, self.plan.settings.keep);
        self.saved = Some(path.clone());
        debug!(path = %path.display(), seconds = start.elapsed().as_secs_f64(), "saved a checkpoint");
        let drawn = self.draw_curve();
        self.warn_once(drawn);
        Ok(path)
    }

    /// Saves a checkpoint after the data failed, so that the run can be resumed once the data is repaired.
    fn save_before_failing(&mut self) -> Result<(), TrainError> {
        if self.steps == 0 {
            return Ok(());
        }
        let folder = self.plan.folder.path().display().to_string();
        match self.save() {
            Ok(_) if !self.is_root() => {}
            Ok(_) => info!("saved step {}; continue from there with flipk train --resume {folder}", self.state.step),
            Err(error @ TrainError::Io { .. }) => warn!("{error}"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `None` if `stop` is set meanwhile.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<ZeroShot>, TrainError> {
        self.drain()?;
        let group = &*self.plan.group;
        group.enter(Phase::Evaluating, self.state.step);
        let Some(HeldOut { dataset, classes, templates, .. }) = &self.plan.held_out else {
            return Err(TrainError::Settings { problem: "there is no held-out data to evaluate on".to_owned() });
        };
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            empty => empty.insert(Encoder::new(self.trainer.device(), self.trainer.flip(), EVAL_BATCH)?),
        };
        let inputs = eval::Inputs {
            dataset,
            tokenizer: &self.plan.tokenizer,
            max_bad: self.plan.settings.loader.max_bad,
            progress: &|_| {
                group.tick();
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        };
        let found = eval::zero_shot(encoder, self.trainer.params(), &inputs, classes, templates);
        // Every evaluation skips the same samples: one report is enough.
        let warnings = encoder.take_warnings();
        if self.eval_skipped.is_none() {
            log::lines(warnings);
        }
        self.eval_skipped = Some(encoder.skipped().clone());
        match found {
            Err(EvalError::Stopped) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    fn finish(mut self, stop: &AtomicBool) -> Result<Ended, TrainError> {
        // A run that was already complete when it was resumed ran no step, so its last metrics still hold.
        if self.steps == 0 {
            self.latest = self.log.as_ref().and_then(MetricsLog::last).unwrap_or_default();
            if self.is_root() && self.plan.evaluates() {
                let was_missing = self.latest.zero_shot_top1.is_none();
                let evaluated = self.evaluate(stop)?;
                self.latest.zero_shot_top1 = evaluated.map(|found| found.top1);
                self.latest.zero_shot_top5 = evaluated.map(|found| found.top5);
                // It was stopped when the last line was written.
                if was_missing
                    && evaluated.is_some()
                    && let Some(log) = &mut self.log
                {
                    log.write(&self.latest)?;
                }
            }
        }
        let checkpoint = self.save()?;
        // A resume evaluates again.
        let stopped = self.is_root() && self.plan.evaluates() && self.latest.zero_shot_top1.is_none();
        if ranks::first_failed(&*self.plan.group, stopped)?.is_some() {
            return Ok(Ended::Interrupted { step: self.state.step, checkpoint });
        }
        let is_class = |name: &&String| !name.is_empty();
        let classes =
            self.plan.held_out.as_ref().map(|held_out| held_out.classes.names().iter().filter(is_class).count());
        let seconds = self.stepping.as_secs_f64().max(1e-9);
        // Without a step to measure, the speed is that of the last line of metrics.
        let per_second = |per_step: f64, last: f64| match self.steps {
            0 => last,
            steps => steps as f64 * per_step / seconds,
        };
        let summary = Summary {
            zero_shot_top1: self.latest.zero_shot_top1,
            zero_shot_top5: self.latest.zero_shot_top5,
            classes,
            samples_per_second: per_second(self.plan.settings.loader.batch as f64, self.latest.samples_per_second),
            wall_seconds: self.seconds(),
            samples: self.state.samples,
            steps: self.state.step,
            final_loss: self.latest.loss,
            gflops: per_second(self.trainer.step_flops() as f64 / 1e9, self.latest.gflops),
            parameters: self.trainer.params().layout().count(),
            activation_bytes: self.trainer.activation_bytes(),
            device: self.trainer.device().describe(),
            seed: self.plan.settings.seed,
            mask_ratio: self.plan.settings.loader.mask_ratio,
            skipped: self.state.found.skipped,
            eval_skipped: self.eval_skipped.unwrap_or_default(),
            checkpoint,
        };
        if self.plan.group.is_root() {
            self.plan.folder.write_json("summary.json", &summary)?;
        }
        Ok(Ended::Finished(Box::new(summary)))
    }
}

/// Images that evaluation embeds at a time.
const EVAL_BATCH: usize = 64;
