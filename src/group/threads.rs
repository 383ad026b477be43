//! Ranks that are threads of one process, so that tests need no MPI.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::exchange::{Received, message, part_for};
use super::{Exchange, Group, GroupError, Place, block_of};

/// What the ranks of one process share.
#[derive(Debug)]
struct Shared {
    size: usize,
    local_size: usize,
    board: Mutex<Board>,
    changed: Condvar,
}

#[derive(Debug)]
struct Board {
    /// What each rank has posted in this round.
    posted: Vec<Option<Arc<Vec<u32>>>>,
    /// Ranks that have read it.
    read: usize,
    /// Whether a rank has ended, perhaps in the middle of a round.
    ended: bool,
}

/// A rank that is a thread. When it is dropped, the calls of other ranks that wait for it fail.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

impl Threads {
    /// The ranks of a group.
    pub fn group(size: usize) -> Vec<Self> {
        Self::on_machines(size, size)
    }

    /// The ranks of a group that says that it is on several machines, with `local_size` ranks each.
    pub fn on_machines(size: usize, local_size: usize) -> Vec<Self> {
        let board = Board { posted: vec![None; size], read: 0, ended: false };
        let shared = Arc::new(Shared { size, local_size, board: Mutex::new(board), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, shared: shared.clone() }).collect()
    }

    /// Posts `own` and returns what all ranks have posted.
    fn round(&self, own: &[u32]) -> Result<Vec<Arc<Vec<u32>>>, GroupError> {
        let Shared { size, board, changed, .. } = &*self.shared;
        let lock = || board.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |board| changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        let mut board = lock();
        // The round before may not be over.
        while board.posted[self.rank].is_some() {
            if board.ended {
                return Err(GroupError::Gone);
            }
            board = wait(board);
        }
        board.posted[self.rank] = Some(Arc::new(own.to_vec()));
        changed.notify_all();
        let all = loop {
            if let Some(all) = board.posted.iter().cloned().collect::<Option<Vec<_>>>() {
                break all;
            }
            if board.ended {
                return Err(GroupError::Gone);
            }
            board = wait(board);
        };
        board.read += 1;
        if board.read == *size {
            (board.read, board.posted) = (0, vec![None; *size]);
            changed.notify_all();
        }
        Ok(all)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.abort(1);
    }
}

impl Group for Threads {
    fn place(&self) -> Place {
        let Shared { size, local_size, .. } = *self.shared;
        Place { rank: self.rank, size, local_rank: self.rank % local_size, local_size }
    }

    fn describe(&self) -> String {
        "threads of one process".to_owned()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        let len = all.len();
        for (rank, posted) in self.round(&all[block_of(self.rank, block, len)])?.iter().enumerate() {
            all[block_of(rank, block, len)].copy_from_slice(posted);
        }
        Ok(())
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        let posted = self.round(own)?;
        if self.rank == 0 {
            posted
                .iter()
                .enumerate()
                .for_each(|(rank, posted)| all[block_of(rank, block, len)].copy_from_slice(posted));
        }
        Ok(())
    }

    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], _: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        let posted = self.round(&message(&parts, to))?;
        let own = posted.iter().flat_map(|posted| part_for(posted, self.rank, self.shared.size));
        Ok(Box::new(Received(own.copied().collect())))
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        let own: &[u32] = if self.rank == 0 { words } else { &[] };
        words.copy_from_slice(&self.round(own)?[0]);
        Ok(())
    }

    fn abort(&self, _code: u8) {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What each rank finds after each kind of call, with blocks of unequal length.
    pub(in crate::group) fn check<G: Group + 'static>(ranks: Vec<G>) {
        let start = |group: G| {
            std::thread::spawn(move || {
                (0..20).for_each(|round| check_round(&group, round));
                group
            })
        };
        let ranks: Vec<_> = ranks.into_iter().map(start).collect();
        // Dropped only at the end: a dropped rank ends the others.
        let ranks: Vec<G> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        assert!(ranks.iter().enumerate().all(|(number, rank)| rank.rank() == number));
    }

    fn check_round(group: &dyn Group, round: u32) {
        let (rank, size) = (group.rank(), group.size());
        let len = 3 * size - 2;
        let own = block_of(rank, 3, len);
        let mut all = vec![0; len];
        all[own.clone()].fill(round + rank as u32);
        group.all_gather(&mut all, 3).unwrap();
        let expected: Vec<u32> = (0..len).map(|at| round + (at / 3) as u32).collect();
        assert_eq!(all, expected);
        let mut at_first = if rank == 0 { vec![0; len] } else { Vec::new() };
        group.gather(&all[own], &mut at_first, 3, len).unwrap();
        assert!(rank != 0 || at_first == expected);
        check_exchanges(group);
        assert_eq!(group.broadcast_bytes(&[7, round as u8, rank as u8]).unwrap(), [7, round as u8, 0]);
        let bytes = |rank: usize| vec![rank as u8; (5 * rank) % 8];
        let gathered = group.gather_bytes(&bytes(rank)).unwrap();
        assert!(gathered.into_iter().eq((0..if rank == 0 { size } else { 0 }).map(bytes)));
        assert_eq!(group.all(rank as u64).unwrap(), (0..size as u64).collect::<Vec<_>>());
    }

    /// From rank `a` to rank `b` go `(a + 2 b) % 4` words.
    fn check_exchanges(group: &dyn Group) {
        let (rank, size) = (group.rank(), group.size());
        let words = |from: usize, to: usize| (0..(from + 2 * to) % 4).map(move |at| (100 * from + 10 * to + at) as u32);
        let parts = (0..size).flat_map(|to| words(rank, to)).collect();
        let [to, from]: [Vec<usize>; 2] = [
            (0..size).map(|to| words(rank, to).len()).collect(),
            (0..size).map(|from| words(from, rank).len()).collect(),
        ];
        let first = group.start_all_to_all(parts, &to, &from).unwrap();
        let len = 3 * size - 2;
        let own = vec![rank as u32; block_of(rank, 3, len).len()];
        let mut second = group.start_all_gather(own, 3, len).unwrap();
        assert_eq!(first.wait().unwrap(), (0..size).flat_map(|from| words(from, rank)).collect::<Vec<_>>());
        while !second.poll().unwrap() {}
        assert!(second.wait().unwrap().into_iter().eq((0..len).map(|at| (at / 3) as u32)));
    }

    #[test]
    fn each_call_moves_the_words_that_it_should() {
        [1, 2, 3, 5].into_iter().for_each(|size| check(Threads::group(size)));
    }

    #[test]
    fn a_rank_that_is_gone_ends_the_others() {
        let mut ranks = Threads::group(2);
        let gone = ranks.pop().unwrap();
        let waiting = std::thread::spawn(move || ranks[0].broadcast(&mut [1]));
        drop(gone);
        assert!(matches!(waiting.join().unwrap(), Err(GroupError::Gone)));
    }
}
