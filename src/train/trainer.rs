//! One optimizer step on one device.

use std::sync::Arc;

use super::pass::{self, GradientExchange, MicroBatches, StepSize, Whole, exchanges};
use crate::autograd::{Parameters, Program, Recompute};
use crate::data::Batch;
use crate::device::{Captured, Device, DeviceError, Pending};
use crate::group::{Alone, Group};
use crate::model::Flip;
use crate::ops::AllOps;
use crate::ops::pairwise::{IMAGE_CORRECT, LOSS, MAX_LOGIT_SCALE, OUTCOME_LEN, TEXT_CORRECT};
use crate::ops::sum_rows::sum_in_place;
use crate::optim::{AdamWConfig, Moments, Optimizer, Slices};

/// A model in training: weights, moments and the program of a step.
///
/// Batches usually come from a [`Loader`](crate::data::Loader); this one is a black and a white image:
///
/// ```
/// use std::sync::Arc;
///
/// use flipk::autograd::Recompute;
/// use flipk::data::{Batch, BytesMut};
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
///     images: BytesMut::from_iter([0, 255].into_iter().flat_map(|pixel| [pixel; 2 * 8 * 8 * 3])),
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
    /// The calls of a step, if all can be captured and that is not disabled. A graph is dropped before the memory that
    /// it uses.
    captured: Option<Captured>,
    device: Arc<D>,
    group: Arc<dyn Group>,
    /// With several ranks, or if the device is connected to itself.
    exchange: Option<GradientExchange<D>>,
    flip: Flip,
    params: Parameters<D>,
    optimizer: Optimizer<D>,
    pass: Pass<D>,
    size: StepSize,
    /// The last step, until its outcome is read.
    submitted: Option<Submitted>,
    /// Seconds of backward passes, if a stopwatch measures them.
    backward_seconds: Option<f64>,
}

/// What computes the gradients.
enum Pass<D: Device> {
    Whole(Whole<D>),
    Micro(MicroBatches<D>),
}

/// A step that may still be computed.
struct Submitted {
    outcome: Pending,
    grad_norm: Pending,
    backward_seconds: Option<Pending>,
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
    /// pass recomputes. The batch is computed in one pass.
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
        Self::of_size(device, flip, values, adamw, StepSize::whole(batch, kept, recompute))
    }

    /// As [`Self::new`], in one pass or in micro-batches.
    ///
    /// # Errors
    /// As [`Self::new`]; a batch that the micro-batches do not divide.
    pub fn of_size(
        device: Arc<D>,
        flip: Flip,
        values: &[f32],
        adamw: AdamWConfig,
        size: StepSize,
    ) -> Result<Self, DeviceError> {
        Self::in_group(device, flip, values, adamw, size, Arc::new(Alone))
    }

    /// As [`Self::of_size`], for one rank of a group: it computes its own micro-batches, whose rows are the batches of
    /// [`Self::step`], and updates its own slice of the weights. All ranks have the same weights after each step. They
    /// are those of a single process that computes all micro-batches, if each rank has a power of two of them.
    ///
    /// # Errors
    /// As [`Self::of_size`].
    pub fn in_group(
        device: Arc<D>,
        flip: Flip,
        values: &[f32],
        adamw: AdamWConfig,
        size: StepSize,
        group: Arc<dyn Group>,
    ) -> Result<Self, DeviceError> {
        let size = StepSize { ranks: group.size(), ..size };
        if !size.micro_batches.is_multiple_of(size.ranks) {
            let what = format!("{} micro-batches on {} ranks", size.micro_batches, size.ranks);
            return Err(DeviceError::Unsupported { what });
        }
        let slices = Slices::new(flip.layout().arena_len(), group.size());
        let params = Parameters::of_slices(&*device, flip.layout().clone(), values, &slices.own(group.rank()))?;
        let optimizer = Optimizer::of_slices(&*device, &params, adamw, &slices, group.rank())?;
        let exchanges = exchanges(&*device, &*group);
        let exchange = exchanges.then(|| GradientExchange::new(&*device, group.clone(), &params, slices.clone()));
        let exchange = exchange.transpose()?;
        let (pass, captures_all) = match size.micro_batches {
            1 if !exchanges => (Pass::Whole(Whole::new(&device, &flip, size)?), true),
            _ => {
                let mut micro = MicroBatches::in_group(device.clone(), &flip, size, group.clone(), &slices)?;
                let by_device = size.ranks == 1 || device.connects_ranks();
                // Ranks may have room for different numbers of micro-batches.
                let captures_all = by_device && true_on_all(&*group, !micro.runs_forward_twice())?;
                micro.capture(!captures_all);
                (Pass::Micro(micro), captures_all)
            }
        };
        Ok(Self {
            captured: captures_all.then(Captured::default),
            device,
            group,
            exchange,
            flip,
            params,
            optimizer,
            pass,
            size,
            submitted: None,
            backward_seconds: None,
        })
    }

    /// Forward, backward, update. Weights stay as they are if the loss or a gradient is not finite. With several ranks,
    /// [`Self::submit`] is faster.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(&mut self, batch: &Batch, lr: f64) -> Result<StepOutcome, DeviceError> {
        let submitted = self.run(batch, lr)?;
        self.settle()?;
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

    /// Gathers the last step's weights, which otherwise the next step does. All ranks take part.
    ///
    /// # Errors
    /// If the device fails, or the exchange with other ranks.
    pub fn settle(&mut self) -> Result<(), DeviceError> {
        if let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.is_stale()) {
            exchange.gather_weights(&self.device, &mut self.params)?;
            self.device.join()?;
        }
        Ok(())
    }

    /// Captured are the whole step or, if uploads or exchanges through the host lie within it, the passes of the
    /// towers.
    fn run(&mut self, batch: &Batch, lr: f64) -> Result<Submitted, DeviceError> {
        match &mut self.pass {
            Pass::Whole(whole) => whole.load(batch)?,
            Pass::Micro(micro) => micro.load(batch)?,
        }
        self.optimizer.prepare(&self.device, lr)?;
        self.compute(batch)?;
        let (outcome, backward_seconds) = match &self.pass {
            Pass::Whole(whole) => (whole.program.read_async(whole.embedded.outcome)?, None),
            Pass::Micro(micro) => (micro.outcomes_async()?, micro.backward_seconds_async()?),
        };
        Ok(Submitted { outcome, grad_norm: self.optimizer.norm_async(&self.device)?, backward_seconds })
    }

    fn wait(&mut self, submitted: Submitted) -> Result<StepOutcome, DeviceError> {
        let read = || Ok::<_, DeviceError>(((submitted.outcome)()?, (submitted.grad_norm)()?[0]));
        let (mut outcome, grad_norm) = self.group.waiting(read)?;
        if let Some(seconds) = submitted.backward_seconds {
            *self.backward_seconds.get_or_insert_default() += f64::from(seconds()?[0]);
        }
        sum_in_place(&mut outcome, OUTCOME_LEN);
        let correct = f64::from(outcome[IMAGE_CORRECT] + outcome[TEXT_CORRECT]);
        let accuracy = correct / (2 * self.size.batch) as f64;
        Ok(StepOutcome { loss: f64::from(outcome[LOSS]), accuracy, grad_norm: f64::from(grad_norm) })
    }

    /// Seconds of the device's backward passes since the last call, on a device that moves data between ranks by
    /// itself. The host cannot tell when such a device waits for other ranks; during these passes it never does.
    pub(super) fn take_backward_seconds(&mut self) -> Option<f64> {
        self.backward_seconds.take()
    }

    /// Disables graph capture, for comparisons.
    pub fn disable_capture(&mut self) {
        self.captured = None;
        if let Pass::Micro(micro) = &mut self.pass {
            micro.capture(false);
        }
    }

    /// The number of graphs that are captured, and replayed in each step.
    pub fn graphs(&self) -> usize {
        let whole = usize::from(self.captured.as_ref().is_some_and(Captured::is_captured));
        match &self.pass {
            Pass::Whole(_) => whole,
            Pass::Micro(micro) => whole + micro.graphs(),
        }
    }

    fn compute(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let Self { device, group, exchange, params, optimizer, pass, captured, .. } = self;
        // What is captured is the same in all steps.
        let always = captured.is_some();
        let mut calls = || {
            if let Some(exchange) = exchange.as_mut().filter(|exchange| always || exchange.is_stale()) {
                exchange.gather_weights(&**device, params)?;
            }
            match pass {
                Pass::Whole(whole) => whole.compute(params)?,
                Pass::Micro(micro) => micro.exchanged_gradients(batch, params, exchange.as_mut())?,
            }
            match exchange {
                None => optimizer.apply(device, params),
                Some(exchange) => pass::update(&**device, &**group, exchange, params, optimizer),
            }
        };
        match captured {
            Some(captured) => captured.run_on_all(&**device, |own| true_on_all(&**group, own), calls)?,
            None => calls()?,
        }
        // Not within the calls, which a graph does not make again.
        if let Some(exchange) = exchange {
            exchange.set_stale();
        }
        Ok(())
    }

    /// As [`Self::step`] in one pass, with an event at the start, after the upload, after each step of
    /// [`Self::program`], and after the update.
    ///
    /// # Errors
    /// If the device fails, or with micro-batches.
    pub fn step_with_events(&mut self, batch: &Batch, lr: f64) -> Result<Vec<D::Event>, DeviceError> {
        let Pass::Whole(Whole { program, embedded }) = &mut self.pass else {
            return Err(DeviceError::Unsupported { what: "events within a step of micro-batches".to_owned() });
        };
        let mut events = vec![self.device.record_event()?];
        let inputs = embedded.inputs;
        program.write(inputs.images, &batch.images)?;
        program.write(inputs.tokens, &batch.tokens)?;
        program.write(inputs.ids_keep, &batch.ids_keep)?;
        events.push(self.device.record_event()?);
        for index in 0..program.steps().len() {
            program.run_step(index, &mut self.params)?;
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

    /// Weights and gradients. After [`Self::submit`], other ranks' slices are those before the last update until
    /// [`Self::settle`], and in bf16 a rank has only its own slices in f32: [`Self::download`] has all.
    pub fn params(&self) -> &Parameters<D> {
        &self.params
    }

    /// The program of a step; with micro-batches, that of the towers of one.
    pub fn program(&self) -> &Program<D> {
        match &self.pass {
            Pass::Whole(whole) => &whole.program,
            Pass::Micro(micro) => micro.program(),
        }
    }

    /// Model FLOPs of a step.
    pub fn step_flops(&self) -> u64 {
        match &self.pass {
            Pass::Whole(whole) => whole.program.flops().1,
            Pass::Micro(micro) => micro.flops(),
        }
    }

    /// Bytes of all activations of a step.
    pub fn activation_bytes(&self) -> usize {
        match &self.pass {
            Pass::Whole(whole) => whole.program.activation_bytes(),
            Pass::Micro(micro) => micro.activation_bytes(),
        }
    }

    /// What micro-batches cost in memory and time, a line for the user; `None` for one pass.
    pub fn cost_of_micro_batches(&self) -> Option<String> {
        match &self.pass {
            Pass::Whole(_) => None,
            Pass::Micro(micro) => Some(micro.describe_cost(&self.flip)),
        }
    }

    /// The inverse temperature that the loss uses, from the rank that updates it. All ranks take part.
    ///
    /// # Errors
    /// If the device fails, or the exchange with other ranks.
    pub fn logit_scale(&self) -> Result<f64, DeviceError> {
        let id = self.flip.logit_scale();
        let own = self.params.download(&self.device, id)?[0];
        let at = self.params.layout().get(id).offset;
        let updates = self.optimizer.own().iter().any(|slice| slice.contains(&at));
        let found = self.group.all([u32::from(updates), own.to_bits()])?;
        let raw = found.iter().find(|[updates, _]| *updates == 1).map_or(own, |[_, bits]| f32::from_bits(*bits));
        Ok(libm::exp(f64::from(raw.clamp(0.0, MAX_LOGIT_SCALE))))
    }

    /// The last step's embeddings of images and of texts, `[batch, embed_dim]` each, rows of L2 norm 1.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError> {
        match &self.pass {
            Pass::Whole(Whole { program, embedded }) => {
                Ok([program.read(embedded.images.slot())?, program.read(embedded.texts.slot())?])
            }
            Pass::Micro(micro) => micro.embeddings(),
        }
    }

    /// Embeds `batch` once more, and returns the rows whose image or text has an embedding that is not finite. All
    /// ranks take part; each has its own rows.
    ///
    /// # Errors
    /// If the device fails, or the exchange with other ranks.
    pub fn rows_not_finite(&mut self, batch: &Batch) -> Result<Vec<usize>, DeviceError> {
        self.settle()?;
        match &mut self.pass {
            Pass::Whole(whole) => {
                whole.load(batch)?;
                whole.program.forward(&self.params)?;
            }
            Pass::Micro(micro) => {
                micro.load(batch)?;
                micro.embed(batch, &self.params, self.exchange.as_mut())?;
            }
        }
        let (width, rows) = (self.flip.config.embed_dim, self.size.batch / self.size.ranks);
        let (embeddings, first) = (self.embeddings()?, self.group.rank() * rows);
        let is_finite = |row: usize| {
            let at = (first + row) * width..(first + row + 1) * width;
            embeddings.iter().all(|all| all[at.clone()].iter().all(|value| value.is_finite()))
        };
        Ok((0..rows).filter(|row| !is_finite(*row)).collect())
    }

    /// Weights and moments of the whole arena on the host, on rank 0; other ranks take part, and have `None`.
    ///
    /// # Errors
    /// If the device fails, or the exchange with other ranks.
    pub fn download(&self) -> Result<Option<(Vec<f32>, Moments)>, DeviceError> {
        let Moments { m, v, step } = self.optimizer.download(&self.device)?;
        let [m, v] = [self.whole(m)?, self.whole(v)?];
        let weights = self.whole(self.own_values()?)?;
        Ok(weights.zip(m.zip(v)).map(|(weights, (m, v))| (weights, Moments { m, v, step })))
    }

    /// The weights of this rank's slices. Where products read a rounded copy, it has few others in f32.
    fn own_values(&self) -> Result<Vec<f32>, DeviceError> {
        let own = self.optimizer.own().iter();
        let parts = own.map(|range| self.params.download_range(&self.device, range.clone()));
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// An array of which each rank has its slices, on rank 0.
    fn whole(&self, own: Vec<f32>) -> Result<Option<Vec<f32>>, DeviceError> {
        let Some(exchange) = &self.exchange else { return Ok(Some(own)) };
        let (slices, is_root) = (exchange.slices(), self.group.is_root());
        let mut all = vec![0f32; if is_root { slices.arena_len() } else { 0 }];
        let mut rest = &own[..];
        for (bucket, range) in slices.buckets().iter().enumerate() {
            let (part, later) = rest.split_at(slices.of(bucket, self.group.rank()).len());
            let to = if is_root { &mut all[range.clone()] } else { &mut [][..] };
            let (part, to) = (bytemuck::cast_slice(part), bytemuck::cast_slice_mut(to));
            self.group.gather(part, to, slices.each(bucket), range.len())?;
            rest = later;
        }
        Ok(is_root.then_some(all))
    }

    /// Continues from `moments` of the whole arena.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_moments(&mut self, moments: &Moments) -> Result<(), DeviceError> {
        let own = |all: &[f32]| self.optimizer.own().iter().flat_map(|own| &all[own.clone()]).copied().collect();
        let own = Moments { m: own(&moments.m), v: own(&moments.v), step: moments.step };
        self.optimizer.upload(&self.device, &own)
    }
}

fn true_on_all(group: &dyn Group, own: bool) -> Result<bool, DeviceError> {
    Ok(group.all(u32::from(own))?.iter().all(|own| *own == 1))
}
