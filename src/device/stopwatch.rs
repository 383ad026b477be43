//! Times of a device's calls, whether they are captured or not.

use super::{Buffer, Device, DeviceError, Pending};

/// Measures the time between two calls of a GPU. In contrast to events, it can be captured.
pub struct Stopwatch<D: Device>(Buffer<D, f32>);

impl<D: Device> Stopwatch<D> {
    /// Elements: the start, which takes two, and the seconds.
    pub const LEN: usize = 3;

    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: &D) -> Result<Self, DeviceError> {
        Ok(Self(Buffer::new(device, Self::LEN, "a stopwatch")?))
    }

    /// Starts it after all calls so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn start(&mut self, device: &D) -> Result<(), DeviceError> {
        device.stopwatch(self.0.view_mut(), false)
    }

    /// Stops it after all calls so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn stop(&mut self, device: &D) -> Result<(), DeviceError> {
        device.stopwatch(self.0.view_mut(), true)
    }

    /// The seconds between the last start and the last stop, one number. Returns at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn seconds_async(&self, device: &D) -> Result<Pending, DeviceError> {
        device.download_async(self.0.range(Self::LEN - 1..Self::LEN))
    }
}
