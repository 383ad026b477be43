//! GELU on the CPU: element-wise passes, in parallel over chunks.

use rayon::prelude::*;

use crate::autograd::Activation;
use crate::simd::{erf, exp, wide};

/// Elements of a chunk: small enough for the L1 cache, a multiple of every vector length.
const CHUNK: usize = 4096;

const CUBIC: f32 = 0.044_715;

/// `-2 √(2/π)`: the tanh form is `x σ(2 √(2/π) (x + CUBIC x³))`, with one division and no cancellation.
const SLOPE: f32 = -1.595_769;

/// Factor of the quick form, `x σ(QUICK x)`.
const QUICK: f32 = 1.702;

/// `σ(2 √(2/π) (x + CUBIC x³))`, and the square of `x`.
#[inline(always)]
fn gate(x: f32) -> (f32, f32) {
    let square = x * x;
    (1.0 / (1.0 + exp(x * square.mul_add(SLOPE * CUBIC, SLOPE))), square)
}

#[inline(always)]
fn value(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::GeluTanh => x * gate(x).0,
        Activation::GeluExact => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::QuickGelu => x / (1.0 + exp(-QUICK * x)),
    }
}

#[inline(always)]
fn slope(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::GeluTanh => {
            let (gate, square) = gate(x);
            let inner = square.mul_add(-3.0 * SLOPE * CUBIC, -SLOPE);
            (x * gate * (1.0 - gate)).mul_add(inner, gate)
        }
        Activation::GeluExact => {
            const INV_SQRT_TAU: f32 = 0.398_942_3;
            0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * INV_SQRT_TAU * exp(-0.5 * x * x)
        }
        Activation::QuickGelu => {
            let gate = 1.0 / (1.0 + exp(-QUICK * x));
            (QUICK * x * gate).mul_add(1.0 - gate, gate)
        }
    }
}

/// `y = f(x, y)` for each element.
#[inline(always)]
fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    wide(
        #[inline(always)]
        || {
            for (y, x) in y.iter_mut().zip(x) {
                *y = f(*x, *y);
            }
        },
    );
}

/// `y = gelu(x)`
pub fn forward(kind: Activation, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| piece(kind, x, y));
}

/// `y = gelu(x)` on the calling thread.
pub fn piece(kind: Activation, x: &[f32], y: &mut [f32]) {
    use Activation::{GeluExact, GeluTanh, QuickGelu};
    // A loop for each: with the choice inside, the compiler does not vectorise it.
    match kind {
        GeluTanh => each(
            x,
            y,
            #[inline(always)]
            |x, _| value(GeluTanh, x),
        ),
        GeluExact => each(
            x,
            y,
            #[inline(always)]
            |x, _| value(GeluExact, x),
        ),
        QuickGelu => each(
            x,
            y,
            #[inline(always)]
            |x, _| value(QuickGelu, x),
        ),
    }
}

/// `d *= gelu'(pre)` on the calling thread.
pub fn piece_backward(kind: Activation, pre: &[f32], d: &mut [f32]) {
    use Activation::{GeluExact, GeluTanh, QuickGelu};
    match kind {
        GeluTanh => each(
            pre,
            d,
            #[inline(always)]
            |pre, d| d * slope(GeluTanh, pre),
        ),
        GeluExact => each(
            pre,
            d,
            #[inline(always)]
            |pre, d| d * slope(GeluExact, pre),
        ),
        QuickGelu => each(
            pre,
            d,
            #[inline(always)]
            |pre, d| d * slope(QuickGelu, pre),
        ),
    }
}

/// In: the gradient of `gelu(pre)`; out: that of `pre`.
pub fn backward(kind: Activation, pre: &[f32], d: &mut [f32]) {
    d.par_chunks_mut(CHUNK).zip(pre.par_chunks(CHUNK)).for_each(|(d, pre)| piece_backward(kind, pre, d));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against f64, from -40 to 40: the tails of the tanh form and of its derivative do not cancel.
    #[test]
    fn the_tanh_form_is_exact_to_a_few_units() {
        let exact = |x: f64| {
            let c = f64::from(CUBIC);
            let gate = 1.0 / (1.0 + (-(8.0 / std::f64::consts::PI).sqrt() * (x + c * x * x * x)).exp());
            let inner = (8.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * c * x * x);
            (x * gate, gate + x * gate * (1.0 - gate) * inner)
        };
        for i in -40_000..40_000 {
            let x = i as f32 / 1000.0;
            let (y, dy) = exact(f64::from(x));
            let errors = [(value(Activation::GeluTanh, x), y), (slope(Activation::GeluTanh, x), dy)];
            for (found, exact) in errors {
                let error = (f64::from(found) - exact).abs();
                assert!(error < 3e-6 * exact.abs() + 3e-7, "{x}: {found} for {exact}");
            }
        }
    }
}
