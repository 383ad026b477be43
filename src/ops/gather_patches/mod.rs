//! The pixels of the visible patches, normalised, as rows of a matrix: `(u8 / 255 - mean) / std`.
//!
//! Gathering before the patch embedding equals gathering after it, since positions are added per patch, and does less work:
//! hidden patches are never read.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `kept` of the `(side / patch)²` patches of each of `batch` images.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Pixels along a side of an image.
    pub side: usize,
    /// Pixels along a side of a patch.
    pub patch: usize,
    /// Visible patches of an image.
    pub kept: usize,
}

/// Mean and standard deviation of each channel, for pixels divided by 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

impl Normalisation {
    /// ImageNet's, as in the FLIP authors' code.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
}

/// Devices that gather patches.
pub trait GatherPatches: Device {
    /// `images: [batch, side, side, 3]`, `ids: [batch, kept] -> out: [batch * kept, patch * patch * 3]`, with channels innermost.
    fn gather_patches(
        &self,
        shape: &Shape,
        normalisation: &Normalisation,
        images: Self::View<'_, u8>,
        ids: Self::View<'_, u32>,
        out: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// As [`Self::gather_patches`] for patches that are gathered already: `patches`, `out: [rows, patch * patch * 3]`.
    fn normalise_patches(
        &self,
        normalisation: &Normalisation,
        patches: Self::View<'_, u8>,
        out: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct GatherPatchesOp<D: Device> {
    shape: Shape,
    normalisation: Normalisation,
    images: Slot<u8>,
    ids: Slot<u32>,
    out: Var<D::Act>,
}

impl<D: GatherPatches> Tape<D> {
    /// `images: [batch, side, side, 3]`, `ids: [batch, kept] -> [batch, kept, patch * patch * 3]`, which gets no gradient.
    pub fn gather_patches(
        &mut self,
        images: Slot<u8>,
        ids: Slot<u32>,
        shape: Shape,
        normalisation: Normalisation,
    ) -> Var<D::Act> {
        let out = self.result(&[shape.batch, shape.kept, shape.patch * shape.patch * 3], false);
        self.record(GatherPatchesOp { shape, normalisation, images, ids, out }, &[images.id(), ids.id()]);
        out
    }
}

impl<D: GatherPatches> Op<D> for GatherPatchesOp<D> {
    fn name(&self) -> &'static str {
        "gather_patches"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, patch, kept, .. } = self.shape;
        let pixels = batch * kept * patch * patch * 3;
        let bytes = pixels as u64 + act_bytes::<D>(pixels) + 4 * (batch * kept) as u64;
        Cost { forward: Work { flops: 0, bytes }, backward: Work::default() }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let (images, ids, out) = (on.read(self.images), on.read(self.ids), on.write(self.out.slot()));
        device.gather_patches(&self.shape, &self.normalisation, images, ids, out)
    }

    fn plan_backward(&mut self, _: &mut Backward<D>) -> bool {
        false
    }

    fn backward(&self, _: &D, _: &Access<D>) -> Result<(), DeviceError> {
        Ok(())
    }
}
