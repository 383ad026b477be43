//! Conversions (PTX ISA, 9.7.9.21), every type to every other, against exact rounding and Rust's 128-bit integers.

use crate::exact::{BF16, Exact, F16, F32, F64, Format, MODES, Mode, TF32};
use crate::float::{SINGLES, one, saturate};
use crate::harness::{H, INTEGERS, L, W, agree, agree_on, run};

const FLOATS: [(&str, char, Format); 4] =
    [("f16", 'h', F16), ("bf16", 'h', BF16), ("f32", 'w', F32), ("f64", 'l', F64)];

fn integer(bits: u32, signed: bool, x: u64) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if signed && x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

/// An integer as its register holds it: extended by its sign if it is narrower.
fn held(kind: char, bits: u32, signed: bool, x: i128) -> u64 {
    let register = match kind {
        'h' => 16,
        'w' => 32,
        _ => 64,
    };
    integer(bits, signed, x as u64) as u64 & u64::MAX >> (64 - register)
}

fn limits(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn samples(kind: char) -> Vec<u64> {
    match kind {
        'h' => H.to_vec(),
        'w' => W.to_vec(),
        _ => [L, &[(1 << 53) + 1, (1 << 24) + 1, (1 << 40) + (1 << 15) + 1, (1 << 62) + (1 << 38)]].concat(),
    }
}

#[test]
fn integers_to_integers() {
    for (from, a, a_bits, a_signed) in INTEGERS {
        for (to, d, bits, signed) in INTEGERS {
            let widths = format!("{d}={a}");
            let value = |x: &[u64]| integer(a_bits, a_signed, x[0]);
            agree(&format!("cvt.{to}.{from}"), &widths, &[&samples(a)], |x| held(d, bits, signed, value(x)));
            let ((low, high), from_limits) = (limits(bits, signed), limits(a_bits, a_signed));
            // Saturation may be asked for only where there is something to clamp.
            if low <= from_limits.0 && from_limits.1 <= high {
                continue;
            }
            let clamped = |x: &[u64]| held(d, bits, signed, value(x).clamp(low, high));
            agree(&format!("cvt.sat.{to}.{from}"), &widths, &[&samples(a)], clamped);
        }
    }
}

/// Between bf16 and 8 bits there is no conversion; nor is there saturation of bf16.
fn exists(integer: &str, float: &str) -> bool {
    float != "bf16" || !matches!(integer, "u8" | "s8")
}

#[test]
fn integers_to_floats() {
    for (from, a, a_bits, a_signed) in INTEGERS {
        for (to, d, format) in FLOATS.into_iter().filter(|float| exists(from, float.0)) {
            for (name, mode) in MODES {
                let round = |x: &[u64]| Exact::new(integer(a_bits, a_signed, x[0]), 0).round(format, mode);
                agree(&format!("cvt.{name}.{to}.{from}"), &format!("{d}={a}"), &[&samples(a)], round);
                if to != "bf16" {
                    let clamped = |x: &[u64]| saturate(format, round(x));
                    agree(&format!("cvt.{name}.sat.{to}.{from}"), &format!("{d}={a}"), &[&samples(a)], clamped);
                }
            }
        }
    }
}

type Whole = fn(f64) -> f64;

const INTEGRAL: [(&str, Whole); 4] =
    [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];

/// Encodings that round in every way: halves, neighbours of integers' limits, subnormals, infinities, NaN.
fn floats(format: Format) -> Vec<u64> {
    let mut values =
        vec![0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 1e-6, 100.6, 127.5, 128.0, 254.5, 255.5, 1e30, 1e39, 5e300];
    for bits in [15, 16, 24, 31, 32, 53, 63, 64] {
        let limit = 2f64.powi(bits);
        values.extend([limit, limit - 0.5, limit.next_down(), limit.next_up(), limit * (1.0 - 2f64.powi(-24))]);
    }
    // Half way between two f16, two bf16 and two f32, and just next to that.
    for bits in [8, 9, 11, 12, 24, 25] {
        let near = 1.0 + 2f64.powi(-bits);
        values.extend([near, near.next_down(), near.next_up(), near + 2f64.powi(-bits + 1)]);
        values.extend([near * 2f64.powi(-16), near * 2f64.powi(-20), near * 2f64.powi(-130), near * 2f64.powi(-140)]);
    }
    values.extend([65504.0, 65519.9, 65520.0, 65536.0, 3.39e38, 3.402_823_5e38, 3.402_823_6e38, 5e-324, 1e-46]);
    let mut all: Vec<u64> = values.iter().map(|x| Exact::from(*x).round(format, Mode::Nearest)).collect();
    all.extend([0, 1, format.infinity() - 1, format.infinity(), format.nan()]);
    all.iter().flat_map(|x| [*x, x | format.sign()]).collect()
}

#[test]
fn floats_to_integers() {
    for (from, a, format) in FLOATS {
        for (to, d, bits, signed) in INTEGERS.into_iter().filter(|integer| exists(integer.0, from)) {
            for (name, whole) in INTEGRAL {
                let (low, high) = limits(bits, signed);
                let reference = |x: u64| {
                    let value = format.value(x);
                    if value.is_nan() {
                        // The top bit if the number is an f64 or the integer has 64 bits, else zero.
                        let wide = from == "f64" || bits == 64;
                        return held(d, bits, signed, if wide { 1 << (bits - 1) } else { 0 });
                    }
                    // Rust's casts clamp, which i128 here does far outside the limits.
                    held(d, bits, signed, (whole(value) as i128).clamp(low, high))
                };
                let inst = format!("cvt.{name}.{to}.{from}");
                agree(&inst, &format!("{d}={a}"), &[&floats(format)], |x| reference(x[0]));
                if from == "f32" {
                    let inst = format!("cvt.{name}.ftz.{to}.{from}");
                    agree(&inst, &format!("{d}={a}"), &[&floats(format)], |x| reference(format.flush(x[0])));
                }
            }
        }
    }
}

/// Rounds the value of an encoding to another format.
fn round(from: Format, to: Format, mode: Mode, x: u64) -> u64 {
    let (value, sign) = (from.value(x), if x & from.sign() != 0 { to.sign() } else { 0 });
    match value {
        _ if value.is_nan() => to.nan(),
        _ if value.is_infinite() => sign | to.infinity(),
        0.0 => sign,
        _ => Exact::from(value).round(to, mode),
    }
}

#[test]
fn floats_to_floats() {
    for (from, a, source) in FLOATS {
        for (to, d, target) in FLOATS {
            // Which NaN an f64 becomes is not specified, nor that which a bf16, the upper half of an f32, becomes.
            let numbers_only = to == "f64" || from == "bf16" && to == "f32";
            let kept = |x: &u64| !(numbers_only && source.is_nan(*x));
            let cases: Vec<Vec<u64>> = floats(source).into_iter().filter(kept).map(|x| vec![x]).collect();
            let widths = format!("{d}={a}");
            let exact = target.mantissa >= source.mantissa && target.exponent >= source.exponent;
            for (name, mode) in if exact { &[("", Mode::Nearest)][..] } else { &MODES } {
                let suffix = if exact { String::new() } else { format!(".{name}") };
                let reference = |x: &[u64]| round(source, target, *mode, x[0]);
                if from != to {
                    agree_on(&format!("cvt{suffix}.{to}.{from}"), &widths, &cases, reference);
                }
                let saturated = |x: &[u64]| {
                    let value = source.value(x[0]).clamp(0.0, 1.0);
                    let positive = value > 0.0;
                    if positive { round(F64, target, *mode, value.to_bits()) } else { 0 }
                };
                if from != "bf16" && to != "bf16" {
                    agree_on(&format!("cvt{suffix}.sat.{to}.{from}"), &widths, &cases, saturated);
                }
                if (from == "f32" || to == "f32") && from != to {
                    let flush = |format: Format, x| if format == F32 { F32.flush(x) } else { x };
                    let reference = |x: &[u64]| flush(target, round(source, target, *mode, flush(source, x[0])));
                    agree_on(&format!("cvt{suffix}.ftz.{to}.{from}"), &widths, &cases, reference);
                }
            }
        }
        for (name, whole) in INTEGRAL {
            let cases: Vec<Vec<u64>> =
                floats(source).into_iter().filter(|x| !source.is_nan(*x)).map(|x| vec![x]).collect();
            let integral = |x: u64| {
                // The sign of a zero is that of the number.
                let value = whole(source.value(x)).copysign(if x & source.sign() != 0 { -1.0 } else { 1.0 });
                round(F64, source, Mode::Nearest, value.to_bits())
            };
            agree_on(&format!("cvt.{name}.{from}.{from}"), &format!("{a}={a}"), &cases, |x| integral(x[0]));
            if from == "f32" {
                agree_on(&format!("cvt.{name}.ftz.f32.f32"), "w=w", &cases, |x| integral(F32.flush(x[0])));
            }
        }
    }
}

#[test]
fn single_precision_to_halves_with_relu_and_finite_saturation() {
    let cases: Vec<Vec<u64>> = floats(F32).into_iter().chain(SINGLES).map(|x| vec![x]).collect();
    let relu = |format: Format, x: u64| if x & format.sign() != 0 { 0 } else { x };
    // The largest number of the sign; NaN stays.
    let finite = |format: Format, x: u64| {
        if x & !format.sign() == format.infinity() { x - 1 } else { x }
    };
    for (to, format) in [("f16", F16), ("bf16", BF16)] {
        for (name, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
            let plain = |x: u64| round(F32, format, mode, x);
            type Variant<'a> = (&'a str, &'a dyn Fn(u64) -> u64);
            let variants: [Variant; 4] = [
                ("", &plain),
                (".relu", &|x| relu(format, plain(x))),
                (".satfinite", &|x| finite(format, plain(x))),
                (".relu.satfinite", &|x| relu(format, finite(format, plain(x)))),
            ];
            for (suffix, reference) in variants {
                agree_on(&format!("cvt.{name}{suffix}.{to}.f32"), "h=w", &cases, |x| reference(x[0]));
                // The first operand is the upper half.
                let other = |i: usize| cases[(i + 11) % cases.len()][0];
                let pairs: Vec<Vec<u64>> = (0..cases.len()).map(|i| vec![cases[i][0], other(i)]).collect();
                let both = |x: &[u64]| reference(x[0]) << 16 | reference(x[1]);
                agree_on(&format!("cvt.{name}{suffix}.{to}x2.f32"), "w=ww", &pairs, both);
            }
        }
    }
    for (name, mode) in [("rna", Mode::Away), ("rn", Mode::Nearest), ("rz", Mode::Zero)] {
        // tf32 lies in the upper 19 bits of an f32; its NaN is that of f32.
        let tf32 = |x: u64| if F32.is_nan(x) { F32.nan() } else { round(F32, TF32, mode, x) << 13 };
        agree_on(&format!("cvt.{name}.tf32.f32"), "w=w", &cases, |x| tf32(x[0]));
        if name != "rna" {
            agree_on(&format!("cvt.{name}.relu.tf32.f32"), "w=w", &cases, |x| relu(F32, tf32(x[0])));
        }
        let clamped = |x: u64| {
            let x = tf32(x);
            if x & !F32.sign() == F32.infinity() { x & F32.sign() | 0x7f7f_e000 } else { x }
        };
        agree_on(&format!("cvt.{name}.satfinite.tf32.f32"), "w=w", &cases, |x| clamped(x[0]));
    }
}

#[test]
fn saturation_of_flushed_numbers() {
    let cases: Vec<Vec<u64>> = SINGLES.into_iter().map(|x| vec![x]).collect();
    agree_on("cvt.ftz.sat.f32.f32", "w=w", &cases, |x| saturate(F32, F32.flush(x[0])));
}

#[test]
fn conversions_read_the_low_part_of_wider_registers() {
    let x = 0xffff_ffff_8765_80f1u64;
    let found =
        run("llwl=l", "cvt.s64.s32 %d, %a; cvt.u64.u8 %e, %a; cvt.f32.f16 %f, %a; cvt.s64.s8 %g, %a;", &[vec![x]]);
    let half = round(F16, F32, Mode::Nearest, 0x80f1);
    assert_eq!(found[0], [0xffff_ffff_8765_80f1, 0xf1, half, 0xffff_ffff_ffff_fff1]);
    assert_eq!(one(F32), 0x3f80_0000);
}
