//! Patch gathering on the CPU.

use rayon::prelude::*;

use super::{GatherPatches, Normalisation, Shape};
use crate::device::{Cpu, DeviceError};
use crate::simd::{LANES, wide};

/// Numbers that are normalised together: whole pixels and whole registers.
const RUN: usize = 3 * LANES;

/// Factors and offsets for one run, so that `byte * factor + offset = (byte / 255 - mean) / std`.
#[derive(Clone, Copy)]
struct Line {
    scales: [f32; RUN],
    shifts: [f32; RUN],
}

impl Line {
    fn new(normalisation: &Normalisation) -> Self {
        let [mean, std] = [normalisation.mean, normalisation.std].map(|values| values.map(f64::from));
        Self {
            scales: std::array::from_fn(|index| (1.0 / (255.0 * std[index % 3])) as f32),
            shifts: std::array::from_fn(|index| (-mean[index % 3] / std[index % 3]) as f32),
        }
    }

    /// `bytes` start with a pixel's first channel.
    #[inline(always)]
    fn normalise(&self, bytes: &[u8], out: &mut [f32]) {
        let (runs, rest) = bytes.as_chunks::<RUN>();
        let (out_runs, out_rest) = out.as_chunks_mut::<RUN>();
        for (out, bytes) in out_runs.iter_mut().zip(runs) {
            for index in 0..RUN {
                out[index] = f32::from(bytes[index]) * self.scales[index] + self.shifts[index];
            }
        }
        for (index, (out, byte)) in out_rest.iter_mut().zip(rest).enumerate() {
            *out = f32::from(*byte) * self.scales[index] + self.shifts[index];
        }
    }
}

impl GatherPatches for Cpu {
    fn gather_patches(
        &self,
        shape: &Shape,
        normalisation: &Normalisation,
        images: &[u8],
        ids: &[u32],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let &Shape { side, patch, kept, .. } = shape;
        let line = Line::new(normalisation);
        let row = patch * patch * 3;
        let samples = out.par_chunks_mut(kept * row).zip(images.par_chunks(side * side * 3).zip(ids.par_chunks(kept)));
        samples.for_each(|(out, (image, ids))| {
            wide(
                #[inline(always)]
                || {
                    for (out, id) in out.chunks_exact_mut(row).zip(ids) {
                        let (id, columns) = (*id as usize, side / patch);
                        let (top, left) = (id / columns * patch, id % columns * patch);
                        for (y, out) in out.chunks_exact_mut(patch * 3).enumerate() {
                            let start = ((top + y) * side + left) * 3;
                            line.normalise(&image[start..start + patch * 3], out);
                        }
                    }
                },
            );
        });
        Ok(())
    }

    fn normalise_patches(
        &self,
        normalisation: &Normalisation,
        patches: &[u8],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        const CHUNK: usize = 256 * RUN;
        let line = Line::new(normalisation);
        let chunks = out.par_chunks_mut(CHUNK).zip(patches.par_chunks(CHUNK));
        chunks.for_each(|(out, bytes)| {
            wide(
                #[inline(always)]
                || line.normalise(bytes, out),
            );
        });
        Ok(())
    }
}
