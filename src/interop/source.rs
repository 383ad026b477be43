//! Another program's model on disk: its description, tensors and tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use super::open_clip::Described;
use super::tensors::{PICKLES, Tensors};
use super::{Architecture, InteropError, Piece, flip, hugging_face, open_clip, timm};
use crate::autograd::ParamSpec;
use crate::model::{Flip, Positions, sincos_2d};

/// The convention that a model's tensors follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Convention {
    OpenClip,
    HuggingFace,
    Flip,
}

/// An open model of another program.
pub struct Source {
    folder: PathBuf,
    described: Described,
    convention: Convention,
    tensors: Tensors,
}

/// Files with the weights, in the order in which they are looked for.
const WEIGHTS: [&str; 4] =
    ["open_clip_model.safetensors", "model.safetensors", "model.safetensors.index.json", FLIP_WEIGHTS];
const FLIP_WEIGHTS: &str = "flip.safetensors";
/// A tensor of every `CLIPModel` of Hugging Face.
const HUGGING_FACE: &str = "vision_model.embeddings.class_embedding";
/// The position table of the vision tower.
const POSITIONS: &str = "visual.positional_embedding";

impl Source {
    /// Whether `path` looks like a model of another program: a folder with its description, or a file of weights beside
    /// one.
    pub fn is_at(path: &Path) -> bool {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        // A run of flipk has a `model.json`, too.
        let is_one = |(file, convention): (PathBuf, Convention)| {
            convention != Convention::Flip || path.is_file() || file.with_file_name(FLIP_WEIGHTS).is_file()
        };
        description(folder).is_some_and(is_one)
            || (path.is_dir() && PICKLES.iter().any(|name| path.join(name).is_file()))
    }

    /// Opens a folder of OpenCLIP (`open_clip_config.json`), of Hugging Face (`config.json`), or with the FLIP authors'
    /// parameters (`model.json`) with its weights, or a safetensors file in one.
    ///
    /// # Errors
    /// A description or weights that are missing, that cannot be read, that do not fit each other, or that describe a
    /// model which flipk does not have. Pickles are never read.
    pub fn open(path: &Path) -> Result<Self, InteropError> {
        let missing = |problem: &str| InteropError::File { path: path.to_owned(), problem: problem.to_owned() };
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) }.to_owned();
        let (file, convention) = description(&folder).ok_or_else(|| {
            missing(
                "has weights but no description: put OpenCLIP's model_configs/NAME.json beside them as \
                     open_clip_config.json, or Hugging Face's config.json",
            )
        })?;
        let open = || Tensors::open(&if path.is_dir() { weights(path)? } else { vec![path.to_owned()] });
        // A folder may have both descriptions, and the weights of one.
        let other = folder.join("config.json");
        let is_other = || other.is_file() && open().is_ok_and(|tensors| tensors.has(HUGGING_FACE));
        let (file, convention) = match convention {
            Convention::OpenClip if is_other() => (other, Convention::HuggingFace),
            _ => (file, convention),
        };
        let text = read(&file)?;
        let described = match convention {
            Convention::OpenClip => open_clip::describe(&text, Some(&folder)),
            Convention::HuggingFace => {
                let preprocessor = folder.join("preprocessor_config.json");
                let preprocessor = if preprocessor.is_file() { Some(read(&preprocessor)?) } else { None };
                hugging_face::describe(&text, preprocessor.as_deref())
            }
            Convention::Flip => Architecture::File(file.clone()).describe(),
        };
        let described = described.map_err(|why| why.within(&file))?;
        let mut tensors = open()?;
        tensors.strip("module.")?;
        if convention == Convention::OpenClip {
            // Where the text tower is a module of its own.
            tensors.strip("text.")?;
        }
        let mut this = Self { folder, described, convention, tensors };
        this.settle_positions()?;
        this.check()?;
        Ok(this)
    }

    /// A fixed table is computed here, so it must be the one in the file; any other is trained on. timm has no fixed
    /// tables: an equal one is FLIP's.
    fn settle_positions(&mut self) -> Result<(), InteropError> {
        let model = &self.described.model;
        let (name, may_be_fixed) = match (self.described.trunk, self.convention) {
            (Some(_), _) => (timm::POSITIONS, model.vision.width.is_multiple_of(4)),
            (None, Convention::Flip) => (flip::POSITIONS, model.positions == Positions::Sincos),
            (None, _) => (POSITIONS, model.positions == Positions::Sincos),
        };
        let Some(shape) = self.tensors.shape(name).filter(|_| may_be_fixed) else { return Ok(()) };
        let ours = (model.patches() + 1) * model.vision.width;
        let is_fixed = shape.iter().product::<usize>() == ours && {
            let ours = sincos_2d(model.image_size / model.patch_size, model.vision.width);
            let tolerance = 1e-5 + self.tensors.rounding(name);
            ours.iter().zip(&self.tensors.read(name)?).all(|(a, b)| (a - b).abs() <= tolerance)
        };
        self.described.model.positions = if is_fixed { Positions::Sincos } else { Positions::Learned };
        Ok(())
    }

    fn check(&self) -> Result<(), InteropError> {
        let flip = Flip::with_loss(&self.described.model, self.described.loss, false);
        let mut pieces = Vec::new();
        for spec in flip.layout().specs() {
            pieces.extend(self.pieces(spec));
        }
        self.tensors.check(&pieces, |name| {
            // Tables of constants that some versions saved.
            name.ends_with("attn_mask")
                || name.ends_with("position_ids")
                || [POSITIONS, flip::POSITIONS, timm::POSITIONS].contains(&name)
        })
    }

    fn pieces(&self, spec: &ParamSpec) -> Vec<Piece> {
        match self.convention {
            Convention::OpenClip => match self.described.trunk {
                Some(trunk) => vec![timm::piece(spec, trunk)],
                None => vec![open_clip::piece(spec)],
            },
            Convention::HuggingFace => hugging_face::pieces(spec),
            Convention::Flip => flip::pieces(spec),
        }
    }

    /// Sizes and choices, loss and tokenizer.
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The tokenizer in the folder, if there is one.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.folder.join("tokenizer.json")).filter(|file| file.is_file())
    }

    /// All weights, in the arena of [`Described::model`] with its loss.
    ///
    /// # Errors
    /// Tensors that cannot be read.
    pub fn weights(&self) -> Result<Vec<f32>, InteropError> {
        let flip = Flip::with_loss(&self.described.model, self.described.loss, false);
        let mut values = vec![0.0; flip.layout().arena_len()];
        for spec in flip.layout().specs() {
            for piece in self.pieces(spec) {
                let ours = piece.to_ours(&self.tensors.read(&piece.name)?);
                values[spec.offset + piece.offset..][..ours.len()].copy_from_slice(&ours);
            }
        }
        Ok(values)
    }
}

fn description(folder: &Path) -> Option<(PathBuf, Convention)> {
    let files = [
        ("open_clip_config.json", Convention::OpenClip),
        ("config.json", Convention::HuggingFace),
        ("model.json", Convention::Flip),
    ];
    files.map(|(name, convention)| (folder.join(name), convention)).into_iter().find(|(file, _)| file.is_file())
}

fn read(file: &Path) -> Result<String, InteropError> {
    fs::read_to_string(file).map_err(|source| InteropError::Open { path: file.to_owned(), source })
}

/// The files with the weights of the model in `folder`.
fn weights(folder: &Path) -> Result<Vec<PathBuf>, InteropError> {
    let file = |problem: String| InteropError::File { path: folder.to_owned(), problem };
    if let Some(found) = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        if found.extension().is_some_and(|ending| ending == "safetensors") {
            return Ok(vec![found]);
        }
        // Several files, and which tensor is in which.
        let index: serde_json::Value = serde_json::from_str(&read(&found)?)?;
        let names = index["weight_map"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_str());
        let mut shards: Vec<&str> = names.collect();
        shards.sort_unstable();
        shards.dedup();
        let inside = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name);
        return match shards.iter().all(inside) && !shards.is_empty() {
            true => Ok(shards.into_iter().map(|name| folder.join(name)).collect()),
            false => Err(file("has a model.safetensors.index.json that names no files in it".to_owned())),
        };
    }
    let others = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let others: Vec<PathBuf> =
        others.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect();
    match (others.as_slice(), PICKLES.iter().map(|name| folder.join(name)).find(|path| path.is_file())) {
        ([only], _) => Ok(vec![only.clone()]),
        // Opening it says what to do.
        ([], Some(pickle)) => Ok(vec![pickle]),
        ([], None) => Err(file(format!("has no weights: {}", WEIGHTS.join(", ")))),
        (several, _) => Err(file(format!("has {} safetensors files: name one of them", several.len()))),
    }
}
