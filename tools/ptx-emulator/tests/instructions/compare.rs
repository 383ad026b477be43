//! Comparisons and selections (PTX ISA, 9.7.6 and 9.7.7).

use crate::exact::{BF16, F16, F32, F64, Format};
use crate::harness::{DATA, agree, agree_on, product, run, samples};
use std::cmp::Ordering;

/// Numbers of a format that compare in every way: zeros, subnormals, infinities and NaN among them.
fn numbers(format: Format) -> Vec<u64> {
    let one = ((1 << (format.exponent - 1)) - 1) << format.mantissa;
    let positive =
        [0, 1, (1 << format.mantissa) - 1, 1 << format.mantissa, one, one + 1, format.infinity(), format.nan()];
    positive.into_iter().flat_map(|x| [x, x | format.sign()]).collect()
}

/// What a comparison makes of an order; `None`: a NaN is compared.
fn holds(cmp: &str, order: Option<Ordering>) -> bool {
    let Some(order) = order else { return cmp == "nan" || cmp.len() == 3 && cmp.ends_with('u') };
    match cmp {
        "eq" | "equ" => order.is_eq(),
        "ne" | "neu" => order.is_ne(),
        "lt" | "ltu" | "lo" => order.is_lt(),
        "le" | "leu" | "ls" => order.is_le(),
        "gt" | "gtu" | "hi" => order.is_gt(),
        "ge" | "geu" | "hs" => order.is_ge(),
        _ => cmp == "num",
    }
}

const FLOATS: [&str; 14] = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// Holds `setp`, alone and combined with a predicate, to what the comparison gives.
fn setp(cmp: &str, ty: &str, kind: char, samples: &[u64], compare: impl Fn(&[u64]) -> bool) {
    let body = format!(
        "setp.{cmp}.{ty} %d, %a, %b; setp.{cmp}.and.{ty} %e, %a, %b, %c; setp.{cmp}.or.{ty} %f, %a, %b, %c;
         setp.{cmp}.xor.{ty} %g, %a, %b, %c;"
    );
    let cases = product(&[samples, samples, &[0, 1]]);
    for (x, found) in cases.iter().zip(run(&format!("pppp={kind}{kind}p"), &body, &cases)) {
        let (t, c) = (compare(x), x[2] == 1);
        assert_eq!(found, [t, t & c, t | c, t ^ c].map(u64::from), "{body} {x:x?}");
    }
}

#[test]
fn setp_of_integers() {
    for (bits, kind) in [(16, 'h'), (32, 'w'), (64, 'l')] {
        let signed = |x: u64| (x << (64 - bits)) as i64;
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge"] {
            let compare = |x: &[u64]| holds(cmp, Some(signed(x[0]).cmp(&signed(x[1]))));
            setp(cmp, &format!("s{bits}"), kind, samples(kind), compare);
        }
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"] {
            setp(cmp, &format!("u{bits}"), kind, samples(kind), |x| holds(cmp, Some(x[0].cmp(&x[1]))));
        }
        for cmp in ["eq", "ne"] {
            setp(cmp, &format!("b{bits}"), kind, samples(kind), |x| holds(cmp, Some(x[0].cmp(&x[1]))));
        }
    }
}

#[test]
fn setp_of_floats_with_nan() {
    for (name, format, kind) in [("f16", F16, 'h'), ("bf16", BF16, 'h'), ("f32", F32, 'w'), ("f64", F64, 'l')] {
        let numbers = numbers(format);
        for cmp in FLOATS {
            let compare = |flush: bool, x: &[u64]| {
                let of = |x| format.value(if flush { format.flush(x) } else { x });
                holds(cmp, of(x[0]).partial_cmp(&of(x[1])))
            };
            setp(cmp, name, kind, &numbers, |x| compare(false, x));
            if matches!(name, "f16" | "f32") {
                setp(cmp, &format!("ftz.{name}"), kind, &numbers, |x| compare(true, x));
            }
        }
    }
}

/// Every pair of numbers of a format in the low halves of two words, and another pair in the high ones; with both
/// pairs.
fn pairs(format: Format) -> (Vec<Vec<u64>>, Vec<[Vec<u64>; 2]>) {
    let numbers = numbers(format);
    let pairs = product(&[&numbers, &numbers]);
    let halves: Vec<_> = (0..pairs.len()).map(|i| [pairs[i].clone(), pairs[(i + 77) % pairs.len()].clone()]).collect();
    let words = halves.iter().map(|[low, high]| (0..2).map(|o| low[o] | high[o] << 16).collect()).collect();
    (words, halves)
}

#[test]
fn setp_and_set_of_halves() {
    for (name, format) in [("f16x2", F16), ("bf16x2", BF16)] {
        let (cases, halves) = pairs(format);
        for (cmp, ftz) in FLOATS.into_iter().flat_map(|cmp| [(cmp, false), (cmp, true)]) {
            if ftz && name == "bf16x2" {
                continue;
            }
            let suffix = if ftz { ".ftz" } else { "" };
            let compare = |x: &[u64]| {
                let of = |x| format.value(if ftz { format.flush(x) } else { x });
                u64::from(holds(cmp, of(x[0]).partial_cmp(&of(x[1]))))
            };
            let body = format!(
                "setp.{cmp}{suffix}.{name} %d|%e, %a, %b; set.{cmp}{suffix}.u32.{name} %f, %a, %b;
                 set.{cmp}{suffix}.s32.{name} %g, %a, %b;"
            );
            for (i, found) in run("ppww=ww", &body, &cases).iter().enumerate() {
                let [low, high] = [0, 1].map(|half| compare(&halves[i][half]));
                // `set` gives each half a mask of its own.
                let masks = (low * 0xffff) | (high * 0xffff_0000);
                assert_eq!(found, &[low, high, masks, masks], "{body} {:#x?}", cases[i]);
            }
        }
    }
}

#[test]
fn setp_combined_and_with_its_complement() {
    let bit: &[u64] = &[0, 1];
    let cases = product(&[&[1, 2, 3], &[2], bit]);
    type Logic = fn(bool, bool) -> bool;
    let logic: [(&str, Logic); 3] = [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    for (name, f) in logic {
        let body = format!(
            "setp.lt.{name}.u32 %d|%e, %a, %b, %c; setp.lt.{name}.u32 %f, %a, %b, !%c; setp.lt.u32 %g|_, %a, %b;"
        );
        for (x, found) in cases.iter().zip(run("pppp=wwp", &body, &cases)) {
            let (less, c) = (x[0] < x[1], x[2] == 1);
            // The second result is of the comparison's complement, combined alike.
            let expected = [f(less, c), f(!less, c), f(less, !c), less];
            assert_eq!(found, expected.map(u64::from), "{body} {x:?}");
        }
    }
}

/// Holds `set` to what the comparison gives: ones, or 1.0.
fn set(cmp: &str, ty: &str, kind: char, samples: &[u64], compare: impl Fn(&[u64]) -> bool) {
    // Comparisons of halves give integers only.
    let results = [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000)];
    let (ftz, ty) = ty.strip_prefix("ftz.").map_or(("", ty), |ty| (".ftz", ty));
    for (to, yes) in &results[..if ty.ends_with("f16") { 2 } else { 3 }] {
        let widths = format!("w={kind}{kind}");
        agree(&format!("set.{cmp}{ftz}.{to}.{ty}"), &widths, &[samples; 2], |x| u64::from(compare(x)) * yes);
    }
}

#[test]
fn set_gives_ones_or_a_float() {
    for (name, format, kind) in [("f16", F16, 'h'), ("bf16", BF16, 'h'), ("f32", F32, 'w'), ("f64", F64, 'l')] {
        let numbers = numbers(format);
        for cmp in FLOATS {
            set(cmp, name, kind, &numbers, |x| holds(cmp, format.value(x[0]).partial_cmp(&format.value(x[1]))));
            if matches!(name, "f16" | "f32") {
                let of = |x| format.value(format.flush(x));
                set(cmp, &format!("ftz.{name}"), kind, &numbers, |x| holds(cmp, of(x[0]).partial_cmp(&of(x[1]))));
            }
        }
    }
    for (bits, kind) in [(16, 'h'), (32, 'w'), (64, 'l')] {
        let signed = |x: u64| (x << (64 - bits)) as i64;
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge"] {
            let compare = |x: &[u64]| holds(cmp, Some(signed(x[0]).cmp(&signed(x[1]))));
            set(cmp, &format!("s{bits}"), kind, samples(kind), compare);
        }
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"] {
            set(cmp, &format!("u{bits}"), kind, samples(kind), |x| holds(cmp, Some(x[0].cmp(&x[1]))));
        }
        for cmp in ["eq", "ne"] {
            set(cmp, &format!("b{bits}"), kind, samples(kind), |x| holds(cmp, Some(x[0].cmp(&x[1]))));
        }
    }
}

#[test]
fn selections() {
    let bit: &[u64] = &[0, 1];
    for (ty, kind) in DATA {
        let of = samples(kind);
        let widths = format!("{kind}={kind}{kind}");
        agree(&format!("selp.{ty}"), &format!("{widths}p"), &[of, of, bit], |x| x[if x[2] == 1 { 0 } else { 1 }]);
        let by_sign = |x: &[u64]| x[if (x[2] as i32) >= 0 { 0 } else { 1 }];
        agree(&format!("slct.{ty}.s32"), &format!("{widths}w"), &[of, of, samples('w')], by_sign);
        let singles = numbers(F32);
        // NaN selects the second; -0 is not below zero.
        let by_float = |x: &[u64]| x[if F32.value(x[2]) >= 0.0 { 0 } else { 1 }];
        agree(&format!("slct.{ty}.f32"), &format!("{widths}w"), &[of, of, &singles], by_float);
        let flushed = |x: &[u64]| x[if F32.value(F32.flush(x[2])) >= 0.0 { 0 } else { 1 }];
        agree(&format!("slct.ftz.{ty}.f32"), &format!("{widths}w"), &[of, of, &singles], flushed);
    }
}

#[test]
fn classes_of_numbers() {
    for (name, format, kind) in [("f32", F32, 'w'), ("f64", F64, 'l')] {
        let check = |test: &str, f: fn(Format, u64, u64) -> bool| {
            let reference = |x: &[u64]| u64::from(f(format, x[0] & !format.sign(), format.infinity()));
            let cases: Vec<Vec<u64>> = numbers(format).iter().map(|x| vec![*x]).collect();
            agree_on(&format!("testp.{test}.{name}"), &format!("p={kind}"), &cases, reference);
        };
        check("finite", |_, x, infinity| x < infinity);
        check("infinite", |_, x, infinity| x == infinity);
        check("number", |_, x, infinity| x <= infinity);
        check("notanumber", |_, x, infinity| x > infinity);
        // Zero counts as normal.
        check("normal", |format, x, infinity| x == 0 || x >> format.mantissa != 0 && x < infinity);
        check("subnormal", |format, x, _| x != 0 && x >> format.mantissa == 0);
    }
}
