//! Launches a kernel: distributes the blocks of the grid over all cores.

use crate::config::{LaunchConfig, Options, Shuffle};
use crate::counts::Counts;
use crate::exec::{BlockRun, Failed, Launch};
use crate::fault::{Fault, FaultKind};
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::module::Module;
use crate::shared::Watch;
use crate::touched::Touched;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest shared memory per block of any GPU: 227 KiB (compute capability 9.0).
const MAX_SHARED: usize = 227 * 1024;

/// Runs `kernel` of `module` to its end, and returns its counts. `params` is the parameter buffer ([`Kernel::pack`]).
///
/// # Errors
/// The fault of the first block that has one, or a launch config that is not valid.
pub fn launch(
    memory: &Memory,
    module: &Module,
    kernel: &Kernel,
    grid: LaunchConfig,
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
        watch: Watch { uninit: options.uninit, races: options.races },
        check_global: options.uninit,
        limit: options.limit,
        clock: options.clock,
        count: options.count,
        loaded: Touched::new(global.len()),
        stored: Touched::new(global.len()),
    };
    let mut order: Vec<usize> = (0..grid.block_count()).collect();
    if let Some(seed) = options.order {
        Shuffle(seed).apply(&mut order);
    }
    // The first failing block in the order of execution, so that every run reports the same fault.
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

fn check(kernel: &Kernel, grid: LaunchConfig, params: &[u8]) -> Result<(), Fault> {
    let threads = grid.threads();
    let shared = kernel.static_shared().saturating_add(grid.dynamic_shared);
    let problem = if grid.block_count() == 0 || threads == 0 {
        "the grid or the block is empty".to_owned()
    } else if threads > 1024 || kernel.max_threads.is_some_and(|most| threads > most as usize) {
        format!("{threads} threads in a block, at most {}", kernel.max_threads.unwrap_or(1024))
    } else if shared > MAX_SHARED {
        format!("{shared} bytes of shared memory, at most {MAX_SHARED}")
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
