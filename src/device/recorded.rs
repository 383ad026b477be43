//! Calls that are made again and again.

use super::{Device, DeviceError, Graph};

/// Calls that are the same each time, on the same addresses. A device that can capture them does so the second time
/// (the first time loads kernels), and replays the graph from then on, with the same bits.
#[derive(Default)]
pub struct Recorded {
    made: bool,
    graph: Option<Box<dyn Graph>>,
}

impl Recorded {
    /// Makes the calls.
    ///
    /// # Errors
    /// If the device fails, or a call is not possible during a capture ([`Device::begin_capture`]).
    pub fn run<D: Device>(
        &mut self,
        device: &D,
        mut calls: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if self.graph.is_none() && self.made && device.begin_capture()? {
            let captured = calls();
            // The capture must end even if a call failed.
            let graph = device.end_capture();
            captured?;
            self.graph = graph?;
        }
        match &self.graph {
            Some(graph) => graph.replay(),
            None => {
                self.made = true;
                calls()
            }
        }
    }

    /// Whether they are replayed from now on.
    pub fn is_captured(&self) -> bool {
        self.graph.is_some()
    }
}
