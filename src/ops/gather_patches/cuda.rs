//! Normalised patches on a GPU: `kernels/gather_patches.cu`.

use bytemuck::{Pod, Zeroable};

use super::{GatherPatches, Normalisation};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

/// A byte `v` becomes `v · scale + shift`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Affine {
    scale: [f32; 3],
    shift: [f32; 3],
}

impl From<&Normalisation> for Affine {
    fn from(Normalisation { mean, std }: &Normalisation) -> Self {
        let per = |of: fn(f64, f64) -> f64| {
            std::array::from_fn(|channel| of(f64::from(mean[channel]), f64::from(std[channel])) as f32)
        };
        Self { scale: per(|_, std| 1.0 / (255.0 * std)), shift: per(|mean, std| -mean / std) }
    }
}

impl<T: ActType> GatherPatches for Cuda<T> {
    fn gather_patches(
        &self,
        normalisation: &Normalisation,
        patches: View<'_, u8>,
        out: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let args = args![patches, out, Arg::size(out.len()), Arg::new(Affine::from(normalisation))];
        self.launch_typed("gather_patches", "gather_patches", LaunchConfig::for_elements(out.len(), T::PACK, 256), args)
    }
}
