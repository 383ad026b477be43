//! Embedding images and texts in batches.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::EvalError;
use crate::autograd::{Parameters, Program, Slot, Tape};
use crate::data::image::{Decoding, ResizeMode, Square, decode};
use crate::data::{Content, Dataset, EvalBatch, EvalBatches, Label, Skipped, Tokenizer};
use crate::device::{Device, DeviceError};
use crate::model::Flip;
use crate::ops::AllOps;

/// What evaluation reads.
pub struct Inputs<'a> {
    /// The data set.
    pub dataset: &'a Arc<Dataset>,
    /// The tokenizer that the model was trained with.
    pub tokenizer: &'a Tokenizer,
    /// Share of broken samples above which evaluation stops.
    pub max_bad: f32,
    /// Called after each batch with the number of images in it, and before each set of prompts with 0. A break ends the
    /// evaluation with [`EvalError::Stopped`].
    pub progress: &'a dyn Fn(usize) -> ControlFlow<()>,
}

impl Inputs<'_> {
    /// Reports `images` more images.
    pub(super) fn report(&self, images: usize) -> Result<(), EvalError> {
        match (self.progress)(images) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EvalError::Stopped),
        }
    }
}

/// Both towers of a model, recorded for inference.
///
/// This model is untrained; `examples/embed.rs` takes one from a checkpoint.
///
/// ```
/// use std::sync::Arc;
///
/// use flipk::autograd::Parameters;
/// use flipk::data::{Tokenizer, TokenizerOptions};
/// use flipk::device::Cpu;
/// use flipk::eval::Encoder;
/// use flipk::model::{Flip, Preset};
///
/// let (device, flip) = (Arc::new(Cpu::default()), Flip::new(&Preset::Tiny.config(), true));
/// let params = Parameters::new(&*device, flip.layout().clone(), &flip.layout().initial_values(1))?;
/// let tokenizer = Tokenizer::embedded(&TokenizerOptions::default())?;
///
/// let mut encoder = Encoder::new(&device, &flip, 2)?;
/// let texts = ["a cat", "a dog", "a cat"].map(str::to_owned);
/// let rows = encoder.texts(&params, &tokenizer, &texts)?;
/// let [cat, dog, again] = [0, 1, 2].map(|text| &rows[text * encoder.width()..][..encoder.width()]);
/// assert!(cat == again && cat != dog);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Encoder<D: Device> {
    vision: Program<D>,
    text: Program<D>,
    pixels: Slot<u8>,
    tokens: Slot<i32>,
    image_rows: Slot<f32>,
    text_rows: Slot<f32>,
    batch: usize,
    sides: [usize; 2],
    resize_mode: ResizeMode,
    context: usize,
    vocab: usize,
    width: usize,
    skipped: Skipped,
    warnings: Vec<String>,
}

/// The embeddings of a data set's images.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// Unit vectors, `[samples, embed_dim]`.
    pub rows: Vec<f32>,
    /// `[samples]`.
    pub labels: Vec<Label>,
    /// Equal for samples with the same image file, `[samples]`.
    pub contents: Vec<Content>,
    /// Numbers in the data set.
    pub samples: Vec<u64>,
}

impl<D: AllOps> Encoder<D> {
    /// Records both towers for `batch` rows at a time, every patch visible.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: &Arc<D>, flip: &Flip, batch: usize) -> Result<Self, DeviceError> {
        let patches = flip.config.patches();
        let mut tape = Tape::new(flip.layout().clone());
        let (pixels, ids, images) = flip.vision(&mut tape, batch, patches);
        tape.retain(images.slot());
        // Written once, read in every run.
        tape.retain(ids);
        let mut vision = tape.inference(device.clone())?;
        let all: Vec<u32> = (0..patches as u32).collect();
        vision.write(ids, &all.repeat(batch))?;
        let mut tape = Tape::new(flip.layout().clone());
        let (tokens, texts) = flip.text(&mut tape, batch);
        tape.retain(texts.slot());
        let text = tape.inference(device.clone())?;
        let sides = [flip.config.image_size, flip.config.patch_size];
        let (context, width) = (flip.config.context, flip.config.embed_dim);
        let (image_rows, text_rows) = (images.slot(), texts.slot());
        Ok(Self {
            vision,
            text,
            pixels,
            tokens,
            image_rows,
            text_rows,
            batch,
            sides,
            resize_mode: flip.config.resize_mode,
            context,
            vocab: flip.config.vocab,
            width,
            skipped: Skipped::new(),
            warnings: Vec::new(),
        })
    }

    /// Width of an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Broken samples that [`Self::images`] last left out, by kind.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Warnings since the last call: the first few broken samples by name, and shards with many of them.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Embeds every image of a data set, in its order; broken samples are left out ([`Self::skipped`]).
    ///
    /// # Errors
    /// Too many broken samples, a failure of the device, or [`EvalError::Stopped`].
    pub fn images(&mut self, params: &Parameters<D>, inputs: &Inputs) -> Result<Images, EvalError> {
        let mut all = Images::default();
        self.each_image(params, inputs, |batch, rows| {
            all.rows.extend_from_slice(rows);
            all.labels.extend(batch.labels);
            all.contents.extend(batch.contents);
            all.samples.extend(batch.samples);
            Ok::<_, EvalError>(())
        })?;
        Ok(all)
    }

    /// As [`Self::images`], but passes each batch and its rows, `[samples, embed_dim]`, to `each` and keeps none.
    ///
    /// # Errors
    /// As [`Self::images`], and those of `each`.
    pub fn each_image<E: From<EvalError>>(
        &mut self,
        params: &Parameters<D>,
        inputs: &Inputs,
        mut each: impl FnMut(EvalBatch, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pixels = Vec::new();
        let mut batches = EvalBatches::new(inputs.dataset.clone(), self.batch, self.sides, inputs.max_bad)
            .map_err(EvalError::from)?
            .with_resize_mode(self.resize_mode);
        while let Some(batch) = batches.next() {
            self.warnings.extend(batches.take_warnings());
            let batch = batch.map_err(EvalError::from)?;
            pixels.clone_from(&batch.images);
            // The last batch may be short: it is padded, and the padding's rows are dropped.
            pixels.resize(self.batch * self.sides[0].pow(2) * 3, 0);
            let rows = self.vision.write(self.pixels, &pixels);
            let rows = rows.and_then(|()| self.vision.forward(params));
            let rows = rows.and_then(|()| self.vision.read(self.image_rows)).map_err(EvalError::from)?;
            let samples = batch.samples.len();
            each(batch, &rows[..samples * self.width])?;
            inputs.report(samples)?;
        }
        // Broken samples after the last batch.
        self.warnings.extend(batches.take_warnings());
        self.skipped = batches.skipped();
        Ok(())
    }

    /// Embeds image files: rows of length 1, `[paths, embed_dim]`.
    ///
    /// # Errors
    /// A file that cannot be read or is not an image, or a failure of the device.
    pub fn image_files(&mut self, params: &Parameters<D>, paths: &[PathBuf]) -> Result<Vec<f32>, EvalError> {
        let mut all = Vec::with_capacity(paths.len() * self.width);
        let mut square = Square::new(self.sides[0], self.sides[1]);
        let bytes = square.bytes();
        for chunk in paths.chunks(self.batch) {
            let mut pixels = vec![0; self.batch * bytes];
            for (path, pixels) in chunk.iter().zip(pixels.chunks_exact_mut(bytes)) {
                let unusable = |problem: String| EvalError::Image { path: path.clone(), problem };
                let file = fs::read(path).map_err(|error| unusable(error.to_string()))?;
                let image = decode(&file, Decoding::default()).map_err(|error| unusable(error.to_string()))?;
                square.whole(&image, self.resize_mode, pixels).map_err(|error| unusable(error.to_string()))?;
            }
            self.vision.write(self.pixels, &pixels)?;
            self.vision.forward(params)?;
            all.extend_from_slice(&self.vision.read(self.image_rows)?[..chunk.len() * self.width]);
        }
        Ok(all)
    }

    /// Embeds texts: rows of length 1, `[texts, embed_dim]`.
    ///
    /// # Errors
    /// A tokenizer with more tokens than the model has rows, a text that cannot be tokenized, or a failure of the
    /// device.
    pub fn texts(
        &mut self,
        params: &Parameters<D>,
        tokenizer: &Tokenizer,
        texts: &[String],
    ) -> Result<Vec<f32>, EvalError> {
        // Otherwise the device would read beyond its table of tokens.
        tokenizer.check_rows(self.vocab)?;
        let mut all = Vec::with_capacity(texts.len() * self.width);
        let mut tokens = vec![0; self.batch * self.context];
        for chunk in texts.chunks(self.batch) {
            for (text, row) in chunk.iter().zip(tokens.chunks_exact_mut(self.context)) {
                tokenizer.encode(text, row)?;
            }
            self.text.write(self.tokens, &tokens)?;
            self.text.forward(params)?;
            all.extend_from_slice(&self.text.read(self.text_rows)?[..chunk.len() * self.width]);
        }
        Ok(all)
    }
}
