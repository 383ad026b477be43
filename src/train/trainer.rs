//! One optimizer step on one device.

use std::sync::Arc;

use super::memory;
use crate::autograd::{Parameters, Program, Recompute, Tape};
use crate::data::Batch;
use crate::device::{Device, DeviceError, Graph, Pending};
use crate::model::{Embedded, Flip};
use crate::ops::AllOps;
use crate::ops::pairwise::{IMAGE_CORRECT, LOSS, MAX_LOGIT_SCALE, TEXT_CORRECT};
use crate::optim::{AdamWConfig, Moments, Optimizer};

/// A model in training: weights, moments and the program of a step.
///
/// Batches usually come from a [`Loader`](crate::data::Loader); this one is a black and a white image:
///
/// ```
/// use std::sync::Arc;
///
/// use flipk::autograd::Recompute;
/// use flipk::data::Batch;
/// use flipk::device::Cpu;
/// use flipk::model::{Flip, ModelConfig, Preset, TowerConfig};
/// use flipk::optim::AdamWConfig;
/// use flipk::train::Trainer;
///
/// let tower = TowerConfig::new(1, 16, 2);
/// let sizes = ModelConfig { image_size: 16, context: 4, vocab: 8, embed_dim: 8, ..Preset::Tiny.config() };
/// let flip = Flip::new(&ModelConfig { vision: tower, text: tower, ..sizes }, true);
/// let values = flip.layout().initial_values(1);
/// // Batches of two images, each with two of its four patches.
/// let (device, adamw) = (Arc::new(Cpu::default()), AdamWConfig::default());
/// let mut trainer = Trainer::new(device, flip, &values, adamw, 2, 2, Recompute::None)?;
///
/// let batch = Batch {
///     images: [0, 255].map(|pixel| [pixel; 2 * 8 * 8 * 3]).concat(),
///     tokens: vec![1, 2, 0, 0, 1, 3, 0, 0],
///     ids_keep: vec![0, 3, 1, 2],
///     ..Batch::default()
/// };
/// let first = trainer.step(&batch, 1e-3)?;
/// for _ in 0..20 {
///     trainer.step(&batch, 1e-3)?;
/// }
/// let last = trainer.step(&batch, 1e-3)?;
/// assert!(last.loss < first.loss);
/// # Ok::<(), flipk::device::DeviceError>(())
/// ```
pub struct Trainer<D: Device> {
    device: Arc<D>,
    flip: Flip,
    params: Parameters<D>,
    optimizer: Optimizer<D>,
    program: Program<D>,
    embedded: Embedded,
    batch: usize,
    /// Steps that were run call by call.
    plain_steps: u64,
    /// The calls of a step, once they are captured.
    graph: Option<Box<dyn Graph>>,
    /// The last step, until its outcome is read.
    submitted: Option<Submitted>,
}

/// A step that may still be computed.
struct Submitted {
    outcome: Pending,
    grad_norm: Pending,
}

/// The results of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean over the batch, in nats.
    pub loss: f64,
    /// Share of images whose own text is the nearest in the batch, averaged with the same share of texts.
    pub accuracy: f64,
    /// L2 norm of all gradients together, before clipping.
    pub grad_norm: f64,
}

impl<D: AllOps> Trainer<D> {
    /// `values`: the initial weights, `[arena_len]`; `kept`: visible patches per image; `recompute`: what the backward
    /// pass recomputes.
    ///
    /// # Errors
    /// Too little memory on the device; the error says which batch would fit.
    pub fn new(
        device: Arc<D>,
        flip: Flip,
        values: &[f32],
        adamw: AdamWConfig,
        batch: usize,
        kept: usize,
        recompute: Recompute,
    ) -> Result<Self, DeviceError> {
        let params = Parameters::new(&*device, flip.layout().clone(), values)?;
        let optimizer = Optimizer::new(&*device, &params, adamw)?;
        let mut tape = Tape::new(flip.layout().clone());
        tape.recompute(recompute);
        let embedded = flip.record(&mut tape, batch, kept);
        let bytes = |batch, recompute| memory::step_bytes::<D>(&flip, batch, kept, recompute);
        let advise = |error, taken| memory::advise(error, (batch, recompute), taken, bytes);
        let mut program = tape.train(device.clone()).map_err(|error| advise(error, 0))?;
        let inputs = embedded.inputs;
        let inputs = [inputs.images.id(), inputs.tokens.id(), inputs.ids_keep.id()];
        let reserved = program.reserve_prefetch(&inputs);
        reserved.map_err(|error| advise(error, program.activation_bytes() + program.prefetch_bytes()))?;
        let (graph, submitted) = (None, None);
        Ok(Self { device, flip, params, optimizer, program, embedded, batch, plain_steps: 0, graph, submitted })
    }

    /// Forward, backward, update. Weights stay as they are if the loss or a gradient is not finite.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(&mut self, batch: &Batch, lr: f64) -> Result<StepOutcome, DeviceError> {
        let submitted = self.run(batch, lr)?;
        self.wait(submitted)
    }

    /// As [`Self::step`], but does not wait for the device, which may still compute the previous step while this one's
    /// batch is copied. Returns the previous step's outcome, if it was not read yet.
    ///
    /// # Errors
    /// If the device fails.
    pub fn submit(&mut self, batch: &Batch, lr: f64) -> Result<Option<StepOutcome>, DeviceError> {
        let submitted = self.run(batch, lr)?;
        self.submitted.replace(submitted).map(|before| self.wait(before)).transpose()
    }

    /// Waits for the last submitted step and returns its outcome, if it was not read yet.
    ///
    /// # Errors
    /// If the device fails.
    pub fn drain(&mut self) -> Result<Option<StepOutcome>, DeviceError> {
        self.submitted.take().map(|last| self.wait(last)).transpose()
    }

    /// A device that can capture its calls does so in the second step (the first one loads kernels) and replays the
    /// graph from then on, with the same bits.
    fn run(&mut self, batch: &Batch, lr: f64) -> Result<Submitted, DeviceError> {
        let inputs = self.embedded.inputs;
        self.program.prefetch(inputs.images, &batch.images)?;
        self.program.prefetch(inputs.tokens, &batch.tokens)?;
        self.program.prefetch(inputs.ids_keep, &batch.ids_keep)?;
        self.program.swap_in()?;
        self.optimizer.prepare(&self.device, lr)?;
        if self.plain_steps == 1 && self.device.begin_capture()? {
            let computed = self.compute();
            // The capture must end even if the step failed.
            let graph = self.device.end_capture();
            computed?;
            self.graph = graph?;
        }
        match &self.graph {
            Some(graph) => graph.replay()?,
            None => {
                self.plain_steps += 1;
                self.compute()?;
            }
        }
        let outcome = self.program.read_async(self.embedded.outcome)?;
        Ok(Submitted { outcome, grad_norm: self.optimizer.norm_async(&self.device)? })
    }

    fn wait(&self, submitted: Submitted) -> Result<StepOutcome, DeviceError> {
        let (outcome, grad_norm) = ((submitted.outcome)()?, (submitted.grad_norm)()?[0]);
        let correct = f64::from(outcome[IMAGE_CORRECT] + outcome[TEXT_CORRECT]);
        let accuracy = correct / (2 * self.batch) as f64;
        Ok(StepOutcome { loss: f64::from(outcome[LOSS]), accuracy, grad_norm: f64::from(grad_norm) })
    }

    /// Disables graph capture, for comparisons.
    pub fn disable_capture(&mut self) {
        self.graph = None;
        self.plain_steps = u64::MAX / 2;
    }

    fn compute(&mut self) -> Result<(), DeviceError> {
        self.program.forward(&self.params)?;
        self.program.backward(&mut self.params)?;
        self.optimizer.apply(&self.device, &mut self.params)
    }

    /// As [`Self::step`], with an event at the start, after the upload, after each step of [`Self::program`], and after
    /// the update.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step_with_events(&mut self, batch: &Batch, lr: f64) -> Result<Vec<D::Event>, DeviceError> {
        let mut events = vec![self.device.record_event()?];
        let inputs = self.embedded.inputs;
        self.program.write(inputs.images, &batch.images)?;
        self.program.write(inputs.tokens, &batch.tokens)?;
        self.program.write(inputs.ids_keep, &batch.ids_keep)?;
        events.push(self.device.record_event()?);
        for index in 0..self.program.steps().len() {
            self.program.run_step(index, &mut self.params)?;
            events.push(self.device.record_event()?);
        }
        self.optimizer.step(&self.device, &mut self.params, lr)?;
        events.push(self.device.record_event()?);
        Ok(events)
    }

    /// The device that it computes on.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    /// The model.
    pub fn flip(&self) -> &Flip {
        &self.flip
    }

    /// Weights and gradients.
    pub fn params(&self) -> &Parameters<D> {
        &self.params
    }

    /// The program of a step.
    pub fn program(&self) -> &Program<D> {
        &self.program
    }

    /// Model FLOPs of a step.
    pub fn step_flops(&self) -> u64 {
        self.program.flops().1
    }

    /// Bytes of all activations of a step.
    pub fn activation_bytes(&self) -> usize {
        self.program.activation_bytes()
    }

    /// The inverse temperature that the loss uses.
    ///
    /// # Errors
    /// If the device fails.
    pub fn logit_scale(&self) -> Result<f64, DeviceError> {
        let raw = self.params.download(&self.device, self.flip.logit_scale())?[0];
        Ok(libm::exp(f64::from(raw.clamp(0.0, MAX_LOGIT_SCALE))))
    }

    /// The last step's embeddings of images and of texts, `[batch, embed_dim]` each, rows of L2 norm 1.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError> {
        let Embedded { images, texts, .. } = self.embedded;
        Ok([self.program.read(images.slot())?, self.program.read(texts.slot())?])
    }

    /// Weights and moments on the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn download(&self) -> Result<(Vec<f32>, Moments), DeviceError> {
        Ok((self.params.download_values(&self.device)?, self.optimizer.download(&self.device)?))
    }

    /// Continues from `moments`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_moments(&mut self, moments: &Moments) -> Result<(), DeviceError> {
        self.optimizer.upload(&self.device, moments)
    }
}
