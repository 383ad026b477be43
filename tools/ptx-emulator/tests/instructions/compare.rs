//! Comparisons and selections (PTX ISA, 9.7.6 and 9.7.7).

use crate::exact::{BF16, F16, F32, F64, Format};
use crate::harness::{agree, agree_on, product, run, samples};
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

#[test]
fn setp_of_integers() {
    for (bits, kind) in [(16, 'h'), (32, 'w'), (64, 'l')] {
        let (widths, two) = (format!("p={kind}{kind}"), [samples(kind); 2]);
        let signed = |x: u64| (x << (64 - bits)) as i64;
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge"] {
            let inst = format!("setp.{cmp}.s{bits}");
            agree(&inst, &widths, &two, |x| u64::from(holds(cmp, Some(signed(x[0]).cmp(&signed(x[1]))))));
        }
        for cmp in ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"] {
            agree(&format!("setp.{cmp}.u{bits}"), &widths, &two, |x| u64::from(holds(cmp, Some(x[0].cmp(&x[1])))));
        }
        for cmp in ["eq", "ne"] {
            agree(&format!("setp.{cmp}.b{bits}"), &widths, &two, |x| u64::from(holds(cmp, Some(x[0].cmp(&x[1])))));
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
                u64::from(holds(cmp, of(x[0]).partial_cmp(&of(x[1]))))
            };
            let widths = format!("p={kind}{kind}");
            agree(&format!("setp.{cmp}.{name}"), &widths, &[&numbers, &numbers], |x| compare(false, x));
            if matches!(name, "f16" | "f32") {
                agree(&format!("setp.{cmp}.ftz.{name}"), &widths, &[&numbers, &numbers], |x| compare(true, x));
            }
        }
    }
}

#[test]
fn setp_of_halves() {
    for (name, format) in [("f16x2", F16), ("bf16x2", BF16)] {
        let numbers = numbers(format);
        for cmp in FLOATS {
            for ftz in if name == "f16x2" { &[false, true][..] } else { &[false] } {
                let body = format!("setp.{cmp}{}.{name} %d|%e, %a, %b;", if *ftz { ".ftz" } else { "" });
                let pairs = product(&[&numbers, &numbers]);
                // The upper halves are another pair.
                let other = |i: usize| &pairs[(i + 77) % pairs.len()];
                let cases: Vec<Vec<u64>> =
                    (0..pairs.len()).map(|i| (0..2).map(|o| pairs[i][o] | other(i)[o] << 16).collect()).collect();
                let expected = |x: &[u64]| {
                    let of = |x| format.value(if *ftz { format.flush(x) } else { x });
                    u64::from(holds(cmp, of(x[0]).partial_cmp(&of(x[1]))))
                };
                for (i, found) in run("pp=ww", &body, &cases).iter().enumerate() {
                    assert_eq!(found, &[expected(&pairs[i]), expected(other(i))], "{body} {:#x?}", cases[i]);
                }
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

#[test]
fn set_gives_ones_or_a_float() {
    let singles = numbers(F32);
    for cmp in FLOATS {
        for (to, yes) in [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000)] {
            let found = |x: &[u64]| holds(cmp, F32.value(x[0]).partial_cmp(&F32.value(x[1])));
            let flushed = |x: &[u64]| holds(cmp, F32.value(F32.flush(x[0])).partial_cmp(&F32.value(F32.flush(x[1]))));
            let two = [singles.as_slice(); 2];
            agree(&format!("set.{cmp}.{to}.f32"), "w=ww", &two, |x| u64::from(found(x)) * yes);
            agree(&format!("set.{cmp}.ftz.{to}.f32"), "w=ww", &two, |x| u64::from(flushed(x)) * yes);
        }
    }
    let two = [samples('l'); 2];
    agree("set.lt.u32.s64", "w=ll", &two, |x| u64::from((x[0] as i64) < x[1] as i64) * 0xffff_ffff);
    agree("set.hs.f32.u64", "w=ll", &two, |x| u64::from(x[0] >= x[1]) * 0x3f80_0000);
}

#[test]
fn selections() {
    let bit: &[u64] = &[0, 1];
    for (ty, kind) in [("b16", 'h'), ("u32", 'w'), ("f32", 'w'), ("b64", 'l'), ("f64", 'l')] {
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
