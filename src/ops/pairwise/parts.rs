//! The loss of a batch whose embeddings come in parts.

use super::{Contrastive, Gradients, Inputs, Lse, OUTCOME_LEN, PairLoss, Pairwise, Shape, Sigmoid};
use crate::autograd::{GradMut, ParamId, Parameters};
use crate::device::{Buffer, Device, DeviceError, Pending};

/// A loss over all pairs of a batch that is computed part by part: embeddings of all parts ([`Self::put_images`]),
/// then the forward pass of each part, then the backward pass of each part.
///
/// The results of a part depend on the embeddings and on the sizes alone, not on when or where other parts are
/// computed.
pub struct Parts<D: Device> {
    count: usize,
    /// Rows of a part.
    rows: usize,
    width: usize,
    logit_scale: ParamId,
    /// Only of the sigmoid loss.
    logit_bias: Option<ParamId>,
    /// `[count * rows, width]` each.
    images: Buffer<D, f32>,
    texts: Buffer<D, f32>,
    /// `[count * rows]` each, if the loss needs them.
    lse: Option<Lse<Buffer<D, f32>>>,
    /// `[count, OUTCOME_LEN]`
    outcomes: Buffer<D, f32>,
    scratch: Buffer<D, f32>,
}

fn shape_of(part: usize, [count, rows, width]: [usize; 3]) -> Shape {
    Shape { rows, first: part * rows, columns: count * rows, width }
}

/// f32 elements of scratch that is enough for each part.
fn scratch<D: Pairwise>(sizes: [usize; 3], bias: bool) -> usize {
    (0..sizes[0]).map(|part| D::pairwise_scratch(&shape_of(part, sizes), bias)).max().unwrap_or(0)
}

impl<D: Pairwise> Parts<D> {
    /// `count` parts of `rows` pairs with embeddings of width `width`; `scalars`: the inverse temperature's
    /// logarithm, and the bias of the sigmoid loss, without which it is the contrastive one.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(
        device: &D,
        sizes @ [count, rows, width]: [usize; 3],
        (logit_scale, logit_bias): (ParamId, Option<ParamId>),
    ) -> Result<Self, DeviceError> {
        let buffer = |len| Buffer::unwritten(device, len, "the embeddings of all micro-batches");
        let batch = count * rows;
        let needs_lse = Self::needs_lse(logit_bias.is_some());
        let lse = needs_lse
            .then(|| Ok::<_, DeviceError>(Lse { rows: buffer(batch)?, columns: buffer(batch)? }))
            .transpose()?;
        let scratch = buffer(scratch::<D>(sizes, logit_bias.is_some()))?;
        let (images, texts) = (buffer(batch * width)?, buffer(batch * width)?);
        let outcomes = buffer(count * OUTCOME_LEN)?;
        Ok(Self { count, rows, width, logit_scale, logit_bias, images, texts, lse, outcomes, scratch })
    }

    /// Bytes that [`Self::new`] allocates, for the sigmoid loss's `bias` or without.
    pub fn planned_bytes(sizes @ [count, rows, width]: [usize; 3], bias: bool) -> usize {
        let lse = if Self::needs_lse(bias) { 2 * count * rows } else { 0 };
        size_of::<f32>() * (2 * count * rows * width + lse + count * OUTCOME_LEN + scratch::<D>(sizes, bias))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        Self::planned_bytes([self.count, self.rows, self.width], self.logit_bias.is_some())
    }

    fn needs_lse(bias: bool) -> bool {
        if bias { Sigmoid::NEEDS_LSE } else { Contrastive::NEEDS_LSE }
    }

    fn shape(&self, part: usize) -> Shape {
        shape_of(part, [self.count, self.rows, self.width])
    }

    /// Copies the embeddings of a part's images, `[rows, width]`, unit rows.
    ///
    /// # Errors
    /// If the device fails.
    pub fn put_images(&mut self, device: &D, part: usize, images: D::View<'_, f32>) -> Result<(), DeviceError> {
        let len = self.rows * self.width;
        device.copy(self.images.range_mut(part * len..(part + 1) * len), images)
    }

    /// As [`Self::put_images`], of its texts.
    ///
    /// # Errors
    /// If the device fails.
    pub fn put_texts(&mut self, device: &D, part: usize, texts: D::View<'_, f32>) -> Result<(), DeviceError> {
        let len = self.rows * self.width;
        device.copy(self.texts.range_mut(part * len..(part + 1) * len), texts)
    }

    /// The embeddings of the images of all parts, and the elements of a part, to be completed if others have computed
    /// some.
    pub fn images_mut(&mut self) -> (&mut Buffer<D, f32>, usize) {
        (&mut self.images, self.rows * self.width)
    }

    /// As [`Self::images_mut`], of the texts.
    pub fn texts_mut(&mut self) -> (&mut Buffer<D, f32>, usize) {
        (&mut self.texts, self.rows * self.width)
    }

    /// The results of the forward passes of all parts, and the elements of a part in each buffer, to be completed if
    /// others have computed some.
    pub fn results_mut(&mut self) -> Vec<(&mut Buffer<D, f32>, usize)> {
        let lse = self.lse.iter_mut().flat_map(|lse| [&mut lse.rows, &mut lse.columns]);
        lse.map(|lse| (lse, self.rows)).chain([(&mut self.outcomes, OUTCOME_LEN)]).collect()
    }

    /// The forward pass of a part, once the embeddings of all parts are there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward(&mut self, device: &D, part: usize, params: &Parameters<D>) -> Result<(), DeviceError> {
        match self.logit_bias {
            None => self.forward_of::<Contrastive>(device, part, params),
            Some(_) => self.forward_of::<Sigmoid>(device, part, params),
        }
    }

    fn forward_of<L: PairLoss>(&mut self, device: &D, part: usize, params: &Parameters<D>) -> Result<(), DeviceError> {
        let shape = self.shape(part);
        let inputs = Inputs {
            images: self.images.view(),
            texts: self.texts.view(),
            logit_scale: params.value(self.logit_scale),
            logit_bias: self.logit_bias.map(|bias| params.value(bias)),
        };
        let own = |buffer| Buffer::range_mut(buffer, shape.own());
        let lse = self.lse.as_mut().map(|lse| Lse { rows: own(&mut lse.rows), columns: own(&mut lse.columns) });
        let outcome = self.outcomes.range_mut(part * OUTCOME_LEN..(part + 1) * OUTCOME_LEN);
        device.pairwise_forward::<L>(&shape, inputs, lse, outcome, self.scratch.view_mut())
    }

    /// The backward pass of a part, after the forward passes of all: its embeddings' gradients, `[rows, width]` each,
    /// and, in the place of gradients, its shares of those of the scalars.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward<'a>(
        &mut self,
        device: &D,
        part: usize,
        params: &'a mut Parameters<D>,
        towers: [D::ViewMut<'a, f32>; 2],
    ) -> Result<(), DeviceError> {
        match self.logit_bias {
            None => self.backward_of::<Contrastive>(device, part, params, towers),
            Some(_) => self.backward_of::<Sigmoid>(device, part, params, towers),
        }
    }

    fn backward_of<'a, L: PairLoss>(
        &mut self,
        device: &D,
        part: usize,
        params: &'a mut Parameters<D>,
        [dimages, dtexts]: [D::ViewMut<'a, f32>; 2],
    ) -> Result<(), DeviceError> {
        let shape = self.shape(part);
        let layout = params.layout().clone();
        let range = |id| layout.get(id).range();
        let (values, grads) = params.values_and_grads();
        let inputs = Inputs {
            images: self.images.view(),
            texts: self.texts.view(),
            logit_scale: values.range(range(self.logit_scale)),
            logit_bias: self.logit_bias.map(|bias| values.range(range(bias))),
        };
        let scalars = [Some(self.logit_scale), self.logit_bias];
        let mut grads = grads.ranges_mut(scalars.into_iter().flatten().map(range));
        let mut grad = || grads.next().map(|view| GradMut { view, accumulate: false });
        let (Some(dlogit_scale), dlogit_bias) = (grad(), grad()) else { return Ok(()) };
        let gradients = Gradients { dimages, dtexts, dlogit_scale, dlogit_bias };
        let lse = self.lse.as_ref().map(|lse| Lse { rows: lse.rows.view(), columns: lse.columns.view() });
        device.pairwise_backward::<L>(&shape, inputs, lse, gradients, self.scratch.view_mut())
    }

    /// The outcomes of all parts on the host, `[count, OUTCOME_LEN]`, after all work so far; returns at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn outcomes_async(&self, device: &D) -> Result<Pending, DeviceError> {
        self.outcomes.download_async(device, 0..self.outcomes.len())
    }

    /// The embeddings of images and of texts of all parts on the host, `[count * rows, width]` each.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embeddings(&self, device: &D) -> Result<[Vec<f32>; 2], DeviceError> {
        Ok([self.images.download(device)?, self.texts.download(device)?])
    }
}
