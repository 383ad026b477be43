//! Patch gathering on a GPU: `kernels/gather_patches.cu`.

use bytemuck::{Pod, Zeroable};

use super::{GatherPatches, Normalisation, Shape};
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
        shape: &Shape,
        normalisation: &Normalisation,
        images: View<'_, u8>,
        ids: View<'_, u32>,
        out: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, side, patch, kept } = shape;
        // A thread's bytes lie in one line of one patch, at an aligned address.
        let aligned = (3 * patch).is_multiple_of(8) && (3 * side).is_multiple_of(8);
        let kernel = if aligned { "gather_patches_aligned" } else { "gather_patches" };
        let affine = Arg::new(Affine::from(normalisation));
        let args = args![images, ids, out, batch, side, patch, kept, affine];
        self.launch_typed("gather_patches", kernel, LaunchConfig::for_elements(out.len(), T::PACK, 256), args)
    }

    fn normalise_patches(
        &self,
        normalisation: &Normalisation,
        patches: View<'_, u8>,
        out: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let args = args![patches, out, Arg::size(out.len()), Arg::new(Affine::from(normalisation))];
        self.launch_typed(
            "gather_patches",
            "normalise_patches",
            LaunchConfig::for_elements(out.len(), T::PACK, 256),
            args,
        )
    }
}
