//! Calls that are made again and again.

use std::sync::Once;

use tracing::warn;

use super::{Device, DeviceError, Graph};

/// Calls that are the same each time, on the same addresses. A device that can capture them does so the second time
/// (the first time loads kernels), and replays the graph from then on, with the same bits. If it refuses, they are
/// made one by one, as before.
#[derive(Default)]
pub struct Captured {
    made: bool,
    refused: bool,
    graph: Option<Box<dyn Graph>>,
}

impl Captured {
    /// Makes the calls.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run<D: Device>(
        &mut self,
        device: &D,
        mut calls: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if D::CAPTURES && self.made && !self.refused && self.graph.is_none() {
            self.graph = capture(device, &mut calls).unwrap_or_else(|error| {
                static ONCE: Once = Once::new();
                ONCE.call_once(|| warn!("a step is not replayed from a graph, which may be slower: {error}"));
                // Nothing was computed, so what really fails fails again below.
                self.refused = true;
                None
            });
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

/// The graph of `calls`.
fn capture<D: Device>(
    device: &D,
    calls: &mut impl FnMut() -> Result<(), DeviceError>,
) -> Result<Option<Box<dyn Graph>>, DeviceError> {
    device.begin_capture()?;
    let made = calls();
    // The capture must end even if a call failed.
    let graph = device.end_capture();
    made.and(graph)
}
