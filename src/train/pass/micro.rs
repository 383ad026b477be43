//! A pass in micro-batches: the exact gradient of the whole batch, with the activations of a part of it (Gao et al.
//! 2021, "Scaling deep contrastive learning batch size under memory limited setup").
//!
//! 1. The towers embed each micro-batch; only the embeddings are kept.
//! 2. The loss is computed over all pairs of the whole batch: for each micro-batch the rows of its images and of its
//!    texts.
//! 3. For each micro-batch, the loss gives the gradients of its embeddings; the towers run forwards again, with the
//!    same inputs, and then backwards. Gradients of parameters are added in a fixed tree over the micro-batches.
//!
//! If the activations of all micro-batches fit the memory, each has a program of its own, and no forward pass runs
//! twice. The bits are the same: they depend on the sizes alone, not on where or when a micro-batch is computed.

use std::collections::HashMap;
use std::sync::Arc;

use super::cuts::Cuts;
use super::ranks::{Gathering, all_gather, exchanges, finish_all_gather, start_all_gather};
use super::{GradientExchange, GradientTree, Keep, StepSize, Towers, memory};
use crate::autograd::{Parameters, Program, Step};
use crate::data::{Batch, part_of};
use crate::device::{Device, DeviceError, Pending, Stopwatch};
use crate::golden;
use crate::group::{Alone, Group};
use crate::model::Flip;
use crate::ops::AllOps;
use crate::ops::pairwise::{LOSS, OUTCOME_LEN, Parts, Shape};
use crate::ops::sum_rows::sum_in_place;
use crate::optim::Slices;
use crate::units::Bytes;

/// Computes gradients in micro-batches.
pub struct MicroBatches<D: Device> {
    device: Arc<D>,
    group: Arc<dyn Group>,
    size: StepSize,
    width: usize,
    /// One for each of this rank's micro-batches, or one for all.
    towers: Vec<Towers<D>>,
    cuts: Arc<Cuts>,
    loss: Parts<D>,
    tree: GradientTree<D>,
    /// For the backward passes, on a device that moves data between ranks by itself.
    stopwatch: Option<Stopwatch<D>>,
}

impl<D: AllOps> MicroBatches<D> {
    /// # Errors
    /// Too little memory on the device; the error says what would fit. A batch that the micro-batches do not divide.
    pub fn new(device: Arc<D>, flip: &Flip, size: StepSize) -> Result<Self, DeviceError> {
        let slices = Slices::new(flip.layout().arena_len(), 1);
        Self::in_group(device, flip, size, Arc::new(Alone), &slices)
    }

    /// As [`Self::new`], for the rank of a group that computes its part of the micro-batches. `size.ranks` is the
    /// number of ranks, and `slices` are theirs.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_group(
        device: Arc<D>,
        flip: &Flip,
        size: StepSize,
        group: Arc<dyn Group>,
        slices: &Slices,
    ) -> Result<Self, DeviceError> {
        let StepSize { batch, micro_batches, .. } = size;
        if micro_batches == 0 || !batch.is_multiple_of(micro_batches) {
            let what = format!("a batch of {batch} in {micro_batches} equal micro-batches");
            return Err(DeviceError::Unsupported { what });
        }
        let all = match size.keep {
            Keep::All => true,
            Keep::One => false,
            Keep::Auto => {
                let needed = memory::step_bytes::<D>(flip, StepSize { keep: Keep::All, ..size });
                device.free_bytes().is_some_and(|free| needed.saturating_add(memory::RESERVE) <= free)
            }
        };
        let one = |size: StepSize| StepSize { keep: if all { Keep::All } else { Keep::One }, ..size };
        let advise = |error, taken| memory::advise(error, size, taken, |size| memory::step_bytes::<D>(flip, one(size)));
        let sizes = [micro_batches, size.rows(), flip.config.embed_dim];
        let loss = Parts::new(&*device, sizes, flip.loss_scalars()).map_err(|error| advise(error, 0))?;
        let tree = GradientTree::new(&*device, size.leaves(), flip.layout().arena_len());
        let tree = tree.map_err(|error| advise(error, 0))?;
        let programs = if all { size.leaves() } else { 1 };
        let towers = (0..programs).map(|_| Towers::new(&device, flip, size)).collect::<Result<Vec<_>, _>>();
        let towers = towers.map_err(|error| advise(error, 0))?;
        let buckets = if exchanges(&*device, &*group) { slices.buckets() } else { &[] };
        let cuts = Arc::new(Cuts::new(&towers[0].program, towers[0].vision_ops, flip.layout(), buckets));
        let stopwatch = device.connects_ranks().then(|| Stopwatch::new(&*device)).transpose()?;
        Ok(Self { device, group, size, width: flip.config.embed_dim, towers, cuts, loss, tree, stopwatch })
    }

    /// Sets whether a device that can capture calls replays the towers' passes, with the same bits. If so, `params`
    /// must be the same in all calls.
    pub(crate) fn capture(&mut self, capture: bool) {
        self.towers.iter_mut().for_each(|towers| towers.graphs = capture.then(HashMap::new));
    }

    /// The number of captured graphs.
    pub(crate) fn graphs(&self) -> usize {
        let graphs = self.towers.iter().filter_map(|towers| towers.graphs.as_ref());
        graphs.flat_map(HashMap::values).filter(|graph| graph.is_captured()).count()
    }

    /// The number of micro-batches of this rank.
    fn count(&self) -> usize {
        self.size.leaves()
    }

    /// The number of this rank's first micro-batch.
    fn first(&self) -> usize {
        self.group.rank() * self.count()
    }

    /// Whether each forward pass runs twice.
    pub fn runs_forward_twice(&self) -> bool {
        self.towers.len() < self.count()
    }

    /// The index of the towers that compute one of this rank's micro-batches.
    fn place(&self, micro_batch: usize) -> usize {
        micro_batch.min(self.towers.len() - 1)
    }

    fn towers(&mut self, micro_batch: usize) -> &mut Towers<D> {
        let place = self.place(micro_batch);
        &mut self.towers[place]
    }

    /// Computes this rank's share of the gradients of the whole batch's loss, in `params`. `batch`: the rows of this
    /// rank. [`Self::outcomes_async`] has the loss.
    ///
    /// # Errors
    /// If the device fails, or the exchange with other ranks.
    pub fn gradients(&mut self, batch: &Batch, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        self.load(batch)?;
        self.exchanged_gradients(batch, params, None)
    }

    /// Uploads the inputs of all micro-batches, or of the first one if they take turns in the memory of one.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn load(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        (0..self.towers.len()).try_for_each(|micro_batch| self.prefetch(batch, micro_batch))?;
        self.towers.iter_mut().try_for_each(|towers| towers.program.swap_in())
    }

    /// As [`Self::gradients`], of a batch that was loaded. With `exchange`, which is needed if there are other ranks,
    /// gradients become sums over all ranks, in this rank's slices.
    ///
    /// Overlaps with the computation: uploads of the next micro-batch, if they take turns in memory, the all-gather of
    /// images' embeddings (with the text tower), and the exchange of gradients (with the rest of the backward pass).
    ///
    /// # Errors
    /// As [`Self::gradients`].
    pub(crate) fn exchanged_gradients(
        &mut self,
        batch: &Batch,
        params: &mut Parameters<D>,
        mut exchange: Option<&mut GradientExchange<D>>,
    ) -> Result<(), DeviceError> {
        let (count, first, device, cuts) = (self.count(), self.first(), self.device.clone(), self.cuts.clone());
        let twice = self.runs_forward_twice();
        self.embed(batch, params, exchange.as_deref_mut())?;
        for micro_batch in 0..count {
            self.loss.forward(&device, first + micro_batch, params)?;
        }
        let group = self.group.clone();
        let results = self.loss.results_mut().into_iter().map(|(buffer, part)| (buffer, count * part));
        all_gather(&*device, &*group, results.collect())?;
        self.stopwatch.as_mut().map_or(Ok(()), |stopwatch| stopwatch.start(&device))?;
        for micro_batch in 0..count {
            self.group.tick();
            if twice {
                let towers = self.towers(micro_batch);
                towers.program.swap_in()?;
                for part in &cuts.forward {
                    towers.run(&device, part, |program, op| program.forward_ops(op..op + 1, params), || Ok(()))?;
                }
                if micro_batch + 1 < count {
                    self.prefetch(batch, micro_batch + 1)?;
                }
            }
            let place = self.place(micro_batch);
            let towers = &mut self.towers[place];
            self.loss.backward(&device, first + micro_batch, params, towers.program.views_mut(towers.seeds))?;
            match &mut exchange {
                Some(exchange) if micro_batch + 1 == count => {
                    backward_and_exchange(&*device, (towers, &cuts), params, &self.tree, exchange)?;
                    self.stopwatch.as_mut().map_or(Ok(()), |stopwatch| stopwatch.stop(&device))?;
                    exchange.finish(&*device, params.values_and_grads().1)?;
                }
                _ => {
                    for part in &cuts.backward {
                        towers.run(&device, part, |program, step| program.run_step(step, params), || Ok(()))?;
                    }
                    self.tree.add(&device, micro_batch, params)?;
                }
            }
        }
        Ok(())
    }

    /// The embeddings of the whole batch, which was loaded. The first micro-batch waits for the weights that its ops
    /// read.
    pub(crate) fn embed(
        &mut self,
        batch: &Batch,
        params: &Parameters<D>,
        mut exchange: Option<&mut GradientExchange<D>>,
    ) -> Result<(), DeviceError> {
        let (count, first, device, group) = (self.count(), self.first(), self.device.clone(), self.group.clone());
        let (cuts, twice) = (self.cuts.clone(), self.runs_forward_twice());
        let mut gathering = None;
        for micro_batch in 0..count {
            self.group.tick();
            let place = self.place(micro_batch);
            let towers = &mut self.towers[place];
            let [images, texts] = towers.embeddings;
            if twice && micro_batch > 0 {
                towers.program.swap_in()?;
            }
            for part in &cuts.forward {
                if part.start == towers.vision_ops {
                    self.loss.put_images(&device, first + micro_batch, towers.program.view(images.slot()))?;
                    if micro_batch + 1 == count {
                        let (all, part) = self.loss.images_mut();
                        gathering = Some(start_all_gather(&*device, &*group, &mut [(all, count * part)])?);
                    }
                }
                if let (Some(exchange), Some(bucket)) = (&mut exchange, cuts.reads[part.start]) {
                    exchange.wait_for_weights(&device, bucket)?;
                }
                let forward = |program: &mut Program<D>, op| program.forward_ops(op..op + 1, params);
                towers.run(&device, part, forward, || gathering.as_mut().map_or(Ok(()), Gathering::poll))?;
            }
            self.loss.put_texts(&device, first + micro_batch, towers.program.view(texts.slot()))?;
            if twice {
                // After the last one, the first one runs again.
                self.prefetch(batch, (micro_batch + 1) % count)?;
            }
        }
        if let Some(gathering) = gathering {
            finish_all_gather(&*device, gathering, [self.loss.images_mut().0])?;
        }
        let (all, part) = self.loss.texts_mut();
        all_gather(&*device, &*group, vec![(all, count * part)])?;
        // The loss reads the temperature.
        exchange.map_or(Ok(()), |exchange| exchange.wait_for_weights(&device, usize::MAX))
    }

    /// Starts the upload of the inputs of a micro-batch: its rows of the batch.
    fn prefetch(&mut self, batch: &Batch, micro_batch: usize) -> Result<(), DeviceError> {
        let count = self.count();
        let Towers { program, inputs, .. } = self.towers(micro_batch);
        program.prefetch(inputs.images, part_of(&batch.images, micro_batch, count))?;
        program.prefetch(inputs.tokens, part_of(&batch.tokens, micro_batch, count))?;
        program.prefetch(inputs.ids_keep, part_of(&batch.ids_keep, micro_batch, count))
    }

    /// The shares of the micro-batches in the loss and in the numbers of right answers, `[micro_batches, 3]`
    /// ([`crate::ops::pairwise`]).
    ///
    /// # Errors
    /// If the device fails.
    pub fn outcomes_async(&self) -> Result<Pending, DeviceError> {
        self.loss.outcomes_async(&self.device)
    }

    /// Seconds of the last backward passes, on a device that moves data between ranks by itself. Meanwhile, the device
    /// does not wait for other ranks.
    pub(crate) fn backward_seconds_async(&self) -> Result<Option<Pending>, DeviceError> {
        self.stopwatch.as_ref().map(|stopwatch| stopwatch.seconds_async(&self.device)).transpose()
    }

    /// As [`super::super::Trainer::embeddings`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError> {
        self.loss.embeddings(&self.device)
    }

    /// The program of the first micro-batch's towers.
    pub fn program(&self) -> &Program<D> {
        &self.towers[0].program
    }

    /// Bytes of all activations, embeddings of the whole batch included.
    pub fn activation_bytes(&self) -> usize {
        let towers: usize = self.towers.iter().map(|towers| towers.program.activation_bytes()).sum();
        towers + self.loss.bytes()
    }

    /// What this costs in memory and time.
    pub(crate) fn describe_cost(&self, flip: &Flip) -> String {
        let one_pass = memory::step_bytes::<D>(flip, StepSize { micro_batches: 1, ranks: 1, ..self.size });
        let sums = GradientTree::<D>::depth(self.count()) * flip.layout().arena_len() * size_of::<f32>();
        let time = match self.runs_forward_twice() {
            true => format!("about {:.2} times the time, since each forward pass runs twice", self.slowdown()),
            false => "no forward pass runs twice, since the activations of all fit".to_owned(),
        };
        let per_rank = if self.size.ranks > 1 { " on each rank" } else { "" };
        format!(
            "{} {} of {}{per_rank}: activations {} (in one pass: {}), sums of gradients {}; {time}",
            self.count(),
            if self.count() == 1 { "micro-batch" } else { "micro-batches" },
            self.size.rows(),
            Bytes(self.activation_bytes()),
            Bytes(one_pass),
            Bytes(sums),
        )
    }

    /// FLOPs of the towers with a second forward pass over those without it.
    fn slowdown(&self) -> f64 {
        let program = self.program();
        let (forward, all) = program.flops();
        let recomputed = program.steps().iter().map(|step| match *step {
            Step::Recompute { op, cheap } => program.recompute_work(op, cheap).flops,
            _ => 0,
        });
        let once = all + recomputed.sum::<u64>();
        (once + forward) as f64 / once.max(1) as f64
    }

    /// Model FLOPs of a step: those of one pass over the batch.
    pub fn flops(&self) -> u64 {
        let loss: u64 = Shape::work_of_batch(self.size.batch, self.width).iter().map(|work| work.flops).sum();
        self.size.micro_batches as u64 * self.program().flops().1 + loss
    }
}

/// The backward pass of a rank's last micro-batch. The exchange of each bucket begins as soon as its gradients are
/// complete.
fn backward_and_exchange<D: AllOps>(
    device: &D,
    (towers, cuts): (&mut Towers<D>, &Cuts),
    params: &mut Parameters<D>,
    tree: &GradientTree<D>,
    exchange: &mut GradientExchange<D>,
) -> Result<(), DeviceError> {
    for steps in &cuts.backward {
        towers.run(device, steps, |program, step| program.run_step(step, params), || Ok(exchange.poll()?))?;
        let (_, grads) = params.values_and_grads();
        while let Some((_, part)) = exchange.next().filter(|(bucket, _)| cuts.complete_after[*bucket] <= steps.end) {
            tree.add_last(device, part, grads)?;
            exchange.start(device, grads)?;
        }
    }
    Ok(())
}

impl<D: AllOps> golden::Pass<D> for MicroBatches<D> {
    fn gradients(&mut self, batch: &Batch, params: &mut Parameters<D>) -> Result<f64, DeviceError> {
        Self::gradients(self, batch, params)?;
        let mut outcomes = self.outcomes_async()?()?;
        sum_in_place(&mut outcomes, OUTCOME_LEN);
        Ok(f64::from(outcomes[LOSS]))
    }

    fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError> {
        Self::embeddings(self)
    }
}
