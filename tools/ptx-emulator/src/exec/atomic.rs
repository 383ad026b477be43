//! Atomic operations on shared and global memory.

use super::float::Half;
use super::lanes::lanes;
use super::rounding::{flush, fma_odd};
use super::{BlockRun, Done, Warp};
use crate::fault::FaultKind;
use crate::isa::{Access, AtomOp, Reg, Space, Ty};
use crate::shared::Use;
use half::{bf16, f16};

impl BlockRun<'_> {
    pub(super) fn atomic(
        &mut self,
        op: AtomOp,
        access: Access,
        warp: &mut Warp,
        d: &[Reg],
        s: &[Reg],
        mask: u32,
    ) -> Done {
        let bytes = access.ty.bytes();
        for lane in lanes(mask) {
            let (space, address) = Self::place(&access, warp, s[0], lane);
            let operand = |i: usize| s.get(i).map_or(0, |reg| warp.regs.lane(*reg, lane));
            let (a, b) = (operand(1), operand(2));
            let change = |old: u64| changed(op, access.ty, old, a, b);
            let old = match space {
                Space::Shared => {
                    let at = self.in_shared(address, bytes, lane)?;
                    let who = Self::who(warp, lane);
                    let trouble = self.shared.note(who, at, bytes, Use::Atomic, self.launch.watch);
                    self.shared_trouble(trouble, address, bytes, lane)?;
                    let old = self.shared.load(at, bytes);
                    self.shared.store(at, bytes, change(old));
                    old
                }
                Space::Local | Space::Param => {
                    return Err((FaultKind::OutOfRange { space: "shared or global", address, bytes }, Some(lane)));
                }
                _ => {
                    let (block, at) = self.in_global(address, bytes, lane)?;
                    let block = &self.launch.global[block];
                    if self.launch.check_global && !block.was_written(at, bytes) {
                        return Err((FaultKind::Uninit { space: "global", address, bytes }, Some(lane)));
                    }
                    block.update(at, bytes, |old| changed_in_global(op, access.ty, old, a, b))
                }
            };
            if let Some(d) = d.first() {
                warp.regs.set_lane(*d, lane, old);
            }
        }
        Ok(())
    }
}

/// Like [`changed`], in global memory, where f32 additions flush subnormals.
fn changed_in_global(op: AtomOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    if (op, ty) != (AtomOp::Add, Ty::F32) {
        return changed(op, ty, old, a, b);
    }
    let flushed = |bits: u64| u64::from(flush(f32::from_bits(bits as u32)).to_bits());
    flushed(changed(op, ty, flushed(old), flushed(a), b))
}

/// The sum of two numbers of a 16-bit format.
fn half_sum<H: Half>(a: u64, b: u64) -> u64 {
    let [a, b] = [a, b].map(|bits| H::get(bits as u32).wide());
    u64::from(H::narrow(fma_odd(a, 1.0, b)).put())
}

/// The sums of two pairs of them.
fn pair_sum<H: Half>(a: u64, b: u64) -> u64 {
    half_sum::<H>(a, b) | half_sum::<H>(a >> 16, b >> 16) << 16
}

/// The new value of memory that holds `old`.
fn changed(op: AtomOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let ones = if ty.bytes() == 8 { u64::MAX } else { (1 << (ty.bytes() * 8)) - 1 };
    let signed = |x: u64| if ty.bytes() == 8 { x as i64 } else { i64::from(x as i32) };
    let new = match (op, ty) {
        (AtomOp::Add, Ty::F32) => u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits()),
        (AtomOp::Add, Ty::F16) => half_sum::<f16>(old, a),
        (AtomOp::Add, Ty::Bf16) => half_sum::<bf16>(old, a),
        (AtomOp::Add, Ty::F16x2) => pair_sum::<f16>(old, a),
        (AtomOp::Add, Ty::Bf16x2) => pair_sum::<bf16>(old, a),
        (AtomOp::Add, Ty::F64) => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        (AtomOp::Add, Ty::U32 | Ty::S32 | Ty::U64) => old.wrapping_add(a),
        (AtomOp::Min, Ty::S32 | Ty::S64) => signed(old).min(signed(a)) as u64,
        (AtomOp::Max, Ty::S32 | Ty::S64) => signed(old).max(signed(a)) as u64,
        (AtomOp::Min, Ty::U32 | Ty::U64) => old.min(a),
        (AtomOp::Max, Ty::U32 | Ty::U64) => old.max(a),
        (AtomOp::Add | AtomOp::Min | AtomOp::Max, _) => unreachable!("{op:?} has no form of type {ty:?}"),
        (AtomOp::And, _) => old & a,
        (AtomOp::Or, _) => old | a,
        (AtomOp::Xor, _) => old ^ a,
        (AtomOp::Inc, _) => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        (AtomOp::Exch, _) => a,
        (AtomOp::Cas, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
    };
    new & ones
}
