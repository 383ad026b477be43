//! Integer arithmetic (PTX ISA, 9.7.1 and 9.7.2), against Rust's 128-bit integers.

use crate::harness::{INTEGERS, L, W, agree, agree_on, product, run, samples};

/// Arithmetic has no 8-bit types.
const TYPES: &[(&str, char, u32, bool)] = INTEGERS.split_at(2).1;

fn value(bits: u32, signed: bool, x: u64) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if signed && x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

fn cut(bits: u32, x: i128) -> u64 {
    (x & ((1 << bits) - 1)) as u64
}

/// The upper half of a product.
fn high(bits: u32, signed: bool, a: i128, b: i128) -> i128 {
    if signed { (a * b) >> bits } else { ((a as u128 * b as u128) >> bits) as i128 }
}

#[test]
fn arithmetic_of_two_operands() {
    for &(ty, kind, bits, signed) in TYPES {
        let two = [samples(kind); 2];
        let widths = format!("{kind}={kind}{kind}");
        let check = |inst: &str, f: &dyn Fn(i128, i128) -> i128| {
            let reference = |x: &[u64]| cut(bits, f(value(bits, signed, x[0]), value(bits, signed, x[1])));
            agree(&format!("{inst}.{ty}"), &widths, &two, reference);
        };
        check("add", &|a, b| a + b);
        check("sub", &|a, b| a - b);
        check("mul.lo", &|a, b| a.wrapping_mul(b));
        check("mul.hi", &|a, b| high(bits, signed, a, b));
        check("min", &|a, b| a.min(b));
        check("max", &|a, b| a.max(b));
        // What a division by zero gives is not specified.
        let cases: Vec<Vec<u64>> = product(&two).into_iter().filter(|x| x[1] != 0).collect();
        let of = |f: fn(i128, i128) -> i128| {
            move |x: &[u64]| cut(bits, f(value(bits, signed, x[0]), value(bits, signed, x[1])))
        };
        agree_on(&format!("div.{ty}"), &widths, &cases, of(|a, b| a / b));
        agree_on(&format!("rem.{ty}"), &widths, &cases, of(|a, b| a % b));
    }
}

#[test]
fn arithmetic_of_one_operand() {
    for &(ty, kind, bits, signed) in TYPES {
        let widths = format!("{kind}={kind}");
        let unary = |inst: &str, f: fn(i128) -> i128| {
            let reference = |x: &[u64]| cut(bits, f(value(bits, signed, x[0])));
            agree(&format!("{inst}.{ty}"), &widths, &[samples(kind)], reference);
        };
        if signed {
            unary("abs", i128::abs);
            unary("neg", |a| -a);
        }
    }
}

#[test]
fn multiply_and_add() {
    for &(ty, kind, bits, signed) in TYPES {
        let widths = format!("{kind}={kind}{kind}{kind}");
        let check = |inst: &str, f: &dyn Fn(i128, i128, i128) -> i128| {
            let of = |x: u64| value(bits, signed, x);
            let reference = |x: &[u64]| cut(bits, f(of(x[0]), of(x[1]), of(x[2])));
            agree(&format!("{inst}.{ty}"), &widths, &[samples(kind); 3], reference);
        };
        check("mad.lo", &|a, b, c| a.wrapping_mul(b).wrapping_add(c));
        check("mad.hi", &|a, b, c| high(bits, signed, a, b) + c);
        check("sad", &|a, b, c| c + (a - b).abs());
    }
}

#[test]
fn wide_products() {
    for (ty, kind, bits, signed) in &TYPES[..4] {
        let (from, wide) = (samples(*kind), if *bits == 16 { 'w' } else { 'l' });
        let product = |x: &[u64]| value(*bits, *signed, x[0]) * value(*bits, *signed, x[1]);
        agree(&format!("mul.wide.{ty}"), &format!("{wide}={kind}{kind}"), &[from, from], |x| cut(2 * bits, product(x)));
        agree(&format!("mad.wide.{ty}"), &format!("{wide}={kind}{kind}{wide}"), &[from, from, samples(wide)], |x| {
            cut(2 * bits, product(x) + i128::from(x[2]))
        });
    }
}

#[test]
fn saturation() {
    let clamp = |x: i128| x.clamp(i32::MIN.into(), i32::MAX.into());
    let s32 = |x: u64| value(32, true, x);
    agree("add.sat.s32", "w=ww", &[W, W], |x| cut(32, clamp(s32(x[0]) + s32(x[1]))));
    agree("sub.sat.s32", "w=ww", &[W, W], |x| cut(32, clamp(s32(x[0]) - s32(x[1]))));
    agree("mad.hi.sat.s32", "w=www", &[W, W, W], |x| cut(32, clamp(((s32(x[0]) * s32(x[1])) >> 32) + s32(x[2]))));
    agree("min.relu.s32", "w=ww", &[W, W], |x| cut(32, s32(x[0]).min(s32(x[1])).max(0)));
    agree("max.relu.s32", "w=ww", &[W, W], |x| cut(32, s32(x[0]).max(s32(x[1])).max(0)));
}

#[test]
fn products_of_24_bits() {
    for (ty, signed) in [("u32", false), ("s32", true)] {
        let product = |x: &[u64]| value(24, signed, x[0]) * value(24, signed, x[1]);
        for (half, shift) in [("lo", 0), ("hi", 16)] {
            agree(&format!("mul24.{half}.{ty}"), "w=ww", &[W, W], |x| cut(32, product(x) >> shift));
            let mad = |x: &[u64]| cut(32, (product(x) >> shift) + i128::from(x[2]));
            agree(&format!("mad24.{half}.{ty}"), "w=www", &[W, W, W], mad);
        }
    }
}

#[test]
fn dot_products_of_bytes() {
    for (a_type, a_signed) in [("u32", false), ("s32", true)] {
        for (b_type, b_signed) in [("u32", false), ("s32", true)] {
            let byte = |signed, x: u64, i: u32| value(8, signed, x >> (8 * i));
            let four = |x: &[u64]| {
                cut(32, (0..4).map(|i| byte(a_signed, x[0], i) * byte(b_signed, x[1], i)).sum::<i128>() + x[2] as i128)
            };
            agree(&format!("dp4a.{a_type}.{b_type}"), "w=www", &[W, W, W], four);
            for (half, skip) in [("lo", 0), ("hi", 2)] {
                let two = |x: &[u64]| {
                    let of_a = |i: u32| value(16, a_signed, x[0] >> (16 * i));
                    cut(32, (0..2).map(|i| of_a(i) * byte(b_signed, x[1], i + skip)).sum::<i128>() + x[2] as i128)
                };
                agree(&format!("dp2a.{half}.{a_type}.{b_type}"), "w=www", &[W, W, W], two);
            }
        }
    }
}

#[test]
fn carries_chain_to_wider_sums() {
    // Sums of 128 bits from 64, and of 96 from 32: the last has a carry in and none out.
    let cases = product(&[L, L, L, &[0, 1, u64::MAX, 0x8000_0000_0000_0000]]);
    for (first, then, sub) in [("add.cc", "addc", false), ("sub.cc", "subc", true)] {
        let body = format!("{first}.u64 %d, %a, %c; {then}.u64 %e, %b, %i;");
        for (x, found) in cases.iter().zip(run("ll=llll", &body, &cases)) {
            let (a, b) = (u128::from(x[0]) | u128::from(x[1]) << 64, u128::from(x[2]) | u128::from(x[3]) << 64);
            let sum = if sub { a.wrapping_sub(b) } else { a.wrapping_add(b) };
            assert_eq!(u128::from(found[0]) | u128::from(found[1]) << 64, sum, "{first} {x:x?}");
        }
        let body =
            format!("{first}.u32 %d, %a, %b; {then}.cc.u32 %e, %b, %c; {then}.cc.s32 %f, %c, %a; {then}.u32 %g, 0, 0;");
        let cases = product(&[W, W, W]);
        for (x, found) in cases.iter().zip(run("wwww=www", &body, &cases)) {
            let join = |x: [u64; 3]| i128::from(x[0]) | i128::from(x[1]) << 32 | i128::from(x[2]) << 64;
            let (a, b) = (join([x[0], x[1], x[2]]), join([x[1], x[2], x[0]]));
            let sum = if sub { a - b } else { a + b };
            assert_eq!(join([found[0], found[1], found[2]]) | i128::from(found[3]) << 96, sum, "{x:x?}");
        }
    }
}

#[test]
fn the_carry_of_a_difference_is_set_if_nothing_is_borrowed() {
    // As sm_90 computes them: a - b as a + !b + 1, and subc as a + !b + carry.
    for (ty, kind, bits) in [("u32", 'w', 32), ("s32", 'w', 32), ("u64", 'l', 64), ("s64", 'l', 64)] {
        let ones = u64::MAX >> (64 - bits);
        let cases = product(&[samples(kind); 2]);
        let sum = |a: u64, b: u64, carry: u64| u128::from(a) + u128::from(b) + u128::from(carry);
        for (first, then) in [("sub.cc", "addc"), ("sub.cc", "subc"), ("add.cc", "addc"), ("add.cc", "subc")] {
            let body = format!(
                "{first}.{ty} %d, %a, %b; {then}.cc.{ty} %e, %b, %a; {then}.{ty} %f, %a, 5; {first}.{ty} %g, %b, %a; addc.{ty} %g, 0, 0;"
            );
            for (x, found) in cases.iter().zip(run(&format!("{0}{0}{0}{0}={0}{0}", kind), &body, &cases)) {
                let add = |op: &str, a: u64, b: u64, carry: u64| match op.starts_with("sub") {
                    true => sum(a, !b & ones, carry),
                    false => sum(a, b, carry),
                };
                let (carry_of, start) = (|sum: u128| (sum >> bits) as u64, u64::from(first == "sub.cc"));
                let one = add(first, x[0], x[1], start);
                let two = add(then, x[1], x[0], carry_of(one));
                let three = add(then, x[0], 5, carry_of(two));
                let four = carry_of(add(first, x[1], x[0], start));
                let expected = [one, two, three, four.into()].map(|sum| sum as u64 & ones);
                assert_eq!(found, expected, "{body} {x:x?}");
            }
        }
    }
}
