//! Captured calls: those of both streams, and where the main one waits for the other.

use std::sync::Arc;

use super::machine::{Call, Machine};
use crate::device::{DeviceError, Graph};

enum Node {
    /// On the main stream.
    Main(Call),
    /// On the communication stream.
    Forked(Call),
    /// The main stream waits for the communication stream's first calls of this capture, so many of them.
    Wait(usize),
}

/// A capture that has not ended.
pub(super) struct Capture {
    /// Events cannot be used outside the capture in which they are recorded.
    pub(super) number: usize,
    nodes: Vec<Node>,
    /// Calls on the communication stream, and those that were waited for.
    forked: usize,
    waited: usize,
}

impl Capture {
    pub(super) fn new(number: usize) -> Self {
        Self { number, nodes: Vec::new(), forked: 0, waited: 0 }
    }

    pub(super) fn add(&mut self, call: Call, forked: bool) {
        self.forked += usize::from(forked);
        self.nodes.push(if forked { Node::Forked(call) } else { Node::Main(call) });
    }

    /// Calls on the communication stream.
    pub(super) fn forked(&self) -> usize {
        self.forked
    }

    /// Waits for the first calls on the communication stream.
    pub(super) fn wait(&mut self, calls: usize) {
        self.waited = self.waited.max(calls);
        self.nodes.push(Node::Wait(calls));
    }

    /// Waits for all calls on the communication stream. As on a GPU, one that the capture has not forked cannot be
    /// joined.
    pub(super) fn join(&mut self) -> Result<(), DeviceError> {
        if self.forked == 0 {
            return Err(DeviceError::Unsupported { what: "joining a stream that a capture has not forked".to_owned() });
        }
        self.wait(self.forked);
        Ok(())
    }

    /// The graph. As on a GPU, the streams must have been joined.
    pub(super) fn end(self, machine: Arc<Machine>) -> Result<Captured, DeviceError> {
        if self.waited < self.forked {
            return Err(DeviceError::Unsupported { what: "a capture whose streams are not joined".to_owned() });
        }
        Ok(Captured { machine, nodes: self.nodes })
    }
}

/// A graph. Calls on the communication stream are made when they are waited for, as late as a GPU could make them.
pub(super) struct Captured {
    machine: Arc<Machine>,
    nodes: Vec<Node>,
}

impl Graph for Captured {
    fn replay(&self) -> Result<(), DeviceError> {
        let mut made = 0;
        let mut forked = self.nodes.iter().filter_map(|node| match node {
            Node::Forked(call) => Some(call),
            _ => None,
        });
        for node in &self.nodes {
            match node {
                Node::Main(call) => self.machine.make(call)?,
                Node::Forked(_) => {}
                Node::Wait(calls) => {
                    let due = calls.saturating_sub(made);
                    made += due;
                    forked.by_ref().take(due).try_for_each(|call| self.machine.make(call))?;
                }
            }
        }
        Ok(())
    }
}
