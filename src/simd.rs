//! Vector arithmetic of the CPU code: run-time dispatch, reductions in a fixed order, and elementary functions.
//!
//! The code is plain loops over fixed-size lanes. [`wide`] compiles it for each instruction set and picks one at run
//! time. Sums use a fixed number of lanes, so their order, and with it their bits, depends on the length alone.

use std::hint::black_box;

/// Lanes of every reduction: one AVX-512 register.
pub const LANES: usize = 16;

/// Runs `body` compiled for the widest vectors that this process uses ([`crate::device::isa`]). `body` and what it
/// calls must be `#[inline(always)]`, and use `for` loops: an iterator's `for_each` may not be inlined.
#[inline(always)]
pub fn wide<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::device::isa::{Isa, level};

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        match level() {
            // SAFETY: this processor has the instructions: `level` is never one that is not there.
            Isa::Avx512 => unsafe { avx512(body) },
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2(body) },
            Isa::Portable => body(),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    body()
}

/// Whether code with AVX2 intrinsics may run: the processor has the instructions, and `FLIPK_CPU` allows them.
#[cfg(target_arch = "x86_64")]
pub fn has_avx2() -> bool {
    crate::device::isa::level() >= crate::device::isa::Isa::Avx2
}

/// Prefetches one of `parts` equal parts of the memory behind `slice`, of which there is as much as of the slice, to
/// the second cache. There need not be such memory.
#[inline(always)]
pub fn prefetch_behind(slice: &[f32], part: usize, parts: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

        let lines = slice.len().div_ceil(parts * LANES);
        let from = slice.as_ptr().wrapping_add(slice.len() + part * lines * LANES);
        for line in 0..lines {
            // SAFETY: a prefetch of any address does no harm, and every x86-64 processor has the instruction.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line * LANES).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, part, parts);
}

/// `Σ term(index, value)` over `values` taken lane by lane, in a fixed order.
#[inline(always)]
pub fn sum(values: &[f32], term: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for (block, values) in blocks.iter().enumerate() {
        for lane in 0..LANES {
            lanes[lane] += term(block * LANES + lane, values[lane]);
        }
    }
    let mut tail = 0.0;
    for (index, value) in rest.iter().enumerate() {
        tail += term(blocks.len() * LANES + index, *value);
    }
    total(lanes) + tail
}

/// As [`sum`], over several slices of equal length and for several terms in one pass.
#[inline(always)]
pub fn sums<const N: usize, const S: usize>(operands: [&[f32]; N], term: impl Fn([f32; N]) -> [f32; S]) -> [f32; S] {
    let len = operands[0].len();
    let operands = operands.map(|operand| operand[..len].as_chunks::<LANES>());
    let blocks = operands[0].0.len();
    let whole = operands.map(|(whole, _)| &whole[..blocks]);
    let mut lanes = [[0.0; LANES]; S];
    for block in 0..blocks {
        let values = whole.map(|whole| whole[block]);
        for lane in 0..LANES {
            let terms = term(std::array::from_fn(|operand| values[operand][lane]));
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    let mut tails = [0.0; S];
    for index in 0..len % LANES {
        let terms = term(std::array::from_fn(|operand| operands[operand].1[index]));
        for (tail, term) in tails.iter_mut().zip(terms) {
            *tail += term;
        }
    }
    std::array::from_fn(|sum| total(lanes[sum]) + tails[sum])
}

/// The sum of the lanes, by halves.
#[inline(always)]
pub fn total(lanes: [f32; LANES]) -> f32 {
    halves(lanes, |a, b| a + b)
}

/// The largest lane. No lane may be NaN.
#[inline(always)]
fn largest(lanes: [f32; LANES]) -> f32 {
    halves(lanes, |a, b| if b > a { b } else { a })
}

/// All lanes combined, by halves.
///
/// `black_box` hides this from the compiler. Otherwise LLVM vectorises the loop before it in the shape of the halves,
/// with registers of two lanes, which takes eight times as long.
#[inline(always)]
fn halves(lanes: [f32; LANES], both: impl Fn(f32, f32) -> f32) -> f32 {
    let lanes = black_box(lanes);
    let eight: [f32; 8] = black_box(std::array::from_fn(|lane| both(lanes[lane], lanes[lane + 8])));
    let four: [f32; 4] = std::array::from_fn(|lane| both(eight[lane], eight[lane + 4]));
    both(both(four[0], four[2]), both(four[1], four[3]))
}

/// `a · b`; the slices have one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let [dot] = sums([a, b], |[a, b]| [a * b]);
    dot
}

/// `query · row` for each of `rows`, `[rows, query.len()]`.
pub fn dots(query: &[f32], rows: &[f32]) -> Vec<f32> {
    let mut products = vec![0.0; rows.len() / query.len()];
    wide(
        #[inline(always)]
        || {
            for (product, row) in products.iter_mut().zip(rows.chunks_exact(query.len())) {
                *product = dot(query, row);
            }
        },
    );
    products
}

/// The largest element, or negative infinity if there is none; NaN is ignored.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    tail.iter().fold(largest(lanes), |max, value| if *value > max { *value } else { max })
}

/// `e^x` for finite or infinite `x`, within 1.5 units in the last place of results that are not denormal (those become
/// the smallest normal number or less). A quiet NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part ln 2), then a polynomial of degree 7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to an integer, which stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.7 { 88.7 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 1.0 / 5040.0;
    let p = r.mul_add(p, 1.0 / 720.0);
    let p = r.mul_add(p, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = (r * r).mul_add(p, r) + 1.0;
    // n, from -126 to 128, is added to the exponent. At the ends the limits of x keep the sum within the normal
    // numbers: where n = -126, p > 1, and where n = 128, p < 1.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `ln x` for positive `x` that is not denormal; infinity and NaN stay what they are.
///
/// FreeBSD's `logf`, without its cases for other `x`: it has the bits of `libm::logf`.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_138_1;
    const LN2_LOW: f32 = 9.058_001e-6;
    /// √2 / 2, where the mantissa's range begins.
    const HALF_ROOT: u32 = 0x3f35_04f3;
    let shifted = x.to_bits().wrapping_add(0x3f80_0000 - HALF_ROOT);
    let exponent = ((shifted >> 23) as i32 - 127) as f32;
    let f = f32::from_bits((shifted & 0x007f_ffff) + HALF_ROOT) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let odd = w * (0.400_009_72 + w * 0.242_790_79);
    let even = z * (0.666_666_6 + w * 0.284_987_87);
    let half = 0.5 * f * f;
    let ln = s * (half + (even + odd)) + exponent * LN2_LOW - half + f + exponent * LN2_HIGH;
    if x < f32::INFINITY { ln } else { x }
}

/// `1 / (1 + e^-x)`, within 3 units in the last place where `|x| < 87`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`, within 5 units in the last place where `x > -87`.
///
/// `max(x, 0) + ln(1 + e)` with `e = e^-|x|`, and `ln(1 + e) = 2 atanh s` with `s = e / (2 + e) ≤ 1/3` by its power
/// series.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    let s = e / (2.0 + e);
    let t = s * s;
    let p = 1.0 / 13.0;
    let p = p * t + 1.0 / 11.0;
    let p = p * t + 1.0 / 9.0;
    let p = p * t + 1.0 / 7.0;
    let p = p * t + 1.0 / 5.0;
    let p = p * t + 1.0 / 3.0;
    (if x > 0.0 { x } else { 0.0 }) + 2.0 * (p * t * s + s)
}

/// The error function, with an absolute error below 5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let p = 1.061_405_4 * t - 1.453_152_1;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    (1.0 - p * t * exp(-magnitude * magnitude)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of `approximation` against `exact` (in f64) over a fine grid, in units of `scale(exact)`.
    fn worst(
        range: std::ops::Range<i32>,
        approximation: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        scale: fn(f64) -> f64,
    ) -> f64 {
        (range.start * 1000..range.end * 1000)
            .map(|i| i as f32 / 1000.0)
            .map(|x| (f64::from(approximation(x)) - exact(f64::from(x))).abs() / scale(exact(f64::from(x))))
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        let ulps = worst(-87..88, exp, f64::exp, |exact| exact * f64::from(f32::EPSILON));
        assert!(ulps < 1.5, "{ulps}");
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan() && exp(0.0) == 1.0);
        assert!((1e-38..1.3e-38).contains(&exp(f32::NEG_INFINITY)) && (3e38..f32::MAX).contains(&exp(f32::INFINITY)));
    }

    #[test]
    fn ln_has_the_bits_of_libm() {
        for bits in (f32::MIN_POSITIVE.to_bits()..=f32::INFINITY.to_bits()).step_by(997) {
            let x = f32::from_bits(bits);
            assert_eq!(ln(x).to_bits(), libm::logf(x).to_bits(), "{x}");
        }
        assert!(ln(1.0) == 0.0 && ln(f32::INFINITY) == f32::INFINITY && ln(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_and_softplus_are_within_their_stated_errors() {
        let ulp = |exact: f64| exact * f64::from(f32::EPSILON);
        let sigmoids = worst(-80..80, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), ulp);
        let softpluses = worst(-80..80, softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), ulp);
        assert!(sigmoids < 3.0 && softpluses < 5.0, "{sigmoids} {softpluses}");
    }

    /// erf by its power series, which converges everywhere; 100 terms serve |x| < 5 in f64.
    #[test]
    fn erf_is_within_its_stated_error() {
        fn series(x: f64) -> f64 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        }
        let error = worst(-4..4, erf, series, |_| 1.0);
        assert!(error < 5e-7, "{error}");
    }

    #[test]
    fn sums_and_maxima_cover_the_tail() {
        let values: Vec<f32> = (0..53).map(|i| (i * 7 % 53) as f32).collect();
        assert_eq!(sum(&values, |i, value| value + i as f32), (53 * 52) as f32);
        let [total, squares] = sums([&values[..], &values], |[a, b]| [a, a * b]);
        assert_eq!((total, squares), ((53 * 52 / 2) as f32, (52 * 53 * 105 / 6) as f32));
        assert_eq!(dots(&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0, 7.0]), [11.0, 17.0]);
        assert_eq!(max(&values), 52.0);
        assert_eq!(max(&values[..3]), 14.0);
    }
}
