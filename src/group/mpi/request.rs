//! An exchange that MPI has started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Connection;
use super::library::{Blocks, Handle};
use crate::group::{Exchange, GroupError};

/// Calls `test` until it succeeds, or for 1/64 of the time since `polled`, when that was last done. A single `MPI_Test`
/// of MPICH may move nothing even if the other rank is ready, which then waits for this one. After a second or more
/// without a poll, the other rank may be far behind, so no more than that second counts.
fn poll_for_a_while(
    polled: &mut Instant,
    mut test: impl FnMut() -> Result<bool, GroupError>,
) -> Result<bool, GroupError> {
    const SHARE: u32 = 64;
    let until = Instant::now() + polled.elapsed().min(Duration::from_secs(1)) / SHARE;
    if test()? {
        return Ok(true);
    }
    loop {
        let (now, complete) = (Instant::now(), test()?);
        if complete || now >= until {
            *polled = now;
            return Ok(complete);
        }
    }
}

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
        self.complete = poll_for_a_while(&mut polled, || self.connection.library.test(&mut self.handle))?;
        Ok(self.complete)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_ends_with_success_or_after_its_share_of_the_time() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs_f64(seconds)).unwrap();
        let mut tests = 0;
        let mut third = || {
            tests += 1;
            Ok(tests == 3)
        };
        assert!(poll_for_a_while(&mut ago(0.5), &mut third).unwrap());
        assert_eq!(tests, 3);
        let (mut polled, began) = (ago(100.0), Instant::now());
        assert!(!poll_for_a_while(&mut polled, || Ok(false)).unwrap());
        assert!(polled >= began + Duration::from_secs(1) / 64);
        // The next request of the same poll has hardly any time left.
        let mut tests = 0;
        let never = || {
            tests += 1;
            std::thread::sleep(Duration::from_millis(10));
            Ok(false)
        };
        assert!(!poll_for_a_while(&mut polled, never).unwrap());
        assert_eq!(tests, 2);
    }
}
