//! Running a golden state on a device and comparing every quantity it holds.

use std::path::Path;
use std::sync::Arc;

use super::file::{Golden, GoldenError, Source, Training};
use super::pass::{OnePass, Pass};
use crate::autograd::{Layout, Parameters};
use crate::data::{Batch, BytesMut, cut_patches};
use crate::device::{Device, DeviceError};
use crate::interop::{Piece, flip::pieces};
use crate::model::{Flip, ModelConfig, sincos_2d};
use crate::ops::AllOps;
use crate::optim::{AdamWConfig, Optimizer};

/// How close a device must come, by its arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Largest absolute difference of a unit embedding's elements.
    pub embeddings: f64,
    /// Relative difference of the loss.
    pub loss: f64,
    /// L2 norm of the difference over the L2 norm of the gradient.
    pub gradients: f64,
    /// Relative difference of each training step's loss.
    pub training_losses: f64,
    /// Relative difference of each parameter's norm after training.
    pub final_norms: f64,
}

impl Tolerances {
    /// f32 throughout: sums in other orders may differ by this much.
    pub const F32: Self =
        Self { embeddings: 1e-5, loss: 1e-5, gradients: 1e-4, training_losses: 1e-4, final_norms: 1e-4 };

    /// bf16 activations and operands: roundings of up to 2^-8 each, added up over some tens of layers.
    pub const BF16: Self =
        Self { embeddings: 1e-2, loss: 5e-3, gradients: 3e-2, training_losses: 2e-2, final_norms: 1e-2 };

    /// The tolerances for the arithmetic of `device`.
    pub fn for_device(device: &impl Device) -> Self {
        if device.gemm_is_bf16() { Self::BF16 } else { Self::F32 }
    }
}

/// One compared quantity.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was compared.
    pub quantity: String,
    /// Absolute or relative, as [`Tolerances`] says.
    pub error: f64,
    /// The largest error that is accepted.
    pub tolerance: f64,
}

impl Check {
    /// False for a NaN.
    pub fn holds(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// A model at the golden state's weights on a device.
pub(super) struct Run<'a, D: AllOps> {
    pub golden: &'a Golden,
    pub device: Arc<D>,
    pub flip: Flip,
    open: &'a OpenPass<'a, D>,
    images: Vec<u8>,
    tokens: Vec<i32>,
}

/// Makes what computes gradients: of a model, for a batch of this many pairs with this many visible patches each.
pub type OpenPass<'a, D> = dyn Fn(&Flip, usize, usize) -> Result<Box<dyn Pass<D>>, DeviceError> + 'a;

/// Compares every quantity in the golden state at `path` with what `device` computes.
///
/// # Errors
/// A file that is not a golden state, or if the device fails.
pub fn verify<D: AllOps>(path: &Path, device: Arc<D>, tolerances: Tolerances) -> Result<Vec<Check>, GoldenError> {
    let one_pass = device.clone();
    let open = move |flip: &Flip, batch: usize, kept: usize| {
        let pass: Box<dyn Pass<D>> = Box::new(OnePass::new(one_pass.clone(), flip, batch, kept)?);
        Ok(pass)
    };
    verify_pass(path, device, tolerances, &open)
}

/// As [`verify`], with gradients that another [`Pass`] computes.
///
/// # Errors
/// As [`verify`].
pub fn verify_pass<D: AllOps>(
    path: &Path,
    device: Arc<D>,
    tolerances: Tolerances,
    open: &OpenPass<D>,
) -> Result<Vec<Check>, GoldenError> {
    let golden = Golden::open(path)?;
    // The golden states were made without decay of the CLS token.
    let flip = Flip::with_loss(&golden.config.model, golden.config.loss, false);
    let (images, tokens) = (golden.images()?, golden.tokens()?);
    let run = Run { golden: &golden, device, flip, open, images, tokens };
    let training = match golden.config.source {
        Source::Flip(training) => training,
        Source::OpenClip => return run.open_clip(&tolerances),
    };
    let names = golden.names()?;
    let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let mut checks = vec![run.position_table()?];
    let mut masks: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("/ids_keep")).collect();
    masks.retain(|mask| mask.starts_with("mask"));
    masks.sort_unstable();
    for mask in masks {
        checks.extend(run.mask(mask, has(&format!("{mask}/grads/")), &tolerances)?);
    }
    if has("train/losses") {
        checks.extend(run.train(&training, &tolerances)?);
    }
    Ok(checks)
}

/// A key bias adds the same to all scores of a row, which a softmax ignores: its gradient is zero in exact arithmetic.
fn is_key_bias(piece: &Piece) -> bool {
    piece.name.ends_with("/key/bias")
}

pub(super) fn relative(ours: f64, theirs: f64) -> f64 {
    (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE)
}

pub(super) fn norm(values: impl IntoIterator<Item = f32>) -> f64 {
    values.into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

pub(super) fn difference(ours: &[f32], theirs: &[f32]) -> f64 {
    norm(ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs))
}

pub(super) fn largest_difference(ours: &[f32], theirs: &[f32]) -> f64 {
    ours.iter().zip(theirs).map(|(ours, theirs)| f64::from((ours - theirs).abs())).fold(0.0, f64::max)
}

impl<D: AllOps> Run<'_, D> {
    /// Every golden tensor with its place in our arena.
    fn pieces(&self) -> impl Iterator<Item = (usize, Piece)> {
        let specs = self.flip.layout().specs().iter();
        specs.flat_map(|spec| pieces(spec).into_iter().map(|piece| (spec.offset + piece.offset, piece)))
    }

    fn parameters(&self) -> Result<Parameters<D>, GoldenError> {
        self.parameters_of("params", self.pieces())
    }

    /// The weights, from tensors `{prefix}/{name}`.
    pub(super) fn parameters_of(
        &self,
        prefix: &str,
        pieces: impl Iterator<Item = (usize, Piece)>,
    ) -> Result<Parameters<D>, GoldenError> {
        let layout: &Arc<Layout> = self.flip.layout();
        let mut values = vec![0.0; layout.arena_len()];
        for (offset, piece) in pieces {
            let theirs = self.golden.f32_len(&format!("{prefix}/{}", piece.name), piece.count())?;
            values[offset..offset + piece.count()].copy_from_slice(&piece.to_ours(&theirs));
        }
        Ok(Parameters::new(&*self.device, layout.clone(), &values)?)
    }

    /// What computes gradients with `kept` visible patches.
    pub(super) fn pass(&self, kept: usize) -> Result<Box<dyn Pass<D>>, GoldenError> {
        Ok((self.open)(&self.flip, self.golden.config.batch, kept)?)
    }

    /// The pixels of the patches `ids`, `[batch, kept, patch_len]`.
    fn visible(&self, ids: &[u32]) -> BytesMut {
        let ModelConfig { image_size: side, patch_size: patch, .. } = self.flip.config;
        let images =
            self.images.chunks_exact(side * side * 3).zip(ids.chunks_exact(ids.len() / self.golden.config.batch));
        images.flat_map(|(image, ids)| cut_patches(image, side, patch, ids)).collect()
    }

    /// The state's inputs with these visible patches.
    pub(super) fn batch(&self, ids: &[u32]) -> Batch {
        Batch { images: self.visible(ids), tokens: self.tokens.clone(), ids_keep: ids.to_vec(), ..Batch::default() }
    }

    /// The fixed table is computed, not loaded: it must be theirs. Sines in f32 may differ in the last places.
    fn position_table(&self) -> Result<Check, GoldenError> {
        let ModelConfig { image_size, patch_size, vision, .. } = self.flip.config;
        let len = (self.flip.config.patches() + 1) * vision.width;
        let theirs = self.golden.f32_len("params/img_encoder/posembed_encoder/pos_embedding", len)?;
        let ours = sincos_2d(image_size / patch_size, vision.width);
        let error = largest_difference(&ours, &theirs);
        Ok(Check { quantity: "position table".to_owned(), error, tolerance: 1e-6 })
    }

    fn mask(&self, mask: &str, grads: bool, tolerances: &Tolerances) -> Result<Vec<Check>, GoldenError> {
        let (ids, _, kept) = self.golden.ids(&format!("{mask}/ids_keep"), Some(1))?;
        let mut params = self.parameters()?;
        let mut pass = self.pass(kept)?;
        let loss = pass.gradients(&self.batch(&ids), &mut params)?;
        let mut checks = Vec::new();
        let mut add = |what: &str, error, tolerance| {
            checks.push(Check { quantity: format!("{mask} {what}"), error, tolerance });
        };
        for (what, ours) in ["z_img", "z_txt"].into_iter().zip(pass.embeddings()?) {
            let theirs = self.golden.f32_len(&format!("{mask}/{what}"), ours.len())?;
            add(what, largest_difference(&ours, &theirs), tolerances.embeddings);
        }
        add("loss", relative(loss, self.golden.scalar(&format!("{mask}/loss"))?), tolerances.loss);
        let ours = params.download_grads(&self.device)?;
        let grad_norm = self.golden.scalar(&format!("{mask}/grad_norm"))?;
        add("gradient norm", relative(norm(ours.iter().copied()), grad_norm), tolerances.gradients);
        if grads {
            checks.extend(self.gradients(mask, &ours, tolerances.gradients)?);
        }
        Ok(checks)
    }

    /// Each gradient, relative to its own norm; those that are zero in exact arithmetic relative to the largest.
    fn gradients(&self, mask: &str, ours: &[f32], tolerance: f64) -> Result<Vec<Check>, GoldenError> {
        let mut compared = Vec::new();
        for (offset, piece) in self.pieces() {
            let theirs = self.golden.f32_len(&format!("{mask}/grads/{}", piece.name), piece.count())?;
            let theirs = piece.to_ours(&theirs);
            let difference = difference(&ours[offset..offset + piece.count()], &theirs);
            compared.push((piece, difference, norm(theirs)));
        }
        let largest = compared.iter().map(|(.., norm)| *norm).fold(0.0, f64::max);
        let check = |(piece, difference, norm): (Piece, f64, f64)| Check {
            error: difference / if is_key_bias(&piece) { largest } else { norm },
            quantity: format!("{mask} gradient {}", piece.name),
            tolerance,
        };
        Ok(compared.into_iter().map(check).collect())
    }

    fn train(&self, training: &Training, tolerances: &Tolerances) -> Result<Vec<Check>, GoldenError> {
        let (ids, steps, kept) = self.golden.ids("train/ids_keep", None)?;
        let rates = self.golden.f32_len("train/learning_rates", steps)?;
        let losses = self.golden.f32_len("train/losses", steps)?;
        let &Training { b1: beta1, b2: beta2, eps, weight_decay } = training;
        let adamw = AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm: 0.0 };
        let mut params = self.parameters()?;
        let mut pass = self.pass(kept)?;
        let mut optimizer = Optimizer::new(&*self.device, &params, adamw)?;
        let mut checks = Vec::new();
        for (step, ids) in ids.chunks_exact(self.golden.config.batch * kept).enumerate() {
            let loss = pass.gradients(&self.batch(ids), &mut params)?;
            optimizer.step(&self.device, &mut params, f64::from(rates[step]))?;
            let error = relative(loss, f64::from(losses[step]));
            checks.push(Check { quantity: format!("train loss {step}"), error, tolerance: tolerances.training_losses });
        }
        let values = params.download_values(&self.device)?;
        for (offset, piece) in self.pieces().filter(|(_, piece)| !is_key_bias(piece)) {
            let theirs = self.golden.scalar(&format!("train/final_param_norms/{}", piece.name))?;
            let ours = norm(values[offset..offset + piece.count()].iter().copied());
            let quantity = format!("train final norm {}", piece.name);
            checks.push(Check { quantity, error: relative(ours, theirs), tolerance: tolerances.final_norms });
        }
        Ok(checks)
    }
}
