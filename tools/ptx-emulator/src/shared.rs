//! The shared memory of a block, with detection of data races.
//!
//! Two accesses race if at least one writes, they are not both atomic, and nothing orders them. Warps are ordered by
//! barriers at which both took part, directly or through other warps ([`Clocks`]); lanes of one warp also by
//! `bar.warp.sync`. Memory is checked in granules: the size of the kernel's narrowest shared access.

use crate::clocks::Clocks;

/// The last access of some kind: by whom, and when.
#[derive(Clone, Copy, Default)]
struct Touch {
    /// The warp's epoch; 0: never.
    epoch: u32,
    /// Number of the interval between the barriers at which the warp waits.
    interval: u32,
    /// `MANY`: several warps, or several lanes of the warp.
    warp: u8,
    lane: u8,
}

const MANY: u8 = u8::MAX;

impl Touch {
    /// Whether nothing orders this access before the access `by`.
    #[inline(always)]
    fn unordered(&self, by: &Touch, clocks: &Clocks) -> bool {
        if clocks.over(self.epoch) {
            return false;
        }
        if self.warp == by.warp {
            return self.lane != by.lane && self.interval == by.interval;
        }
        self.warp == MANY || !clocks.knows(by.warp as usize, self.warp as usize, self.epoch)
    }

    /// Adds an access of the same epoch; several are only recorded as `MANY`.
    #[inline(always)]
    fn join(&mut self, now: Touch) {
        *self = match self.warp == now.warp {
            false if self.epoch == now.epoch => Touch { warp: MANY, lane: MANY, ..now },
            true if self.interval == now.interval && self.lane != now.lane => Touch { lane: MANY, ..now },
            _ => now,
        };
    }
}

#[derive(Clone, Copy, Default)]
struct Granule {
    write: Touch,
    /// Pending asynchronous copies to it.
    pending: u16,
    written: bool,
    /// Whether atomics followed `write`.
    atomics: bool,
}

/// The last accesses that do not race with each other.
#[derive(Clone, Copy, Default)]
struct Users {
    read: Touch,
    atomic: Touch,
}

/// A lane, and the interval it is in.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub warp: usize,
    pub lane: usize,
    /// See [`Touch`].
    pub interval: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
    Atomic,
}

/// Why an access is a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Uninit,
    /// The other access: by which warp and lane; `None` if by several.
    Race {
        write: bool,
        warp: Option<u16>,
        lane: Option<u16>,
    },
    Pending,
}

pub(crate) struct Shared {
    pub bytes: Vec<u8>,
    pub clocks: Clocks,
    granules: Vec<Granule>,
    granule: usize,
    /// `rows` per granule: one per warp if the kernel has barriers of parts of the block, else one for all warps.
    users: Vec<Users>,
    rows: usize,
}

/// Which checks are enabled.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    pub uninit: bool,
    pub races: bool,
}

impl Shared {
    /// For a block of `warps` warps. `partial`: some barriers are not of the whole block.
    pub(crate) fn new(bytes: usize, granule: usize, warps: usize, partial: bool) -> Shared {
        let (count, rows) = (bytes.div_ceil(granule), if partial { warps } else { 1 });
        Shared {
            bytes: vec![0; bytes],
            clocks: Clocks::new(warps),
            granules: vec![Granule::default(); count],
            granule,
            users: vec![Users::default(); count * rows],
            rows,
        }
    }

    /// Resets everything for the next block.
    pub(crate) fn reset(&mut self) {
        self.bytes.fill(0);
        self.clocks.reset();
        self.granules.fill(Granule::default());
        self.users.fill(Users::default());
    }

    fn touch(&self, who: Who) -> Touch {
        let epoch = self.clocks.epoch(who.warp);
        Touch { epoch, interval: who.interval, warp: who.warp as u8, lane: who.lane as u8 }
    }

    fn range(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        at / self.granule..(at + bytes).div_ceil(self.granule)
    }

    /// Checks an access and records it.
    #[inline(always)]
    pub(crate) fn note(&mut self, who: Who, at: usize, bytes: usize, how: Use, watch: Watch) -> Option<Trouble> {
        let (now, range) = (self.touch(who), self.range(at, bytes));
        let own = if self.rows == 1 { 0 } else { who.warp };
        let users = self.users[range.start * self.rows..range.end * self.rows].chunks_exact_mut(self.rows);
        for (granule, users) in self.granules[range].iter_mut().zip(users) {
            if granule.pending > 0 {
                return Some(Trouble::Pending);
            }
            if how != Use::Write && !granule.written && watch.uninit {
                return Some(Trouble::Uninit);
            }
            if watch.races {
                if let Some(race) = granule.race(users, &now, how, &self.clocks) {
                    return Some(race);
                }
                match how {
                    Use::Read => users[own].read.join(now),
                    Use::Atomic => users[own].atomic.join(now),
                    Use::Write => granule.write = now,
                }
                granule.atomics = how == Use::Atomic || granule.atomics && how == Use::Read;
            }
            granule.written |= how != Use::Read;
        }
        None
    }

    /// Starts an asynchronous copy, which may write from now on.
    pub(crate) fn begin_copy(&mut self, who: Who, at: usize, bytes: usize, watch: Watch) -> Option<Trouble> {
        let (now, range) = (self.touch(who), self.range(at, bytes));
        let users = self.users[range.start * self.rows..range.end * self.rows].chunks_exact(self.rows);
        for (granule, users) in self.granules[range].iter_mut().zip(users) {
            if watch.races
                && let Some(race) = granule.race(users, &now, Use::Write, &self.clocks)
            {
                return Some(race);
            }
            granule.pending += 1;
        }
        None
    }

    /// Ends a copy; its write is checked by [`Shared::note`] afterwards.
    pub(crate) fn end_copy(&mut self, at: usize, bytes: usize) {
        let range = self.range(at, bytes);
        self.granules[range].iter_mut().for_each(|granule| granule.pending = granule.pending.saturating_sub(1));
    }

    #[inline(always)]
    pub(crate) fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        u64::from_le_bytes(word)
    }

    #[inline(always)]
    pub(crate) fn store(&mut self, at: usize, bytes: usize, value: u64) {
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

impl Granule {
    /// An earlier access that races with `now`.
    #[inline(always)]
    fn race(&self, users: &[Users], now: &Touch, how: Use, clocks: &Clocks) -> Option<Trouble> {
        let unordered = |touch: &&Touch| touch.unordered(now, clocks);
        if unordered(&&self.write) {
            return Some(race(true, &self.write));
        }
        if self.atomics
            && how != Use::Atomic
            && let Some(atomic) = users.iter().map(|users| &users.atomic).find(unordered)
        {
            return Some(race(true, atomic));
        }
        if how == Use::Read {
            return None;
        }
        users.iter().map(|users| &users.read).find(unordered).map(|read| race(false, read))
    }
}

fn race(write: bool, with: &Touch) -> Trouble {
    let known = |number: u8| (number != MANY).then_some(u16::from(number));
    Trouble::Race { write, warp: known(with.warp), lane: known(with.lane) }
}

/// Passes over the banks of shared memory that an access takes, and that it would take without bank conflicts.
///
/// There are 32 banks of 4 bytes. Accesses of 8 bytes are split into half warps, those of 16 into quarter warps.
pub(crate) fn passes(addresses: &[Option<usize>; 32], bytes: usize) -> (u32, u32) {
    let group = match bytes {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    let (mut taken, mut least) = (0, 0);
    for lanes in addresses.chunks(group) {
        let mut words: [u32; 32] = [u32::MAX; 32];
        let mut count = 0;
        for address in lanes.iter().flatten() {
            for word in address / 4..(address + bytes).div_ceil(4) {
                let word = word as u32;
                if count < 32 && !words[..count].contains(&word) {
                    words[count] = word;
                    count += 1;
                }
            }
        }
        if count > 0 {
            let mut banks = [0u32; 32];
            words[..count].iter().for_each(|word| banks[*word as usize % 32] += 1);
            taken += banks.iter().max().copied().unwrap_or(0);
            least += 1;
        }
    }
    (taken, least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bank_conflicts_are_counted_as_on_the_hardware() {
        let lanes = |stride: usize| std::array::from_fn(|lane| Some(lane * stride));
        assert_eq!(passes(&lanes(4), 4), (1, 1), "neighbours");
        assert_eq!(passes(&lanes(8), 4), (2, 1), "every second bank");
        assert_eq!(passes(&lanes(128), 4), (32, 1), "one bank");
        assert_eq!(passes(&lanes(132), 4), (1, 1), "padded rows");
        assert_eq!(passes(&lanes(0), 4), (1, 1), "a broadcast");
        assert_eq!(passes(&lanes(16), 16), (4, 4), "16 bytes each, in quarters");
        assert_eq!(passes(&lanes(128), 16), (32, 4), "eight rows of 128 bytes: one group of banks");
    }

    const WATCH: Watch = Watch { uninit: true, races: true };

    fn who(warp: usize, lane: usize, interval: u32) -> Who {
        Who { warp, lane, interval }
    }

    #[test]
    fn accesses_conflict_unless_a_barrier_orders_them() {
        for partial in [false, true] {
            let mut shared = Shared::new(64, 4, 2, partial);
            let mut note = |who, at, how| shared.note(who, at, 4, how, WATCH);
            assert_eq!(note(who(0, 0, 1), 0, Use::Read), Some(Trouble::Uninit));
            assert_eq!(note(who(0, 0, 1), 0, Use::Write), None);
            assert_eq!(note(who(0, 0, 1), 0, Use::Read), None, "one's own");
            assert!(note(who(0, 1, 1), 0, Use::Read).is_some(), "another lane");
            assert_eq!(note(who(0, 1, 2), 0, Use::Read), None, "after bar.warp.sync");
            assert!(note(who(1, 0, 9), 0, Use::Read).is_some(), "another warp");
            shared.clocks.meet();
            let mut note = |who, at, how| shared.note(who, at, 4, how, WATCH);
            assert_eq!(note(who(1, 0, 9), 0, Use::Read), None, "after a barrier");
            let found = note(who(0, 0, 3), 0, Use::Write);
            assert_eq!(found, Some(Trouble::Race { write: false, warp: Some(1), lane: Some(0) }));
            assert_eq!(note(who(0, 0, 3), 8, Use::Write), None);
            shared.clocks.meet();
            for warp in 0..2 {
                assert_eq!(shared.note(who(warp, 0, 4), 8, 4, Use::Atomic, WATCH), None, "atomics");
            }
            let found = shared.note(who(1, 0, 4), 8, 4, Use::Read, WATCH);
            assert!(
                matches!(found, Some(Trouble::Race { write: true, .. })),
                "an atomic and another access: {found:?}"
            );
            assert_eq!(shared.begin_copy(who(0, 0, 4), 16, 8, WATCH), None);
            assert_eq!(shared.note(who(0, 0, 4), 20, 4, Use::Read, WATCH), Some(Trouble::Pending));
        }
    }

    #[test]
    fn a_barrier_orders_only_those_that_came() {
        let mut shared = Shared::new(64, 4, 4, true);
        let wait = |shared: &mut Shared, warps: &[usize]| {
            let mut clock = [0; 32];
            warps.iter().for_each(|warp| shared.clocks.arrive(*warp, &mut clock));
            warps.iter().for_each(|warp| shared.clocks.learn(*warp, &clock));
        };
        let race = |write, warp| Some(Trouble::Race { write, warp: Some(warp), lane: Some(0) });
        assert_eq!(shared.note(who(0, 0, 1), 0, 4, Use::Write, WATCH), None);
        wait(&mut shared, &[2, 3]);
        assert_eq!(shared.note(who(2, 0, 1), 0, 4, Use::Read, WATCH), race(true, 0));
        wait(&mut shared, &[0, 1]);
        assert_eq!(shared.note(who(1, 0, 1), 0, 4, Use::Read, WATCH), None);
        assert_eq!(shared.note(who(3, 0, 1), 0, 4, Use::Read, WATCH), race(true, 0));
        wait(&mut shared, &[1, 2]);
        assert_eq!(shared.note(who(2, 0, 1), 0, 4, Use::Read, WATCH), None, "through warp 1");
        assert_eq!(shared.note(who(1, 0, 1), 0, 4, Use::Write, WATCH), race(false, 2));
        wait(&mut shared, &[0, 2]);
        assert_eq!(shared.note(who(0, 0, 1), 0, 4, Use::Write, WATCH), None, "warp 1 read before it met warp 2");
    }

    #[test]
    fn one_atomic_does_not_hide_another() {
        let mut shared = Shared::new(4, 4, 3, true);
        assert_eq!(shared.note(who(0, 0, 1), 0, 4, Use::Write, WATCH), None);
        shared.clocks.meet();
        assert_eq!(shared.note(who(0, 0, 1), 0, 4, Use::Atomic, WATCH), None);
        assert_eq!(shared.note(who(1, 0, 1), 0, 4, Use::Atomic, WATCH), None);
        let found = shared.note(who(1, 0, 1), 0, 4, Use::Read, WATCH);
        assert_eq!(found, Some(Trouble::Race { write: true, warp: Some(0), lane: Some(0) }));
        assert_eq!(shared.note(who(2, 0, 1), 0, 4, Use::Write, WATCH), found);
    }
}
