//! The flat parameter arena: values, gradients and moments are each one buffer.
//!
//! A parameter is a name, a shape, an offset and a decay flag, so that AdamW, the gradient norm and a checkpoint are
//! each one pass over contiguous memory.

use std::ops::Range;
use std::sync::Arc;

use super::values::Values;
use crate::device::{Buffer, Device, DeviceError, Float};
use crate::random::{Purpose, Random};

/// Elements of the arena that share one decay flag.
pub const DECAY_BLOCK: usize = 64;

/// Parameters start at multiples of this many elements, so that vector accesses are aligned on every device, and a
/// decay flag belongs to one parameter.
const ALIGNMENT: usize = DECAY_BLOCK;

/// How a parameter is initialised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// This value everywhere.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in `±sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio 2010, eq. 16).
    Xavier {
        /// Inputs of the layer.
        fan_in: usize,
        /// Outputs of the layer.
        fan_out: usize,
    },
}

/// A parameter of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub(crate) usize);

/// Where the gradient of a parameter goes.
#[derive(Clone, Copy, Debug)]
pub struct ParamGrad {
    /// The parameter.
    pub id: ParamId,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Its name, as checkpoints spell it.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its initial values.
    pub init: Init,
    /// Whether AdamW's weight decay applies.
    pub decay: bool,
    /// Whether ops read it rounded to the type of activations ([`Access::weight`](super::Access::weight)) and never in
    /// f32.
    pub rounded: bool,
    /// Where it starts in the arena, in elements.
    pub offset: usize,
    /// Its number of elements.
    pub len: usize,
}

impl ParamSpec {
    /// Its elements in the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Where each parameter lies in the arena.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    specs: Vec<ParamSpec>,
    len: usize,
}

impl Layout {
    /// Appends a parameter; `decay`: whether AdamW's weight decay applies.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], init: Init, decay: bool) -> ParamId {
        let (len, shape, offset) = (shape.iter().product(), shape.to_vec(), self.len);
        self.specs.push(ParamSpec { name: name.into(), shape, init, decay, rounded: false, offset, len });
        self.len = (self.len + len).next_multiple_of(ALIGNMENT);
        ParamId(self.specs.len() - 1)
    }

    /// As [`Self::add`], for a parameter that ops read rounded to the type of activations.
    pub fn add_rounded(&mut self, name: impl Into<String>, shape: &[usize], init: Init, decay: bool) -> ParamId {
        let id = self.add(name, shape, init, decay);
        self.specs[id.0].rounded = true;
        id
    }

    /// All parameters, in order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The id of the parameter at this index of [`Self::specs`].
    pub fn id(&self, index: usize) -> ParamId {
        ParamId(index)
    }

    /// The parameter `id`.
    pub fn get(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// Elements in the arena, padding included.
    pub fn arena_len(&self) -> usize {
        self.len
    }

    /// Trainable numbers, padding not counted.
    pub fn count(&self) -> usize {
        self.specs.iter().map(|spec| spec.len).sum()
    }

    /// For each [`DECAY_BLOCK`] of the arena whether it decays (1) or not (0).
    pub fn decay_blocks(&self) -> Vec<u8> {
        let mut blocks = vec![0; self.len / DECAY_BLOCK];
        for spec in self.specs.iter().filter(|spec| spec.decay) {
            blocks[spec.offset / DECAY_BLOCK..(spec.offset + spec.len).div_ceil(DECAY_BLOCK)].fill(1);
        }
        blocks
    }

    /// The parts of the arena whose values a rank needs in f32 if products read a rounded copy: the slices `own`, which
    /// it updates, and the parameters that ops read in f32. They are in order, and none touches the next.
    pub fn f32_parts(&self, own: &[Range<usize>]) -> Vec<Range<usize>> {
        let read = self.specs.iter().filter(|spec| !spec.rounded);
        let read = read.map(|spec| spec.offset..spec.range().end.next_multiple_of(ALIGNMENT));
        let mut parts: Vec<_> = own.iter().cloned().chain(read).filter(|part| !part.is_empty()).collect();
        parts.sort_by_key(|part| part.start);
        parts.dedup_by(|next, part| {
            let touch = next.start <= part.end;
            if touch {
                part.end = part.end.max(next.end);
            }
            touch
        });
        parts
    }

    /// The initial values of the whole arena. A parameter's values depend on the seed and its index alone.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        for (index, spec) in self.specs.iter().enumerate() {
            let mut random = Random::new(seed, Purpose::Init, 0, index as u64);
            let values = &mut values[spec.range()];
            match spec.init {
                Init::Constant(constant) => values.fill(constant),
                Init::Normal { std } => values.fill_with(|| std * random.normal()),
                Init::Xavier { fan_in, fan_out } => {
                    let limit = (6.0 / (fan_in + fan_out) as f32).sqrt();
                    values.fill_with(|| random.range(-limit, limit));
                }
            }
        }
        values
    }
}

/// The arena of one model on one device.
pub struct Parameters<D: Device> {
    layout: Arc<Layout>,
    /// Of the whole arena, or of what a rank needs of it.
    pub(super) values: Values<D>,
    /// The copy that matrix products read, where it is not `values` itself.
    pub(super) shadow: Option<Buffer<D, D::Act>>,
    pub(super) grads: Buffer<D, f32>,
}

impl<D: Device> Parameters<D> {
    /// Allocates values and gradients and uploads `values` (`[arena_len]`).
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: &D, layout: Arc<Layout>, values: &[f32]) -> Result<Self, DeviceError> {
        let all = 0..layout.arena_len();
        Self::of_slices(device, layout, values, &[all])
    }

    /// As [`Self::new`], for a rank that updates the slices `own` of the arena. Where products read a rounded copy, it
    /// keeps [`Layout::f32_parts`] in f32 and no more.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn of_slices(
        device: &D,
        layout: Arc<Layout>,
        values: &[f32],
        own: &[Range<usize>],
    ) -> Result<Self, DeviceError> {
        let (len, all) = (layout.arena_len(), 0..layout.arena_len());
        let parts = if D::SHADOW_WEIGHTS { layout.f32_parts(own) } else { vec![all] };
        let shadow = D::SHADOW_WEIGHTS.then(|| Buffer::new(device, len, "the weights' compute copy")).transpose()?;
        let weights = Values::new(device, parts)?;
        let grads = Buffer::new(device, len, "the weights' gradients")?;
        let mut this = Self { layout, values: weights, shadow, grads };
        this.set_values(device, values)?;
        Ok(this)
    }

    /// The names, shapes and places of all parameters.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Replaces all values (`[arena_len]`).
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_values(&mut self, device: &D, values: &[f32]) -> Result<(), DeviceError> {
        self.values.upload(device, values)?;
        let Some(shadow) = &mut self.shadow else { return Ok(()) };
        let shadowed: Vec<D::Act> = values.iter().map(|value| D::Act::from_f32(*value)).collect();
        shadow.upload(device, &shadowed)
    }

    /// The values in f32.
    pub fn values(&self) -> &Values<D> {
        &self.values
    }

    /// All gradients, `[arena_len]`.
    pub fn grads(&self) -> D::View<'_, f32> {
        self.grads.view()
    }

    /// The gradients of a part of the arena.
    pub fn grads_of(&self, range: Range<usize>) -> D::View<'_, f32> {
        self.grads.range(range)
    }

    /// For a part of the arena, as an optimizer needs them: values and their compute copy exclusively, and gradients
    /// shared.
    ///
    /// # Panics
    /// As [`Self::download_range`].
    pub fn for_update(
        &mut self,
        range: Range<usize>,
    ) -> (D::ViewMut<'_, f32>, Option<D::ViewMut<'_, D::Act>>, D::View<'_, f32>) {
        let shadow = self.shadow.as_mut().map(|shadow| shadow.range_mut(range.clone()));
        (self.values.range_mut(range.clone()), shadow, self.grads.range(range))
    }

    /// The values in f32 exclusively, and their compute copy.
    pub fn weights_mut(&mut self) -> (&mut Values<D>, Option<&mut Buffer<D, D::Act>>) {
        (&mut self.values, self.shadow.as_mut())
    }

    /// The values in f32, and all gradients exclusively, as what computes gradients outside a program needs them.
    pub fn values_and_grads(&mut self) -> (&Values<D>, &mut Buffer<D, f32>) {
        (&self.values, &mut self.grads)
    }

    /// A parameter's values.
    ///
    /// # Panics
    /// As [`Self::download_range`].
    pub fn value(&self, id: ParamId) -> D::View<'_, f32> {
        self.values.range(self.layout.get(id).range())
    }

    /// One parameter on the host.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// As [`Self::download_range`].
    pub fn download(&self, device: &D, id: ParamId) -> Result<Vec<f32>, DeviceError> {
        self.download_range(device, self.layout.get(id).range())
    }

    /// The values of a part of the arena on the host.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If this rank does not keep all of them in f32.
    pub fn download_range(&self, device: &D, range: Range<usize>) -> Result<Vec<f32>, DeviceError> {
        self.values.buffer().download_range(device, self.values.place(range))
    }

    /// All values on the host.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// As [`Self::download_range`].
    pub fn download_values(&self, device: &D) -> Result<Vec<f32>, DeviceError> {
        self.download_range(device, 0..self.layout.arena_len())
    }

    /// All gradients on the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn download_grads(&self, device: &D) -> Result<Vec<f32>, DeviceError> {
        self.grads.download(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_the_arena_has_its_decay_flag() {
        let mut layout = Layout::default();
        layout.add("a", &[3, 5], Init::Constant(0.0), true);
        layout.add("b", &[64], Init::Constant(0.0), true);
        layout.add("bias", &[7], Init::Constant(0.0), false);
        layout.add("c", &[2], Init::Constant(0.0), true);
        assert_eq!(layout.decay_blocks(), [1, 1, 0, 1]);
        assert_eq!((layout.arena_len(), layout.count()), (256, 88));
    }

    #[test]
    fn a_rank_keeps_its_slices_and_what_ops_read_in_f32() {
        let mut layout = Layout::default();
        layout.add_rounded("w", &[256], Init::Constant(0.0), true);
        layout.add("bias", &[70], Init::Constant(0.0), false);
        layout.add_rounded("v", &[256], Init::Constant(0.0), true);
        layout.add("scale", &[1], Init::Constant(0.0), false);
        assert_eq!(layout.f32_parts(&[]), [256..384, 640..704]);
        assert_eq!(layout.f32_parts(&[128..320, 704..704]), [128..384, 640..704]);
        assert_eq!(layout.f32_parts(&[0..64, 384..448]), [0..64, 256..448, 640..704]);
        let all = 0..layout.arena_len();
        assert_eq!(layout.f32_parts(std::slice::from_ref(&all)), [all]);
    }

    #[test]
    fn xavier_stays_in_its_limits_and_depends_on_the_seed() {
        let mut layout = Layout::default();
        let id = layout.add("w", &[40, 56], Init::Xavier { fan_in: 40, fan_out: 56 }, true);
        let values = layout.initial_values(1);
        let values = &values[layout.get(id).range()];
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest <= 0.25 && largest > 0.24, "{largest}");
        assert_ne!(values, &layout.initial_values(2)[layout.get(id).range()]);
    }
}
