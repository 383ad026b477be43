//! Where ranks that TCP connects meet.

use std::net::TcpListener;

use super::GroupError;

/// Where ranks meet.
#[derive(Debug)]
pub(super) struct Meeting {
    /// The host of rank 0.
    pub(super) host: String,
    /// Where it listens.
    pub(super) port: u16,
    /// On rank 0, the socket of that port, if it is open already.
    pub(super) listener: Option<TcpListener>,
    /// A number that only ranks of this group know.
    pub(super) secret: u64,
}

impl Meeting {
    /// Rank 0 listens at `MASTER_ADDR`, on the port after `MASTER_PORT`, which torchrun itself uses.
    pub(super) fn of_torchrun() -> Result<Self, GroupError> {
        let variable = |name: &str| {
            let missing = || GroupError::Launch { problem: format!("{name} is not set; torchrun sets it") };
            std::env::var(name).map_err(|_| missing())
        };
        let (host, port) = (variable("MASTER_ADDR")?, variable("MASTER_PORT")?);
        let next = port.trim().parse::<u16>().ok().and_then(|port| port.checked_add(1));
        let problem = || GroupError::Launch { problem: format!("MASTER_PORT={port} is not a port") };
        Ok(Self { host, port: next.ok_or_else(problem)?, listener: None, secret: 0 })
    }
}
