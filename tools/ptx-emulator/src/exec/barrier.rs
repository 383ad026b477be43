//! Barriers of a block (PTX ISA, 9.7.13.1) and their reductions.

use super::lanes::lanes;
use super::{BlockRun, Done, Warp};
use crate::clocks::Clock;
use crate::fault::FaultKind;
use crate::isa::{BarKind, Inst, Reg};
use crate::kernel::Kernel;

/// One of a block's 16 barriers; reset when it completes.
#[derive(Default)]
pub(super) struct Barrier {
    /// Warps that wait, and their destination registers for the result of a reduction.
    waiting: Vec<(usize, Option<Reg>)>,
    /// A bit for each warp that has arrived, whether it waits or not.
    arrived: u32,
    /// Number of warps needed; `None`: all that have not exited.
    needed: Option<u32>,
    /// The join of the clocks of the warps that have arrived.
    clock: Clock,
    kind: Option<BarKind>,
    /// Threads whose predicate is true, and all threads.
    holds: u32,
    threads: u32,
}

impl BlockRun<'_> {
    /// Executes a barrier instruction.
    pub(super) fn arrive(&mut self, kind: BarKind, kernel: &Kernel, inst: &Inst, warp: &mut Warp, mask: u32) -> Done {
        if mask != warp.live {
            return Err((FaultKind::DivergentBarrier { active: mask, live: warp.live }, None));
        }
        let misused = |problem| Err((FaultKind::Barrier { problem }, None));
        let (d, s) = (kernel.destinations(inst), kernel.sources(inst));
        let operands = |lane| (warp.regs.lane(s[0], lane), warp.regs.lane(s[1], lane) as u32);
        let (id, count) = operands(mask.trailing_zeros() as usize);
        if lanes(mask).any(|lane| operands(lane) != (id, count)) {
            return misused("lanes of one warp differ in its number or count");
        }
        let Some(barrier) = self.barriers.get_mut(id as usize) else { return misused("numbers go from 0 to 15") };
        if !count.is_multiple_of(32) || count == 0 && kind == BarKind::Arrive {
            return misused("it counts threads in whole warps");
        }
        let all = self.warps.len() as u32;
        let needed = (count != 0).then_some(count / 32);
        if barrier.arrived != 0 && barrier.needed.unwrap_or(all) != needed.unwrap_or(all) {
            return misused("another warp that is there waits for another count");
        }
        if barrier.arrived >> warp.index & 1 == 1 {
            return misused("a warp arrives again before it is complete");
        }
        barrier.arrived |= 1 << warp.index;
        barrier.needed = barrier.needed.or(needed);
        self.shared.clocks.arrive(warp.index, &mut barrier.clock);
        self.counts.barriers += 1;
        if let Some(predicate) = s.get(2) {
            barrier.kind = Some(kind);
            barrier.holds += (warp.regs.pred[predicate.index()] & mask).count_ones();
            barrier.threads += mask.count_ones();
        }
        if kind != BarKind::Arrive {
            barrier.waiting.push((warp.index, d.first().copied()));
            warp.waits_at = Some(id as usize);
        }
        Ok(())
    }

    /// Releases the warps whose barrier is complete.
    pub(super) fn release(&mut self) {
        let live = self.warps.iter().filter(|warp| warp.live != 0).count();
        for barrier in &mut self.barriers {
            let arrived = barrier.arrived.count_ones();
            if arrived == 0 || arrived < barrier.needed.unwrap_or(live as u32) {
                continue;
            }
            let Barrier { waiting, needed, clock, kind, holds, threads, .. } = std::mem::take(barrier);
            // Warps that have exited count as arrived, but only at a barrier without a thread count.
            let everyone = waiting.len() == if needed.is_none() { live } else { self.warps.len() };
            if everyone {
                self.shared.clocks.meet();
            }
            let result = match kind {
                Some(BarKind::Popc) => u64::from(holds),
                Some(BarKind::And) => u64::from(holds == threads),
                _ => u64::from(holds > 0),
            };
            for (warp, reg) in waiting {
                if !everyone {
                    self.shared.clocks.learn(warp, &clock);
                }
                let warp = &mut self.warps[warp];
                warp.waits_at = None;
                warp.interval += 1;
                if let Some(reg) = reg {
                    lanes(warp.live).for_each(|lane| warp.regs.set_lane(reg, lane, result));
                }
            }
        }
    }

    /// The fault when every warp waits.
    pub(super) fn deadlock(&self, warp: &Warp) -> FaultKind {
        let barrier = warp.waits_at.unwrap_or_default();
        let Barrier { arrived, needed, .. } = &self.barriers[barrier];
        let live = self.warps.iter().filter(|warp| warp.live != 0).count();
        let needed = needed.map_or(live, |needed| needed as usize);
        FaultKind::Deadlock { barrier, arrived: 32 * arrived.count_ones() as usize, needed: 32 * needed }
    }
}
