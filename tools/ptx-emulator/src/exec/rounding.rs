//! Rounding that the processor does not do itself: directed modes, narrow formats, flushing of subnormals.
//!
//! Results are computed in f64 *rounded to odd* (an inexact result gets an odd last bit). Such a number rounds to any
//! format of at most 51 bits, in any mode, as the exact value would (Boldo and Melquiond 2008).

use crate::isa::Round;
use half::{bf16, f16};

/// The NaN that f32 instructions of PTX return.
pub(super) const NAN: f32 = f32::from_bits(0x7fff_ffff);

#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    // On bits: the compiler may replace one NaN by another in float operations.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN.to_bits() } else { bits })
}

#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    if x.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

#[inline(always)]
pub(super) fn flush_if(ftz: bool, x: f32) -> f32 {
    if ftz { flush(x) } else { x }
}

/// Clamps to [0, 1]; NaN and -0 become 0.
#[inline(always)]
pub(super) fn saturate<T: PartialOrd + From<u8>>(x: T) -> T {
    let (zero, one) = (T::from(0), T::from(1));
    if x > zero { if x < one { x } else { one } } else { zero }
}

/// Rounds the exact value `sum + error` to odd, where `sum` is that value rounded to nearest.
#[inline(always)]
fn to_odd(sum: f64, error: f64) -> f64 {
    let bits = sum.to_bits();
    let inexact = error != 0.0 && sum.is_finite();
    let even = bits & 1 == 0;
    // If the error points towards zero, `sum` was rounded away from zero: step back.
    let towards_zero = (error < 0.0) != (sum < 0.0);
    let odd = if towards_zero { bits.wrapping_sub(1) } else { bits | 1 };
    if inexact && even { f64::from_bits(odd) } else { sum }
}

/// `a * b + c` of single-precision numbers, rounded to odd.
#[inline(always)]
pub(super) fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    // The product of two f32 is exact in f64; Knuth's TwoSum gives the error of the sum.
    let (product, c) = (a as f64 * b as f64, c as f64);
    let sum = product + c;
    let of_c = sum - product;
    let error = (product - (sum - of_c)) + (c - of_c);
    to_odd(sum, error)
}

/// Rounds to f32.
#[inline(always)]
pub(super) fn to_f32(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    // One step down or up if rounding to nearest went the other way. Comparisons with NaN are false.
    let down = match round {
        Round::Nearest | Round::NearestAway => false,
        Round::Zero => back.abs() > x.abs(),
        Round::Down => back > x,
        Round::Up => false,
    };
    let up = round == Round::Up && back < x;
    if down {
        if round == Round::Zero { f32::from_bits(nearest.to_bits() - 1) } else { nearest.next_down() }
    } else if up {
        nearest.next_up()
    } else {
        nearest
    }
}

/// Rounds to bf16; NaN becomes 0x7fff.
#[inline(always)]
pub(super) fn to_bf16(x: f32, round: Round) -> bf16 {
    let bits = x.to_bits();
    let add = match round {
        Round::Zero => 0,
        Round::Down => 0xffff * (bits >> 31),
        Round::Up => 0xffff * (1 - (bits >> 31)),
        Round::NearestAway => 0x8000,
        Round::Nearest => 0x7fff + (bits >> 16 & 1),
    };
    let rounded = (bits.wrapping_add(add) >> 16) as u16;
    bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded })
}

/// Rounds to f16; NaN becomes 0x7fff.
#[inline(always)]
pub(super) fn to_f16(x: f64, round: Round) -> f16 {
    if x.is_nan() {
        return f16::from_bits(0x7fff);
    }
    let sign = ((x.to_bits() >> 48) & 0x8000) as u16;
    let magnitude = x.abs();
    // Scale by the unit in the last place, which is 2^-24 for subnormals.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(-14);
    let scaled = magnitude * power_of_two(10 - exponent);
    let whole = match (round, sign != 0) {
        (Round::Nearest, _) => scaled.round_ties_even(),
        (Round::NearestAway, _) => scaled.round(),
        (Round::Zero, _) | (Round::Down, false) | (Round::Up, true) => scaled.floor(),
        _ => scaled.ceil(),
    };
    let value = whole * power_of_two(exponent - 10);
    if magnitude.is_infinite() || exponent > 15 || value >= 65536.0 {
        let to_max = matches!((round, sign != 0), (Round::Zero, _) | (Round::Down, false) | (Round::Up, true));
        let infinite = magnitude.is_infinite() || !to_max;
        return f16::from_bits(sign | if infinite { 0x7c00 } else { 0x7bff });
    }
    // `whole` is at most 2^11; a carry goes into the exponent.
    let whole = whole as u16;
    let bits = if whole < 1 << 10 { whole } else { (((exponent + 15) as u16) << 10).wrapping_add(whole - (1 << 10)) };
    f16::from_bits(sign | bits)
}

/// Rounds to tf32: 10 bits of mantissa, in an f32.
#[inline(always)]
pub(super) fn to_tf32(x: f32, round: Round) -> f32 {
    let bits = x.to_bits();
    let add = match round {
        Round::Zero => 0,
        Round::Nearest => 0xfff + (bits >> 13 & 1),
        _ => 0x1000,
    };
    if x.is_nan() { NAN } else { f32::from_bits(bits.wrapping_add(add) & !0x1fff) }
}

/// 2^n for n in [-1022, 1023].
#[inline(always)]
pub(super) fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_formats_agree_with_half() {
        for i in 0..2_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(2_654_435_761));
            if !x.is_nan() {
                assert_eq!(to_f16(x as f64, Round::Nearest), f16::from_f32(x), "{x:e}");
                assert_eq!(to_bf16(x, Round::Nearest), bf16::from_f32(x), "{x:e}");
            }
        }
    }

    #[test]
    fn directed_rounding_brackets_the_exact_value() {
        let third = 1.0f64 / 3.0;
        for x in [third, -third, 1e-46, -1e-46, 1e39, -1e39] {
            let (down, up, zero) = (to_f32(x, Round::Down), to_f32(x, Round::Up), to_f32(x, Round::Zero));
            assert!((down as f64) < x && x < up as f64);
            assert_eq!(down.next_up(), up, "{x:e}");
            assert_eq!(zero, if x > 0.0 { down } else { up });
        }
        assert_eq!(to_f32(0.5, Round::Down), 0.5);
        // 1 + 2^-80: nearest is 1, upwards is the next number, which f64 alone would not see.
        let tiny = f32::from_bits((127 - 80) << 23);
        assert_eq!(to_f32(fma_odd(1.0, 1.0, tiny), Round::Up), 1.0f32.next_up());
        assert_eq!(to_f32(fma_odd(1.0, 1.0, -tiny), Round::Down), 1.0f32.next_down());
        assert_eq!(to_f32(fma_odd(1.0, 1.0, -tiny), Round::Nearest), 1.0);
    }

    #[test]
    fn rounding_of_f16_by_mode() {
        // 1 + 2^-11 lies half way between 1 and 1 + 2^-10.
        let x = 1.0 + 2f64.powi(-11);
        let bits = |round| to_f16(x, round).to_bits();
        assert_eq!([Round::Nearest, Round::Zero, Round::Down, Round::Up].map(bits), [0x3c00, 0x3c00, 0x3c00, 0x3c01]);
        assert_eq!(to_f16(70000.0, Round::Zero).to_bits(), 0x7bff);
        assert_eq!(to_f16(-70000.0, Round::Nearest).to_bits(), 0xfc00);
        assert_eq!(to_f16(65519.0, Round::Nearest).to_bits(), 0x7bff);
        assert_eq!(to_f16(65520.0, Round::Nearest).to_bits(), 0x7c00);
    }
}
