//! Moves, packing and conversions (PTX ISA, 9.7.9.3 and 9.7.9.21).

use super::lanes::{Regs, lanes, map1, vectorised};
use super::rounding::{canonical, flush_if, power_of_two, saturate, to_bf16, to_f16, to_f32, to_tf32};
use crate::isa::{Cvt, Reg, Round, Ty};
use half::{bf16, f16};

/// `mov.b32 d, {a, b}`: the first part is the lowest.
pub(super) fn pack(bits: u8, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    for lane in lanes(mask) {
        let part = |(i, s): (usize, &Reg)| (regs.lane(*s, lane) & ones(bits)) << (i * bits as usize);
        let value = s.iter().enumerate().map(part).fold(0, |a, b| a | b);
        regs.set_lane(d, lane, value);
    }
}

/// `mov.b32 {a, b}, s`
pub(super) fn unpack(bits: u8, regs: &mut Regs, d: &[Reg], s: Reg, mask: u32) {
    for lane in lanes(mask) {
        let value = regs.lane(s, lane);
        for (i, d) in d.iter().enumerate() {
            regs.set_lane(*d, lane, value >> (i * bits as usize) & ones(bits));
        }
    }
}

fn ones(bits: u8) -> u64 {
    u64::MAX >> (64 - u32::from(bits))
}

vectorised! {
    /// Fast paths for the most frequent conversions; `false` if `cvt` is not one of them.
    fn common(cvt: Cvt, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) -> bool {
        let plain = !(cvt.sat || cvt.relu || cvt.satfinite || cvt.ftz) && cvt.round == Round::Nearest && !cvt.integral;
        match (cvt.from, cvt.to) {
            (Ty::Bf16, Ty::F32) if plain => map1(regs, d, s, mask, |a: u32| a << 16),
            (Ty::F32, Ty::Bf16) if plain => map1(regs, d, s, mask, |a: f32| to_bf16(a, Round::Nearest)),
            (Ty::U8, Ty::F32) if plain => map1(regs, d, s, mask, |a: u32| (a & 0xff) as f32),
            (Ty::U16, Ty::F32) if plain => map1(regs, d, s, mask, |a: u32| (a & 0xffff) as f32),
            (Ty::S32, Ty::F32) if plain => map1(regs, d, s, mask, |a: i32| a as f32),
            (Ty::U32, Ty::F32) if plain => map1(regs, d, s, mask, |a: u32| a as f32),
            (Ty::U32, Ty::U64) => map1(regs, d, s, mask, |a: u32| u64::from(a)),
            (Ty::S32, Ty::S64) => map1(regs, d, s, mask, |a: i32| i64::from(a)),
            (Ty::U64, Ty::U32) if plain => map1(regs, d, s, mask, |a: u64| a as u32),
            _ => return false,
        }
        true
    }
}

pub(super) fn exec(cvt: Cvt, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let narrow = s[0].file() == cvt.from.file();
    if narrow && common(cvt, regs, d, s, mask) {
        return;
    }
    for lane in lanes(mask) {
        let value = match cvt.to {
            // The first source goes to the high half.
            Ty::F16x2 | Ty::Bf16x2 => {
                let to = if cvt.to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                let half = |s: Reg| one(Cvt { to, ..cvt }, regs.lane(s, lane));
                half(s[0]) << 16 | half(s[1])
            }
            _ => one(cvt, regs.lane(s[0], lane)),
        };
        regs.set_lane(d, lane, value);
    }
}

/// Converts one lane.
fn one(cvt: Cvt, bits: u64) -> u64 {
    match (cvt.from.float(), cvt.to.float()) {
        (false, false) => {
            let value = integer(cvt.from, bits);
            if cvt.sat { clamped(cvt.to, value) } else { extended(cvt.to, value) }
        }
        (false, true) if cvt.to == Ty::F64 => number(cvt, double(integer(cvt.from, bits), cvt.round)),
        (false, true) => number(cvt, odd(integer(cvt.from, bits))),
        (true, false) => {
            let x = float(cvt.from, bits);
            let x = if cvt.ftz && cvt.from == Ty::F32 { f64::from(flush_if(true, x as f32)) } else { x };
            let x = integral(x, cvt.round);
            match x.is_nan() {
                true if cvt.from == Ty::F64 || cvt.to.bytes() == 8 => extended(cvt.to, 1 << (8 * cvt.to.bytes() - 1)),
                true => 0,
                false => clamped(cvt.to, x as i128),
            }
        }
        (true, true) => {
            let x = float(cvt.from, bits);
            let x = if cvt.ftz && cvt.from == Ty::F32 { f64::from(flush_if(true, x as f32)) } else { x };
            number(cvt, if cvt.integral { integral(x, cvt.round) } else { x })
        }
    }
}

fn integer(ty: Ty, bits: u64) -> i128 {
    match ty {
        Ty::S8 => i128::from(bits as i8),
        Ty::S16 => i128::from(bits as i16),
        Ty::S32 => i128::from(bits as i32),
        Ty::S64 => i128::from(bits as i64),
        Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 => i128::from(bits & ones(ty.bytes() as u8 * 8)),
        _ => unreachable!("no form converts from {ty:?}"),
    }
}

fn float(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F16 => f16::from_bits(bits as u16).to_f64(),
        Ty::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Ty::F64 => f64::from_bits(bits),
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => unreachable!("no form converts from {ty:?}"),
    }
}

/// An integer of at most 64 bits as an f64.
fn double(value: i128, round: Round) -> f64 {
    let nearest = value as f64;
    let (above, below) = (nearest as i128 > value, (nearest as i128) < value);
    match round {
        Round::Down if above => nearest.next_down(),
        Round::Up if below => nearest.next_up(),
        Round::Zero if above && value > 0 => nearest.next_down(),
        Round::Zero if below && value < 0 => nearest.next_up(),
        _ => nearest,
    }
}

/// An integer as an f64, rounded to odd if it has more than 53 bits, so that it can be rounded again.
fn odd(value: i128) -> f64 {
    let cut = value.unsigned_abs();
    let spare = (128 - cut.leading_zeros()).saturating_sub(53);
    let kept = cut >> spare;
    let sticky = u128::from(kept << spare != cut);
    let x = (kept | sticky) as f64 * power_of_two(spare as i32);
    if value < 0 { -x } else { x }
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// Sign- or zero-extends a narrow result to its register.
fn extended(ty: Ty, value: i128) -> u64 {
    let word = match ty {
        Ty::S8 => i128::from(value as i8),
        Ty::S16 => i128::from(value as i16),
        _ => value & i128::from(ones(ty.bytes() as u8 * 8)),
    };
    word as u64
}

fn clamped(ty: Ty, value: i128) -> u64 {
    let bits = ty.bytes() as u32 * 8;
    let (low, high) = match ty.signed() {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    extended(ty, value.clamp(low, high))
}

/// Rounds to a floating-point type.
fn number(cvt: Cvt, x: f64) -> u64 {
    let round = if cvt.integral { Round::Nearest } else { cvt.round };
    let x = if cvt.relu && x <= 0.0 { 0.0 } else { x };
    let x = if cvt.sat { saturate(x) } else { x };
    let bits = match cvt.to {
        Ty::F64 => x.to_bits(),
        Ty::F16 => u64::from(to_f16(x, round).to_bits()),
        Ty::Bf16 => {
            let cut = to_f32(x, Round::Zero);
            let inexact = f64::from(cut) != x && cut.is_finite();
            u64::from(to_bf16(f32::from_bits(cut.to_bits() | u32::from(inexact)), round).to_bits())
        }
        Ty::Tf32 => u64::from(to_tf32(x as f32, round).to_bits()),
        Ty::F32 => u64::from(flush_if(cvt.ftz, canonical(to_f32(x, round))).to_bits()),
        ty => unreachable!("no form converts to {ty:?}"),
    };
    // Sign bit, infinity and largest finite number of the format.
    let (sign, infinity, largest) = match cvt.to {
        Ty::F16 => (0x8000, 0x7c00, 0x7bff),
        Ty::Bf16 => (0x8000, 0x7f80, 0x7f7f),
        _ => (0x8000_0000, 0x7f80_0000, 0x7f7f_e000),
    };
    if cvt.satfinite && bits & !sign == infinity { bits & sign | largest } else { bits }
}
