//! The shared memory of a block, and who touched it since the last barrier.
//!
//! Two accesses to the same place conflict if one of them writes, no barrier lies between them, and they are not both
//! atomic. Between lanes of one warp, `bar.warp.sync` is a barrier too. Memory is watched in granules of the kernel's
//! narrowest shared access.

/// Who did something last, and when.
#[derive(Clone, Copy, Default)]
struct Touch {
    /// Interval between barriers of the block, counted from 1; 0: never.
    interval: u32,
    /// Interval between barriers of the warp.
    warp_interval: u32,
    /// `MANY` lanes of that warp, or `MANY` warps.
    warp: u16,
    lane: u16,
    atomic: bool,
}

const MANY: u16 = u16::MAX;

impl Touch {
    /// Whether an access by `by` now would be unordered with this one.
    fn unordered(&self, by: &Touch) -> bool {
        if self.interval != by.interval || self.atomic && by.atomic {
            return false;
        }
        if self.warp != by.warp {
            return true;
        }
        self.lane != by.lane && self.warp_interval == by.warp_interval
    }
}

#[derive(Clone, Copy, Default)]
struct Granule {
    read: Touch,
    write: Touch,
    /// Copies on the way here.
    pending: u16,
    written: bool,
}

/// One lane at one moment.
#[derive(Clone, Copy)]
pub struct Who {
    pub warp: usize,
    pub lane: usize,
    /// See [`Touch`].
    pub interval: u32,
    pub warp_interval: u32,
}

/// What is wrong with an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Unwritten,
    /// With this thread's access, or `None` if there were several.
    Race {
        write: bool,
        warp: Option<u16>,
        lane: Option<u16>,
    },
    Pending,
}

pub struct Shared {
    pub bytes: Vec<u8>,
    granules: Vec<Granule>,
    granule: usize,
}

/// Which checks are on.
#[derive(Clone, Copy)]
pub struct Watch {
    pub unwritten: bool,
    pub races: bool,
}

impl Shared {
    pub fn new(bytes: usize, granule: usize) -> Shared {
        Shared { bytes: vec![0; bytes], granules: vec![Granule::default(); bytes.div_ceil(granule)], granule }
    }

    /// Ready for the next block.
    pub fn reset(&mut self) {
        self.bytes.fill(0);
        self.granules.fill(Granule::default());
    }

    fn touch(who: Who, atomic: bool) -> Touch {
        Touch {
            interval: who.interval,
            warp_interval: who.warp_interval,
            warp: who.warp as u16,
            lane: who.lane as u16,
            atomic,
        }
    }

    fn range(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        at / self.granule..(at + bytes).div_ceil(self.granule)
    }

    pub fn note_read(&mut self, who: Who, at: usize, bytes: usize, atomic: bool, watch: Watch) -> Option<Trouble> {
        let now = Self::touch(who, atomic);
        let range = self.range(at, bytes);
        for granule in &mut self.granules[range] {
            if granule.pending > 0 {
                return Some(Trouble::Pending);
            }
            if !granule.written && watch.unwritten {
                return Some(Trouble::Unwritten);
            }
            if !watch.races {
                continue;
            }
            if granule.write.interval != 0 && granule.write.unordered(&now) {
                return Some(race(true, &granule.write));
            }
            let read = &mut granule.read;
            *read = match read.interval == now.interval {
                // Several readers: remember only how far they are spread.
                true if read.warp != now.warp => Touch { warp: MANY, lane: MANY, ..now },
                true if read.lane != now.lane && read.warp_interval == now.warp_interval => Touch { lane: MANY, ..now },
                _ => now,
            };
        }
        None
    }

    pub fn note_write(&mut self, who: Who, at: usize, bytes: usize, atomic: bool, watch: Watch) -> Option<Trouble> {
        let now = Self::touch(who, atomic);
        let range = self.range(at, bytes);
        for granule in &mut self.granules[range] {
            if granule.pending > 0 {
                return Some(Trouble::Pending);
            }
            if watch.races {
                if granule.write.interval != 0 && granule.write.unordered(&now) {
                    return Some(race(true, &granule.write));
                }
                if granule.read.interval != 0 && granule.read.unordered(&now) {
                    return Some(race(false, &granule.read));
                }
            }
            granule.write = now;
            granule.written = true;
        }
        None
    }

    /// Begins or ends an asynchronous copy to this place.
    pub fn note_copy(&mut self, at: usize, bytes: usize, begins: bool) {
        let range = self.range(at, bytes);
        for granule in &mut self.granules[range] {
            granule.pending = if begins { granule.pending + 1 } else { granule.pending.saturating_sub(1) };
        }
    }

    #[inline(always)]
    pub fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        u64::from_le_bytes(word)
    }

    #[inline(always)]
    pub fn store(&mut self, at: usize, bytes: usize, value: u64) {
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

fn race(write: bool, with: &Touch) -> Trouble {
    let known = |number: u16| (number != MANY).then_some(number);
    Trouble::Race { write, warp: known(with.warp), lane: known(with.lane) }
}

/// Passes over the banks that a warp's shared access takes, and that an access without conflicts would take.
///
/// 32 banks of 4 bytes; accesses of 8 bytes go by half warps and those of 16 by quarters, each on its own.
pub fn passes(addresses: &[Option<usize>; 32], bytes: usize) -> (u32, u32) {
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

    #[test]
    fn accesses_conflict_unless_a_barrier_orders_them() {
        let watch = Watch { unwritten: true, races: true };
        let who = |warp, lane, interval, warp_interval| Who { warp, lane, interval, warp_interval };
        let mut shared = Shared::new(64, 4);
        assert_eq!(shared.note_read(who(0, 0, 1, 1), 0, 4, false, watch), Some(Trouble::Unwritten));
        assert_eq!(shared.note_write(who(0, 0, 1, 1), 0, 4, false, watch), None);
        assert_eq!(shared.note_read(who(0, 0, 1, 1), 0, 4, false, watch), None, "one's own");
        assert!(shared.note_read(who(0, 1, 1, 1), 0, 4, false, watch).is_some(), "another lane");
        assert_eq!(shared.note_read(who(0, 1, 1, 2), 0, 4, false, watch), None, "after bar.warp.sync");
        assert!(shared.note_read(who(1, 0, 1, 9), 0, 4, false, watch).is_some(), "another warp");
        assert_eq!(shared.note_read(who(1, 0, 2, 1), 0, 4, false, watch), None, "after a barrier");
        let found = shared.note_write(who(0, 0, 2, 1), 0, 4, false, watch);
        assert_eq!(found, Some(Trouble::Race { write: false, warp: Some(1), lane: Some(0) }));
        for lane in 0..2 {
            assert_eq!(shared.note_write(who(0, lane, 3, 1), 8, 4, true, watch), None, "atomics");
        }
        shared.note_copy(16, 8, true);
        assert_eq!(shared.note_read(who(0, 0, 3, 1), 20, 4, false, watch), Some(Trouble::Pending));
    }
}
