//! Sums of gradients, where a tensor was used twice. Recorded by the tape itself.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::device::{Device, DeviceError};

/// Adding and copying whole buffers of activations.
pub trait Add: Device {
    /// `into += from`
    fn add_into(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;

    /// `into = from`
    fn copy(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;
}
