//! Reading a golden state.

use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::interop::{InteropError, open_clip};
use crate::mapped::MappedFile;
use crate::model::{Flip, Loss, ModelConfig, ModelError, Preset, TowerConfig};

/// Why a golden state cannot be compared with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum GoldenError {
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Open { path: PathBuf, source: std::io::Error },
    /// A file of another format.
    #[error("{path}: not a safetensors file: {source}")]
    Format { path: PathBuf, source: safetensors::SafeTensorError },
    /// A header whose configuration cannot be used.
    #[error("{path}: the header's `config` {problem}")]
    Config { path: PathBuf, problem: String },
    /// A configuration that is not what flipk reads.
    #[error("{path}: the header's `config`: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    /// A configuration with impossible sizes.
    #[error("{path}: the header's `config`: {source}")]
    Model { path: PathBuf, source: ModelError },
    /// A configuration of OpenCLIP that flipk does not have.
    #[error("{path}: the header's `config`: {source}")]
    OpenClip { path: PathBuf, source: InteropError },
    /// A tensor that is missing, or is not what it must be.
    #[error("{path}: tensor `{name}`: {problem}")]
    Tensor { path: PathBuf, name: String, problem: String },
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
}

/// The header's `config` in a golden state of FLIP.
#[derive(Clone, Debug, Deserialize)]
struct FlipConfig {
    image_size: usize,
    patch_size: usize,
    vision_width: usize,
    vision_heads: usize,
    vision_layers: usize,
    text_width: usize,
    text_heads: usize,
    text_layers: usize,
    vocab_size: usize,
    context_length: usize,
    embed_dim: usize,
    layernorm_eps: f32,
    #[serde(flatten)]
    training: Training,
}

/// The optimizer's constants of a golden state.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Training {
    pub b1: f32,
    pub b2: f32,
    pub eps: f32,
    pub weight_decay: f32,
}

/// Whose golden state it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Flip(Training),
    OpenClip,
}

/// What a golden state is of.
pub(super) struct Config {
    pub model: ModelConfig,
    pub loss: Loss,
    pub source: Source,
    pub batch: usize,
}

#[derive(Deserialize)]
struct Batch {
    batch: usize,
}

impl Config {
    fn parse(path: &Path, text: &str) -> Result<Self, GoldenError> {
        let json = |source| GoldenError::Json { path: path.to_owned(), source };
        let Batch { batch } = serde_json::from_str(text).map_err(json)?;
        let keys: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        if keys.get("vision_cfg").is_some() {
            let described = open_clip::describe_state(keys);
            let described = described.map_err(|source| GoldenError::OpenClip { path: path.to_owned(), source })?;
            return Ok(Self { model: described.model, loss: described.loss, source: Source::OpenClip, batch });
        }
        let config: FlipConfig = serde_json::from_str(text).map_err(json)?;
        let model = ModelConfig {
            image_size: config.image_size,
            patch_size: config.patch_size,
            vision: TowerConfig::new(config.vision_layers, config.vision_width, config.vision_heads),
            text: TowerConfig::new(config.text_layers, config.text_width, config.text_heads),
            context: config.context_length,
            vocab: config.vocab_size,
            embed_dim: config.embed_dim,
            ln_eps: config.layernorm_eps,
            ..Preset::Tiny.config()
        };
        model.check().map_err(|source| GoldenError::Model { path: path.to_owned(), source })?;
        Ok(Self { model, loss: Loss::Infonce, source: Source::Flip(config.training), batch })
    }
}

/// An open golden state.
pub(super) struct Golden {
    path: PathBuf,
    map: MappedFile,
    pub config: Config,
}

impl Golden {
    pub(super) fn open(path: &Path) -> Result<Self, GoldenError> {
        let open = |source| GoldenError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open)?;
        let map = MappedFile::new(&file).map_err(open)?;
        let format = |source| GoldenError::Format { path: path.to_owned(), source };
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(format)?;
        let config_error = |problem| GoldenError::Config { path: path.to_owned(), problem };
        let config = metadata.metadata().as_ref().and_then(|fields| fields.get("config"));
        let config = config.ok_or_else(|| config_error("is missing".to_owned()))?;
        let config = Config::parse(path, config)?;
        if config.batch == 0 {
            return Err(config_error("has a batch of 0".to_owned()));
        }
        // The header may claim any size; memory is allocated only if the file is large enough.
        let parameters = Flip::with_loss(&config.model, config.loss, false).layout().count();
        if parameters as u128 * size_of::<f32>() as u128 > map.len() as u128 {
            return Err(config_error(format!("is of a model with {parameters} parameters, which are not in the file")));
        }
        Ok(Self { path: path.to_owned(), map, config })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, GoldenError> {
        SafeTensors::deserialize(&self.map).map_err(|source| GoldenError::Format { path: self.path.clone(), source })
    }

    /// All tensors' names.
    pub(super) fn names(&self) -> Result<Vec<String>, GoldenError> {
        Ok(self.tensors()?.names().into_iter().map(str::to_owned).collect())
    }

    fn error(&self, name: &str, problem: String) -> GoldenError {
        GoldenError::Tensor { path: self.path.clone(), name: name.to_owned(), problem }
    }

    /// Shape and little-endian numbers of a tensor of type `dtype`.
    fn read<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        decode: fn([u8; N]) -> T,
    ) -> Result<(Vec<usize>, Vec<T>), GoldenError> {
        let tensors = self.tensors()?;
        let tensor = tensors.tensor(name).map_err(|_| self.error(name, "is missing".to_owned()))?;
        if tensor.dtype() != dtype {
            return Err(self.error(name, format!("is {:?}, expected {dtype:?}", tensor.dtype())));
        }
        let (numbers, _) = tensor.data().as_chunks::<N>();
        Ok((tensor.shape().to_vec(), numbers.iter().map(|bytes| decode(*bytes)).collect()))
    }

    fn expect<T>(&self, name: &str, found: (Vec<usize>, Vec<T>), shape: &[usize]) -> Result<Vec<T>, GoldenError> {
        match found {
            (found, values) if found == shape => Ok(values),
            (found, _) => Err(self.error(name, format!("has shape {found:?}, expected {shape:?}"))),
        }
    }

    pub(super) fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), GoldenError> {
        self.read(name, Dtype::F32, f32::from_le_bytes)
    }

    /// An f32 tensor with `len` numbers in any shape.
    pub(super) fn f32_len(&self, name: &str, len: usize) -> Result<Vec<f32>, GoldenError> {
        match self.f32(name)? {
            (_, values) if values.len() == len => Ok(values),
            (shape, _) => Err(self.error(name, format!("has shape {shape:?}, expected {len} numbers"))),
        }
    }

    pub(super) fn scalar(&self, name: &str) -> Result<f64, GoldenError> {
        Ok(f64::from(self.f32_len(name, 1)?[0]))
    }

    pub(super) fn images(&self) -> Result<Vec<u8>, GoldenError> {
        let (name, side) = ("inputs/images_u8", self.config.model.image_size);
        let found = self.read(name, Dtype::U8, u8::from_le_bytes)?;
        self.expect(name, found, &[self.config.batch, side, side, 3])
    }

    pub(super) fn tokens(&self) -> Result<Vec<i32>, GoldenError> {
        let (name, vocab) = ("inputs/tokens", self.config.model.vocab as i32);
        let found = self.read(name, Dtype::I32, i32::from_le_bytes)?;
        let tokens = self.expect(name, found, &[self.config.batch, self.config.model.context])?;
        match tokens.iter().find(|token| !(0..vocab).contains(*token)) {
            Some(token) => Err(self.error(name, format!("holds {token}, outside a vocabulary of {vocab}"))),
            None => Ok(tokens),
        }
    }

    /// Indices of visible patches for `steps` batches, or any number of them: the indices, the batches, and the visible
    /// patches per image.
    pub(super) fn ids(&self, name: &str, steps: Option<usize>) -> Result<(Vec<u32>, usize, usize), GoldenError> {
        let (shape, ids) = self.read(name, Dtype::I32, i32::from_le_bytes)?;
        let patches = self.config.model.patches() as i32;
        if let Some(id) = ids.iter().find(|id| !(0..patches).contains(*id)) {
            return Err(self.error(name, format!("holds {id}, but there are {patches} patches")));
        }
        let (batch, kept) = (self.config.batch, shape.last().copied().unwrap_or(0));
        let found = ids.len().checked_div(batch * kept).unwrap_or(0);
        let is_whole = found > 0 && ids.len() == found * batch * kept && kept <= patches as usize;
        if !is_whole || steps.is_some_and(|steps| steps != found) {
            return Err(self.error(name, format!("has shape {shape:?}, expected [.., {batch}, kept]")));
        }
        Ok((ids.into_iter().map(|id| id as u32).collect(), found, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fuzzing::seeds::edit_header, golden::testing::micro};

    /// The header's sizes are only a claim, for which nothing is allocated.
    #[test]
    fn a_config_that_the_tensors_cannot_fit_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = |old: &str, new: &str| {
            let changed = edit_header(&micro(), |header| {
                let config = &mut header["__metadata__"]["config"];
                let text = config.as_str().unwrap();
                assert!(text.contains(old));
                *config = text.replace(old, new).into();
            });
            std::fs::write(file.path(), changed).unwrap();
            Golden::open(file.path()).err().unwrap().to_string()
        };
        let huge = error("_width\":4", "_width\":65536");
        assert!(huge.contains("parameters, which are not in the file"), "{huge}");
        let none = error("\"batch\":2", "\"batch\":0");
        assert!(none.contains("has a batch of 0"), "{none}");
    }

    /// Each mask belongs to one batch.
    #[test]
    fn masks_of_another_batch_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let changed = edit_header(&micro(), |header| header["mask50/ids_keep"]["shape"] = serde_json::json!([4, 1]));
        std::fs::write(file.path(), changed).unwrap();
        let device = std::sync::Arc::new(crate::device::Cpu::default());
        let error = crate::golden::verify(file.path(), device, crate::golden::Tolerances::F32).unwrap_err().to_string();
        assert!(error.contains("has shape [4, 1], expected [.., 2, kept]"), "{error}");
    }
}
