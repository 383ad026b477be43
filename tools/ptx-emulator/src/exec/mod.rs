//! Executes a thread block: its warps take turns, each until it waits or exits.
//!
//! The lanes of a diverged warp form groups, each with a program counter. The group with the lowest one runs, and
//! groups that reach the same instruction are merged. For code as compilers lay it out this reconverges where hardware
//! does.

mod atomic;
mod barrier;
mod convert;
mod float;
mod int;
pub(crate) mod lanes;
mod memory;
mod mma;
mod rounding;
mod warp;

use crate::config::{LaunchConfig, Shuffle};
use crate::counts::Counts;
use crate::fault::FaultKind;
use crate::isa::{File, Inst, LaneMask, Op, Preset, Reg};
use crate::kernel::Kernel;
use crate::memory::Block as Allocation;
use crate::shared::{Shared, Watch, Who};
use crate::touched::Touched;
use barrier::Barrier;
use lanes::{Regs, lanes};
use std::sync::Arc;

/// Shared by all blocks of a launch.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: LaunchConfig,
    pub params: &'a [u8],
    pub global: &'a [Arc<Allocation>],
    pub symbols: &'a [u64],
    pub watch: Watch,
    pub check_global: bool,
    pub limit: u64,
    pub clock: u64,
    pub count: bool,
    /// Sectors of global memory that the launch has loaded and stored so far.
    pub loaded: Touched,
    pub stored: Touched,
}

/// A fault at an instruction, and the lane if one is at fault.
pub(crate) struct Failed {
    pub kind: FaultKind,
    pub pc: usize,
    pub warp: usize,
    pub lane: Option<usize>,
}

/// The result of an instruction: a fault, and the lane if one is at fault.
type Done<T = ()> = Result<T, (FaultKind, Option<usize>)>;

struct Warp {
    regs: Regs,
    index: usize,
    /// Program counter and lanes of the running group.
    pc: u32,
    active: u32,
    /// The other groups.
    others: Vec<(u32, u32)>,
    /// Lanes that have not exited.
    live: u32,
    /// Local memory, lane by lane.
    local: Vec<u8>,
    copies: Vec<memory::Copy>,
    /// How many groups of copies each lane has committed.
    groups: [u32; 32],
    /// Number of the interval between the barriers at which the warp waits.
    interval: u32,
    waits_at: Option<usize>,
}

/// A block that is executed; reused for the next one.
pub(crate) struct BlockRun<'a> {
    launch: &'a Launch<'a>,
    shared: Shared,
    warps: Vec<Warp>,
    barriers: Vec<Barrier>,
    executed: u64,
    issued: Vec<u64>,
    pub counts: Counts,
    /// The allocation that was last accessed.
    recent: usize,
    /// For each warp a direct-mapped cache of the sectors of global memory that it has loaded.
    cached: Vec<[u64; memory::CACHED]>,
}

impl<'a> BlockRun<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>) -> Self {
        let (kernel, warps) = (launch.kernel, launch.grid.threads().div_ceil(32));
        let bytes = kernel.static_shared + launch.grid.dynamic_shared;
        let warp = |index| Warp {
            regs: Regs::default(),
            index,
            pc: 0,
            active: 0,
            others: Vec::new(),
            live: 0,
            local: vec![0; 32 * kernel.local_bytes],
            copies: Vec::new(),
            groups: [0; 32],
            interval: 1,
            waits_at: None,
        };
        Self {
            launch,
            shared: Shared::new(bytes, kernel.shared_granule, warps, kernel.partial_barriers),
            warps: (0..warps).map(warp).collect(),
            barriers: (0..16).map(|_| Barrier::default()).collect(),
            executed: 0,
            issued: vec![0; kernel.code.len()],
            counts: Counts::default(),
            recent: 0,
            cached: vec![[u64::MAX; memory::CACHED]; warps],
        }
    }

    /// Executes the block with index `block`. With `shuffle`, its warps take turns in an order that changes every time.
    pub(crate) fn run(&mut self, block: [u32; 3], mut shuffle: Option<Shuffle>) -> Result<(), Failed> {
        self.reset(block);
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            let mut ran = false;
            if let Some(shuffle) = &mut shuffle {
                shuffle.apply(&mut order);
            }
            for &warp in &order {
                if self.warps[warp].waits_at.is_none() && self.warps[warp].live != 0 {
                    ran = true;
                    let done = self.run_warp(warp);
                    done.map_err(|(kind, lane)| Failed { kind, pc: self.warps[warp].pc as usize, warp, lane })?;
                    self.release();
                }
            }
            if !ran {
                break;
            }
        }
        match self.warps.iter().find(|warp| warp.live != 0) {
            // Its program counter is past the barrier.
            Some(warp) => {
                Err(Failed { kind: self.deadlock(warp), pc: warp.pc as usize - 1, warp: warp.index, lane: None })
            }
            None => {
                self.counts.blocks += 1;
                Ok(())
            }
        }
    }

    fn reset(&mut self, block: [u32; 3]) {
        let threads = self.launch.grid.threads();
        self.shared.reset();
        self.executed = 0;
        self.cached.fill([u64::MAX; memory::CACHED]);
        for warp in &mut self.warps {
            let lanes = (threads - warp.index * 32).min(32);
            warp.live = u32::MAX >> (32 - lanes);
            (warp.pc, warp.active, warp.interval, warp.waits_at) = (0, warp.live, 1, None);
            warp.others.clear();
            warp.copies.clear();
            warp.groups = [0; 32];
            warp.regs.reset(self.launch.kernel.registers);
            // Only registers that may be read before they are written are tracked; the others count as written.
            warp.regs.written.iter_mut().flatten().for_each(|written| *written = u32::MAX);
            for (reg, _) in &self.launch.kernel.tracked {
                warp.regs.written[reg.file() as usize][reg.index()] = 0;
            }
            for (reg, preset) in &self.launch.kernel.presets {
                for lane in 0..32 {
                    let value = self.launch.preset(*preset, warp.index, lane, block);
                    warp.regs.set_lane(*reg, lane, value);
                }
            }
        }
        self.barriers.iter_mut().for_each(|barrier| *barrier = Barrier::default());
    }

    /// Runs one warp past its next barrier, or to its end.
    fn run_warp(&mut self, index: usize) -> Done {
        // Taken out, since both the warp and the block change.
        let mut warp = std::mem::replace(&mut self.warps[index], Warp::empty());
        let done = self.run_out(&mut warp);
        if self.launch.count {
            self.collect();
        }
        self.warps[index] = warp;
        done
    }

    fn collect(&mut self) {
        for (inst, issued) in self.launch.kernel.code.iter().zip(&mut self.issued) {
            if *issued > 0 {
                *self.counts.instructions.entry(inst.class).or_default() += std::mem::take(issued);
            }
        }
    }

    fn run_out(&mut self, warp: &mut Warp) -> Done {
        let kernel = self.launch.kernel;
        loop {
            warp.rejoin();
            let pc = warp.pc as usize;
            let inst = &kernel.code[pc];
            let mut mask = warp.active;
            if let Some(guard) = inst.guard {
                let holds = warp.regs.pred[guard.predicate.index()];
                mask &= if guard.negated { !holds } else { holds };
            }
            self.executed += 1;
            if self.executed > self.launch.limit {
                return Err((FaultKind::TooLong { instructions: self.launch.limit }, None));
            }
            if self.launch.count {
                self.issued[pc] += 1;
                self.counts.thread_instructions += u64::from(mask.count_ones());
            }
            if inst.reads_tracked || inst.writes_tracked {
                warp.track(kernel, inst, mask)?;
            }
            match inst.op {
                Op::Bra { target } => {
                    warp.jump(mask, |_| target);
                    if warp.active == 0 {
                        warp.next();
                    }
                    continue;
                }
                Op::BrxIdx { table } => {
                    let (table, index) = (&kernel.tables[table as usize], kernel.sources(inst)[0]);
                    let targets: [u32; 32] = std::array::from_fn(|lane| {
                        table.get(warp.regs.lane(index, lane) as usize).copied().unwrap_or(u32::MAX)
                    });
                    if let Some(lane) = lanes(mask).find(|lane| targets[*lane] == u32::MAX) {
                        let address = warp.regs.lane(index, lane);
                        return Err((FaultKind::OutOfRange { space: "branch table", address, bytes: 1 }, Some(lane)));
                    }
                    warp.jump(mask, |lane| targets[lane]);
                    if warp.active == 0 {
                        warp.next();
                    }
                    continue;
                }
                Op::Exit => {
                    warp.live &= !mask;
                    warp.active &= !mask;
                    warp.copies.retain(|copy| mask >> copy.lane & 1 == 0);
                    if warp.live == 0 {
                        return Ok(());
                    }
                    if warp.active == 0 {
                        warp.next();
                    } else {
                        warp.pc += 1;
                    }
                    continue;
                }
                Op::Bar(kind) if mask != 0 => {
                    self.arrive(kind, kernel, inst, warp, mask)?;
                    warp.pc += 1;
                    return Ok(());
                }
                Op::Trap if mask != 0 => return Err((FaultKind::Trap, None)),
                _ if mask == 0 => {}
                _ => self.execute(kernel, inst, warp, mask)?,
            }
            warp.pc += 1;
        }
    }

    fn execute(&mut self, kernel: &Kernel, inst: &Inst, warp: &mut Warp, mask: u32) -> Done {
        let (d, s) = (kernel.destinations(inst), kernel.sources(inst));
        match inst.op {
            Op::Nop => {}
            Op::Int(op, ty) => int::exec(op, ty, &mut warp.regs, d[0], s, mask),
            Op::Float(float) => float::exec(float, &mut warp.regs, d[0], s, mask),
            Op::Cvt(cvt) => convert::exec(cvt, &mut warp.regs, d[0], s, mask),
            Op::Mov => match d[0].file() {
                File::B32 => lanes::map1(&mut warp.regs, d[0], s, mask, |a: u32| a),
                File::B64 => lanes::map1(&mut warp.regs, d[0], s, mask, |a: u64| a),
                File::Pred => {
                    let value = warp.regs.pred[s[0].index()];
                    warp.regs.set_pred(d[0], mask, value);
                }
            },
            Op::Pack { bits } => convert::pack(bits, &mut warp.regs, d[0], s, mask),
            Op::Unpack { bits } => convert::unpack(bits, &mut warp.regs, d, s[0], mask),
            // Time is not modelled; the number of instructions at least increases.
            Op::Clock => {
                let now = self.launch.clock + self.executed;
                lanes(mask).for_each(|lane| warp.regs.set_lane(d[0], lane, now));
            }
            Op::Mma(mma) => {
                if mask != warp.live {
                    return Err((FaultKind::DivergentLanes { active: mask, mask: warp.live }, None));
                }
                mma::exec(mma, &mut warp.regs, d, s);
                self.counts.mma_flops += 2 * 16 * 8 * u64::from(mma.k);
            }
            _ if float::select(inst.op, &mut warp.regs, d, s, mask) => {}
            _ if self.memory(inst, warp, d, s, mask)? => {}
            _ => warp::exec(inst.op, warp, d, s, mask)?,
        }
        Ok(())
    }

    fn who(warp: &Warp, lane: usize) -> Who {
        Who { warp: warp.index, lane, interval: warp.interval }
    }
}

impl Warp {
    fn empty() -> Warp {
        Warp {
            regs: Regs::default(),
            index: 0,
            pc: 0,
            active: 0,
            others: Vec::new(),
            live: 0,
            local: Vec::new(),
            copies: Vec::new(),
            groups: [0; 32],
            interval: 0,
            waits_at: None,
        }
    }

    /// Moves the lanes of `mask` to their targets; the others continue after the instruction.
    fn jump(&mut self, mask: u32, target: impl Fn(usize) -> u32) {
        let stay = self.active & !mask;
        for lane in lanes(mask) {
            let target = target(lane);
            match self.others.iter_mut().find(|group| group.0 == target) {
                Some(group) => group.1 |= 1 << lane,
                None => self.others.push((target, 1 << lane)),
            }
        }
        self.active = stay;
        if stay != 0 {
            self.pc += 1;
        }
    }

    /// Switches to the group with the lowest program counter.
    fn next(&mut self) {
        if let Some(at) = (0..self.others.len()).min_by_key(|at| self.others[*at].0) {
            (self.pc, self.active) = self.others.swap_remove(at);
        }
    }

    /// Switches to a group with a lower program counter, and merges groups that are at the same instruction.
    #[inline(always)]
    fn rejoin(&mut self) {
        if self.others.is_empty() {
            return;
        }
        if self.others.iter().any(|group| group.0 < self.pc) {
            self.others.push((self.pc, self.active));
            self.next();
        }
        let (pc, mut joined) = (self.pc, 0);
        self.others.retain(|group| {
            let met = group.0 == pc;
            joined |= if met { group.1 } else { 0 };
            !met
        });
        self.active |= joined;
    }

    /// Reports reads of uninitialised registers. A copy of such a register is no read, but its destination is
    /// uninitialised too.
    fn track(&mut self, kernel: &Kernel, inst: &Inst, mask: u32) -> Done {
        let written = |regs: &Regs, reg: Reg| regs.written[reg.file() as usize][reg.index()];
        let (d, s) = (kernel.destinations(inst), kernel.sources(inst));
        let mut known = u32::MAX;
        match inst.op {
            Op::Mov => known = written(&self.regs, s[0]),
            Op::Selp => {
                let p = self.regs.pred[s[2].index()];
                known = written(&self.regs, s[0]) & p | written(&self.regs, s[1]) & !p;
            }
            _ => {
                let guard = inst.guard.map(|guard| guard.predicate);
                for (reg, needed) in s.iter().map(|reg| (*reg, mask)).chain(guard.map(|reg| (reg, self.active))) {
                    let missing = needed & !written(&self.regs, reg);
                    if missing != 0 {
                        let name = kernel.tracked.iter().find(|(tracked, _)| *tracked == reg);
                        let name = name.map_or_else(|| "a temporary".to_owned(), |(_, name)| name.clone());
                        return Err((FaultKind::UninitRegister { name }, Some(missing.trailing_zeros() as usize)));
                    }
                }
            }
        }
        for reg in d {
            let word = &mut self.regs.written[reg.file() as usize][reg.index()];
            *word = *word & !mask | known & mask;
        }
        Ok(())
    }
}

impl Launch<'_> {
    /// The value of a preset register in a lane.
    fn preset(&self, preset: Preset, warp: usize, lane: usize, block: [u32; 3]) -> u64 {
        let LaunchConfig { blocks, threads, dynamic_shared } = self.grid;
        let linear = (warp * 32 + lane) as u32;
        let thread = self.grid.thread(linear);
        let below = (1u64 << lane) - 1;
        match preset {
            Preset::Bits(bits) => bits,
            Preset::Symbol(index, offset) => self.symbols[index].wrapping_add_signed(offset),
            Preset::DynamicBase(offset) => (self.kernel.static_shared as u64).wrapping_add_signed(offset),
            Preset::Tid(axis) => u64::from(thread[axis as usize]),
            Preset::Ntid(axis) => u64::from(threads[axis as usize]),
            Preset::Ctaid(axis) => u64::from(block[axis as usize]),
            Preset::Nctaid(axis) => u64::from(blocks[axis as usize]),
            Preset::LaneId => lane as u64,
            Preset::WarpId => warp as u64,
            Preset::NWarpId => self.grid.threads().div_ceil(32) as u64,
            Preset::LaneMask(LaneMask::Eq) => 1 << lane,
            Preset::LaneMask(LaneMask::Lt) => below,
            Preset::LaneMask(LaneMask::Le) => below | 1 << lane,
            Preset::LaneMask(LaneMask::Gt) => !(below | 1 << lane) & 0xffff_ffff,
            Preset::LaneMask(LaneMask::Ge) => !below & 0xffff_ffff,
            Preset::DynamicShared => dynamic_shared as u64,
            Preset::TotalShared => (self.kernel.static_shared + dynamic_shared) as u64,
        }
    }
}
