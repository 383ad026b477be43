//! Ranks that flipk starts itself on this machine: what their parent hands to them. The parent listens before it starts
//! them, so that no other program can take the port, and rank 0 inherits its socket.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;

use super::GroupError;
use super::meeting::Meeting;

/// The number of a rank.
pub(super) const RANK: &str = "FLIPK_RANK";
/// The number of ranks.
pub(super) const RANKS: &str = "FLIPK_RANKS";
/// For rank 0: the file descriptor of the socket on which it listens.
const LISTENER: &str = "FLIPK_LISTENER";
/// For the others: its port.
const PORT: &str = "FLIPK_PORT";
/// A random number by which ranks recognise each other.
const SECRET: &str = "FLIPK_SECRET";

/// Ranks that are about to be started.
#[derive(Debug)]
pub struct Children {
    ranks: usize,
    listener: Arc<TcpListener>,
    port: u16,
    secret: u64,
}

impl Children {
    /// Listens for `ranks` ranks.
    ///
    /// # Errors
    /// If there is no port left.
    pub fn new(ranks: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        // `RandomState` has random keys.
        let secret = RandomState::new().hash_one(port);
        Ok(Self { ranks, listener: Arc::new(listener), port, secret })
    }

    /// Makes `command` start rank `rank`.
    pub fn hand_to(&self, rank: usize, command: &mut Command) {
        let variables = [(RANK, rank.to_string()), (RANKS, self.ranks.to_string()), (SECRET, self.secret.to_string())];
        command.envs(variables);
        if rank > 0 {
            command.env(PORT, self.port.to_string());
            return;
        }
        let listener = self.listener.clone();
        command.env(LISTENER, listener.as_raw_fd().to_string());
        // SAFETY: `fcntl` may be called between fork and exec, and the closure keeps the descriptor open.
        unsafe { command.pre_exec(move || close_on_exec(listener.as_raw_fd(), false)) };
    }
}

/// Where rank `rank` meets the others.
pub(super) fn meeting(rank: usize) -> Result<Meeting, GroupError> {
    let (port, listener) = match rank {
        0 => (0, Some(inherited(variable(LISTENER)?)?)),
        _ => (variable(PORT)?, None),
    };
    Ok(Meeting { host: Ipv4Addr::LOCALHOST.to_string(), port, listener, secret: variable(SECRET)? })
}

fn variable<T: FromStr>(name: &str) -> Result<T, GroupError> {
    let value = std::env::var(name).ok().and_then(|value| value.parse().ok());
    value.ok_or_else(|| GroupError::Launch { problem: format!("{name} is not what `flipk train` sets for its ranks") })
}

fn inherited(descriptor: RawFd) -> Result<TcpListener, GroupError> {
    // Commands that this rank starts must not inherit it, too.
    close_on_exec(descriptor, true)
        .map_err(|error| GroupError::Launch { problem: format!("{LISTENER}={descriptor}: {error}") })?;
    // SAFETY: the parent has opened the descriptor for this process, which joins its group once.
    Ok(unsafe { TcpListener::from_raw_fd(descriptor) })
}

fn close_on_exec(descriptor: RawFd, close: bool) -> io::Result<()> {
    // SAFETY: an integer for a descriptor, which may be wrong.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
