//! Vector arithmetic that the CPU ops share: run-time dispatch, fixed-order reductions, and elementary functions.
//!
//! The code is plain loops over fixed-size lanes; [`wide`] compiles it for each instruction set and picks one at run
//! time. Sums go through a fixed number of lanes, so their order, and so their bits, depend on the length alone.

/// Lanes of every reduction: one AVX-512 register.
pub const LANES: usize = 16;

/// Runs `body` compiled for the widest vectors that this process uses ([`crate::device::isa`]). `body` and what it calls must
/// be `#[inline(always)]` to profit, and loop by `for`: what an iterator's `for_each` does may stay a function of its own.
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

/// `Σ term(index)` over `0..len` elements taken lane by lane, in a fixed order.
#[inline(always)]
pub fn sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
    }
    let mut tail = 0.0;
    for index in whole..len {
        tail += term(index);
    }
    total(lanes) + tail
}

/// The sum of the lanes, by halves.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `a · b`; the slices have one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    sum(a.len(), |i| a[i] * b[i])
}

/// The largest element, or negative infinity; NaN is passed over.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |most, value| if *value > most { *value } else { most })
}

/// `e^x` for finite or infinite `x`, within 1.5 units in the last place of results that are not denormal (those become
/// the smallest normal number or less); NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part ln 2), then a polynomial of degree 6.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to an integer, which stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.7 { 88.7 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n in two factors, so that n = 128 does not overflow the exponent's bits.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * f32::from_bits(((half + 127) << 23) as u32) * f32::from_bits(((n - half + 127) << 23) as u32)
}

/// `tanh x`, with an absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `1 / (1 + e^-x)`, within 3 units in the last place where `|x| < 87`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`, within 5 units in the last place where `x > -87`.
///
/// `max(x, 0) + ln(1 + e)` with `e = e^-|x|`, and `ln(1 + e) = 2 atanh s` with `s = e / (2 + e) ≤ 1/3` by its power series.
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
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) < 1.3e-38 && exp(0.0) == 1.0);
    }

    #[test]
    fn tanh_is_within_its_stated_error() {
        let error = worst(-20..20, tanh, f64::tanh, |_| 1.0);
        assert!(error < 2e-7, "{error}");
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
        assert_eq!(sum(53, |i| values[i]), (53 * 52 / 2) as f32);
        assert_eq!(max(&values), 52.0);
        assert_eq!(max(&values[..3]), 14.0);
    }
}
