//! Sums of gradients, where a tensor was used twice. Recorded by the tape itself.

#[cfg(feature = "cuda")]
mod cuda;

use rayon::prelude::*;

use crate::device::{Cpu, Device, DeviceError};

/// Adding and copying whole buffers of activations.
pub trait Add: Device {
    /// `into += from`
    fn add_into(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;

    /// `into = from`
    fn copy(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;
}

impl Add for Cpu {
    fn add_into(&self, into: &mut [f32], from: &[f32]) -> Result<(), DeviceError> {
        chunks(into, from, |into, from| into.iter_mut().zip(from).for_each(|(into, from)| *into += from));
        Ok(())
    }

    fn copy(&self, into: &mut [f32], from: &[f32]) -> Result<(), DeviceError> {
        chunks(into, from, |into, from| into.copy_from_slice(from));
        Ok(())
    }
}

/// Calls `body` for each two parts, on all threads.
fn chunks(into: &mut [f32], from: &[f32], body: impl Fn(&mut [f32], &[f32]) + Sync) {
    const CHUNK: usize = 1 << 16;
    into.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(into, from)| body(into, from));
}
