//! Register allocation: maps the thousands of virtual registers that nvcc emits to few slots, which stay in the cache.
//!
//! Registers whose live intervals do not overlap share a slot (linear scan, Poletto and Sarkar 1999). A register that
//! is live at the start of the kernel may be read before it is written: it gets its own slot and is tracked at run
//! time. All others are written before any read and need no check.

use crate::isa::{File, Inst, Op, Reg};
use crate::kernel::Kernel;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

pub(super) fn allocate(kernel: &mut Kernel, names: &HashMap<Reg, String>) {
    let ids = Ids::new(kernel.registers);
    let preset: HashSet<usize> = kernel.presets.iter().map(|(reg, _)| ids.of(*reg)).collect();
    let blocks = blocks(kernel);
    let live = liveness(kernel, &blocks, &ids, &preset);
    let tracked = tracked(kernel, &ids, &live[0].0);
    let intervals = intervals(kernel, &blocks, &live, &ids);

    let mut slots = vec![Reg::new(File::B32, 0); ids.total];
    let mut counts = [0usize; 3];
    let mut fresh = |file: File| {
        counts[file as usize] += 1;
        Reg::new(file, counts[file as usize] - 1)
    };
    for (reg, _) in &mut kernel.presets {
        let slot = fresh(reg.file());
        slots[ids.of(*reg)] = slot;
        *reg = slot;
    }
    let mut by_start: Vec<usize> = (0..ids.total).filter(|id| intervals[*id].0 != u32::MAX).collect();
    by_start.sort_by_key(|id| intervals[*id]);
    let mut ends: [BinaryHeap<Reverse<(u32, usize)>>; 3] = Default::default();
    for id in by_start {
        if preset.contains(&id) {
            continue;
        }
        let file = ids.file(id);
        let (start, end) = intervals[id];
        if tracked.contains(&id) {
            slots[id] = fresh(file);
            continue;
        }
        let heap = &mut ends[file as usize];
        slots[id] = match heap.peek() {
            Some(Reverse((free_from, slot))) if *free_from < start => {
                let slot = *slot;
                heap.pop();
                Reg::new(file, slot)
            }
            _ => fresh(file),
        };
        heap.push(Reverse((end, slots[id].index())));
    }

    let mut watched: Vec<_> = tracked.iter().map(|id| (slots[*id], ids.reg(*id))).collect();
    watched.sort_by_key(|(slot, _)| (slot.file() as u8, slot.index()));
    let name = |reg: &Reg| names.get(reg).cloned().unwrap_or_else(|| "a temporary".into());
    kernel.tracked = watched.iter().map(|(slot, reg)| (*slot, name(reg))).collect();
    let watched: HashSet<Reg> = watched.into_iter().map(|(slot, _)| slot).collect();
    for reg in &mut kernel.operands {
        *reg = slots[ids.of(*reg)];
    }
    for inst in &mut kernel.code {
        if let Some(guard) = &mut inst.guard {
            guard.predicate = slots[ids.of(guard.predicate)];
        }
        let operands = &kernel.operands[inst.first as usize..][..(inst.destinations + inst.sources) as usize];
        let (destinations, sources) = operands.split_at(inst.destinations as usize);
        let guard = inst.guard.map(|g| g.predicate);
        inst.writes_tracked = destinations.iter().any(|r| watched.contains(r));
        inst.reads_tracked = sources.iter().chain(&guard).any(|r| watched.contains(r));
    }
    kernel.registers = counts;
}

/// Numbers the registers of all files.
struct Ids {
    starts: [usize; 3],
    total: usize,
}

const FILES: [File; 3] = [File::B32, File::B64, File::Pred];

impl Ids {
    fn new(counts: [usize; 3]) -> Ids {
        Ids { starts: [0, counts[0], counts[0] + counts[1]], total: counts.iter().sum() }
    }

    fn of(&self, reg: Reg) -> usize {
        self.starts[reg.file() as usize] + reg.index()
    }

    fn file(&self, id: usize) -> File {
        FILES[(id >= self.starts[1]) as usize + (id >= self.starts[2]) as usize]
    }

    fn reg(&self, id: usize) -> Reg {
        let file = self.file(id);
        Reg::new(file, id - self.starts[file as usize])
    }
}

struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
}

fn targets<'k>(kernel: &'k Kernel, inst: &'k Inst) -> Vec<usize> {
    match inst.op {
        Op::Bra { target } => vec![target as usize],
        Op::BrxIdx { table } => kernel.tables[table as usize].iter().map(|t| *t as usize).collect(),
        _ => Vec::new(),
    }
}

/// The basic blocks and their successors.
fn blocks(kernel: &Kernel) -> Vec<Block> {
    let code = &kernel.code;
    let mut leader = vec![false; code.len() + 1];
    leader[0] = true;
    for (pc, inst) in code.iter().enumerate() {
        if matches!(inst.op, Op::Bra { .. } | Op::BrxIdx { .. } | Op::Exit) {
            leader[pc + 1] = true;
            targets(kernel, inst).into_iter().for_each(|t| leader[t] = true);
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|pc| leader[*pc]).collect();
    let index: HashMap<usize, usize> = starts.iter().enumerate().map(|(i, pc)| (*pc, i)).collect();
    let ends = starts.iter().skip(1).copied().chain([code.len()]);
    let block = |(start, end): (usize, usize)| {
        let last = &code[end - 1];
        let jumps = matches!(last.op, Op::Bra { .. } | Op::BrxIdx { .. } | Op::Exit);
        let mut next: Vec<usize> = targets(kernel, last).iter().map(|t| index[t]).collect();
        if (!jumps || last.guard.is_some()) && end < code.len() {
            next.push(index[&end]);
        }
        Block { start, end, next }
    };
    starts.iter().copied().zip(ends).map(block).collect()
}

type Set = Vec<u64>;

fn contains(set: &Set, id: usize) -> bool {
    set[id / 64] >> (id % 64) & 1 == 1
}

/// Registers that are live at the start and at the end of each block.
fn liveness(kernel: &Kernel, blocks: &[Block], ids: &Ids, preset: &HashSet<usize>) -> Vec<(Set, Set)> {
    let words = ids.total.div_ceil(64);
    // Per block: registers that are read before they are written, and registers that are always written.
    let local = blocks.iter().map(|block| {
        let (mut reads, mut writes): (Set, Set) = (vec![0; words], vec![0; words]);
        for inst in &kernel.code[block.start..block.end] {
            let guard = inst.guard.map(|g| g.predicate);
            for reg in kernel.sources(inst).iter().chain(&guard) {
                let id = ids.of(*reg);
                if !contains(&writes, id) && !preset.contains(&id) {
                    reads[id / 64] |= 1 << (id % 64);
                }
            }
            if inst.guard.is_none() {
                for reg in kernel.destinations(inst) {
                    let id = ids.of(*reg);
                    writes[id / 64] |= 1 << (id % 64);
                }
            }
        }
        (reads, writes)
    });
    let local: Vec<(Set, Set)> = local.collect();
    let mut live: Vec<(Set, Set)> = local.iter().map(|(reads, _)| (reads.clone(), vec![0; words])).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..blocks.len()).rev() {
            for next in &blocks[b].next {
                for w in 0..words {
                    let incoming = live[*next].0[w];
                    live[b].1[w] |= incoming;
                }
            }
            for w in 0..words {
                let alive = local[b].0[w] | (live[b].1[w] & !local[b].1[w]);
                changed |= alive != live[b].0[w];
                live[b].0[w] = alive;
            }
        }
    }
    live
}

/// Registers that may be read before they are written, and the destinations of copies of them.
fn tracked(kernel: &Kernel, ids: &Ids, live_at_start: &Set) -> HashSet<usize> {
    let mut tracked: HashSet<usize> = (0..ids.total).filter(|id| contains(live_at_start, *id)).collect();
    loop {
        let before = tracked.len();
        for inst in kernel.code.iter().filter(|i| matches!(i.op, Op::Mov | Op::Selp)) {
            let carries = kernel.sources(inst).iter().any(|r| tracked.contains(&ids.of(*r)));
            if carries {
                tracked.insert(ids.of(kernel.destinations(inst)[0]));
            }
        }
        if tracked.len() == before {
            return tracked;
        }
    }
}

/// The live interval of each register: first and last instruction.
fn intervals(kernel: &Kernel, blocks: &[Block], live: &[(Set, Set)], ids: &Ids) -> Vec<(u32, u32)> {
    let mut intervals = vec![(u32::MAX, 0); ids.total];
    let mut touch = |id: usize, at: usize| {
        let (first, last) = &mut intervals[id];
        *first = (*first).min(at as u32);
        *last = (*last).max(at as u32);
    };
    for (block, (live_in, live_out)) in blocks.iter().zip(live) {
        for id in 0..ids.total {
            if contains(live_in, id) {
                touch(id, block.start);
            }
            if contains(live_out, id) {
                touch(id, block.end - 1);
            }
        }
        for pc in block.start..block.end {
            let inst = &kernel.code[pc];
            let guard = inst.guard.map(|g| g.predicate);
            for reg in kernel.destinations(inst).iter().chain(kernel.sources(inst)).chain(&guard) {
                touch(ids.of(*reg), pc);
            }
        }
    }
    intervals
}
