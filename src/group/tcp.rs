//! Ranks connected by TCP, in a star around rank 0. GPUs exchange by NCCL what is large; this carries the rest. Under
//! `torchrun` it also connects ranks on CPUs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::exchange::{Received, message, part_for};
use super::{Exchange, Group, GroupError, Launched, Place, block_of};

/// A rank of a group that is connected by TCP.
#[derive(Debug)]
pub struct Tcp {
    launched: Launched,
    /// On rank 0 those to ranks 1, 2, ...; on others the one to rank 0.
    streams: Mutex<Vec<TcpStream>>,
    /// Clones of them, to end calls that are waiting.
    clones: Vec<TcpStream>,
}

/// A rank first sends this number, its rank, and the number of ranks.
const MAGIC: u32 = u32::from_be_bytes(*b"flpk");

/// How long ranks wait for each other at the start.
const TIMEOUT: Duration = Duration::from_secs(300);

fn failed(call: &'static str) -> impl Fn(io::Error) -> GroupError {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => GroupError::Gone,
        _ => GroupError::Call { call, problem: error.to_string() },
    }
}

fn send(stream: &mut TcpStream, words: &[u32]) -> Result<(), GroupError> {
    stream.write_all(bytemuck::cast_slice(words)).map_err(failed("sending"))
}

fn receive(stream: &mut TcpStream, words: &mut [u32]) -> Result<(), GroupError> {
    stream.read_exact(bytemuck::cast_slice_mut(words)).map_err(failed("receiving"))
}

impl Tcp {
    /// Joins the group, at the address that `MASTER_ADDR` and the port after `MASTER_PORT` name; the port itself is
    /// the launcher's.
    ///
    /// # Errors
    /// If there is no such address, or a rank does not connect.
    pub fn join(launched: Launched) -> Result<Self, GroupError> {
        let variable = |name: &str| {
            let missing = || GroupError::Launch { problem: format!("{name} is not set; torchrun sets it") };
            std::env::var(name).map_err(|_| missing())
        };
        let (host, port) = (variable("MASTER_ADDR")?, variable("MASTER_PORT")?);
        let next = port.trim().parse::<u16>().ok().and_then(|port| port.checked_add(1));
        let problem = || GroupError::Launch { problem: format!("MASTER_PORT={port} is not a port") };
        Self::at(launched, &host, next.ok_or_else(problem)?)
    }

    /// Joins the group whose rank 0 listens at `port` of `host`.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn at(launched: Launched, host: &str, port: u16) -> Result<Self, GroupError> {
        let streams = match launched.place.rank {
            0 => listen(launched.place.size, port)?,
            _ => vec![connect(launched, host, port)?],
        };
        for stream in &streams {
            stream.set_nodelay(true).map_err(failed("connecting"))?;
        }
        let clones =
            streams.iter().map(TcpStream::try_clone).collect::<Result<_, _>>().map_err(failed("connecting"))?;
        Ok(Self { launched, streams: Mutex::new(streams), clones })
    }

    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of rank 0, by rank.
fn listen(size: usize, port: u16) -> Result<Vec<TcpStream>, GroupError> {
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(failed("listening"))?;
    listener.set_nonblocking(true).map_err(failed("listening"))?;
    let begun = Instant::now();
    let mut found: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while let Some(missing) = found.iter().position(Option::is_none) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if begun.elapsed() > TIMEOUT {
                    let problem = format!("rank {} did not connect within {} s", missing + 1, TIMEOUT.as_secs());
                    return Err(GroupError::Launch { problem });
                }
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(failed("listening")(error)),
        };
        stream.set_nonblocking(false).map_err(failed("listening"))?;
        // A client that is not a rank must not block the others.
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed("listening"))?;
        let mut hello = [0; 3];
        if receive(&mut stream, &mut hello).is_err() || hello[0] != MAGIC || hello[2] as usize != size {
            continue;
        }
        stream.set_read_timeout(None).map_err(failed("listening"))?;
        if let Some(place) = (hello[1] as usize).checked_sub(1).and_then(|place| found.get_mut(place)) {
            *place = Some(stream);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn connect(launched: Launched, host: &str, port: u16) -> Result<TcpStream, GroupError> {
    let begun = Instant::now();
    loop {
        let addresses = (host, port).to_socket_addrs().map_err(failed("looking up rank 0"))?;
        let opened = addresses.into_iter().find_map(|address| TcpStream::connect_timeout(&address, TIMEOUT).ok());
        match opened {
            Some(mut stream) => {
                send(&mut stream, &[MAGIC, launched.place.rank as u32, launched.place.size as u32])?;
                return Ok(stream);
            }
            None if begun.elapsed() > TIMEOUT => {
                let problem = format!("rank 0 does not answer at {host}:{port}");
                return Err(GroupError::Launch { problem });
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

impl Group for Tcp {
    fn place(&self) -> Place {
        self.launched.place
    }

    fn describe(&self) -> String {
        "TCP".to_owned()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        let (len, mut streams) = (all.len(), self.streams());
        if self.rank() > 0 {
            send(&mut streams[0], &all[block_of(self.rank(), block, len)])?;
            return receive(&mut streams[0], all);
        }
        for (place, stream) in streams.iter_mut().enumerate() {
            receive(stream, &mut all[block_of(place + 1, block, len)])?;
        }
        streams.iter_mut().try_for_each(|stream| send(stream, all))
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        let mut streams = self.streams();
        if self.rank() > 0 {
            return send(&mut streams[0], own);
        }
        all[block_of(0, block, len)].copy_from_slice(own);
        let mut others = streams.iter_mut().enumerate();
        others.try_for_each(|(place, stream)| receive(stream, &mut all[block_of(place + 1, block, len)]))
    }

    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        let (size, mut streams) = (self.size(), self.streams());
        let own = message(&parts, to);
        if self.rank() > 0 {
            send(&mut streams[0], &[own.len() as u32])?;
            send(&mut streams[0], &own)?;
            let mut received = vec![0; from.iter().sum()];
            receive(&mut streams[0], &mut received)?;
            return Ok(Box::new(Received(received)));
        }
        let mut all = vec![own];
        for stream in streams.iter_mut() {
            let mut len = [0];
            receive(stream, &mut len)?;
            let mut other = vec![0; len[0] as usize];
            receive(stream, &mut other)?;
            all.push(other);
        }
        let of = |rank| -> Vec<u32> { all.iter().flat_map(|one| part_for(one, rank, size)).copied().collect() };
        for (place, stream) in streams.iter_mut().enumerate() {
            send(stream, &of(place + 1))?;
        }
        Ok(Box::new(Received(of(0))))
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        let mut streams = self.streams();
        match self.rank() {
            0 => streams.iter_mut().try_for_each(|stream| send(stream, words)),
            _ => receive(&mut streams[0], words),
        }
    }

    /// Ends the calls of all ranks with an error.
    fn abort(&self) {
        for stream in &self.clones {
            // Best effort: the other side may be gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Launcher;

    fn group(size: usize) -> Vec<Tcp> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let rank = move |rank| Launched { by: Launcher::Torchrun, place: Place::on_one_machine(rank, size) };
        let join = |number| std::thread::spawn(move || Tcp::at(rank(number), "127.0.0.1", port).unwrap());
        // The others may start before rank 0.
        let ranks: Vec<_> = (0..size).rev().map(join).collect();
        ranks.into_iter().rev().map(|rank| rank.join().unwrap()).collect()
    }

    #[test]
    fn words_arrive_as_they_should() {
        for size in [2, 3, 5] {
            crate::group::threads::tests::check(group(size));
        }
    }

    #[test]
    fn a_rank_that_is_gone_or_aborts_ends_the_others() {
        for aborts in [false, true] {
            let mut ranks = group(3);
            let (last, first) = (ranks.pop().unwrap(), ranks.remove(0));
            let waiting = std::thread::spawn(move || first.all_gather(&mut [0; 3], 1));
            if aborts {
                last.abort();
            } else {
                drop(last);
            }
            drop(ranks);
            assert!(matches!(waiting.join().unwrap(), Err(GroupError::Gone)));
        }
    }
}
