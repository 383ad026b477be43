//! Ranks connected by TCP, in a star around rank 0. GPUs exchange by NCCL what is large; this carries the rest. Under
//! `torchrun`, and where flipk starts the ranks itself, it also connects ranks on CPUs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::exchange::{Received, message, part_for};
use super::meeting::Meeting;
use super::{Exchange, Group, GroupError, Launched, Launcher, Place, block_of, children};

/// A rank of a group that is connected by TCP.
#[derive(Debug)]
pub struct Tcp {
    launched: Launched,
    /// On rank 0 those to ranks 1, 2, ...; on others the one to rank 0.
    streams: Mutex<Vec<TcpStream>>,
    /// Clones of them, to end calls that are waiting.
    clones: Vec<TcpStream>,
}

/// A rank first sends this number, the secret, its rank, and the number of ranks.
const MAGIC: u32 = u32::from_be_bytes(*b"flpk");

fn hello(secret: u64, rank: usize, size: usize) -> [u32; 5] {
    [MAGIC, secret as u32, (secret >> 32) as u32, rank as u32, size as u32]
}

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
    /// Joins the group that `launched` describes.
    ///
    /// # Errors
    /// If the launcher does not say where ranks meet, or a rank does not connect.
    pub fn join(launched: Launched) -> Result<Self, GroupError> {
        let meeting = match launched.by {
            Launcher::Flipk => children::meeting(launched.place.rank)?,
            _ => Meeting::of_torchrun()?,
        };
        Self::meet(launched, meeting)
    }

    fn meet(launched: Launched, meeting: Meeting) -> Result<Self, GroupError> {
        let streams = match launched.place.rank {
            0 => accept(launched.place.size, meeting)?,
            _ => vec![connect(launched.place, &meeting)?],
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
fn accept(size: usize, meeting: Meeting) -> Result<Vec<TcpStream>, GroupError> {
    let Meeting { port, listener, secret, .. } = meeting;
    let listener = listener.map_or_else(|| TcpListener::bind(("0.0.0.0", port)), Ok).map_err(failed("listening"))?;
    listener.set_nonblocking(true).map_err(failed("listening"))?;
    let begun = Instant::now();
    let mut found: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while let Some(missing) = found.iter().position(Option::is_none) {
        if begun.elapsed() > TIMEOUT {
            let problem = format!("rank {} did not connect within {} s", missing + 1, TIMEOUT.as_secs());
            return Err(GroupError::Call { call: "connecting", problem });
        }
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(failed("listening")(error)),
        };
        stream.set_nonblocking(false).map_err(failed("listening"))?;
        // A client that is not a rank must not block the others.
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed("listening"))?;
        let mut said = [0; 5];
        let heard = receive(&mut stream, &mut said);
        let [rank, ranks] = [said[3], said[4]].map(|number| number as usize);
        if heard.is_err() || said != hello(secret, rank, ranks) {
            continue;
        }
        if ranks != size || !(1..size).contains(&rank) || found[rank - 1].is_some() {
            let problem = format!("a process says that it is rank {rank} of {ranks}; this is rank 0 of {size}");
            return Err(GroupError::Launch { problem });
        }
        stream.set_read_timeout(None).map_err(failed("listening"))?;
        found[rank - 1] = Some(stream);
    }
    Ok(found.into_iter().flatten().collect())
}

fn connect(place: Place, meeting: &Meeting) -> Result<TcpStream, GroupError> {
    let Meeting { host, port, secret, .. } = meeting;
    let begun = Instant::now();
    loop {
        let addresses = (host.as_str(), *port).to_socket_addrs().map_err(failed("looking up rank 0"))?;
        let opened = addresses.into_iter().find_map(|address| TcpStream::connect_timeout(&address, TIMEOUT).ok());
        match opened {
            Some(mut stream) => {
                send(&mut stream, &hello(*secret, place.rank, place.size))?;
                return Ok(stream);
            }
            None if begun.elapsed() > TIMEOUT => {
                let problem = format!("rank 0 does not answer at {host}:{port}");
                return Err(GroupError::Call { call: "connecting", problem });
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
    fn abort(&self, _code: u8) {
        for stream in &self.clones {
            // Best effort: the other side may be gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn has_ended(&self) -> bool {
        let is_closed = |stream: &TcpStream| matches!(stream.peek(&mut [0]), Ok(0));
        self.clones.iter().any(|stream| stream.set_nonblocking(true).is_ok() && is_closed(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(size: usize) -> Vec<Tcp> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let meeting = |secret| Meeting { host: "127.0.0.1".to_owned(), port, listener: None, secret };
        // A stranger comes first.
        let stranger = connect(Place::on_one_machine(1, size), &meeting(1)).unwrap();
        let join = |rank| {
            let place = Place::on_one_machine(rank, size);
            let launched = Launched { by: Launcher::Torchrun, place, local: true };
            let listener = (rank == 0).then(|| listener.try_clone().unwrap());
            let meeting = Meeting { listener, ..meeting(2) };
            std::thread::spawn(move || Tcp::meet(launched, meeting).unwrap())
        };
        // The others may start before rank 0.
        let ranks: Vec<_> = (0..size).rev().map(join).collect();
        let group = ranks.into_iter().rev().map(|rank| rank.join().unwrap()).collect();
        drop(stranger);
        group
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
                last.abort(1);
            } else {
                drop(last);
            }
            drop(ranks);
            assert!(matches!(waiting.join().unwrap(), Err(GroupError::Gone)));
        }
    }

    #[test]
    fn a_rank_can_see_that_another_has_ended_the_group() {
        let ranks = group(2);
        assert!(!ranks[1].has_ended());
        ranks[0].abort(1);
        while !ranks[1].has_ended() {
            std::thread::yield_now();
        }
    }
}
