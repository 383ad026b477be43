//! This machine: its name, and how its ranks share its cores.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytemuck::{Pod, Zeroable};

use super::{Group, GroupError};

/// Number of CPUs in the mask.
const CPUS: usize = 1024;

/// The name of this machine.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// What a rank has of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its number among the ranks on the machine.
    pub rank: usize,
    /// The number of ranks on the machine.
    pub ranks: usize,
    /// Cores for this one, at least 1.
    pub cores: usize,
}

impl Share {
    /// The share of this rank. All ranks must call this.
    ///
    /// # Errors
    /// If the group fails.
    pub fn in_group(group: &dyn Group) -> Result<Self, GroupError> {
        Ok(Self::among(&group.all(Usable::here())?, group.rank()))
    }

    /// A CPU that several ranks may use is divided evenly between them, and the time that a cgroup allows is divided as
    /// the CPUs are. Ranks that are bound to CPUs of their own get all of these.
    fn among(all: &[Usable], rank: usize) -> Self {
        let own = &all[rank];
        let is_local = |other: &&Usable| other.machine == own.machine;
        let local: Vec<&Usable> = all.iter().filter(is_local).collect();
        let users = |cpu: usize| local.iter().filter(|other| other.may_use(cpu)).count();
        let parts: Vec<f64> = (0..CPUS).filter(|&cpu| own.may_use(cpu)).map(|cpu| 1.0 / users(cpu) as f64).collect();
        let cores = own.cores as f64 * parts.iter().sum::<f64>() / parts.len().max(1) as f64;
        // A sum of thirds may be just below a whole number.
        let cores = ((cores + 1e-6) as usize).max(1);
        Self { rank: all[..rank].iter().filter(is_local).count(), ranks: local.len(), cores }
    }
}

/// What a rank may use of its machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Usable {
    /// A hash of the machine's name and of its last boot.
    machine: u64,
    /// The number of CPUs, or less if a cgroup limits their time.
    cores: u64,
    /// A bit for each CPU.
    cpus: [u64; CPUS / 64],
}

impl Usable {
    fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut machine = DefaultHasher::new();
        (host(), boot).hash(&mut machine);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { machine: machine.finish(), cores: cores as u64, cpus: affinity().unwrap_or_else(|| first(cores)) }
    }

    fn may_use(&self, cpu: usize) -> bool {
        self.cpus[cpu / 64] >> (cpu % 64) & 1 == 1
    }
}

/// The CPUs that this process is bound to; `None` where the system does not say.
#[cfg(target_os = "linux")]
fn affinity() -> Option<[u64; CPUS / 64]> {
    let mut cpus = [0; CPUS / 64];
    // SAFETY: the mask has the size that is given; with more CPUs the call fails. A 32-bit kernel's words make the same
    // mask on a little-endian processor.
    let done = unsafe { libc::sched_getaffinity(0, size_of_val(&cpus), cpus.as_mut_ptr().cast()) };
    (done == 0).then_some(cpus)
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> Option<[u64; CPUS / 64]> {
    None
}

/// The first `count` CPUs.
fn first(count: usize) -> [u64; CPUS / 64] {
    let mut cpus = [0; CPUS / 64];
    (0..count.min(CPUS)).for_each(|cpu| cpus[cpu / 64] |= 1 << (cpu % 64));
    cpus
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::group::Threads;

    fn rank(machine: u64, cores: u64, cpus: Range<usize>) -> Usable {
        let mut this = Usable { machine, cores, cpus: [0; CPUS / 64] };
        cpus.for_each(|cpu| this.cpus[cpu / 64] |= 1 << (cpu % 64));
        this
    }

    /// Ranks of the machine and cores, for each rank.
    fn shares(ranks: &[Usable]) -> Vec<(usize, usize)> {
        let share = |rank| Share::among(ranks, rank);
        (0..ranks.len()).map(share).map(|share| (share.ranks, share.cores)).collect()
    }

    #[test]
    fn shared_cpus_are_divided_and_own_ones_are_not() {
        // No rank is bound: three ranks on one machine, one on another.
        let free = |machine| rank(machine, 96, 0..96);
        let all = [free(1), free(1), free(2), free(1)];
        assert_eq!(shares(&all), [(3, 32), (3, 32), (1, 96), (3, 32)]);
        assert_eq!([0, 1, 2, 3].map(|rank| Share::among(&all, rank).rank), [0, 1, 0, 2]);
        // Each is bound to CPUs of its own.
        assert_eq!(shares(&[rank(1, 8, 0..8), rank(1, 16, 60..76)]), [(2, 8), (2, 16)]);
        // Two ranks a socket.
        let socket = |number: usize| rank(1, 6, 6 * number..6 * number + 6);
        assert_eq!(shares(&[socket(0), socket(1), socket(0), socket(1)]), [(4, 3); 4]);
        // Some overlap.
        assert_eq!(shares(&[rank(1, 4, 0..4), rank(1, 4, 2..6)]), [(2, 3); 2]);
    }

    #[test]
    fn a_limit_of_time_is_divided_too() {
        let limited = rank(1, 5, 0..64);
        assert_eq!(shares(&[limited, limited]), [(2, 2); 2]);
        assert_eq!(shares(&[limited; 8]), [(8, 1); 8]);
    }

    #[test]
    fn ranks_of_this_machine_find_each_other() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let share = |rank: Threads| std::thread::spawn(move || Share::in_group(&rank).unwrap());
        let ranks: Vec<_> = Threads::group(2).into_iter().map(share).collect();
        for (rank, found) in ranks.into_iter().enumerate() {
            assert_eq!(found.join().unwrap(), Share { rank, ranks: 2, cores: (cores / 2).max(1) });
        }
    }
}
