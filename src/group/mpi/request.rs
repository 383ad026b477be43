//! An exchange that MPI has started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Connection;
use super::library::{Blocks, Handle};
use crate::group::{Exchange, GroupError};

/// One over the share of a rank's time for [`Request::poll`]. A single `MPI_Test` of MPICH may move nothing even if the
/// other rank is ready, which then waits.
const POLLING: u32 = 64;

/// A request, and the memory that it uses.
pub(super) struct Request {
    connection: Arc<Connection>,
    handle: Handle,
    complete: bool,
    /// What is sent, until the request is complete.
    parts: Vec<u32>,
    received: Vec<u32>,
    blocks: Vec<Blocks>,
}

impl Request {
    pub(super) fn all_to_all(
        connection: Arc<Connection>,
        parts: Vec<u32>,
        [to, from]: [Blocks; 2],
        len: usize,
    ) -> Result<Self, GroupError> {
        let mut received = connection.spare().pop().unwrap_or_default();
        received.resize(len, 0);
        let handle = {
            let _call = connection.call();
            // SAFETY: the memory of vectors stays where it is when they are moved, and `drop` leaks what is in use.
            unsafe { connection.library.start_all_to_all((&parts, &to), (&mut received, &from)) }?
        };
        Ok(Self { connection, handle, complete: false, parts, received, blocks: vec![to, from] })
    }

    pub(super) fn all_gather(
        connection: Arc<Connection>,
        mut all: Vec<u32>,
        blocks: Blocks,
    ) -> Result<Self, GroupError> {
        let handle = {
            let _call = connection.call();
            // SAFETY: as above.
            unsafe { connection.library.start_all_gather(&mut all, &blocks) }?
        };
        Ok(Self { connection, handle, complete: false, parts: Vec::new(), received: all, blocks: vec![blocks] })
    }
}

impl Exchange for Request {
    fn poll(&mut self) -> Result<bool, GroupError> {
        if self.complete {
            return Ok(true);
        }
        let mut polled = self.connection.call();
        let until = Instant::now() + polled.elapsed().min(Duration::from_secs(1)) / POLLING;
        loop {
            self.complete = self.connection.library.test(&mut self.handle)?;
            let now = Instant::now();
            if self.complete {
                return Ok(true);
            }
            if now >= until {
                *polled = now;
                return Ok(false);
            }
        }
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<u32>, GroupError> {
        if !self.complete {
            let _call = self.connection.call();
            self.connection.library.wait(&mut self.handle)?;
        }
        self.complete = true;
        let parts = std::mem::take(&mut self.parts);
        if !parts.is_empty() {
            self.connection.spare().push(parts);
        }
        Ok(std::mem::take(&mut self.received))
    }
}

impl Drop for Request {
    /// If this rank has failed, others may not answer, and the library still uses the memory.
    fn drop(&mut self) {
        if !self.complete {
            let [parts, received] = [&mut self.parts, &mut self.received].map(std::mem::take);
            std::mem::forget((parts, received, std::mem::take(&mut self.blocks)));
        }
    }
}
