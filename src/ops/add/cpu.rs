//! Sums of gradients on the CPU, in parallel over chunks.

use rayon::prelude::*;

use super::Add;
use crate::device::{Cpu, DeviceError};

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

/// Calls `body` for each pair of chunks, on all threads.
fn chunks(into: &mut [f32], from: &[f32], body: impl Fn(&mut [f32], &[f32]) + Sync) {
    const CHUNK: usize = 1 << 16;
    into.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(into, from)| body(into, from));
}
