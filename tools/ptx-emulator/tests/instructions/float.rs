//! Arithmetic of f32 and f64 (PTX ISA, 9.7.3), against exact sums that are rounded once.

use crate::exact::{Exact, F32, F64, Format, MODES, Mode};
use crate::harness::{agree, agree_on, product};

/// Zeros, subnormals, numbers that differ in their last bits or cancel, the largest, infinity and NaN, of both signs.
pub const SINGLES: [u64; 30] = {
    let positive = [
        0,
        1,
        0x0000_ffff,
        0x007f_ffff,
        0x0080_0000,
        0x3380_0000,
        0x3f7f_ffff,
        0x3f80_0000,
        0x3f80_0001,
        0x3eaa_aaab,
        0x4049_0fdb,
        0x4b80_0001,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc1_2345,
    ];
    let (mut all, mut i) = ([0; 30], 0);
    while i < 30 {
        all[i] = positive[i / 2] | (i as u64 % 2) << 31;
        i += 1;
    }
    all
};

/// `a * b + c` by exact arithmetic, with the zeros, infinities and NaN of IEEE 754.
pub fn fma(format: Format, mode: Mode, a: u64, b: u64, c: u64) -> u64 {
    let [x, y, z] = [a, b, c].map(|bits| format.value(bits));
    if !(x.is_finite() && y.is_finite() && z.is_finite()) {
        let found = x * y + z;
        let infinity = format.infinity() | if found < 0.0 { format.sign() } else { 0 };
        return if found.is_nan() { format.nan() } else { infinity };
    }
    // Products of numbers of at most 24 bits are exact in f64.
    let (product, addend) = (Exact::from(x * y), Exact::from(z));
    let sum = product.plus(&addend);
    if !sum.is_zero() {
        return sum.round(format, mode);
    }
    // An exact zero: of the sign that both terms have, or else + (- when rounding down).
    let (of_product, of_addend) = ((a ^ b) & format.sign(), c & format.sign());
    match (of_product == of_addend, mode) {
        (true, _) => of_addend,
        (false, Mode::Down) => format.sign(),
        (false, _) => 0,
    }
}

/// `a * b`: a sum with a zero that leaves the sign of the product alone.
pub fn mul(format: Format, mode: Mode, a: u64, b: u64) -> u64 {
    fma(format, mode, a, b, (a ^ b) & format.sign())
}

pub fn one(format: Format) -> u64 {
    ((1 << (format.exponent - 1)) - 1) << format.mantissa
}

/// Clamps to [0, 1]; NaN becomes +0.
pub fn saturate(format: Format, bits: u64) -> u64 {
    let negative = bits & format.sign() != 0;
    if negative || format.is_nan(bits) { 0 } else { bits.min(one(format)) }
}

#[test]
fn sums_and_products_of_f32_in_every_mode() {
    let of = SINGLES.as_slice();
    for (ftz_name, ftz) in [("", false), (".ftz", true)] {
        for (sat_name, sat) in [("", false), (".sat", true)] {
            let flushed = |x: u64| if ftz { F32.flush(x) } else { x };
            let after = |x: u64| if sat { saturate(F32, flushed(x)) } else { flushed(x) };
            // Without a mode sums and products round to nearest.
            for (mode_name, mode) in MODES.into_iter().chain([("", Mode::Nearest)]) {
                let dot = if mode_name.is_empty() { "" } else { "." };
                let name = |op: &str| format!("{op}{dot}{mode_name}{ftz_name}{sat_name}.f32");
                let add = |a, b| after(fma(F32, mode, flushed(a), one(F32), flushed(b)));
                agree(&name("add"), "w=ww", &[of, of], |x| add(x[0], x[1]));
                agree(&name("sub"), "w=ww", &[of, of], |x| add(x[0], x[1] ^ F32.sign()));
                agree(&name("mul"), "w=ww", &[of, of], |x| after(mul(F32, mode, flushed(x[0]), flushed(x[1]))));
                let three = |x: &[u64]| after(fma(F32, mode, flushed(x[0]), flushed(x[1]), flushed(x[2])));
                if mode_name.is_empty() {
                    continue;
                }
                agree(&name("fma"), "w=www", &[of, of, of], three);
                agree(&name("mad"), "w=www", &[of, of, of], three);
            }
        }
    }
}

#[test]
fn division_and_roots_of_f32() {
    let of = SINGLES.as_slice();
    // The processor's own division and root round to nearest, as .rn does; f64 between them would round twice.
    let single = |x: u64| f32::from_bits(x as u32);
    let bits = |x: f32| if x.is_nan() { F32.nan() } else { u64::from(x.to_bits()) };
    for (name, ftz) in [("", false), (".ftz", true)] {
        let flushed = |x: u64| if ftz { F32.flush(x) } else { x };
        let before = |x: u64| single(flushed(x));
        agree(&format!("div.rn{name}.f32"), "w=ww", &[of, of], |x| flushed(bits(before(x[0]) / before(x[1]))));
        agree(&format!("rcp.rn{name}.f32"), "w=w", &[of], |x| flushed(bits(1.0 / before(x[0]))));
        agree(&format!("sqrt.rn{name}.f32"), "w=w", &[of], |x| flushed(bits(before(x[0]).sqrt())));
        agree(&format!("abs{name}.f32"), "w=w", &[&of[..28]], |x| flushed(x[0]) & !F32.sign());
        agree(&format!("neg{name}.f32"), "w=w", &[&of[..28]], |x| flushed(x[0]) ^ F32.sign());
    }
    agree("copysign.f32", "w=ww", &[of, of], |x| x[0] & F32.sign() | x[1] & !F32.sign());
}

/// The ISA's rule: -0 is below +0, and one NaN loses unless it is asked to win.
pub fn extreme(format: Format, larger: bool, nan: bool, a: u64, b: u64) -> u64 {
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => format.nan(),
        (true, false) | (false, true) if nan => format.nan(),
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            // Encodings, with the negative ones turned around, are ordered as the numbers are.
            let key = |x: u64| if x & format.sign() != 0 { -((x & !format.sign()) as i64) - 1 } else { x as i64 };
            if (key(a) > key(b)) == larger { a } else { b }
        }
    }
}

#[test]
fn minima_and_maxima() {
    let of = SINGLES.as_slice();
    for (name, larger) in [("min", false), ("max", true)] {
        for (ftz_name, ftz) in [("", false), (".ftz", true)] {
            let flushed = |x: u64| if ftz { F32.flush(x) } else { x };
            for (nan_name, nan) in [("", false), (".NaN", true)] {
                let reference = |x: &[u64]| extreme(F32, larger, nan, flushed(x[0]), flushed(x[1]));
                agree(&format!("{name}{ftz_name}{nan_name}.f32"), "w=ww", &[of, of], reference);
            }
        }
        // The NaN of f64 is not specified: only numbers among the results are compared.
        let numbers: Vec<u64> = doubles().into_iter().filter(|x| !F64.is_nan(*x)).collect();
        let nan = vec![F64.nan()];
        for samples in [[&numbers, &numbers], [&numbers, &nan], [&nan, &numbers]] {
            let reference = |x: &[u64]| extreme(F64, larger, false, x[0], x[1]);
            agree(&format!("{name}.f64"), "l=ll", &samples.map(Vec::as_slice), reference);
        }
    }
}

/// As [`SINGLES`], of f64.
fn doubles() -> Vec<u64> {
    let positive: [f64; 9] =
        [0.0, 5e-324, f64::MIN_POSITIVE, 1.0 / 3.0, 1.0, 1.0 + f64::EPSILON, 1e300, f64::MAX, f64::INFINITY];
    positive.iter().flat_map(|x| [x.to_bits(), (-x).to_bits()]).collect()
}

#[test]
fn arithmetic_of_f64() {
    let of = doubles();
    let double = f64::from_bits;
    // The processor's own arithmetic is the reference; which NaN results is not specified, so cases with one are left
    // out.
    let check = |inst: &str, operands: usize, f: &dyn Fn(&[f64]) -> f64| {
        let value = |x: &[u64]| f(&x.iter().map(|x| double(*x)).collect::<Vec<_>>());
        let all = product(&vec![of.as_slice(); operands]);
        let cases: Vec<Vec<u64>> = all.into_iter().filter(|x| !value(x).is_nan()).collect();
        agree_on(inst, &format!("l={}", "l".repeat(operands)), &cases, |x| value(x).to_bits());
    };
    check("add.f64", 2, &|x| x[0] + x[1]);
    check("sub.rn.f64", 2, &|x| x[0] - x[1]);
    check("mul.f64", 2, &|x| x[0] * x[1]);
    check("fma.rn.f64", 3, &|x| x[0].mul_add(x[1], x[2]));
    check("mad.rn.f64", 3, &|x| x[0].mul_add(x[1], x[2]));
    check("div.rn.f64", 2, &|x| x[0] / x[1]);
    check("rcp.rn.f64", 1, &|x| 1.0 / x[0]);
    check("sqrt.rn.f64", 1, &|x| x[0].sqrt());
    check("abs.f64", 1, &|x| x[0].abs());
    check("neg.f64", 1, &|x| -x[0]);
    check("copysign.f64", 2, &|x| x[1].copysign(x[0]));
}
