//! Loads, stores, asynchronous copies and matrix loads, with their checks.

use super::lanes::{lanes, read};
use super::{BlockRun, Done, Warp};
use crate::counts::Traffic;
use crate::fault::FaultKind;
use crate::isa::{Access, Inst, Op, Reg, Space, Ty};
use crate::shared::{Trouble, Use, passes};

/// Windows in the generic address space, below global memory.
const SHARED: u64 = 1 << 40;
const LOCAL: u64 = 2 << 40;
const PARAM: u64 = 3 << 40;
const WINDOW: u64 = 1 << 40;

/// A pending asynchronous copy. It is performed as late as its wait allows.
pub(super) struct Copy {
    pub lane: usize,
    /// `None` until it is committed.
    group: Option<u32>,
    to: u64,
    from: u64,
    bytes: usize,
    /// Bytes that are read; the rest becomes zero.
    size: usize,
    pc: u32,
}

/// The state space of a generic address, and the address in it.
fn generic(address: u64) -> (Space, u64) {
    match address / WINDOW {
        1 => (Space::Shared, address - SHARED),
        2 => (Space::Local, address - LOCAL),
        3 => (Space::Param, address - PARAM),
        _ => (Space::Global, address),
    }
}

fn name(space: Space) -> &'static str {
    match space {
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Param => "parameter",
        _ => "global",
    }
}

/// Sign-extends what is loaded as a signed type.
#[inline(always)]
fn extend(ty: Ty, value: u64) -> u64 {
    match ty {
        Ty::S8 => value as i8 as i64 as u64,
        Ty::S16 => value as i16 as i64 as u64,
        Ty::S32 => value as i32 as i64 as u64,
        _ => value,
    }
}

/// Sectors per warp in the modelled L1 cache: 4 KiB of the 256 KiB that the warps of an SM share. So a sector that is
/// loaded in two halves counts once.
pub(super) const CACHED: usize = 128;

impl BlockRun<'_> {
    /// Executes a memory instruction; `false` if it is not one.
    pub(super) fn memory(&mut self, inst: &Inst, warp: &mut Warp, d: &[Reg], s: &[Reg], mask: u32) -> Done<bool> {
        match inst.op {
            Op::Ld(access) => self.load(access, warp, d, s, mask)?,
            Op::St(access) => self.store(access, warp, s, mask)?,
            Op::Atom { op, access } => self.atomic(op, access, warp, d, s, mask)?,
            Op::LdMatrix { count, trans, offset } => {
                self.load_matrix(count as usize, trans, offset, warp, d, s, mask)?;
            }
            Op::StMatrix { count, trans, offset } => {
                self.store_matrix(count as usize, trans, offset, warp, s, mask)?;
            }
            Op::CpAsync { bytes, to, from } => {
                let (mut read, mut addresses) = (0, [u64::MAX; 32]);
                for lane in lanes(mask) {
                    let at = |reg: Reg, offset: i64| warp.regs.lane(reg, lane).wrapping_add_signed(offset);
                    let (to, from) = (at(s[0], to), at(s[1], from));
                    let size = (warp.regs.lane(s[2], lane) as usize).min(bytes as usize);
                    if size > 0 {
                        (read, addresses[lane]) = (read | 1 << lane, from);
                    }
                    let to = if to >= WINDOW { generic(to).1 } else { to };
                    let start = self.in_shared(to, bytes as usize, lane)?;
                    let (bytes, pc) = (bytes as usize, warp.pc);
                    let trouble = self.shared.begin_copy(Self::who(warp, lane), start, bytes, self.launch.watch);
                    self.shared_trouble(trouble, to, bytes, lane)?;
                    warp.copies.push(Copy { lane, group: None, to, from, bytes, size, pc });
                }
                self.count_global(warp, read, addresses, bytes as usize, true);
            }
            Op::CpCommit => {
                for copy in warp.copies.iter_mut().filter(|copy| mask >> copy.lane & 1 == 1) {
                    copy.group.get_or_insert(warp.groups[copy.lane]);
                }
                lanes(mask).for_each(|lane| warp.groups[lane] += 1);
            }
            Op::CpWait { groups } => self.wait(groups, warp, mask)?,
            Op::Cvta { space, to_space } => {
                let window = match space {
                    Space::Shared => SHARED,
                    Space::Local => LOCAL,
                    Space::Param => PARAM,
                    _ => 0,
                };
                for lane in lanes(mask) {
                    let address = warp.regs.lane(s[0], lane);
                    let moved = if to_space { address.wrapping_sub(window) } else { address.wrapping_add(window) };
                    warp.regs.set_lane(d[0], lane, moved);
                }
            }
            Op::IsSpace(space) => {
                let inside = |lane| generic(warp.regs.lane(s[0], lane)).0 == space;
                let found = lanes(mask).filter(|lane| inside(*lane)).fold(0, |bits, lane| bits | 1u32 << lane);
                warp.regs.set_pred(d[0], mask, found);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks alignment and bounds of an access to shared memory.
    pub(super) fn in_shared(&self, address: u64, bytes: usize, lane: usize) -> Done<usize> {
        self.check_alignment(Space::Shared, address, bytes, lane)?;
        let fits = address.checked_add(bytes as u64).is_some_and(|end| end <= self.shared.bytes.len() as u64);
        match fits {
            true => Ok(address as usize),
            false => Err((FaultKind::OutOfRange { space: "shared", address, bytes }, Some(lane))),
        }
    }

    fn check_alignment(&self, space: Space, address: u64, bytes: usize, lane: usize) -> Done {
        match address.is_multiple_of(bytes as u64) {
            true => Ok(()),
            false => Err((FaultKind::Misaligned { space: name(space), address, bytes }, Some(lane))),
        }
    }

    /// Checks an access to global memory; returns the allocation and the offset.
    pub(super) fn in_global(&mut self, address: u64, bytes: usize, lane: usize) -> Done<(usize, usize)> {
        self.check_alignment(Space::Global, address, bytes, lane)?;
        self.find_global(address, bytes, lane)
    }

    fn find_global(&mut self, address: u64, bytes: usize, lane: usize) -> Done<(usize, usize)> {
        let global = self.launch.global;
        if !global.get(self.recent).is_some_and(|block| block.holds(address, bytes)) {
            let after = global.partition_point(|block| block.start <= address);
            let found = after.checked_sub(1).filter(|at| global[*at].holds(address, bytes));
            let missing = (FaultKind::OutOfRange { space: "global", address, bytes }, Some(lane));
            self.recent = found.ok_or(missing)?;
        }
        Ok((self.recent, (address - global[self.recent].start) as usize))
    }

    pub(super) fn shared_trouble(&self, trouble: Option<Trouble>, address: u64, bytes: usize, lane: usize) -> Done {
        let kind = match trouble {
            None => return Ok(()),
            Some(Trouble::Uninit) => FaultKind::Uninit { space: "shared", address, bytes },
            Some(Trouble::Pending) => FaultKind::MissingWait { address },
            Some(Trouble::Race { write, warp, lane }) => {
                FaultKind::DataRace { address, other_writes: write, warp, lane }
            }
        };
        Err((kind, Some(lane)))
    }

    /// State space and address of a lane's access.
    #[inline(always)]
    pub(super) fn place(access: &Access, warp: &Warp, base: Reg, lane: usize) -> (Space, u64) {
        let address = warp.regs.lane(base, lane).wrapping_add_signed(access.offset);
        match access.space {
            Space::Generic => generic(address),
            // Shared addresses have 32 bits.
            Space::Shared => (Space::Shared, address & 0xffff_ffff),
            space => (space, address),
        }
    }

    fn load(&mut self, access: Access, warp: &mut Warp, d: &[Reg], s: &[Reg], mask: u32) -> Done {
        let (size, total) = (access.ty.bytes(), access.ty.bytes() * access.count as usize);
        let mut shared = [None; 32];
        let (mut in_global, mut addresses) = (0, [u64::MAX; 32]);
        for lane in lanes(mask) {
            let (space, address) = Self::place(&access, warp, s[0], lane);
            match space {
                Space::Shared => {
                    let at = self.in_shared(address, total, lane)?;
                    let who = Self::who(warp, lane);
                    let trouble = self.shared.note(who, at, total, Use::Read, self.launch.watch);
                    self.shared_trouble(trouble, address, total, lane)?;
                    shared[lane] = Some(at);
                    for (i, d) in d.iter().enumerate() {
                        let value = self.shared.load(at + i * size, size);
                        warp.regs.set_lane(*d, lane, extend(access.ty, value));
                    }
                }
                Space::Local | Space::Param => {
                    self.check_alignment(space, address, total, lane)?;
                    let memory = if space == Space::Param { self.launch.params } else { warp.local_of(lane) };
                    let end = (address as usize).checked_add(total).filter(|end| *end <= memory.len());
                    let outside = FaultKind::OutOfRange { space: name(space), address, bytes: total };
                    let end = end.ok_or((outside, Some(lane)))?;
                    let mut values = [0; 8];
                    for (value, bytes) in values.iter_mut().zip(memory[address as usize..end].chunks_exact(size)) {
                        *value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    }
                    for (d, value) in d.iter().zip(values) {
                        warp.regs.set_lane(*d, lane, extend(access.ty, value));
                    }
                }
                _ => {
                    (in_global, addresses[lane]) = (in_global | 1 << lane, address);
                    let (block, at) = self.in_global(address, total, lane)?;
                    let block = &self.launch.global[block];
                    if self.launch.check_global && !block.was_written(at, total) {
                        let kind = FaultKind::Uninit { space: "global", address, bytes: total };
                        return Err((kind, Some(lane)));
                    }
                    for (i, d) in d.iter().enumerate() {
                        warp.regs.set_lane(*d, lane, extend(access.ty, block.load(at + i * size, size)));
                    }
                }
            }
        }
        self.count_shared(&shared, total);
        self.count_global(warp, in_global, addresses, total, true);
        Ok(())
    }

    fn store(&mut self, access: Access, warp: &mut Warp, s: &[Reg], mask: u32) -> Done {
        let (size, total) = (access.ty.bytes(), access.ty.bytes() * access.count as usize);
        let mut shared = [None; 32];
        let (mut in_global, mut addresses) = (0, [u64::MAX; 32]);
        for lane in lanes(mask) {
            let (space, address) = Self::place(&access, warp, s[0], lane);
            match space {
                Space::Shared => {
                    let at = self.in_shared(address, total, lane)?;
                    let who = Self::who(warp, lane);
                    let trouble = self.shared.note(who, at, total, Use::Write, self.launch.watch);
                    self.shared_trouble(trouble, address, total, lane)?;
                    shared[lane] = Some(at);
                    for (i, s) in s[1..].iter().enumerate() {
                        self.shared.store(at + i * size, size, warp.regs.lane(*s, lane));
                    }
                }
                Space::Local => {
                    self.check_alignment(space, address, total, lane)?;
                    let bytes = self.launch.kernel.local_bytes;
                    if address.checked_add(total as u64).is_none_or(|end| end > bytes as u64) {
                        return Err((FaultKind::OutOfRange { space: "local", address, bytes: total }, Some(lane)));
                    }
                    let start = lane * bytes + address as usize;
                    for (i, s) in s[1..].iter().enumerate() {
                        let value = warp.regs.lane(*s, lane).to_le_bytes();
                        warp.local[start + i * size..][..size].copy_from_slice(&value[..size]);
                    }
                }
                Space::Param => {
                    let kind = FaultKind::OutOfRange { space: "writable parameter", address, bytes: total };
                    return Err((kind, Some(lane)));
                }
                _ => {
                    (in_global, addresses[lane]) = (in_global | 1 << lane, address);
                    let (block, at) = self.in_global(address, total, lane)?;
                    let block = &self.launch.global[block];
                    for (i, s) in s[1..].iter().enumerate() {
                        block.store(at + i * size, size, warp.regs.lane(*s, lane));
                    }
                    block.mark_written(at, total);
                }
            }
        }
        self.count_shared(&shared, total);
        self.count_global(warp, in_global, addresses, total, false);
        Ok(())
    }

    /// Where the rows are: lane `8 * matrix + row` has the address of 16 bytes.
    fn matrix_rows(
        &mut self,
        count: usize,
        offset: i64,
        warp: &Warp,
        base: Reg,
        mask: u32,
    ) -> Done<[Option<usize>; 32]> {
        if mask != warp.live || mask != u32::MAX {
            return Err((FaultKind::DivergentLanes { active: mask, mask: u32::MAX }, None));
        }
        let mut rows = [None; 32];
        for (lane, row) in rows.iter_mut().enumerate().take(8 * count) {
            let address = warp.regs.lane(base, lane).wrapping_add_signed(offset) & 0xffff_ffff;
            *row = Some(self.in_shared(address, 16, lane)?);
        }
        self.count_shared(&rows, 16);
        Ok(rows)
    }

    #[allow(clippy::too_many_arguments, reason = "an instruction's parts")]
    fn load_matrix(
        &mut self,
        count: usize,
        trans: bool,
        offset: i64,
        warp: &mut Warp,
        d: &[Reg],
        s: &[Reg],
        mask: u32,
    ) -> Done {
        let rows = self.matrix_rows(count, offset, warp, s[0], mask)?;
        let mut matrices = [[[0u16; 8]; 8]; 4];
        for (lane, at) in rows.iter().enumerate() {
            let Some(at) = *at else { continue };
            let who = Self::who(warp, lane);
            let trouble = self.shared.note(who, at, 16, Use::Read, self.launch.watch);
            self.shared_trouble(trouble, at as u64, 16, lane)?;
            let row = &mut matrices[lane / 8][lane % 8];
            *row = std::array::from_fn(|column| self.shared.load(at + 2 * column, 2) as u16);
        }
        for (d, matrix) in d.iter().zip(&matrices) {
            for lane in 0..32 {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let element = |i: usize| if trans { matrix[column + i][row] } else { matrix[row][column + i] };
                warp.regs.set_lane(*d, lane, u64::from(element(0)) | u64::from(element(1)) << 16);
            }
        }
        Ok(())
    }

    fn store_matrix(&mut self, count: usize, trans: bool, offset: i64, warp: &Warp, s: &[Reg], mask: u32) -> Done {
        let rows = self.matrix_rows(count, offset, warp, s[0], mask)?;
        let mut matrices = [[[0u16; 8]; 8]; 4];
        for (reg, matrix) in s[1..].iter().zip(&mut matrices) {
            for (lane, word) in read::<u32>(&warp.regs, *reg).iter().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2);
                for (i, half) in [*word as u16, (*word >> 16) as u16].into_iter().enumerate() {
                    let place = if trans { &mut matrix[column + i][row] } else { &mut matrix[row][column + i] };
                    *place = half;
                }
            }
        }
        for (lane, at) in rows.iter().enumerate() {
            let Some(at) = *at else { continue };
            let who = Self::who(warp, lane);
            let trouble = self.shared.note(who, at, 16, Use::Write, self.launch.watch);
            self.shared_trouble(trouble, at as u64, 16, lane)?;
            for (column, half) in matrices[lane / 8][lane % 8].iter().enumerate() {
                self.shared.store(at + 2 * column, 2, u64::from(*half));
            }
        }
        Ok(())
    }

    /// Performs the copies of all but the newest `groups` groups of each lane; `None`: all copies.
    fn wait(&mut self, groups: Option<u32>, warp: &mut Warp, mask: u32) -> Done {
        let due = |copy: &Copy| {
            let committed = warp.groups[copy.lane];
            let old_enough = match groups {
                None => true,
                Some(pending) => copy.group.is_some_and(|group| committed - group > pending),
            };
            mask >> copy.lane & 1 == 1 && old_enough
        };
        let (now, later): (Vec<Copy>, Vec<Copy>) = std::mem::take(&mut warp.copies).into_iter().partition(due);
        warp.copies = later;
        for copy in now {
            // A fault in the copy is reported at the instruction that started it.
            let wait = std::mem::replace(&mut warp.pc, copy.pc);
            self.make(&copy, warp)?;
            warp.pc = wait;
        }
        Ok(())
    }

    fn make(&mut self, copy: &Copy, warp: &Warp) -> Done {
        let Copy { lane, to, from, bytes, size, .. } = *copy;
        let at = to as usize;
        self.shared.end_copy(at, bytes);
        let who = Self::who(warp, lane);
        let trouble = self.shared.note(who, at, bytes, Use::Write, self.launch.watch);
        self.shared_trouble(trouble, to, bytes, lane)?;
        self.shared.bytes[at..at + bytes].fill(0);
        if size > 0 {
            // The address is aligned to the whole copy, but only what is read must be allocated.
            self.check_alignment(Space::Global, from, bytes, lane)?;
            let (block, start) = self.find_global(from, size, lane)?;
            let block = &self.launch.global[block];
            if self.launch.check_global && !block.was_written(start, size) {
                return Err((FaultKind::Uninit { space: "global", address: from, bytes: size }, Some(lane)));
            }
            let words = size / 4 * 4;
            for (i, width) in (0..words).step_by(4).map(|i| (i, 4)).chain((words..size).map(|i| (i, 1))) {
                self.shared.store(at + i, width, block.load(start + i, width));
            }
        }
        Ok(())
    }

    fn count_shared(&mut self, addresses: &[Option<usize>; 32], bytes: usize) {
        if self.launch.count && addresses.iter().any(Option::is_some) {
            let (taken, least) = passes(addresses, bytes);
            self.counts.shared.passes += u64::from(taken);
            self.counts.shared.least += u64::from(least);
        }
    }

    /// Counts the sectors that an access moves, and its distinct bytes; `addresses` are those of the lanes in `mask`.
    fn count_global(&mut self, warp: &Warp, mask: u32, mut addresses: [u64; 32], bytes: usize, load: bool) {
        if !self.launch.count || mask == 0 {
            return;
        }
        addresses.sort_unstable();
        let (mut last, mut sector, mut counted) = (u64::MAX, u64::MAX, Traffic::default());
        let touched = if load { &self.launch.loaded } else { &self.launch.stored };
        for address in addresses.into_iter().take(mask.count_ones() as usize) {
            counted.bytes += if address != last { bytes as u64 } else { 0 };
            last = address;
            if address / 32 == sector {
                continue;
            }
            sector = address / 32;
            // Stores write through and do not evict.
            let held = &mut self.cached[warp.index][sector as usize % CACHED];
            if load && *held == sector {
                continue;
            }
            *held = if load { sector } else { *held };
            counted.sectors += 1;
            // An asynchronous copy out of bounds is reported when it is performed.
            if let Ok((block, at)) = self.find_global(address, 1, 0) {
                counted.distinct += u64::from(touched.first(block, self.launch.global[block].bytes, at));
            }
        }
        let traffic = if load { &mut self.counts.global_loads } else { &mut self.counts.global_stores };
        traffic.add(&counted);
    }
}

impl Warp {
    fn local_of(&self, lane: usize) -> &[u8] {
        let bytes = self.local.len() / 32;
        &self.local[lane * bytes..][..bytes]
    }
}
