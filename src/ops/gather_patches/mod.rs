//! The pixels of the visible patches, normalised, as rows of a matrix: `(u8 / 255 - mean) / std`.
//!
//! The loader has gathered them: hidden patches are neither resized nor uploaded. Gathering before the patch embedding
//! equals gathering after it, since positions are added per patch.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use serde::{Deserialize, Serialize};

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// Mean and standard deviation of each channel, for pixels divided by 255.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

impl Normalisation {
    /// ImageNet's, as in the FLIP authors' code.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// OpenAI's, as in most of OpenCLIP's models.
    pub const OPENAI: Self =
        Self { mean: [0.481_454_67, 0.457_827_5, 0.408_210_72], std: [0.268_629_55, 0.261_302_6, 0.275_777_1] };
}

impl Default for Normalisation {
    fn default() -> Self {
        Self::IMAGENET
    }
}

/// Devices that normalise patches.
pub trait GatherPatches: Device {
    /// `patches`, `out: [rows, patch * patch * 3]`, with channels innermost.
    fn gather_patches(
        &self,
        normalisation: &Normalisation,
        patches: Self::View<'_, u8>,
        out: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct GatherPatchesOp<D: Device> {
    normalisation: Normalisation,
    patches: Slot<u8>,
    out: Var<D::Act>,
    numbers: usize,
}

impl<D: GatherPatches> Tape<D> {
    /// `patches` and the result have `shape`, `[batch, kept, patch * patch * 3]`; the result gets no gradient.
    pub fn gather_patches(
        &mut self,
        patches: Slot<u8>,
        shape: [usize; 3],
        normalisation: Normalisation,
    ) -> Var<D::Act> {
        let out = self.result(&shape, false);
        let numbers = shape.iter().product();
        self.record(GatherPatchesOp { normalisation, patches, out, numbers }, &[patches.id()]);
        out
    }
}

impl<D: GatherPatches> Op<D> for GatherPatchesOp<D> {
    fn name(&self) -> &'static str {
        "gather_patches"
    }

    fn cost(&self) -> Cost {
        let bytes = self.numbers as u64 + act_bytes::<D>(self.numbers);
        Cost { forward: Work { flops: 0, bytes }, backward: Work::default() }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.gather_patches(&self.normalisation, on.read(self.patches), on.write(self.out.slot()))
    }

    fn plan_backward(&mut self, _: &mut Backward<D>) -> bool {
        false
    }

    fn backward(&self, _: &D, _: &Access<D>) -> Result<(), DeviceError> {
        Ok(())
    }
}
