//! The `.approx` functions (PTX ISA, 9.7.3.11 to 9.7.3.22): values against f64, and the special values of their tables.
//!
//! The ISA bounds their errors from 2^-11 (tanh) to 2^-23 (sqrt); here they are computed with full precision, and are
//! held to one unit in the last place of f32, within every one of those bounds.

use crate::exact::{BF16, Exact, F16, F32, Format, Mode};
use crate::harness::{agree_on, run};

type Function = fn(f64) -> f64;

/// Numbers of both signs over many binades, and in steps near zero.
fn arguments() -> Vec<f32> {
    let binades = (-120..120).map(|e| 2f32.powi(e) * (1.0 + (e * 37 % 64).unsigned_abs() as f32 / 64.0));
    let steps = (1..600).map(|i| i as f32 * 0.173);
    binades.chain(steps).flat_map(|x| [x, -x]).collect()
}

#[test]
fn values_of_f32() {
    // Sine and cosine: the argument is reduced exactly, so that large ones are as good as small ones.
    type Domain = fn(f32) -> bool;
    let functions: [(&str, Function, Domain); 8] = [
        ("rcp.approx", |x| 1.0 / x, |_| true),
        ("sqrt.approx", f64::sqrt, |x| x > 0.0),
        ("rsqrt.approx", |x| 1.0 / x.sqrt(), |x| x > 0.0),
        ("ex2.approx", f64::exp2, |_| true),
        ("lg2.approx", f64::log2, |x| x > 0.0),
        ("sin.approx", f64::sin, |_| true),
        ("cos.approx", f64::cos, |_| true),
        ("tanh.approx", f64::tanh, |_| true),
    ];
    for (name, f, within) in functions {
        let arguments: Vec<f32> = arguments().into_iter().filter(|x| within(*x)).collect();
        let cases: Vec<Vec<u64>> = arguments.iter().map(|x| vec![x.to_bits().into()]).collect();
        for (x, found) in arguments.iter().zip(run("w=w", &format!("{name}.f32 %d, %a;"), &cases)) {
            let (expected, found) = (f(f64::from(*x)), f64::from(f32::from_bits(found[0] as u32)));
            // A unit in the last place, relative or of the subnormal numbers.
            let close = (found - expected).abs() <= 2f64.powi(-23) * expected.abs() + 2f64.powi(-149);
            assert!(close || found == f64::from(expected as f32), "{name}({x:e}) = {found:e}, not {expected:e}");
        }
    }
}

#[test]
fn quotients() {
    let arguments = arguments();
    let pairs: Vec<(f32, f32)> = arguments.iter().zip(arguments.iter().rev()).map(|(a, b)| (*a, *b)).collect();
    let cases: Vec<Vec<u64>> = pairs.iter().map(|(a, b)| vec![a.to_bits().into(), b.to_bits().into()]).collect();
    for name in ["div.approx", "div.full"] {
        for (suffix, ftz) in [("", false), (".ftz", true)] {
            agree_on(&format!("{name}{suffix}.f32"), "w=ww", &cases, |x| {
                let flushed = |x: u64| if ftz { F32.flush(x) } else { x };
                let [a, b] = [x[0], x[1]].map(|x| f32::from_bits(flushed(x) as u32));
                flushed((a / b).to_bits().into())
            });
        }
    }
}

#[test]
fn reciprocal_roots_of_f64() {
    let arguments: Vec<f64> = (-300..300).map(|e| 2f64.powi(e) * (1.0 + f64::from(e.rem_euclid(64)) / 64.0)).collect();
    let cases: Vec<Vec<u64>> = arguments.iter().map(|x| vec![x.to_bits()]).collect();
    for (x, found) in arguments.iter().zip(run("l=l", "rsqrt.approx.f64 %d, %a;", &cases)) {
        let found = f64::from_bits(found[0]);
        // Its square times x is 1, to twice the error of the root and one rounding.
        assert!((found * found * x - 1.0).abs() < 8.0 * f64::EPSILON, "{x:e}: {found:e}");
    }
    let special = [(0.0, f64::INFINITY), (-0.0, f64::NEG_INFINITY), (f64::INFINITY, 0.0)];
    for (x, expected) in special {
        assert_eq!(run("l=l", "rsqrt.approx.f64 %d, %a;", &[vec![x.to_bits()]])[0], [expected.to_bits()]);
    }
}

#[test]
fn special_values_of_f32() {
    const INF: f32 = f32::INFINITY;
    // Results at -inf, -1e-40 (subnormal), -0, +0, 1e-40, +inf; None: NaN. Then the same with .ftz.
    type Row = [Option<f32>; 6];
    let arguments = [-INF, -1e-40, -0.0, 0.0, 1e-40, INF];
    let none = None;
    let tables: [(&str, Row, Row); 8] = [
        (
            "rcp.approx",
            [Some(-0.0), Some(-INF), Some(-INF), Some(INF), Some(INF), Some(0.0)],
            [Some(-0.0), Some(-INF), Some(-INF), Some(INF), Some(INF), Some(0.0)],
        ),
        (
            "sqrt.approx",
            [none, none, Some(-0.0), Some(0.0), Some(1e-20), Some(INF)],
            [none, Some(-0.0), Some(-0.0), Some(0.0), Some(0.0), Some(INF)],
        ),
        (
            "rsqrt.approx",
            [none, none, Some(-INF), Some(INF), Some(1e20), Some(0.0)],
            [none, Some(-INF), Some(-INF), Some(INF), Some(INF), Some(0.0)],
        ),
        ("ex2.approx", [Some(0.0), Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(INF)], {
            [Some(0.0), Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(INF)]
        }),
        (
            "lg2.approx",
            [none, none, Some(-INF), Some(-INF), Some(-132.877_12), Some(INF)],
            [none, Some(-INF), Some(-INF), Some(-INF), Some(-INF), Some(INF)],
        ),
        (
            "sin.approx",
            [none, Some(-1e-40), Some(-0.0), Some(0.0), Some(1e-40), none],
            [none, Some(-0.0), Some(-0.0), Some(0.0), Some(0.0), none],
        ),
        ("cos.approx", [none, Some(1.0), Some(1.0), Some(1.0), Some(1.0), none], {
            [none, Some(1.0), Some(1.0), Some(1.0), Some(1.0), none]
        }),
        ("tanh.approx", [Some(-1.0), Some(-1e-40), Some(-0.0), Some(0.0), Some(1e-40), Some(1.0)], [None; 6]),
    ];
    let cases: Vec<Vec<u64>> = arguments.iter().chain([&f32::NAN]).map(|x| vec![x.to_bits().into()]).collect();
    for (name, plain, flushed) in tables {
        for (ftz, row) in [("", plain), (".ftz", flushed)] {
            if name == "tanh.approx" && ftz == ".ftz" {
                continue;
            }
            let found = run("w=w", &format!("{name}{ftz}.f32 %d, %a;"), &cases);
            for ((x, expected), found) in arguments.iter().zip(row).zip(&found) {
                let value = f32::from_bits(found[0] as u32);
                let right = match expected {
                    None => found[0] == F32.nan(),
                    Some(expected) if expected == 0.0 || expected.is_infinite() => {
                        value.to_bits() == expected.to_bits()
                    }
                    Some(expected) => (value - expected).abs() <= 1e-5 * expected.abs(),
                };
                assert!(right, "{name}{ftz}({x:e}) = {value:e}, not {expected:?}");
            }
            assert_eq!(found[6][0], F32.nan(), "{name}{ftz}(NaN)");
        }
    }
}

#[test]
fn functions_of_every_half() {
    let functions: [(&str, Function, Format); 4] = [
        ("ex2.approx.f16", f64::exp2, F16),
        ("ex2.approx.ftz.bf16", f64::exp2, BF16),
        ("tanh.approx.f16", f64::tanh, F16),
        ("tanh.approx.bf16", f64::tanh, BF16),
    ];
    let cases: Vec<Vec<u64>> = (0..0x1_0000u64).map(|x| vec![x]).collect();
    for (name, f, format) in functions {
        let reference = |x: u64| {
            let flushed = |x| if name.contains("ftz") { format.flush(x) } else { x };
            let y = f(format.value(flushed(x)));
            let rounded = match y {
                _ if y.is_nan() => format.nan(),
                _ if y == 0.0 || y.is_infinite() => {
                    let magnitude = if y == 0.0 { 0 } else { format.infinity() };
                    magnitude | if y.is_sign_negative() { format.sign() } else { 0 }
                }
                // Rounded once from f64, whose own error of 2^-52 does not show but at ties.
                _ => Exact::from(y).round(format, Mode::Nearest),
            };
            flushed(rounded)
        };
        agree_on(name, "h=h", &cases, |x| reference(x[0]));
        let pairs: Vec<Vec<u64>> = (0..0x1_0000u64).step_by(7).map(|x| vec![x | (0xffff - x) << 16]).collect();
        let both = |x: &[u64]| reference(x[0] & 0xffff) | reference(x[0] >> 16) << 16;
        agree_on(&format!("{name}x2"), "w=w", &pairs, both);
    }
}
