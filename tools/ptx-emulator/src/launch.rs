//! Launching a kernel: a grid of blocks over all cores.

use crate::counts::Counts;
use crate::exec::{BlockRun, Failed, Launch};
use crate::fault::{Fault, FaultKind};
use crate::memory::Memory;
use crate::module::{Kernel, Module};
use crate::shared::Watch;
use crate::touched::Touched;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks of a grid, threads of a block, and bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    pub dynamic_shared: usize,
}

impl Grid {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.threads.iter().map(|n| *n as usize).product()
    }

    fn block_count(&self) -> usize {
        self.blocks.iter().map(|n| *n as usize).product()
    }

    fn block(&self, linear: usize) -> [u32; 3] {
        let [x, y, _] = self.blocks.map(|n| n as usize);
        [linear % x, linear / x % y, linear / (x * y)].map(|n| n as u32)
    }

    /// The index of a thread of a block.
    pub(crate) fn thread(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.threads;
        [linear % x, linear / x % y, linear / (x * y)]
    }
}

/// What is checked and how. By default everything is checked, and blocks and warps run in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Reads of global and shared memory that was never written.
    pub unwritten: bool,
    /// Unordered accesses to shared memory.
    pub races: bool,
    /// Count instructions, sectors and bank conflicts.
    pub count: bool,
    /// A seed by which blocks and warps are put into another order.
    pub order: Option<u64>,
    /// Instructions that one block may issue.
    pub limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { unwritten: true, races: true, count: true, order: None, limit: 1 << 36 }
    }
}

/// The largest shared memory of a block that any GPU has: 227 KiB (compute capability 9.0).
const MOST_SHARED: usize = 227 * 1024;

/// Runs `kernel` of `module` to its end, and returns what it did.
///
/// # Errors
/// The fault in the first block that has one.
pub fn launch(
    memory: &Memory,
    module: &Module,
    kernel: &Kernel,
    grid: Grid,
    params: &[u8],
    options: &Options,
) -> Result<Counts, Fault> {
    check(kernel, grid, params)?;
    let symbols = memory.symbols(module);
    let global = memory.snapshot();
    let launch = Launch {
        kernel,
        grid,
        params,
        global: &global,
        symbols: &symbols,
        watch: Watch { unwritten: options.unwritten, races: options.races },
        check_global: options.unwritten,
        limit: options.limit,
        count: options.count,
        loaded: Touched::new(global.len()),
        stored: Touched::new(global.len()),
    };
    let mut order: Vec<usize> = (0..grid.block_count()).collect();
    if let Some(seed) = options.order {
        Shuffle(seed).apply(&mut order);
    }
    // The first failing block, in the order of execution, so that the same fault is reported at every run.
    let failed_at = AtomicUsize::new(usize::MAX);
    let chunk = grid.block_count().div_ceil(8 * rayon::current_num_threads()).max(1);
    let run_chunk = |(number, blocks): (usize, &[usize])| {
        let mut run = BlockRun::new(&launch);
        for (i, block) in blocks.iter().enumerate() {
            let at = number * chunk + i;
            if failed_at.load(Ordering::Relaxed) < at {
                break;
            }
            let shuffle = options.order.map(|seed| Shuffle(seed ^ (*block as u64 + 1)));
            let block = grid.block(*block);
            if let Err(failed) = run.run(block, shuffle) {
                failed_at.fetch_min(at, Ordering::Relaxed);
                return Err((at, fault(&launch, block, failed)));
            }
        }
        Ok(run.counts)
    };
    let done: Vec<_> = order.par_chunks(chunk).enumerate().map(run_chunk).collect();
    let mut counts = Counts::default();
    let mut first: Option<(usize, Fault)> = None;
    for part in done {
        match part {
            Ok(part) => counts.add(&part),
            Err(failed) if first.as_ref().is_none_or(|first| failed.0 < first.0) => first = Some(failed),
            Err(_) => {}
        }
    }
    first.map_or(Ok(counts), |(_, fault)| Err(fault))
}

fn check(kernel: &Kernel, grid: Grid, params: &[u8]) -> Result<(), Fault> {
    let threads = grid.threads();
    let shared = kernel.static_shared() + grid.dynamic_shared;
    let problem = if grid.block_count() == 0 || threads == 0 {
        "a grid needs blocks and threads".to_owned()
    } else if threads > 1024 || kernel.max_threads.is_some_and(|most| threads > most as usize) {
        format!("{threads} threads in a block, at most {}", kernel.max_threads.unwrap_or(1024))
    } else if shared > MOST_SHARED {
        format!("{shared} bytes of shared memory, at most {MOST_SHARED}")
    } else if params.len() != kernel.param_bytes() {
        format!("{} bytes of parameters, {} are declared", params.len(), kernel.param_bytes())
    } else {
        return Ok(());
    };
    let (kernel, kind) = (kernel.name().to_owned(), FaultKind::Launch(problem));
    Err(Fault { kernel, kind, line: 0, location: None, block: [0; 3], thread: None })
}

fn fault(launch: &Launch, block: [u32; 3], failed: Failed) -> Fault {
    let thread = failed.lane.map(|lane| launch.grid.thread((failed.warp * 32 + lane) as u32));
    Fault {
        kernel: launch.kernel.name().to_owned(),
        kind: failed.kind,
        line: launch.kernel.code[failed.pc].line,
        location: launch.kernel.location(failed.pc).cloned(),
        block,
        thread,
    }
}

/// Orders made by a seed (Fisher and Yates, with the generator `splitmix64`).
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub fn apply(&mut self, order: &mut [usize]) {
        for i in (1..order.len()).rev() {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            order.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
        }
    }
}
