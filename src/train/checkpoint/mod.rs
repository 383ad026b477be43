//! Checkpoints: safetensors files with the weights under their names, AdamW's moments as `adamw.m/NAME` and
//! `adamw.v/NAME`, and everything else that resuming needs in the header.
//!
//! A checkpoint is written under a temporary name, synced, and renamed, so that a file with a checkpoint's name is
//! always complete; older ones are removed only after that. Checksums detect later damage.

mod check;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::error::Problem;
use crate::autograd::Layout;
use crate::data::{Found, Position};
use crate::mapped::MappedFile;
use crate::model::{Loss, ModelConfig};
use crate::optim::Moments;

/// The header's key of the [`State`].
const HEADER: &str = "flipk";
/// Prefixes of the names of AdamW's moments.
const MOMENTS: [&str; 2] = ["adamw.m/", "adamw.v/"];
/// The results of [`group_of`].
const GROUPS: &[usize] = &[0, 1, 2];

/// 0 for a weight, 1 and 2 for the first and second moments.
fn group_of(name: &str) -> usize {
    MOMENTS.iter().position(|prefix| name.starts_with(prefix)).map_or(0, |moment| moment + 1)
}

/// The state of a run, apart from weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Sizes of the model.
    pub model: ModelConfig,
    /// The loss that it is trained with.
    #[serde(default)]
    pub loss: Loss,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Where the next batch starts.
    pub position: Position,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Fingerprint of the training data ([`crate::data::Dataset::fingerprint`]).
    pub fingerprint: u32,
    /// Seconds of training so far, in checkpoints of earlier versions. Now they are in `metrics.jsonl`, so that equal
    /// runs have equal checkpoints.
    #[serde(default, skip_serializing)]
    pub seconds: f64,
    /// Arithmetic of the device ([`crate::device::Device::arithmetic`]); older checkpoints lack it.
    #[serde(default)]
    pub arithmetic: Option<String>,
    /// Equal parts in which each batch was computed, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<usize>,
    /// What was found in the data; older checkpoints lack it.
    #[serde(default, skip_serializing_if = "Found::is_empty")]
    pub found: Found,
}

/// An open checkpoint.
pub struct Checkpoint {
    path: PathBuf,
    map: MappedFile,
    checksums: Option<String>,
    /// What is in its header.
    pub state: State,
}

/// Views of `arena`, one per parameter, named `prefix` and the parameter's name.
fn views<'a>(layout: &'a Layout, prefix: &str, arena: &'a [f32]) -> Vec<(String, TensorView<'a>)> {
    let view = |spec: &'a crate::autograd::ParamSpec| {
        let bytes = bytemuck::cast_slice(&arena[spec.range()]);
        let view = TensorView::new(Dtype::F32, spec.shape.clone(), bytes).expect("a parameter's shape is its length");
        (format!("{prefix}{}", spec.name), view)
    };
    layout.specs().iter().map(view).collect()
}

/// Writes a checkpoint completely or not at all. `weights` and both moments: `[layout.arena_len()]`.
///
/// # Errors
/// If it cannot be written; no partial file is left, and earlier checkpoints are untouched.
pub fn save(path: &Path, state: &State, layout: &Layout, weights: &[f32], moments: &Moments) -> Result<(), TrainError> {
    let mut tensors = views(layout, "", weights);
    tensors.extend(views(layout, MOMENTS[0], &moments.m));
    tensors.extend(views(layout, MOMENTS[1], &moments.v));
    write(path, state, tensors)
}

/// As [`save`], for a model that no run has trained: without moments, at step 0.
///
/// # Errors
/// As [`save`].
pub fn save_weights(
    path: &Path,
    model: &ModelConfig,
    loss: Loss,
    layout: &Layout,
    weights: &[f32],
) -> Result<(), TrainError> {
    let state = State {
        model: model.clone(),
        loss,
        step: 0,
        samples: 0,
        position: Position { streams: Vec::new() },
        seed: 0,
        fingerprint: 0,
        seconds: 0.0,
        arithmetic: None,
        micro_batches: None,
        found: Found::default(),
    };
    write(path, &state, views(layout, "", weights))
}

fn write(path: &Path, state: &State, tensors: Vec<(String, TensorView<'_>)>) -> Result<(), TrainError> {
    let sums = check::checksums(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.data())));
    let state = serde_json::to_string(state).map_err(|why| TrainError::io("write", path, why.into()))?;
    let sums = check::to_text(sums, &state);
    let header = in_order([(HEADER, state), (check::CHECKSUMS, sums)]);
    let partial = path.with_extension("partial");
    let written = safetensors::serialize_to_file(tensors, Some(header), &partial)
        .map_err(|why| match why {
            safetensors::SafeTensorError::IoError(why) => why,
            why => io::Error::other(why),
        })
        .and_then(|()| File::open(&partial)?.sync_all())
        .and_then(|()| fs::rename(&partial, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|why| {
        // Best effort: the partial file only takes up space.
        let _ = fs::remove_file(&partial);
        TrainError::io("write", path, why)
    })
}

/// A map that iterates in the order of `entries`, so that equal states become equal files. The order of a `HashMap` is
/// random, and safetensors takes no other map.
fn in_order(entries: [(&str, String); 2]) -> HashMap<String, String> {
    loop {
        let map = HashMap::from(entries.clone().map(|(key, value)| (key.to_owned(), value)));
        if map.keys().eq(entries.iter().map(|(key, _)| key)) {
            return map;
        }
    }
}

/// Makes a rename survive a power failure.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// The path of the checkpoint of `step` in `folder`.
pub fn path_of(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}.safetensors"))
}

/// The step in a checkpoint's file name; `None` for other names, such as those of a user's own copies.
pub fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}

/// The checkpoints in `folder`, by step.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| step_of(path).is_some()).collect();
    found.sort_by_key(|path| step_of(path));
    found
}

/// Removes all but the newest `keep` checkpoints.
pub fn prune(folder: &Path, keep: usize) {
    let found = list(folder);
    for old in &found[..found.len().saturating_sub(keep)] {
        // Best effort: a file that stays only takes up space.
        let _ = fs::remove_file(old);
    }
}

impl Checkpoint {
    /// Whether `path` is a run folder, a folder of checkpoints, or a checkpoint, whatever its name and state.
    pub fn is_at(path: &Path) -> bool {
        let header = || {
            let map = MappedFile::new(&File::open(path).ok()?).ok()?;
            let (_, header) = SafeTensors::read_metadata(&map).ok()?;
            header.metadata().as_ref()?.get(HEADER).map(drop)
        };
        let holds_any = [path.to_owned(), path.join("checkpoints")].iter().any(|folder| !list(folder).is_empty());
        path.join("config.toml").is_file() || holds_any || step_of(path).is_some() || header().is_some()
    }

    /// Opens a checkpoint file, or the newest checkpoint of a run folder. Checksums of tensors are verified as they are
    /// read.
    ///
    /// # Errors
    /// If there is none, if it is not a flipk checkpoint, or if it is damaged; the error names the newest intact
    /// checkpoint in the same folder.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let path = match path.is_dir() {
            false => path.to_owned(),
            true => {
                let newest = [path.join("checkpoints"), path.to_owned()].iter().find_map(|folder| list(folder).pop());
                let problem = "the folder holds no step-*.safetensors".to_owned();
                newest.ok_or_else(|| TrainError::checkpoint(path, problem))?
            }
        };
        Self::open_file(&path).map_err(Self::advised)
    }

    /// As [`Self::open`] for a file, but verifies all checksums at once.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_checked(path: &Path) -> Result<Self, TrainError> {
        Self::open_intact(path).map_err(Self::advised)
    }

    /// Adds to the error the newest intact checkpoint in the same folder.
    fn advised(error: TrainError) -> TrainError {
        match error {
            TrainError::Checkpoint { path, problem, source } => {
                let others =
                    path.parent().map(list).unwrap_or_default().into_iter().rev().filter(|other| *other != path);
                let problem = match others.map(|other| Self::open_intact(&other)).find_map(Result::ok) {
                    Some(intact) => format!("{problem}. {} is intact: use that file instead", intact.path.display()),
                    None => problem,
                };
                TrainError::Checkpoint { path, problem, source }
            }
            error => error,
        }
    }

    /// As [`Self::open_checked`], but the error names no other checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read, is not a flipk checkpoint, is damaged, or has the name of another step.
    pub fn open_intact(path: &Path) -> Result<Self, TrainError> {
        let this = Self::open_file(path)?;
        let step = this.state.step;
        if let Some(named) = step_of(path).filter(|named| *named != step) {
            return Err(this.bad(format!("its name says step {named}, but it was written at step {step}")));
        }
        this.verify(&SafeTensors::deserialize(&this.map).map_err(|why| this.bad(why))?, GROUPS)?;
        Ok(this)
    }

    fn open_file(path: &Path) -> Result<Self, TrainError> {
        let bad = |problem: Problem| TrainError::checkpoint(path, problem);
        let file = File::open(path).map_err(|why| TrainError::io("open", path, why))?;
        if file.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(bad("it is empty (0 bytes)".to_owned().into()));
        }
        let map = MappedFile::new(&file).map_err(|why| TrainError::io("map", path, why))?;
        // Also checks the length: the header of a truncated file may be intact.
        let tensors = SafeTensors::deserialize(&map).map_err(|why| bad(check::unreadable(&map, why)))?;
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|why| bad(why.into()))?;
        let header = header.metadata().clone().unwrap_or_default();
        let state = header.get(HEADER).ok_or_else(|| bad(check::foreign(&tensors).into()))?;
        let checksums = header.get(check::CHECKSUMS).cloned();
        check::verify_state(state, checksums.as_deref()).map_err(|problem| bad(problem.into()))?;
        let state: State =
            serde_json::from_str(state).map_err(|why| bad(Problem::worded(format!("its header: {why}"), why)))?;
        state.model.check().map_err(|why| bad(why.into()))?;
        Ok(Self { path: path.to_owned(), map, checksums, state })
    }

    fn bad(&self, problem: impl Into<Problem>) -> TrainError {
        TrainError::checkpoint(&self.path, problem)
    }

    /// Verifies the checksums of the tensors of `groups`.
    fn verify(&self, file: &SafeTensors<'_>, groups: &[usize]) -> Result<(), TrainError> {
        check::verify(file, self.checksums.as_deref(), groups).map_err(|problem| self.bad(problem))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name` next to the checkpoint, or in the folder above, which is the run folder; `None` if
    /// it is in neither.
    pub fn sibling(&self, name: &str) -> Option<PathBuf> {
        self.path.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// The weights, `[layout.arena_len()]`.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    pub fn weights(&self, layout: &Layout) -> Result<Vec<f32>, TrainError> {
        self.arena(layout, "")
    }

    /// AdamW's moments, `[layout.arena_len()]` each.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn moments(&self, layout: &Layout) -> Result<Moments, TrainError> {
        let [m, v] = MOMENTS.map(|prefix| self.arena(layout, prefix));
        let (m, v) = (m?, v?);
        Ok(Moments { m, v, step: self.state.step })
    }

    fn arena(&self, layout: &Layout, prefix: &str) -> Result<Vec<f32>, TrainError> {
        // A header can name a model of any size; its weights are in the file, or there is no memory for them.
        let bytes = layout.count() as u128 * size_of::<f32>() as u128;
        if bytes > self.map.len() as u128 {
            let (parameters, has) = (layout.count(), self.map.len());
            return Err(self.bad(format!("its model has {parameters} parameters, and the file only {has} bytes")));
        }
        self.read(layout, prefix, vec![0.0; layout.arena_len()], |_| true)
    }

    /// Reads into `arena` the parameters that `wanted` accepts by name.
    fn read(
        &self,
        layout: &Layout,
        prefix: &str,
        mut arena: Vec<f32>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<f32>, TrainError> {
        let file = SafeTensors::deserialize(&self.map).map_err(|why| self.bad(why))?;
        self.verify(&file, &[group_of(prefix)])?;
        for spec in layout.specs().iter().filter(|spec| wanted(&spec.name)) {
            let name = format!("{prefix}{}", spec.name);
            let tensor = file.tensor(&name).map_err(|why| {
                let problem = format!("tensor `{name}`: {why}");
                self.bad(Problem::worded(problem, why))
            })?;
            if (tensor.dtype(), tensor.shape()) != (Dtype::F32, &spec.shape) {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                return Err(self.bad(format!("tensor `{name}` is {dtype:?} {shape:?}, expected F32 {:?}", spec.shape)));
            }
            // As bytes: tensors in the file are not necessarily aligned.
            bytemuck::cast_slice_mut::<f32, u8>(&mut arena[spec.range()]).copy_from_slice(tensor.data());
        }
        Ok(arena)
    }
}
