//! Casts on the CPU, where activations are f32 already.

use super::Cast;
use crate::device::{Cpu, DeviceError};

impl Cast for Cpu {
    fn cast_forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        y.copy_from_slice(x);
        Ok(())
    }

    fn cast_backward(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), DeviceError> {
        dx.copy_from_slice(dy);
        Ok(())
    }
}
