//! Normalised patches on the CPU.

use rayon::prelude::*;

use super::{GatherPatches, Normalisation};
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
