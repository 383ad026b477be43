//! Instructions across the lanes of a warp (PTX ISA, 9.7.9.6 and 9.7.13).

use super::lanes::{lanes, read, write};
use super::{Done, Warp};
use crate::fault::FaultKind;
use crate::isa::{AtomOp, Op, Reg, ShflMode, VoteMode};

/// The lanes of `active` whose mask equals that of its first lane; they execute together. The mask must name exactly
/// these lanes; it may also name lanes that have exited.
fn together(warp: &Warp, mask_reg: Reg, active: u32) -> Done<u32> {
    let given = |lane: usize| warp.regs.lane(mask_reg, lane) as u32;
    let first = active.trailing_zeros() as usize;
    let mask = given(first);
    let group = lanes(active).filter(|lane| given(*lane) == mask).fold(0, |group, lane| group | 1u32 << lane);
    let unnamed = group & !mask;
    if unnamed != 0 || mask & warp.live & !group != 0 {
        let lane = if unnamed != 0 { unnamed.trailing_zeros() as usize } else { first };
        return Err((FaultKind::DivergentLanes { active: group, mask }, Some(lane)));
    }
    Ok(group)
}

pub(super) fn exec(op: Op, warp: &mut Warp, d: &[Reg], s: &[Reg], mask: u32) -> Done {
    if op == Op::ActiveMask {
        write(&mut warp.regs, d[0], mask, &[mask; 32]);
        return Ok(());
    }
    // Form all groups first: a result may overwrite the register that holds the masks.
    let mut groups = [0; 32];
    let (mut left, mut count) = (mask, 0);
    while left != 0 {
        groups[count] = together(warp, s[0], left)?;
        left &= !groups[count];
        count += 1;
    }
    groups[..count].iter().try_for_each(|group| in_group(op, warp, d, s, *group))
}

fn in_group(op: Op, warp: &mut Warp, d: &[Reg], s: &[Reg], mask: u32) -> Done {
    match op {
        Op::Shfl(mode) => shuffle(mode, warp, d, s, mask)?,
        Op::Vote(mode) => {
            let p = warp.regs.pred[s[1].index()] & mask;
            match mode {
                VoteMode::Ballot => write(&mut warp.regs, d[0], mask, &[p; 32]),
                VoteMode::All => warp.regs.set_pred(d[0], mask, if p == mask { u32::MAX } else { 0 }),
                VoteMode::Any => warp.regs.set_pred(d[0], mask, if p != 0 { u32::MAX } else { 0 }),
                VoteMode::Uni => warp.regs.set_pred(d[0], mask, if p == mask || p == 0 { u32::MAX } else { 0 }),
            }
        }
        Op::MatchAny | Op::MatchAll => {
            let value = |lane| warp.regs.lane(s[1], lane);
            let same = |lane: usize| lanes(mask).filter(|o| value(*o) == value(lane)).fold(0, |m, o| m | 1u32 << o);
            let found: [u32; 32] = std::array::from_fn(|lane| if mask >> lane & 1 == 1 { same(lane) } else { 0 });
            let all = lanes(mask).all(|lane| found[lane] == mask);
            match op {
                Op::MatchAny => write(&mut warp.regs, d[0], mask, &found),
                _ => {
                    write(&mut warp.regs, d[0], mask, &[if all { mask } else { 0 }; 32]);
                    warp.regs.set_pred(d[1], mask, if all { u32::MAX } else { 0 });
                }
            }
        }
        Op::Redux { op, ty } => {
            let values = *read::<u32>(&warp.regs, s[1]);
            let reduced = lanes(mask).map(|lane| values[lane]).reduce(|a, b| match (op, ty.signed()) {
                (AtomOp::Add, _) => a.wrapping_add(b),
                (AtomOp::Min, true) => (a as i32).min(b as i32) as u32,
                (AtomOp::Max, true) => (a as i32).max(b as i32) as u32,
                (AtomOp::Min, false) => a.min(b),
                (AtomOp::Max, false) => a.max(b),
                (AtomOp::And, _) => a & b,
                (AtomOp::Or, _) => a | b,
                (AtomOp::Xor, _) => a ^ b,
                _ => unreachable!("redux has no {op:?}"),
            });
            write(&mut warp.regs, d[0], mask, &[reduced.unwrap_or(0); 32]);
        }
        Op::Elect => {
            let first = mask.trailing_zeros();
            write(&mut warp.regs, d[0], mask, &[first; 32]);
            warp.regs.set_pred(d[1], mask, 1 << first);
        }
        Op::WarpSync => warp.interval += 1,
        _ => unreachable!("every other operation has been executed"),
    }
    Ok(())
}

/// Sources: mask, value, lane operand, clamp and segment mask.
fn shuffle(mode: ShflMode, warp: &mut Warp, d: &[Reg], s: &[Reg], mask: u32) -> Done {
    let [values, by, clamp] = [s[1], s[2], s[3]].map(|reg| *read::<u32>(&warp.regs, reg));
    let mut out = [0; 32];
    let mut in_range = 0;
    for lane in lanes(mask) {
        let (segment, clamp) = ((clamp[lane] >> 8 & 31) as usize, (clamp[lane] & 31) as usize);
        let by = (by[lane] & 31) as usize;
        let most = lane & segment | clamp & !segment & 31;
        let (from, fits) = match mode {
            ShflMode::Up => (lane.wrapping_sub(by), lane as isize - by as isize >= most as isize),
            ShflMode::Down => (lane + by, lane + by <= most),
            ShflMode::Bfly => (lane ^ by, lane ^ by <= most),
            ShflMode::Idx => {
                let from = lane & segment | by & !segment & 31;
                (from, from <= most)
            }
        };
        let from = if fits { from } else { lane };
        if mask >> from & 1 == 0 {
            return Err((FaultKind::InactiveLane { lane: from }, Some(lane)));
        }
        out[lane] = values[from];
        in_range |= u32::from(fits) << lane;
    }
    write(&mut warp.regs, d[0], mask, &out);
    warp.regs.set_pred(d[1], mask, in_range);
    Ok(())
}
