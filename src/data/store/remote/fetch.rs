//! An object in ranges, each with its own attempts.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tracing::debug;

use super::address::Address;
use super::cloud;
use super::failure::Failure;
use super::network;
use super::place::{Answer, Place, Version};
use crate::data::store::Spooled;
use crate::data::store::access::{Fetching, seconds};

/// Bytes of a request; few in tests, whose files are small.
pub(crate) const RANGE: u64 = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// Requests for one object at a time.
const AT_ONCE: usize = 4;
/// Attempts of each request, and fetches of an object that changes.
pub(crate) const ATTEMPTS: u32 = 4;
const FETCHES: u32 = 3;
/// The pause after the first attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 500 });

/// Where fetched bytes go.
pub(in crate::data::store) trait Sink {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Forgets what was written.
    fn clear(&mut self) -> io::Result<()>;
}

/// Length and tag of an object; `None` if the server does not say without sending it.
///
/// # Errors
/// Those that a fetch would have too.
pub(in crate::data::store) fn describe(address: Address<'_>, with: Fetching<'_>) -> io::Result<Option<Version>> {
    run(address, with, async |place| {
        let mut attempts = Attempts::default();
        loop {
            match place.head(with.access.io_timeout).await {
                Ok(version) => return Ok(Some(version)),
                // Some servers, and signed addresses, allow only GET.
                Err(Failure::Refused { .. }) if place.is_web() => return Ok(None),
                Err(failure) => attempts.again(failure).await?,
            }
        }
    })
}

/// Fetches an object whole. `known`: what [`describe`] said. Returns what was fetched, with its length.
///
/// # Errors
/// An object that is missing, denied or changes, a server that does not answer, or a disk that is full.
pub(in crate::data::store) fn fetch(
    address: Address<'_>,
    known: Option<Version>,
    into: &mut dyn Sink,
    with: Fetching<'_>,
) -> io::Result<(u64, Version)> {
    let sink = RefCell::new(into);
    run(address, with, async |place| {
        let mut known = known.clone();
        for last in 1..=FETCHES {
            match once(&place, known.take(), &sink, with.access.io_timeout).await {
                Err(Failure::Changed) if last < FETCHES => sink.borrow_mut().clear().map_err(Failure::Disk)?,
                fetched => return fetched,
            }
        }
        Err(Failure::Changed)
    })
}

/// The keys in the folder of a pattern, and in folders below it if the pattern has more parts.
///
/// # Errors
/// A bucket that is missing or may not be listed, or a server that does not answer.
pub(in crate::data::store) fn list(address: Address<'_>, with: Fetching<'_>) -> io::Result<Vec<String>> {
    run(address, with, async |_| {
        let mut attempts = Attempts::default();
        loop {
            match cloud::list(address, with.access.io_timeout).await {
                Ok(keys) => return Ok(keys),
                Err(failure) => attempts.again(failure).await?,
            }
        }
    })
}

/// A small object, or `None` if there is none or it may not be read.
///
/// # Errors
/// A server that does not answer, or an object of more than 64 MiB.
pub(in crate::data::store) fn small(address: Address<'_>, with: Fetching<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let sink: RefCell<&mut dyn Sink> = RefCell::new(&mut bytes);
    let found = run(address, with, async |place| match once(&place, None, &sink, with.access.io_timeout).await {
        Err(Failure::Refused { .. }) => Ok(false),
        fetched => fetched.map(|_| true),
    })?;
    Ok(found.then_some(bytes))
}

impl Sink for Spooled {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        Self::write_at(self, bytes, at)
    }

    fn clear(&mut self) -> io::Result<()> {
        Self::clear(self);
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        const MOST: usize = 64 << 20;
        let start = usize::try_from(at).unwrap_or(MOST);
        let end = start.saturating_add(bytes.len());
        if end > MOST {
            return Err(io::Error::other(format!("it has more than {} MiB", MOST >> 20)));
        }
        if self.len() < end {
            self.resize(end, 0);
        }
        self[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.truncate(0);
        Ok(())
    }
}

/// Runs `work` on this thread, until it ends or is stopped.
fn run<T>(
    address: Address<'_>,
    with: Fetching<'_>,
    work: impl AsyncFnOnce(Place) -> Result<T, Failure>,
) -> io::Result<T> {
    let stopped = async {
        while !with.is_stopped() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let done = network()?.block_on(async {
        // Inside, since clients start tasks of their own.
        let place = Place::of(address, with.access.io_timeout)?;
        match select(Box::pin(work(place)), Box::pin(stopped)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(Failure::Stopped),
        }
    });
    done.map_err(|failure| {
        let attempts = if matches!(failure, Failure::Changed) { FETCHES } else { ATTEMPTS };
        failure.explain(address, attempts)
    })
}

/// Counts failed attempts.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Waits, unless the failure is final or was the last one.
    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        self.0 += 1;
        match failure {
            Failure::Passing(problem) if self.0 < ATTEMPTS => {
                debug!(attempt = self.0, problem, "a request failed and is retried");
                tokio::time::sleep(PAUSE * 2u32.pow(self.0 - 1)).await;
                Ok(())
            }
            failure => Err(failure),
        }
    }
}

/// Fetches the object, unless it changes meanwhile.
async fn once(
    place: &Place,
    known: Option<Version>,
    sink: &RefCell<&mut dyn Sink>,
    timeout: Duration,
) -> Result<(u64, Version), Failure> {
    let known = match known {
        None if !place.is_web() => {
            let mut attempts = Attempts::default();
            loop {
                match place.head(timeout).await {
                    Ok(version) => break version,
                    Err(failure) => attempts.again(failure).await?,
                }
            }
        }
        known => known.unwrap_or_default(),
    };
    if known.len == Some(0) {
        return Ok((0, known));
    }
    let first = 0..known.len.unwrap_or(RANGE).min(RANGE);
    let (mut reached, version) = range(place, first, &known, sink, timeout).await?;
    let len = match version.len {
        // What came was all.
        None => reached,
        Some(len) => len,
    };
    // More than the first range, if the server ignores ranges.
    let starts = stream::iter((reached..len).step_by(RANGE as usize));
    let rest = starts.map(|start| range(place, start..len.min(start + RANGE), &version, sink, timeout));
    let mut rest = rest.buffer_unordered(AT_ONCE);
    while let Some((end, _)) = rest.try_next().await? {
        reached = reached.max(end);
    }
    drop(rest);
    Ok((len, Version { len: Some(len), ..version }))
}

/// Fetches a range, in as many attempts as are allowed. Returns how far it came, which is further if the server ignores
/// ranges, and which version that is of.
async fn range(
    place: &Place,
    asked: Range<u64>,
    version: &Version,
    sink: &RefCell<&mut dyn Sink>,
    timeout: Duration,
) -> Result<(u64, Version), Failure> {
    let (mut version, mut at, mut attempts) = (version.clone(), asked.start, Attempts::default());
    loop {
        let tried = async {
            // Beyond it if the server ignores ranges.
            let from = if at < asked.end { at } else { asked.start };
            let answer = place.get(from..asked.end, &version, timeout).await?;
            if !version.fits(&answer.version) {
                return Err(Failure::Changed);
            }
            version = answer.version.clone();
            let ends = answer.end;
            receive(answer, &mut at, sink, timeout).await?;
            match ends {
                Some(end) if at < end => Err(Failure::Passing("the connection was closed too early".to_owned())),
                _ => Ok(()),
            }
        };
        match tried.await {
            // A server may send less than a range.
            Ok(()) if at < asked.end.min(version.len.unwrap_or(0)) => {}
            Ok(()) => return Ok((at, version)),
            Err(failure) => attempts.again(failure).await?,
        }
        // The rest of a file without a length cannot be asked for.
        if version.len.is_none() {
            at = asked.start;
        }
    }
}

/// Writes a body from byte `at` on, which moves with it.
async fn receive(
    mut answer: Answer,
    at: &mut u64,
    sink: &RefCell<&mut dyn Sink>,
    timeout: Duration,
) -> Result<(), Failure> {
    let mut here = answer.start;
    let late = |_| Failure::Passing(format!("no data for {}", seconds(timeout)));
    while let Some(bytes) = tokio::time::timeout(timeout, answer.body.next()).await.map_err(late)? {
        let bytes = bytes?;
        let end = here + bytes.len() as u64;
        if answer.end.is_some_and(|last| end > last) {
            return Err(Failure::Final("the server sent more bytes than it announced".to_owned()));
        }
        // Bytes before were written by an attempt that broke off.
        let known = at.saturating_sub(here).min(bytes.len() as u64) as usize;
        if known < bytes.len() {
            sink.borrow_mut().write_at(&bytes[known..], *at).map_err(Failure::Disk)?;
            *at = end;
        }
        here = end;
    }
    Ok(())
}
