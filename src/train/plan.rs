//! What a run is made of, and whether a run can be resumed with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::checkpoint::{Checkpoint, State};
use super::folder::Lock;
use super::held_out::HeldOut;
use super::ranks;
use super::resume::{self, Point};
use super::settings::{Length, is_embedded};
use super::tokenizer::open_tokenizer;
use super::weights::Weights;
use super::{Options, RunFolder, Settings, TrainError};
use crate::autograd::{Layout, Recompute};
use crate::data::image::JpegDecoder;
use crate::data::{Epoch, Loader, Order, Position, Source, Tokenizer, TrainingData};
use crate::eval::Labels;
use crate::group::{Alone, Group};
use crate::interop::Architecture;
use crate::interop::open_clip::Described;
use crate::log;
use crate::model::{ModelConfig, Preset};

/// How long a resume waits for ranks that are about to end, because their launcher was killed.
const ENDING: Duration = Duration::from_secs(5);

/// Everything a run needs except the device.
pub struct Plan {
    /// The complete configuration.
    pub settings: Settings,
    /// Where the run is written.
    pub folder: RunFolder,
    pub(super) data: TrainingData,
    pub(super) epoch: Epoch,
    /// Only on rank 0.
    pub(super) held_out: Option<HeldOut>,
    pub(super) tokenizer: Tokenizer,
    /// `None` for a new run.
    pub(super) resume: Option<Point>,
    /// The ranks of the run.
    pub(super) group: Arc<dyn Group>,
    /// The lock of the run's folder; only on rank 0.
    _lock: Option<Lock>,
}

/// Options that do not affect the weights of a resumed run. `data` and `tokenizer` are paths, which may change: the
/// data's fingerprint and the tokenizer's content are compared separately.
const HARMLESS: &[&str] = &[
    "cache",
    "cache_size",
    "classes",
    "data",
    "eval_data",
    "eval_every",
    "index_cache",
    "io_timeout",
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

/// Whether changing `key` leaves the resulting weights the same. Recomputed activations have the same bits, except with
/// `cheap` in bf16.
fn is_harmless(key: &str, before: &Options, after: &Options) -> bool {
    let cheap = [before, after].iter().any(|options| options.recompute == Some(Recompute::Cheap));
    HARMLESS.contains(&key) || (key == "recompute" && !cheap)
}

impl Plan {
    /// A new run in `out`, or in a new folder under `runs/`.
    ///
    /// # Errors
    /// Invalid options, data or a tokenizer that cannot be used, or a folder that already contains a run.
    pub fn start(options: Options, out: Option<&Path>) -> Result<Self, TrainError> {
        Self::start_in(Arc::new(Alone), options, out)
    }

    /// As [`Self::start`], on one rank of a group; rank 0 creates the folder.
    ///
    /// # Errors
    /// As [`Self::start`]; also micro-batches that the ranks cannot share, and ranks that differ from each other.
    pub fn start_in(group: Arc<dyn Group>, mut options: Options, out: Option<&Path>) -> Result<Self, TrainError> {
        let tokenizer = tokenizer(&options).map_err(|error| wrong_data(&options).unwrap_or(error))?;
        options.special_tokens = Some(tokenizer.adds_special_tokens());
        ranks::divide(&mut options, &*group);
        let base = described(&options)?.model;
        let mut settings = Settings::resolve(options, base, tokenizer.vocab_size())?;
        ranks::check(&settings, &*group)?;
        let asks_for_labels = settings.options.labels.is_some_and(|labels| labels != Labels::default());
        if group.is_root() && settings.eval_data.is_empty() && (settings.eval_every > 0 || asks_for_labels) {
            warn!("--eval-every and --labels do nothing without --eval-data");
        }
        let (data, epoch) = open(&mut settings, None)?;
        ranks::compare(&*group, &settings.options, data.fingerprint())?;
        let (folder, held_out, lock) = if group.is_root() {
            let held_out = HeldOut::open(&settings)?;
            let (folder, lock) = RunFolder::create(out, &settings.model_name())?;
            folder.describe(&settings, &tokenizer)?;
            data.write_counts(settings.index_cache(folder.path()));
            ranks::broadcast_path(&*group, folder.path())?;
            (folder, held_out, Some(lock))
        } else {
            (RunFolder::of_root(ranks::broadcast_path(&*group, Path::new(""))?), None, None)
        };
        Ok(Self { settings, folder, data, epoch, held_out, tokenizer, resume: None, group, _lock: lock })
    }

    /// Resumes the run that `target` refers to (see `resume::find`), from the checkpoint it names or else from the
    /// newest intact one. `flags` override the run's `config.toml`.
    ///
    /// # Errors
    /// As [`Self::start`]; also a checkpoint of another model, seed or data set, a preset or tokenizer that is not the
    /// run's, a length shorter than what is already done, or a folder in which another process is training.
    pub fn resume(target: &Path, flags: Options) -> Result<Self, TrainError> {
        Self::resume_in(Arc::new(Alone), target, flags)
    }

    /// As [`Self::resume`], on one rank of a group. The number of ranks may be another than before.
    ///
    /// # Errors
    /// As [`Self::resume`]; also micro-batches that the ranks cannot share, and ranks that differ from each other.
    pub fn resume_in(group: Arc<dyn Group>, target: &Path, flags: Options) -> Result<Self, TrainError> {
        let (folder, named, lock) = if group.is_root() {
            let (folder, named) = resume::find(target)?;
            let lock = folder.lock_within(ENDING, || false)?;
            folder.prepare()?;
            ranks::broadcast_path(&*group, folder.path())?;
            (folder, named, Some(lock))
        } else {
            (RunFolder::open(&ranks::broadcast_path(&*group, Path::new(""))?)?, None, None)
        };
        let mut before = Options::default().over_file(&folder.config())?;
        before.check_whole(&folder.config())?;
        // Runs of earlier versions knew no other order and no other decoder.
        let order = *before.order.get_or_insert(Order::Global);
        let jpeg = *before.jpeg.get_or_insert(JpegDecoder::Rust);
        let another_tokenizer = flags.tokenizer.is_some();
        let mut options = flags.over_file(&folder.config())?;
        let tokenizer = Tokenizer::open(&folder.tokenizer(), &options.tokenizer_options())?;
        if another_tokenizer && self::tokenizer(&options)?.to_json()? != tokenizer.to_json()? {
            return Err(not_the_runs("--tokenizer", &folder));
        }
        if options.model != before.model {
            return Err(not_the_runs("--model", &folder));
        }
        match options.order.replace(order) {
            Some(asked) if asked != order && asked != Order::Auto => return Err(not_the_runs("--order", &folder)),
            _ => {}
        }
        if options.jpeg.replace(jpeg).is_some_and(|asked| asked != jpeg) {
            return Err(not_the_runs("--jpeg", &folder));
        }
        // Other micro-batches change roundings; the order of the data stays that of the run's streams.
        options.streams.get_or_insert(before.streams.or(before.micro_batches).unwrap_or(1));
        let adds = |options: &Options| options.special_tokens.unwrap_or(false);
        let fixed = [
            ("--special-tokens", adds(&options) == adds(&before)),
            ("--streams", options.streams.unwrap_or(1) == before.streams.unwrap_or(1)),
            ("--weight", weights(&options) == weights(&before)),
            ("--jpeg-scaling", options.jpeg_scaling.unwrap_or(false) == before.jpeg_scaling.unwrap_or(false)),
            ("--resample", options.resample.unwrap_or(false) == before.resample.unwrap_or(false)),
        ];
        if let Some((flag, _)) = fixed.iter().find(|(_, is_same)| !is_same) {
            return Err(not_the_runs(flag, &folder));
        }
        let base = folder.model(&options)?;
        let mut settings = Settings::resolve(options, base, tokenizer.vocab_size())?;
        ranks::check(&settings, &*group)?;
        let (data, epoch) = open(&mut settings, Some(folder.path()))?;
        ranks::compare(&*group, &settings.options, data.fingerprint())?;
        let (held_out, point) = if group.is_root() {
            data.write_counts(settings.index_cache(folder.path()));
            let point = Point::choose(&folder, named.as_deref())?;
            ranks::broadcast_path(&*group, point.checkpoint.as_ref().map_or(Path::new(""), Checkpoint::path))?;
            (HeldOut::open(&settings)?, point)
        } else {
            let path = ranks::broadcast_path(&*group, Path::new(""))?;
            (None, if path.as_os_str().is_empty() { Point::default() } else { Point::of_root(&path)? })
        };
        if let Some(checkpoint) = &point.checkpoint {
            check_checkpoint(checkpoint, &settings, data.fingerprint())?;
        }
        let this = Self { settings, folder, data, epoch, held_out, tokenizer, resume: None, group, _lock: lock };
        if let Some(checkpoint) = &point.checkpoint {
            let (done, steps, path) = (point.step(), this.steps(), checkpoint.path().display());
            if steps < done {
                let problem = format!(
                    "the run would end after {steps} steps, but {path} is already at step {done}: ask for a longer run, or \
                     resume from an earlier checkpoint with --resume FILE"
                );
                return Err(TrainError::Settings { problem });
            }
            if this.group.is_root() {
                this.log_changes(before);
            }
        }
        Ok(Self { resume: Some(point), ..this })
    }

    /// Logs which options changed, if that changes the resulting weights.
    fn log_changes(&self, before: Options) {
        let after = &self.settings.options;
        // An older version may not have written every default; filling it in is not a change.
        let base = self.settings.model.clone();
        let old = Settings::resolve(before.clone(), base, self.tokenizer.vocab_size());
        let before = old.map_or(before, |old| old.options);
        let changed = after.changed_from(&before);
        let harmful: Vec<&str> =
            changed.iter().map(String::as_str).filter(|key| !is_harmless(key, &before, after)).collect();
        if !harmful.is_empty() {
            info!("changed: {}; the weights will differ from those of the original run", harmful.join(", "));
        }
        if changed.iter().any(|key| key == "data") {
            info!("the training data has moved; its content is the same");
        }
    }

    /// Whether the model is evaluated on held-out data.
    pub(super) fn evaluates(&self) -> bool {
        !self.settings.eval_data.is_empty()
    }

    /// Loads the rows of this rank, from `start` on.
    pub(super) fn loader(&self, start: Position) -> Result<Loader, TrainError> {
        let mut config = self.settings.loader.clone();
        if self.group.size() > 1 && config.threads == 0 {
            config.threads = self.group.cores();
        }
        let own = ranks::own_streams(&self.settings, &*self.group);
        Ok(Loader::of_streams(self.data.clone(), self.tokenizer.clone(), config, start, own)?)
    }

    /// Optimizer steps of the whole run.
    pub(super) fn steps(&self) -> u64 {
        let epoch = self.settings.epoch_samples.or(self.epoch.samples);
        self.settings.length.steps(self.settings.loader.batch, epoch.unwrap_or_default())
    }

    /// The weights of step 0, `[layout.arena_len()]`: random, or those of `--init-from`.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, or that has a vocabulary of another size.
    pub(super) fn initial_values(&self, layout: &Layout) -> Result<Vec<f32>, TrainError> {
        let random = layout.initial_values(self.settings.seed);
        let Some(path) = &self.settings.init_from else { return Ok(random) };
        let from = Weights::open(path)?;
        let (rows, vocab) = (from.model().vocab, self.settings.model.vocab);
        if rows != vocab {
            let problem = format!(
                "the model in {} has {rows} rows of tokens and this run has {vocab}; pass the --tokenizer that it was \
                 trained with (and --vocab {rows} if the tokenizer has fewer tokens than that)",
                from.path().display()
            );
            return Err(TrainError::Settings { problem });
        }
        let (values, notes) = from.fitted(&self.settings.model, layout, random)?;
        log::lines(&notes);
        Ok(values)
    }
}

/// Whether a run with these settings and data can continue from `checkpoint`.
fn check_checkpoint(checkpoint: &Checkpoint, settings: &Settings, data: u32) -> Result<(), TrainError> {
    if settings.time.is_some() {
        let problem = "time: the length of a run is fixed once it has started; change it with --samples or --steps";
        return Err(TrainError::Settings { problem: problem.to_owned() });
    }
    let State { model, loss, seed, fingerprint, .. } = &checkpoint.state;
    let differs = [
        (*model != settings.model, "the model's size"),
        (*loss != settings.loss, "the loss"),
        (*seed != settings.seed, "the seed"),
        (*fingerprint != data, "the training data"),
    ];
    if let Some((_, what)) = differs.iter().find(|(differs, _)| *differs) {
        let path = checkpoint.path().display();
        let problem = format!(
            "{what} differs from that of {path}; make it the same again, or start a new run with --init-from {path}"
        );
        return Err(TrainError::Settings { problem });
    }
    Ok(())
}

fn not_the_runs(flag: &str, folder: &RunFolder) -> TrainError {
    let folder = folder.path().display();
    let problem = format!(
        "{flag} is not what the run in {folder} was started with and cannot change during a run: leave it out, or start \
         a new run with --init-from {folder}"
    );
    TrainError::Settings { problem }
}

/// The model that `--model` names, or else that of `--init-from`, without the options that change it.
///
/// # Errors
/// A file that cannot be read, or a model that flipk does not have.
pub fn described(options: &Options) -> Result<Described, TrainError> {
    match (&options.model, &options.init_from) {
        (Some(Architecture::File(path)), _) if path.extension().is_none_or(|ending| ending != "json") => {
            Ok(Weights::open(path)?.described())
        }
        (Some(name), _) => Ok(name.describe()?),
        (None, Some(path)) => Ok(Weights::open(path)?.described()),
        (None, None) => Ok(Architecture::from(Preset::Tiny).describe()?),
    }
}

impl RunFolder {
    /// The model of the run, or the one that `options` name: earlier versions wrote no `model.json`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn model(&self, options: &Options) -> Result<ModelConfig, TrainError> {
        let file = self.path().join(Self::MODEL);
        match file.is_file() {
            true => Ok(Architecture::File(file).describe()?.model),
            false => Ok(described(options)?.model),
        }
    }
}

/// The tokenizer that the options name, or the one beside `--init-from`, or the model's own, or the embedded one.
///
/// # Errors
/// If it cannot be read, or if none is named, the model has none and the data is not embedded.
pub fn tokenizer(options: &Options) -> Result<Tokenizer, TrainError> {
    let embedded = options.data.iter().flatten().all(|spec| is_embedded(spec));
    let beside = options.init_from.as_ref().and_then(|path| Weights::open(path).ok()?.tokenizer());
    let path = options.tokenizer.as_deref().or(beside.as_deref());
    match open_tokenizer(path, &described(options)?, options.tokenizer_options())? {
        Some(tokenizer) => Ok(tokenizer),
        None if embedded => Ok(Tokenizer::embedded(&options.tokenizer_options())?),
        None => {
            let problem = "--data needs a --tokenizer: a tokenizer.json, the vocab.txt of a BERT model (the paper uses \
                           bert-base-uncased), or clip";
            Err(TrainError::Settings { problem: problem.to_owned() })
        }
    }
}

/// What is wrong with the files of --data. It comes before what is wrong with the tokenizer, which is chosen for data.
fn wrong_data(options: &Options) -> Option<TrainError> {
    let wrong = options.data.iter().flatten().find_map(|spec| Source::check_files(spec).err())?;
    Some(wrong.into())
}

/// The weights of the sources, if they are not all 1.
fn weights(options: &Options) -> Option<&Vec<f64>> {
    options.weight.as_ref().filter(|weights| weights.iter().any(|&weight| weight != 1.0))
}

/// Opens the training data of a run, in the folder `run` if that exists already.
fn open(settings: &mut Settings, run: Option<&Path>) -> Result<(TrainingData, Epoch), TrainError> {
    let data = settings.open_data(run)?;
    let epoch = settings.loader.epoch(&data)?;
    match (settings.length, settings.epoch_samples.or(epoch.samples)) {
        (Length::Epochs(_), None) if settings.time.is_none() => {
            let problem = "the length of an epoch is unknown, since the shards are opened one after the other: give the \
                           length of the run with --samples or --steps, or that of an epoch with --epoch-samples; or put a sizes.json next to the shards \
                           ({\"00000.tar\": 10000, ...}); or index all of them first with --order global";
            Err(TrainError::Settings { problem: problem.to_owned() })
        }
        _ => Ok((data, epoch)),
    }
}
