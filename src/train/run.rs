//! The loop of a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;

use super::advice;
use super::checkpoint::{self, Checkpoint, State};
use super::folder::Lock;
use super::held_out::HeldOut;
use super::introduction;
use super::metrics::{Metrics, MetricsLog};
use super::progress::Progress;
use super::resume::{self, Point};
use super::settings::is_embedded;
use super::{Options, RunFolder, Settings, StepOutcome, TrainError, Trainer};
use crate::autograd::Recompute;
use crate::data::{Batch, Dataset, Loader, Position, Skipped, Tokenizer, Variety};
use crate::device::Device;
use crate::eval::{self, Encoder, ZeroShot};
use crate::model::Flip;
use crate::ops::AllOps;
use crate::optim::Schedule;

/// Everything that a run needs but the device.
pub struct Plan {
    pub settings: Settings,
    pub folder: RunFolder,
    pub(super) dataset: Arc<Dataset>,
    held_out: Option<HeldOut>,
    pub(super) tokenizer: Tokenizer,
    /// None: a new run.
    resume: Option<Point>,
    _lock: Lock,
}

/// Options that a resumed run may change and still give the same weights. Of data, the fingerprint must be the same; of a
/// tokenizer, all of it.
const HARMLESS: &[&str] = &[
    "classes",
    "data",
    "eval_data",
    "eval_every",
    "keep",
    "labels",
    "loader_threads",
    "log_every",
    "max_bad",
    "prefetch",
    "save_every",
    "templates",
    "tokenizer",
];

/// Whether a change of `key` leaves the weights as they would have been. What is computed again has the same bits but for
/// `cheap` in bf16.
fn is_harmless(key: &str, before: &Options, after: &Options) -> bool {
    let cheap = [before, after].iter().any(|options| options.recompute == Some(Recompute::Cheap));
    HARMLESS.contains(&key) || (key == "recompute" && !cheap)
}

impl Plan {
    /// A new run in `out`, or in a fresh folder under `runs/`.
    ///
    /// # Errors
    /// Options that are impossible, data or a tokenizer that cannot be used, a folder that holds a run already.
    pub fn start(options: Options, out: Option<&Path>) -> Result<Self, TrainError> {
        let tokenizer = tokenizer(&options)?;
        let settings = Settings::resolve(options, tokenizer.vocab_size())?;
        if settings.eval_data.is_empty() && (settings.eval_every > 0 || settings.options.labels.is_some()) {
            eprintln!("warning: --eval-every and --labels do nothing without --eval-data");
        }
        let (dataset, held_out) = datasets(&settings)?;
        let name = settings.options.model.map_or_else(String::new, |preset| format!("{preset:?}").to_lowercase());
        let (folder, lock) = RunFolder::create(out, &name)?;
        folder.describe(&settings.options, &tokenizer)?;
        Ok(Self { settings, folder, dataset, held_out, tokenizer, resume: None, _lock: lock })
    }

    /// Goes on with the run that `word` stands for (see `resume::find`), from its newest whole checkpoint or the one
    /// that is named; `flags` win over what its `config.toml` says.
    ///
    /// # Errors
    /// As [`Self::start`]; a checkpoint of another model, seed or data set; a preset or a tokenizer that is not the
    /// run's; fewer steps than are made; a folder that another program trains in.
    pub fn resume(word: &Path, flags: Options) -> Result<Self, TrainError> {
        let (folder, named) = resume::find(word)?;
        let lock = folder.lock()?;
        folder.make_ready()?;
        let before = Options::default().over_file(&folder.config())?;
        before.check_whole(&folder.config())?;
        let another_tokenizer = flags.tokenizer.is_some();
        let options = flags.over_file(&folder.config())?;
        let tokenizer = Tokenizer::open(&folder.tokenizer(), &options.tokenizer_options())?;
        if another_tokenizer && self::tokenizer(&options)?.to_json()? != tokenizer.to_json()? {
            return Err(not_the_runs("--tokenizer", &folder));
        }
        if options.model != before.model {
            return Err(not_the_runs("--model", &folder));
        }
        let settings = Settings::resolve(options, tokenizer.vocab_size())?;
        let (dataset, held_out) = datasets(&settings)?;
        let point = Point::choose(&folder, named.as_deref())?;
        if let Some(checkpoint) = &point.checkpoint {
            if settings.time.is_some() {
                let problem = "time: a run that has begun has its length; give --samples or --steps to change it";
                return Err(TrainError::Settings { problem: problem.to_owned() });
            }
            let State { model, loss, seed, fingerprint, .. } = &checkpoint.state;
            let differs = [
                (*model != settings.model, "the model's sizes differ"),
                (*loss != settings.loss, "the losses differ"),
                (*seed != settings.seed, "the seed differs"),
                (*fingerprint != dataset.fingerprint(), "the training data differ"),
            ];
            if let Some((_, what)) = differs.iter().find(|(differs, _)| *differs) {
                let path = checkpoint.path().display();
                let problem = format!("{what} from what {path} was made with; start a new run with --init-from {path}");
                return Err(TrainError::Settings { problem });
            }
        }
        let this = Self { settings, folder, dataset, held_out, tokenizer, resume: None, _lock: lock };
        if let Some(checkpoint) = &point.checkpoint {
            let (made, steps, path) = (point.step(), this.steps(), checkpoint.path().display());
            if steps < made {
                let problem = format!(
                    "the run is to end after {steps} steps, but {path} has made {made}: ask for a longer run, or go on \
                     from an earlier checkpoint with --resume FILE"
                );
                return Err(TrainError::Settings { problem });
            }
            this.tell_changes(before);
        }
        Ok(Self { resume: Some(point), ..this })
    }

    /// Says which options are not what they were, and whether that makes it another run.
    fn tell_changes(&self, before: Options) {
        let after = &self.settings.options;
        // A default that an earlier flipk did not write down is no change.
        let before = Settings::resolve(before.clone(), self.tokenizer.vocab_size()).map_or(before, |was| was.options);
        let changed = after.changed_from(&before);
        let another: Vec<&str> =
            changed.iter().map(String::as_str).filter(|key| !is_harmless(key, &before, after)).collect();
        if !another.is_empty() {
            eprintln!("changed: {}; from here on it is another run than it would have been", another.join(", "));
        }
        if changed.iter().any(|key| key == "data") {
            eprintln!("the training data lie elsewhere now; they are the same");
        }
    }

    /// Optimizer steps of the whole run.
    fn steps(&self) -> u64 {
        self.settings.length.steps(self.settings.loader.batch, self.dataset.len())
    }
}

fn not_the_runs(flag: &str, folder: &RunFolder) -> TrainError {
    let folder = folder.path().display();
    let problem = format!(
        "{flag} is not what the run in {folder} was begun with, and cannot be changed on the way: leave it out, or start a \
         new run with --init-from {folder}"
    );
    TrainError::Settings { problem }
}

/// The tokenizer that the options name, or the embedded one.
///
/// # Errors
/// If it cannot be read, or none is named for data that is not embedded.
pub fn tokenizer(options: &Options) -> Result<Tokenizer, TrainError> {
    let embedded = options.data.iter().flatten().all(|spec| is_embedded(spec));
    match &options.tokenizer {
        Some(path) => Ok(Tokenizer::open(path, &options.tokenizer_options())?),
        None if embedded => Ok(Tokenizer::embedded(&options.tokenizer_options())?),
        None => {
            let problem = "--data needs a --tokenizer: a tokenizer.json, or the vocab.txt of a BERT model (the paper \
                           uses bert-base-uncased)";
            Err(TrainError::Settings { problem: problem.to_owned() })
        }
    }
}

fn datasets(settings: &Settings) -> Result<(Arc<Dataset>, Option<HeldOut>), TrainError> {
    let dataset = Dataset::open(&settings.data, settings.captions.clone())?.with_orientation(settings.exif_orientation);
    Ok((Arc::new(dataset), HeldOut::open(settings)?))
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    Finished(Box<Summary>),
    /// Somebody asked it to stop; it goes on from this checkpoint.
    Interrupted {
        step: u64,
        checkpoint: PathBuf,
    },
}

/// What a finished run came to, as in `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// On the held-out data, as shares; `null` without.
    pub zero_shot_top1: Option<f64>,
    pub zero_shot_top5: Option<f64>,
    pub classes: Option<usize>,
    /// While training, evaluation and checkpoints not counted.
    pub samples_per_second: f64,
    /// Of the whole run, evaluation, checkpoints and all.
    pub wall_seconds: f64,
    pub samples: u64,
    pub steps: u64,
    /// Mean over the last line of metrics.
    pub final_loss: f64,
    pub gflops: f64,
    pub parameters: usize,
    pub activation_bytes: usize,
    pub device: String,
    pub seed: u64,
    pub mask_ratio: f64,
    /// Broken samples since the run was last started, by kind.
    pub skipped: Skipped,
    /// Broken samples of the held-out data, by kind.
    pub eval_skipped: Skipped,
    pub checkpoint: PathBuf,
}

/// Trains `plan` to its end, or until `stop` is set.
///
/// # Errors
/// See [`TrainError`]; checkpoints that were written stay.
pub fn train<D: AllOps>(device: Arc<D>, mut plan: Plan, stop: &AtomicBool) -> Result<Ended, TrainError> {
    let said = plan.fix(&device)?;
    let mut run = Run::new(device, plan)?;
    said.iter().for_each(|line| run.progress.say(line));
    while run.state.step < run.total {
        run.step()?;
        if stop.load(Ordering::Relaxed) {
            let checkpoint = run.save()?;
            return Ok(Ended::Interrupted { step: run.state.step, checkpoint });
        }
    }
    run.finish()
}

/// Sums since the last line of metrics.
#[derive(Default)]
struct Window {
    steps: u64,
    loss: f64,
    accuracy: f64,
    grad_norm: f64,
    waited: Duration,
    time: Duration,
}

struct Run<D: Device> {
    plan: Plan,
    trainer: Trainer<D>,
    loader: Loader,
    schedule: Schedule,
    log: MetricsLog,
    progress: Progress,
    encoder: Option<Encoder<D>>,
    state: State,
    total: u64,
    begun: Instant,
    seconds_before: f64,
    window: Window,
    /// Steps of this process, and the time they took.
    steps: u64,
    stepping: Duration,
    latest: Metrics,
    saved: Option<PathBuf>,
    log_failed: bool,
    /// What the last evaluation left out.
    eval_skipped: Option<Skipped>,
    /// Whether it was told that the model has collapsed.
    told_collapse: bool,
    /// The batch of the last step, as long as its outcome is not known.
    in_flight: Option<Batch>,
}

impl<D: AllOps> Run<D> {
    fn new(device: Arc<D>, mut plan: Plan) -> Result<Self, TrainError> {
        let settings = &plan.settings;
        let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
        let layout = flip.layout().clone();
        let point = plan.resume.take();
        let resume = point.as_ref().and_then(|point| point.checkpoint.as_ref());
        let values = match (resume, &settings.init_from) {
            (Some(checkpoint), _) => checkpoint.weights(&layout)?,
            (None, Some(path)) => {
                let from = Checkpoint::open(path)?;
                introduction::same_vocabulary(&from, settings.model.vocab)?;
                match from.state.loss == settings.loss {
                    true => from.weights(&layout)?,
                    false => from.towers(&layout, layout.initial_values(settings.seed))?,
                }
            }
            (None, None) => layout.initial_values(settings.seed),
        };
        let fresh = || State {
            model: settings.model.clone(),
            loss: settings.loss,
            step: 0,
            samples: 0,
            position: Position::default(),
            seed: settings.seed,
            fingerprint: plan.dataset.fingerprint(),
            seconds: 0.0,
        };
        let state = resume.map_or_else(fresh, |checkpoint| checkpoint.state.clone());
        let loader =
            Loader::new(plan.dataset.clone(), plan.tokenizer.clone(), settings.loader.clone(), state.position)?;
        let (batch, kept) = (settings.loader.batch, settings.loader.kept());
        let mut trainer = Trainer::new(device, flip, &values, settings.adamw, batch, kept, settings.recompute)?;
        if let Some(checkpoint) = resume {
            trainer.set_moments(&checkpoint.moments(&layout)?)?;
        }
        let total = plan.steps();
        let schedule = Schedule { peak: settings.peak_lr, warmup: settings.warmup_steps(total), total };
        let progress = Progress::new(total, state.step);
        // Only now that the run is sure to go on is anything in its folder changed.
        if let Some(point) = &point {
            let moved = point.set_aside(&plan.folder, state.step < total)?;
            moved.iter().for_each(|line| progress.say(line));
            plan.folder.describe(&settings.options, &plan.tokenizer)?;
        }
        let log = MetricsLog::open(plan.folder.path(), state.step)?;
        let this = Self {
            seconds_before: state.seconds,
            saved: resume.map(|checkpoint: &Checkpoint| checkpoint.path().to_owned()),
            plan,
            trainer,
            loader,
            schedule,
            log,
            progress,
            encoder: None,
            state,
            total,
            begun: Instant::now(),
            window: Window::default(),
            steps: 0,
            stepping: Duration::ZERO,
            latest: Metrics::default(),
            log_failed: false,
            eval_skipped: None,
            told_collapse: false,
            in_flight: None,
        };
        this.introduce();
        Ok(this)
    }

    fn introduce(&self) {
        let Settings { model, loader, .. } = &self.plan.settings;
        self.progress.say(&format!(
            "{} pairs; {:.1} M parameters; {} px, {} of {} patches visible; batch {}; {} steps from {}; activations {:.0} MB; {}",
            self.plan.dataset.len(),
            self.trainer.params().layout().count() as f64 / 1e6,
            model.image_size,
            loader.kept(),
            loader.patches(),
            loader.batch,
            self.total,
            self.state.step,
            self.trainer.activation_bytes() as f64 / 1e6,
            self.trainer.device().describe(),
        ));
        let said = introduction::captions(&self.plan.dataset, &self.plan.tokenizer, loader);
        let held_out = self.plan.held_out.iter().flat_map(|held_out| &held_out.notes);
        let captions = Variety::of(&self.plan.dataset);
        let warnings = advice::warnings(&advice::Run {
            samples: self.plan.dataset.len() as u64,
            captions: &captions,
            batch: loader.batch,
            total: self.total,
            warmup: self.schedule.warmup,
        });
        said.iter().chain(held_out).chain(&warnings).for_each(|line| self.progress.say(line));
        self.progress.say(&format!("run folder: {}", self.plan.folder.path().display()));
        let held_out = self.plan.held_out.iter().flat_map(|held_out| held_out.dataset.warnings());
        self.plan.dataset.warnings().iter().chain(held_out).for_each(|warning| self.progress.say(warning));
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        let batch = self.loader.next_batch();
        self.loader.take_warnings().iter().for_each(|warning| self.progress.say(warning));
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                self.save_in_time();
                return Err(error.into());
            }
        };
        // The device computes this step while the next batch is fetched: what came of it is asked for a step later.
        let before = self.trainer.submit(&batch, self.schedule.at(self.state.step))?;
        self.note(before, self.state.step)?;
        self.state.step += 1;
        self.state.samples += batch.samples.len() as u64;
        self.state.position = batch.next;
        self.window.waited += batch.waited;
        self.in_flight = Some(batch);
        self.window.time += start.elapsed();
        self.steps += 1;
        self.stepping += start.elapsed();
        self.progress.step(self.state.step);
        let Settings { log_every, save_every, eval_every, .. } = self.plan.settings;
        let (step, last) = (self.state.step, self.state.step == self.total);
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        // An evaluation may take long; what was trained should not be lost with it.
        if last
            && self.plan.held_out.is_some()
            && let Err(error) = self.save()
        {
            self.progress.say(&format!("warning: {error}"));
        }
        let evaluated = match (due(eval_every) || last, &self.plan.held_out) {
            (true, Some(_)) => match self.evaluate() {
                // What is wrong with the held-out data is no reason to lose what was trained.
                Err(error @ TrainError::Eval(_)) if last => {
                    self.save()?;
                    return Err(error);
                }
                Err(error @ TrainError::Eval(_)) => {
                    self.progress.say(&format!("warning: not evaluated: {error}"));
                    None
                }
                evaluated => Some(evaluated?),
            },
            _ => None,
        };
        if due(log_every) || last || evaluated.is_some() {
            self.report(evaluated)?;
        }
        if due(save_every) && !last {
            // The disk may have room again by the next time: no reason to lose the run.
            match self.save() {
                Err(error @ TrainError::Io { .. }) => {
                    let next = step + save_every;
                    self.progress.say(&format!("warning: {error}; training goes on, next attempt at step {next}"));
                }
                saved => drop(saved?),
            }
        }
        Ok(())
    }

    /// Waits until all steps so far are made, and takes note of the last.
    fn settle(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        let outcome = self.trainer.settle()?;
        self.note(outcome, self.state.step)?;
        self.window.time += start.elapsed();
        self.stepping += start.elapsed();
        Ok(())
    }

    /// Counts the outcome of step number `step`, whose batch was in flight.
    fn note(&mut self, outcome: Option<StepOutcome>, step: u64) -> Result<(), TrainError> {
        let (Some(outcome), Some(batch)) = (outcome, self.in_flight.take()) else { return Ok(()) };
        let quantities = [("loss", outcome.loss), ("gradient norm", outcome.grad_norm)];
        if let Some((what, value)) = quantities.into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(self.diverged(what, value, step, &batch));
        }
        let window = &mut self.window;
        window.steps += 1;
        window.loss += outcome.loss;
        window.accuracy += outcome.accuracy;
        window.grad_norm = outcome.grad_norm;
        self.loader.recycle(batch);
        Ok(())
    }

    fn diverged(&self, what: &'static str, value: f64, step: u64, batch: &Batch) -> TrainError {
        #[derive(Serialize)]
        struct Report<'a> {
            step: u64,
            what: &'a str,
            value: String,
            samples: &'a [String],
        }
        const SHOWN: usize = 8;
        let names: Vec<String> = batch.samples.iter().map(|&sample| self.plan.dataset.name(sample)).collect();
        let report = Report { step, what, value: value.to_string(), samples: &names };
        let mut keys = names[..names.len().min(SHOWN)].join(", ");
        if names.len() > SHOWN {
            keys += &match self.plan.folder.write_json("diverged.json", &report) {
                Ok(path) => format!(" and {} more, all in {}", names.len() - SHOWN, path.display()),
                Err(_) => format!(" and {} more", names.len() - SHOWN),
            };
        }
        let last = match &self.saved {
            Some(path) => format!("The last good checkpoint is {}", path.display()),
            None => "There is no checkpoint yet".to_owned(),
        };
        TrainError::Diverged { what, step, value, keys, last }
    }

    /// Writes a line of metrics and begins the next window.
    fn report(&mut self, evaluated: Option<ZeroShot>) -> Result<(), TrainError> {
        self.settle()?;
        let window = std::mem::take(&mut self.window);
        let (steps, seconds) = (window.steps.max(1) as f64, window.time.as_secs_f64().max(1e-9));
        let position = self.state.position;
        let metrics = Metrics {
            step: self.state.step,
            samples: self.state.samples,
            epoch: position.epoch as f64 + position.index as f64 / self.plan.dataset.len() as f64,
            loss: window.loss / steps,
            accuracy: window.accuracy / steps,
            learning_rate: self.schedule.at(self.state.step.saturating_sub(1)),
            grad_norm: window.grad_norm,
            logit_scale: self.trainer.logit_scale()?,
            samples_per_second: steps * self.plan.settings.loader.batch as f64 / seconds,
            gflops: steps * self.trainer.step_flops() as f64 / seconds / 1e9,
            data_wait: window.waited.as_secs_f64() / seconds,
            zero_shot_top1: evaluated.map(|found| found.top1),
            zero_shot_top5: evaluated.map(|found| found.top5),
        };
        self.watch_collapse(&metrics, window.steps)?;
        self.latest = metrics;
        self.progress.show(&metrics, self.stepping.as_secs_f64() / self.steps.max(1) as f64);
        let written = self.log.write(&metrics);
        self.tolerate(written);
        Ok(())
    }

    /// Tells once if the steps since the last report, `steps` of them and all after the warm-up, learnt nothing.
    fn watch_collapse(&mut self, metrics: &Metrics, steps: u64) -> Result<(), TrainError> {
        let Settings { loss, ref loader, ref model, .. } = self.plan.settings;
        let warm = metrics.step.saturating_sub(steps) >= self.schedule.warmup.max(advice::FIRST_STEPS);
        if self.told_collapse || !warm || !advice::is_guessing(metrics.loss, loss, loader.batch) {
            return Ok(());
        }
        let cosines = self.trainer.embeddings()?.map(|rows| advice::mean_cosine(&rows, model.embed_dim));
        if let Some(line) = advice::collapse(metrics.loss, loss, loader.batch, cosines) {
            self.told_collapse = true;
            self.progress.say(&line);
        }
        Ok(())
    }

    /// Tells once that metrics cannot be written: that alone is no reason to lose a run.
    fn tolerate(&mut self, written: Result<(), TrainError>) {
        if let (Err(error), false) = (written, self.log_failed) {
            self.log_failed = true;
            self.progress.say(&format!("warning: {error}; training goes on without"));
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }

    fn save(&mut self) -> Result<PathBuf, TrainError> {
        self.settle()?;
        self.state.seconds = self.seconds();
        let (weights, moments) = self.trainer.download()?;
        let folder = self.plan.folder.checkpoints();
        let path = checkpoint::path_of(&folder, self.state.step);
        checkpoint::save(&path, &self.state, self.trainer.params().layout(), &weights, &moments)?;
        checkpoint::prune(&folder, self.plan.settings.keep);
        self.saved = Some(path.clone());
        let drawn = self.log.draw(&self.title());
        self.tolerate(drawn);
        Ok(path)
    }

    /// Saves what was trained before the data failed, so that the run goes on from here once they are mended.
    fn save_in_time(&mut self) {
        if self.steps == 0 {
            return;
        }
        let folder = self.plan.folder.path().display().to_string();
        let said = match self.save() {
            Ok(_) => format!("saved step {}; flipk train --resume {folder} goes on from there", self.state.step),
            Err(error) => format!("warning: {error}"),
        };
        self.progress.say(&said);
    }

    fn title(&self) -> String {
        let Settings { loader, options, .. } = &self.plan.settings;
        let preset = options.model.map_or_else(String::new, |preset| format!("{preset:?}").to_lowercase());
        format!("flipk: {preset}, mask ratio {}, batch {}", loader.mask_ratio, loader.batch)
    }

    fn evaluate(&mut self) -> Result<ZeroShot, TrainError> {
        self.settle()?;
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
            bar: &ProgressBar::hidden(),
        };
        let found = eval::zero_shot(encoder, self.trainer.params(), &inputs, classes, templates);
        // Each evaluation meets the same broken samples.
        let warnings = encoder.take_warnings();
        if self.eval_skipped.is_none() {
            warnings.iter().for_each(|warning| self.progress.say(warning));
        }
        self.eval_skipped = Some(encoder.skipped().clone());
        Ok(found?)
    }

    fn finish(mut self) -> Result<Ended, TrainError> {
        // A run that was complete already when it was resumed has nothing to report but this.
        if self.steps == 0 {
            self.latest = self.log.last().unwrap_or_default();
            if self.plan.held_out.is_some() {
                let evaluated = self.evaluate()?;
                self.latest.zero_shot_top1 = Some(evaluated.top1);
                self.latest.zero_shot_top5 = Some(evaluated.top5);
            }
        }
        let checkpoint = self.save()?;
        let is_class = |name: &&String| !name.is_empty();
        let classes =
            self.plan.held_out.as_ref().map(|held_out| held_out.classes.names().iter().filter(is_class).count());
        let seconds = self.stepping.as_secs_f64().max(1e-9);
        // Of a run that had no step left to make, the speed is that of its last ones.
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
            skipped: self.loader.skipped(),
            eval_skipped: self.eval_skipped.unwrap_or_default(),
            checkpoint,
        };
        self.plan.folder.write_json("summary.json", &summary)?;
        Ok(Ended::Finished(Box::new(summary)))
    }
}

/// Images that evaluation embeds at a time.
const EVAL_BATCH: usize = 64;
