//! Floating-point instructions, comparisons and selections (PTX ISA, 9.7.3 to 9.7.7).
//!
//! The `.approx` forms are computed with full precision; a GPU's last bits are not modelled.

use super::lanes::{Lane, Regs, map1, map2, map3, read, test2, vectorised, write};
use super::rounding::{canonical, flush, flush_if, fma_odd, saturate, to_bf16, to_f16, to_f32};
use crate::isa::{Cmp, File, Float, FloatOp, Logic, Op, Reg, Round, TestKind, Ty};
use half::{bf16, f16};

vectorised! {
    pub(super) fn exec(float: Float, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
        match float.ty {
            Ty::F32 => single(float, regs, d, s, mask),
            Ty::F64 => double(float.op, regs, d, s, mask),
            Ty::F16 => half::<f16>(float, regs, d, s, mask),
            Ty::Bf16 => half::<bf16>(float, regs, d, s, mask),
            Ty::F16x2 => halves::<f16>(float, regs, d, s, mask),
            Ty::Bf16x2 => halves::<bf16>(float, regs, d, s, mask),
            ty => unreachable!("no form has floats of type {ty:?}"),
        }
    }
}

/// The larger or smaller number, with -0 below +0. One NaN is ignored, unless `nan` is set.
#[inline(always)]
fn extreme(a: f32, b: f32, larger: bool, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if nan || a.is_nan() && b.is_nan() {
            canonical(f32::NAN)
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let a_first = if a == b { a.is_sign_negative() != larger } else { (a > b) == larger };
    if a_first { a } else { b }
}

/// Like [`extreme`]; one NaN is ignored.
#[inline(always)]
fn extreme_double(a: f64, b: f64, larger: bool) -> f64 {
    match (a == b, larger) {
        (true, _) => {
            if a.is_sign_negative() != larger {
                a
            } else {
                b
            }
        }
        (_, true) => a.max(b),
        (_, false) => a.min(b),
    }
}

#[inline(always)]
fn single(float: Float, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let Float { op, round, ftz, sat, nan, relu, .. } = float;
    let before = |x: f32| flush_if(ftz, x);
    let after = |x: f32| {
        let x = flush_if(ftz, canonical(x));
        let x = if relu && x <= 0.0 { 0.0 } else { x };
        if sat { saturate(x) } else { x }
    };
    let directed = |a: f32, b: f32, c: f32| {
        let sum = fma_odd(a, b, c);
        // A sum of opposite terms that is zero is -0 when rounding down (IEEE 754, 6.3).
        let unlike = (a.is_sign_negative() != b.is_sign_negative()) != c.is_sign_negative();
        to_f32(if sum == 0.0 && unlike && round == Round::Down { -0.0 } else { sum }, round)
    };
    match (op, round) {
        (FloatOp::Add, Round::Nearest) => map2(regs, d, s, mask, |a: f32, b: f32| after(before(a) + before(b))),
        (FloatOp::Sub, Round::Nearest) => map2(regs, d, s, mask, |a: f32, b: f32| after(before(a) - before(b))),
        (FloatOp::Mul, Round::Nearest) => map2(regs, d, s, mask, |a: f32, b: f32| after(before(a) * before(b))),
        (FloatOp::Fma, Round::Nearest) => {
            map3(regs, d, s, mask, |a: f32, b: f32, c: f32| after(before(a).mul_add(before(b), before(c))))
        }
        (FloatOp::Add, _) => map2(regs, d, s, mask, |a: f32, b: f32| after(directed(before(a), 1.0, before(b)))),
        (FloatOp::Sub, _) => map2(regs, d, s, mask, |a: f32, b: f32| after(directed(before(a), 1.0, -before(b)))),
        // Adding a zero of the product's sign keeps the sign of a zero product.
        (FloatOp::Mul, _) => map2(regs, d, s, mask, |a: f32, b: f32| {
            let (a, b) = (before(a), before(b));
            after(directed(a, b, if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 }))
        }),
        (FloatOp::Fma, _) => {
            map3(regs, d, s, mask, |a: f32, b: f32, c: f32| after(directed(before(a), before(b), before(c))))
        }
        (FloatOp::Div, _) => map2(regs, d, s, mask, |a: f32, b: f32| after(before(a) / before(b))),
        (FloatOp::Min | FloatOp::Max, _) => {
            map2(regs, d, s, mask, |a: f32, b: f32| after(extreme(before(a), before(b), op == FloatOp::Max, nan)))
        }
        (FloatOp::Copysign, _) => map2(regs, d, s, mask, |a: f32, b: f32| b.copysign(a)),
        (FloatOp::Abs, _) => map1(regs, d, s, mask, |a: f32| before(a).abs()),
        (FloatOp::Neg, _) => map1(regs, d, s, mask, |a: f32| -before(a)),
        (FloatOp::Rcp, _) => map1(regs, d, s, mask, |a: f32| after(1.0 / before(a))),
        (FloatOp::Sqrt, _) => map1(regs, d, s, mask, |a: f32| after(before(a).sqrt())),
        (FloatOp::Rsqrt, _) => map1(regs, d, s, mask, |a: f32| after((1.0 / f64::from(before(a)).sqrt()) as f32)),
        (FloatOp::Ex2, _) => map1(regs, d, s, mask, |a: f32| after(before(a).exp2())),
        (FloatOp::Lg2, _) => map1(regs, d, s, mask, |a: f32| after(before(a).log2())),
        (FloatOp::Sin, _) => map1(regs, d, s, mask, |a: f32| after(before(a).sin())),
        (FloatOp::Cos, _) => map1(regs, d, s, mask, |a: f32| after(before(a).cos())),
        (FloatOp::Tanh, _) => map1(regs, d, s, mask, |a: f32| after(before(a).tanh())),
    }
}

#[inline(always)]
fn double(op: FloatOp, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    match op {
        FloatOp::Add => map2(regs, d, s, mask, |a: f64, b: f64| a + b),
        FloatOp::Sub => map2(regs, d, s, mask, |a: f64, b: f64| a - b),
        FloatOp::Mul => map2(regs, d, s, mask, |a: f64, b: f64| a * b),
        FloatOp::Fma => map3(regs, d, s, mask, |a: f64, b: f64, c: f64| a.mul_add(b, c)),
        FloatOp::Div => map2(regs, d, s, mask, |a: f64, b: f64| a / b),
        FloatOp::Min => map2(regs, d, s, mask, |a, b| extreme_double(a, b, false)),
        FloatOp::Max => map2(regs, d, s, mask, |a, b| extreme_double(a, b, true)),
        FloatOp::Copysign => map2(regs, d, s, mask, |a: f64, b: f64| b.copysign(a)),
        FloatOp::Abs => map1(regs, d, s, mask, f64::abs),
        FloatOp::Neg => map1(regs, d, s, mask, |a: f64| -a),
        FloatOp::Rcp => map1(regs, d, s, mask, |a: f64| 1.0 / a),
        FloatOp::Sqrt => map1(regs, d, s, mask, f64::sqrt),
        FloatOp::Rsqrt => map1(regs, d, s, mask, |a: f64| 1.0 / a.sqrt()),
        FloatOp::Ex2 => map1(regs, d, s, mask, f64::exp2),
        FloatOp::Lg2 => map1(regs, d, s, mask, f64::log2),
        FloatOp::Sin => map1(regs, d, s, mask, f64::sin),
        FloatOp::Cos => map1(regs, d, s, mask, f64::cos),
        FloatOp::Tanh => map1(regs, d, s, mask, f64::tanh),
    }
}

/// A 16-bit format.
pub(super) trait Half: Lane<Word = u32> {
    fn wide(self) -> f32;
    /// Rounds an f64 that is exact or rounded to odd.
    fn narrow(x: f64) -> Self;
    /// Replaces a subnormal of the format by a zero of its sign.
    fn flush(self) -> Self;
}

impl Half for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(x: f64) -> f16 {
        to_f16(x, Round::Nearest)
    }
    #[inline(always)]
    fn flush(self) -> f16 {
        let bits = self.to_bits();
        f16::from_bits(if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits })
    }
}

impl Half for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(x: f64) -> bf16 {
        // Through f32 rounded to odd, to avoid double rounding.
        let cut = to_f32(x, Round::Zero);
        let inexact = f64::from(cut) != x && cut.is_finite();
        to_bf16(f32::from_bits(cut.to_bits() | u32::from(inexact)), Round::Nearest)
    }
    #[inline(always)]
    fn flush(self) -> bf16 {
        let bits = self.to_bits();
        bf16::from_bits(if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits })
    }
}

/// One operation on numbers of a 16-bit format.
#[inline(always)]
fn apply<H: Half>(float: Float, a: H, b: H, c: H) -> H {
    let flushed = |x: H| if float.ftz { x.flush() } else { x };
    let [a, b, c] = [a, b, c].map(|x| flushed(x).wide());
    let value = match float.op {
        FloatOp::Add => fma_odd(a, 1.0, b),
        FloatOp::Sub => fma_odd(a, 1.0, -b),
        FloatOp::Mul => f64::from(a) * f64::from(b),
        FloatOp::Fma => fma_odd(a, b, c),
        FloatOp::Min | FloatOp::Max => f64::from(extreme(a, b, float.op == FloatOp::Max, float.nan)),
        FloatOp::Abs => f64::from(a.abs()),
        FloatOp::Neg => f64::from(-a),
        FloatOp::Ex2 => f64::from(a).exp2(),
        FloatOp::Tanh => f64::from(a).tanh(),
        op => unreachable!("{op:?} has no form of 16 bits"),
    };
    let value = if float.relu && value <= 0.0 { 0.0 } else { value };
    flushed(H::narrow(if float.sat { saturate(value) } else { value }))
}

#[inline(always)]
fn half<H: Half>(float: Float, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    match s.len() {
        1 => map1(regs, d, s, mask, |a: H| apply(float, a, a, a)),
        2 => map2(regs, d, s, mask, |a: H, b: H| apply(float, a, b, b)),
        _ => map3(regs, d, s, mask, |a: H, b: H, c: H| apply(float, a, b, c)),
    }
}

#[inline(always)]
fn halves<H: Half>(float: Float, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let source = |index: usize| *read::<u32>(regs, s[index.min(s.len() - 1)]);
    let (a, b, c) = (source(0), source(1), source(2));
    let mut out = [0u32; 32];
    for i in 0..32 {
        let half = |shift: u32| {
            let part = |word: u32| H::get(word >> shift & 0xffff);
            (apply(float, part(a[i]), part(b[i]), part(c[i])).put() & 0xffff) << shift
        };
        out[i] = half(0) | half(16);
    }
    write(regs, d, mask, &out);
}

fn holds<T: PartialOrd>(cmp: Cmp, a: &T, b: &T) -> bool {
    let ordering = a.partial_cmp(b);
    let unordered = ordering.is_none();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => !unordered && a != b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => unordered || a == b,
        Cmp::Neu => unordered || a != b,
        Cmp::Ltu => unordered || a < b,
        Cmp::Leu => unordered || a <= b,
        Cmp::Gtu => unordered || a > b,
        Cmp::Geu => unordered || a >= b,
        Cmp::Num => !unordered,
        Cmp::Nan => unordered,
    }
}

/// The value that is compared.
#[inline(always)]
fn number<H: Half>(ftz: bool, x: H) -> f32 {
    if ftz { x.flush().wide() } else { x.wide() }
}

vectorised! {
    /// A bit per lane: whether the comparison holds.
    fn compare(cmp: Cmp, ty: Ty, ftz: bool, regs: &Regs, s: &[Reg]) -> u32 {
        let flushed = |x: f32| if ftz { flush(x) } else { x };
        match ty {
            Ty::F32 => test2::<f32>(regs, s, |a, b| holds(cmp, &flushed(a), &flushed(b))),
            Ty::F64 => test2::<f64>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::F16 => test2::<f16>(regs, s, |a, b| holds(cmp, &number(ftz, a), &number(ftz, b))),
            Ty::Bf16 => test2::<bf16>(regs, s, |a, b| holds(cmp, &number(ftz, a), &number(ftz, b))),
            Ty::S16 => test2::<i16>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::B16 | Ty::U16 => test2::<u16>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::S32 => test2::<i32>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::S64 => test2::<i64>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::B64 | Ty::U64 => test2::<u64>(regs, s, |a, b| holds(cmp, &a, &b)),
            Ty::B32 | Ty::U32 => test2::<u32>(regs, s, |a, b| holds(cmp, &a, &b)),
            _ => unreachable!("no form compares {ty:?} as a whole"),
        }
    }
}

/// Like [`compare`], on the low halves of packed pairs (`half` 0) or the high ones (1).
fn compare_halves(cmp: Cmp, ty: Ty, ftz: bool, regs: &Regs, s: &[Reg], half: usize) -> u32 {
    let (a, b) = (read::<u32>(regs, s[0]), read::<u32>(regs, s[1]));
    let half = |word: u32| {
        let bits = (word >> (16 * half)) as u16;
        match ty {
            Ty::F16x2 => number(ftz, f16::from_bits(bits)),
            Ty::Bf16x2 => number(ftz, bf16::from_bits(bits)),
            _ => unreachable!("{ty:?} is not a pair"),
        }
    };
    (0..32).fold(0, |bits, i| bits | u32::from(holds(cmp, &half(a[i]), &half(b[i]))) << i)
}

fn combine(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// `setp`, `set`, `selp`, `slct`, `testp` and logic on predicates; `false` if `op` is none of them.
pub(super) fn select(op: Op, regs: &mut Regs, d: &[Reg], s: &[Reg], mask: u32) -> bool {
    match op {
        Op::PredNot => {
            let value = !regs.pred[s[0].index()];
            regs.set_pred(d[0], mask, value);
        }
        Op::PredLogic(logic) => {
            let value = combine(logic, regs.pred[s[0].index()], regs.pred[s[1].index()]);
            regs.set_pred(d[0], mask, value);
        }
        Op::Setp { cmp, ty, ftz, logic } => {
            let found = compare(cmp, ty, ftz, regs, s);
            let with = |found: u32| logic.map_or(found, |logic| combine(logic, found, regs.pred[s[2].index()]));
            let (p, q) = (with(found), with(!found));
            regs.set_pred(d[0], mask, p);
            if let Some(second) = d.get(1) {
                regs.set_pred(*second, mask, q);
            }
        }
        Op::SetpHalves { cmp, ty, ftz } => {
            for (half, d) in d.iter().enumerate() {
                let found = compare_halves(cmp, ty, ftz, regs, s, half);
                regs.set_pred(*d, mask, found);
            }
        }
        Op::Set { cmp, ty: ty @ (Ty::F16x2 | Ty::Bf16x2), ftz, .. } => {
            let [low, high] = [0, 1].map(|half| compare_halves(cmp, ty, ftz, regs, s, half));
            let out: [u32; 32] =
                std::array::from_fn(|i| (((low >> i) & 1) * 0xffff) | (((high >> i) & 1) * 0xffff_0000));
            write(regs, d[0], mask, &out);
        }
        Op::Set { cmp, to, ty, ftz } => {
            let found = compare(cmp, ty, ftz, regs, s);
            let yes = if to == Ty::F32 { 1.0f32.to_bits() } else { u32::MAX };
            let out: [u32; 32] = std::array::from_fn(|i| if found >> i & 1 == 1 { yes } else { 0 });
            write(regs, d[0], mask, &out);
        }
        Op::Selp => {
            let p = regs.pred[s[2].index()];
            choose(regs, d[0], s, mask, p);
        }
        Op::Slct { float, ftz } => {
            let c = read::<u32>(regs, s[2]);
            let not_negative = |c: u32| if float { flush_if(ftz, f32::from_bits(c)) >= 0.0 } else { c as i32 >= 0 };
            let first = (0..32).fold(0, |bits, i| bits | u32::from(not_negative(c[i])) << i);
            choose(regs, d[0], s, mask, first);
        }
        Op::Testp { kind, ty } => {
            let class = |i: usize| match ty {
                Ty::F64 => f64::from_bits(regs.lane(s[0], i)).classify(),
                Ty::F32 => f32::from_bits(regs.lane(s[0], i) as u32).classify(),
                _ => unreachable!("no form tests {ty:?}"),
            };
            use std::num::FpCategory::*;
            let test = |i: usize| match (kind, class(i)) {
                (TestKind::Finite, class) => !matches!(class, Nan | Infinite),
                (TestKind::Infinite, class) => class == Infinite,
                (TestKind::Number, class) => class != Nan,
                (TestKind::NotANumber, class) => class == Nan,
                (TestKind::Normal, class) => matches!(class, Normal | Zero),
                (TestKind::Subnormal, class) => class == Subnormal,
            };
            let found = (0..32).fold(0, |bits, i| bits | u32::from(test(i)) << i);
            regs.set_pred(d[0], mask, found);
        }
        _ => return false,
    }
    true
}

/// Writes the first source in the lanes of `first`, the second in the others.
fn choose(regs: &mut Regs, d: Reg, s: &[Reg], mask: u32, first: u32) {
    match d.file() {
        File::Pred => {
            let value = regs.pred[s[0].index()] & first | regs.pred[s[1].index()] & !first;
            regs.set_pred(d, mask, value);
        }
        File::B32 => {
            let (a, b) = (read::<u32>(regs, s[0]), read::<u32>(regs, s[1]));
            let out: [u32; 32] = std::array::from_fn(|i| if first >> i & 1 == 1 { a[i] } else { b[i] });
            write(regs, d, mask, &out);
        }
        File::B64 => {
            let (a, b) = (read::<u64>(regs, s[0]), read::<u64>(regs, s[1]));
            let out: [u64; 32] = std::array::from_fn(|i| if first >> i & 1 == 1 { a[i] } else { b[i] });
            write(regs, d, mask, &out);
        }
    }
}
