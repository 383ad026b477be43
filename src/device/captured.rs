//! Calls that are made again and again.

use std::sync::Once;

use tracing::warn;

use super::{Device, DeviceError, Graph};

/// Calls that are the same each time, on the same addresses. A device that can capture them does so the second time
/// (the first time loads kernels), and replays the graph from then on, with the same bits. If it refuses, they are
/// made one by one.
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
        calls: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.run_on_all(device, Ok, calls)
    }

    /// As [`Self::run`], with transfers between ranks among the calls: all ranks must replay them, or none. `agree`
    /// tells the ranks whether this one captured them, and returns whether all did.
    ///
    /// # Errors
    /// As [`Self::run`], or of `agree`.
    pub fn run_on_all<D: Device>(
        &mut self,
        device: &D,
        agree: impl FnOnce(bool) -> Result<bool, DeviceError>,
        mut calls: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if D::CAPTURES && self.made && !self.refused && self.graph.is_none() {
            let captured = capture(device, &mut calls);
            // If one failed, nothing was computed, so what really fails fails again below.
            self.refused = !agree(captured.is_ok())?;
            match captured {
                Ok(graph) if !self.refused => self.graph = graph,
                Ok(_) => warn_once("another rank refused"),
                Err(error) => warn_once(&error.to_string()),
            }
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

fn warn_once(why: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| warn!("a step is not replayed from a graph, which may be slower: {why}"));
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
