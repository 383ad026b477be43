//! Arithmetic of f16 and bf16, alone and in pairs (PTX ISA, 9.7.4), against exact sums that are rounded once.

use crate::exact::{BF16, F16, Format, Mode};
use crate::float::{extreme, fma, mul, one, saturate};
use crate::harness::{agree, agree_on, product};

const FORMATS: [(&str, Format); 2] = [("f16", F16), ("bf16", BF16)];

/// Zeros, subnormals, neighbours of one, numbers whose sums and products overflow or vanish, infinity and NaN.
fn numbers(format: Format) -> Vec<u64> {
    let (one, infinity) = (one(format), format.infinity());
    let (small, large) = (one / 2 + 3, one + one / 2 + 5);
    let quarter = one - (2 << format.mantissa);
    let positive = [0, 1, (1 << format.mantissa) - 1, 1 << format.mantissa, small, quarter + 11, one - 1, one, one + 1]
        .into_iter()
        .chain([one + 0x2a, large, infinity - 1, infinity, format.nan()]);
    positive.flat_map(|x| [x, x | format.sign()]).collect()
}

/// Holds an instruction to `reference`, alone and in pairs: `add.f16` and `add.f16x2`.
fn both(inst: &str, format: Format, operands: usize, reference: &dyn Fn(&[u64]) -> u64) {
    let of = numbers(format);
    let cases = product(&vec![of.as_slice(); operands]);
    agree_on(inst, &format!("h={}", "h".repeat(operands)), &cases, reference);
    // The upper halves are another case, so that a mix-up shows.
    let other = |i: usize| &cases[(i * 5 + 3) % cases.len()];
    let pairs: Vec<Vec<u64>> =
        (0..cases.len()).map(|i| (0..operands).map(|o| cases[i][o] | other(i)[o] << 16).collect()).collect();
    agree_on(&format!("{inst}x2"), &format!("w={}", "w".repeat(operands)), &pairs, |x| {
        let half = |shift: u32| reference(&x.iter().map(|x| x >> shift & 0xffff).collect::<Vec<_>>());
        half(0) | half(16) << 16
    });
}

#[test]
fn sums_and_products() {
    for (name, format) in FORMATS {
        // Flushing and saturation are for f16 alone.
        let variants: &[(&str, bool, bool)] = match name {
            "f16" => &[("", false, false), (".ftz", true, false), (".sat", false, true), (".ftz.sat", true, true)],
            _ => &[("", false, false)],
        };
        for (suffix, ftz, sat) in variants {
            let flushed = |x: u64| if *ftz { format.flush(x) } else { x };
            let after = |x: u64| if *sat { saturate(format, flushed(x)) } else { flushed(x) };
            let add = |a, b| after(fma(format, Mode::Nearest, flushed(a), one(format), flushed(b)));
            both(&format!("add{suffix}.{name}"), format, 2, &|x| add(x[0], x[1]));
            both(&format!("sub.rn{suffix}.{name}"), format, 2, &|x| add(x[0], x[1] ^ format.sign()));
            let product = |x: &[u64]| after(mul(format, Mode::Nearest, flushed(x[0]), flushed(x[1])));
            both(&format!("mul{suffix}.{name}"), format, 2, &product);
            let sum = |x: &[u64]| fma(format, Mode::Nearest, flushed(x[0]), flushed(x[1]), flushed(x[2]));
            both(&format!("fma.rn{suffix}.{name}"), format, 3, &|x| after(sum(x)));
        }
        let relu = |x: u64| if x & format.sign() != 0 { 0 } else { x };
        both(&format!("fma.rn.relu.{name}"), format, 3, &|x| relu(fma(format, Mode::Nearest, x[0], x[1], x[2])));
        if name == "f16" {
            let flushed = |x: u64| format.flush(x);
            let sum = |x: &[u64]| fma(format, Mode::Nearest, flushed(x[0]), flushed(x[1]), flushed(x[2]));
            both("fma.rn.ftz.relu.f16", format, 3, &|x| relu(flushed(sum(x))));
        }
    }
}

#[test]
fn minima_maxima_and_signs() {
    for (name, format) in FORMATS {
        for (op, larger) in [("min", false), ("max", true)] {
            for (suffix, nan) in [("", false), (".NaN", true)] {
                both(&format!("{op}{suffix}.{name}"), format, 2, &|x| extreme(format, larger, nan, x[0], x[1]));
            }
            if name == "f16" {
                for (suffix, nan) in [("", false), (".NaN", true)] {
                    let flushed = |x: &[u64]| extreme(format, larger, nan, format.flush(x[0]), format.flush(x[1]));
                    both(&format!("{op}.ftz{suffix}.{name}"), format, 2, &flushed);
                }
            }
        }
        // Which NaN comes of a NaN is not specified: every encoding of a number.
        let all: Vec<u64> = (0..0x1_0000).filter(|x| !format.is_nan(*x)).collect();
        agree(&format!("abs.{name}"), "h=h", &[&all], |x| x[0] & !format.sign());
        agree(&format!("neg.{name}"), "h=h", &[&all], |x| x[0] ^ format.sign());
        let pairs: Vec<u64> = all.iter().zip(all.iter().rev()).map(|(a, b)| a | b << 16).collect();
        agree(&format!("abs.{name}x2"), "w=w", &[&pairs], |x| x[0] & 0x7fff_7fff);
        agree(&format!("neg.{name}x2"), "w=w", &[&pairs], |x| x[0] ^ 0x8000_8000);
    }
    let all: Vec<u64> = (0..0x1_0000).filter(|x| !F16.is_nan(*x)).collect();
    agree("abs.ftz.f16", "h=h", &[&all], |x| F16.flush(x[0]) & 0x7fff);
    agree("neg.ftz.f16", "h=h", &[&all], |x| F16.flush(x[0]) ^ 0x8000);
    let pairs: Vec<u64> = all.iter().zip(all.iter().rev()).map(|(a, b)| a | b << 16).collect();
    let flushed = |x: u64| F16.flush(x & 0xffff) | F16.flush(x >> 16) << 16;
    agree("abs.ftz.f16x2", "w=w", &[&pairs], |x| flushed(x[0]) & 0x7fff_7fff);
    agree("neg.ftz.f16x2", "w=w", &[&pairs], |x| flushed(x[0]) ^ 0x8000_8000);
}
