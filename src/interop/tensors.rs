//! The tensors of one or more safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{InteropError, Piece};
use crate::mapped::MappedFile;

/// The tensors of a model by name.
pub(super) struct Tensors {
    files: Vec<(PathBuf, MappedFile)>,
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Usual names of files of weights that flipk does not read.
pub(super) const PICKLES: [&str; 3] =
    ["open_clip_pytorch_model.bin", "pytorch_model.bin", "open_clip_pytorch_model.pt"];

/// At most this many tensors are listed in an error.
const LISTED: usize = 5;

impl Tensors {
    /// Opens these files, which share the tensors of a model.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, InteropError> {
        let mut this = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            this.add(path)?;
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), InteropError> {
        let open = |source| InteropError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open)?;
        let map = MappedFile::new(&file).map_err(open)?;
        let format = |why: safetensors::SafeTensorError| {
            // Looked for last: the length of a safetensors header may begin as a pickle does.
            let problem = pickle(&map, path).unwrap_or_else(|| format!("is not a safetensors file, or is cut: {why}"));
            InteropError::File { path: path.to_owned(), problem }
        };
        // Also checks the length: the header of a file that is cut may be intact.
        SafeTensors::deserialize(&map).map_err(format)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(format)?;
        // The header's length comes before it.
        let start = header + 8;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let stored = Stored {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: start + from..start + to,
            };
            if let Some(other) = self.tensors.insert(name.clone(), stored) {
                let problem = format!("has the tensor `{name}`, which {} has too", self.files[other.file].0.display());
                return Err(InteropError::File { path: path.to_owned(), problem });
            }
        }
        self.files.push((path.to_owned(), map));
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// By how much a number below 1 may have been rounded.
    pub(super) fn rounding(&self, name: &str) -> f32 {
        match self.tensors.get(name).map(|stored| stored.dtype) {
            Some(Dtype::F16) => 1.0 / 4096.0,
            Some(Dtype::BF16) => 1.0 / 512.0,
            _ => 0.0,
        }
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// Removes `prefix` from all names that begin with it.
    ///
    /// # Errors
    /// A tensor that is there with the prefix and without it.
    pub(super) fn strip(&mut self, prefix: &str) -> Result<(), InteropError> {
        for (name, stored) in std::mem::take(&mut self.tensors) {
            let short = name.strip_prefix(prefix).unwrap_or(&name).to_owned();
            if self.tensors.insert(short.clone(), stored).is_some() {
                return Err(self.error(format!("has both `{short}` and `{prefix}{short}`")));
            }
        }
        Ok(())
    }

    /// Checks that the model has no other tensors than those of `pieces`, and these in their shapes.
    ///
    /// # Errors
    /// Lists the tensors that are missing, of another shape, or not used. `harmless` are ones that need not be.
    pub(super) fn check(&self, pieces: &[Piece], harmless: impl Fn(&str) -> bool) -> Result<(), InteropError> {
        let known: BTreeSet<&str> = pieces.iter().map(|piece| piece.name.as_str()).collect();
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        for piece in pieces {
            match self.shape(&piece.name) {
                None => missing.push(format!("{} {:?}", piece.name, piece.shape)),
                Some(shape) if squeezed(shape) != squeezed(&piece.shape) => {
                    wrong.push(format!("{} is {shape:?}, expected {:?}", piece.name, piece.shape));
                }
                Some(_) => {}
            }
        }
        let unused = self.tensors.iter().filter(|(name, _)| !known.contains(name.as_str()) && !harmless(name));
        let unused: Vec<String> = unused.map(|(name, stored)| format!("{name} {:?}", stored.shape)).collect();
        let parts = [("missing", missing), ("of another shape", wrong), ("not of this model", unused)];
        let problems: Vec<String> = parts
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| listed(what, &names))
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(self.error(format!("does not fit its configuration: {}", problems.join("; ")))),
        }
    }

    /// The numbers of a tensor as f32.
    ///
    /// # Errors
    /// One that is missing, has no floating-point numbers, or one that is not finite.
    pub(super) fn read(&self, name: &str) -> Result<Vec<f32>, InteropError> {
        let stored = self.tensors.get(name).ok_or_else(|| self.error(format!("has no tensor `{name}`")))?;
        let bytes = &self.files[stored.file].1[stored.bytes.clone()];
        let error = |problem: String| InteropError::File {
            path: self.files[stored.file].0.clone(),
            problem: format!("has a tensor `{name}` that {problem}"),
        };
        let values: Vec<f32> = match stored.dtype {
            Dtype::F32 => chunks(bytes, f32::from_le_bytes),
            Dtype::F16 => chunks(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => chunks(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F64 => chunks(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
            other => return Err(error(format!("is {other:?}; weights are F32, F16, BF16 or F64"))),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(error(format!("holds {} at {at}", values[at]))),
            None => Ok(values),
        }
    }

    pub(super) fn error(&self, problem: String) -> InteropError {
        let path = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
        InteropError::File { path, problem }
    }
}

fn chunks<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}

/// Without axes of length 1, which programs add and drop.
fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|len| *len != 1).collect()
}

fn listed(what: &str, names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len() - names.len().min(LISTED) {
        0 => format!("{} {what}: {shown}", names.len()),
        more => format!("{} {what}: {shown}, and {more} more", names.len()),
    }
}

/// What to do with a pickle, which flipk never executes.
fn pickle(bytes: &[u8], path: &Path) -> Option<String> {
    let is_pickle = bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]);
    // A name that is found in the folder.
    let to = match path.file_name().and_then(|name| name.to_str()).is_some_and(|name| PICKLES.contains(&name)) {
        true => path.with_file_name("model.safetensors"),
        false => path.with_extension("safetensors"),
    };
    let from = path.display();
    is_pickle.then(|| {
        format!(
            "is a PyTorch pickle, which could run any code, so flipk does not read it. Make a safetensors file of it: python \
             -c \"import torch; from safetensors.torch import save_file; s = torch.load('{from}', map_location='cpu', \
             weights_only=True); s = s.get('state_dict', s); save_file({{k.removeprefix('module.'): v.clone().contiguous() \
             for k, v in s.items()}}, '{}')\"",
            to.display()
        )
    })
}
