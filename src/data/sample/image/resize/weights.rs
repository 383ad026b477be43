//! The weights of one axis: Pillow's bicubic filter (Catmull-Rom, a = -1/2), stretched by the scale when the image
//! shrinks.

#[cfg(test)]
use super::FRACTION;
use crate::simd::wide;

/// Fraction bits of a weight at a scale below 2; see [`Axis::bits`].
const BITS: u32 = 14;

/// Where the outputs of an axis lie in its source.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Span {
    /// Source pixels; those outside the span contribute to outputs near its ends.
    pub source: usize,
    /// Where the first output begins, in source pixels.
    pub first: f64,
    /// Source pixels that all outputs cover.
    pub length: f64,
}

impl Span {
    /// All of `source` pixels.
    pub(in super::super) fn whole(source: u32) -> Self {
        Self { source: source as usize, first: 0.0, length: f64::from(source) }
    }
}

/// The weights of two neighbouring source pixels, as integers.
pub(super) type Pair = [i16; 2];

/// Weights that are computed together.
const RUN: usize = 8;

/// The source pixels of one output.
#[derive(Clone, Copy, Debug)]
struct Taps {
    /// The first source pixel.
    first: usize,
    /// Pairs of weights.
    pairs: usize,
}

/// For each output, the source pixels that it is a weighted sum of. The weights of an output sum to exactly `1 <<
/// bits`, so that flat areas stay as they are.
#[derive(Debug, Default)]
pub(super) struct Axis {
    /// `[outputs]`
    taps: Vec<Taps>,
    /// `[outputs, stride]`
    weights: Vec<Pair>,
    stride: usize,
    /// Fraction bits of all weights. No weight exceeds 1.2 / max(scale, 1), so that it fits 16 bits with more fraction
    /// bits where the scale is larger. With 16 of them, sums of 255 x 64 times the weights' magnitudes still fit 32
    /// bits.
    pub(super) bits: u32,
    /// Weights of one output before they are rounded.
    raw: Vec<[f64; RUN]>,
}

impl Axis {
    /// Computes the weights of `outputs` pixels. The first source pixel of each is a multiple of `align`.
    pub(super) fn set(&mut self, span: &Span, outputs: usize, align: usize) {
        let scale = span.length / outputs as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        self.bits = BITS + u32::from(scale >= 2.0) + u32::from(scale >= 4.0);
        // Source pixels of an output at most, and what fills the last run.
        let most = (2.0 * support) as usize + 2;
        self.stride = (align + most.next_multiple_of(RUN)).div_ceil(2);
        self.taps.clear();
        self.weights.resize(outputs * self.stride, [0; 2]);
        self.raw.resize(most.div_ceil(RUN), [0.0; RUN]);
        for output in 0..outputs {
            let centre = span.first + (output as f64 + 0.5) * scale;
            // Conversions to integers round towards zero, as in Pillow, and clamp what is negative.
            let from = ((centre - support + 0.5) as usize).min(span.source - 1);
            let to = ((centre + support + 0.5) as usize).clamp(from + 1, span.source);
            let before = from % align;
            let weights = self.weights[output * self.stride..][..self.stride].as_flattened_mut();
            weights[0] = 0;
            let weights = &mut weights[before..];
            let one = 1 << self.bits;
            let raw = &mut self.raw[..(to - from).div_ceil(RUN)];
            wide(
                #[inline(always)]
                || fill(from as f64 + 0.5 - centre, stretch, one, to - from, raw, weights),
            );
            // The other half of the last pair.
            weights[to - from] = 0;
            // What rounding has taken from the sum goes to the pixel in the middle, which has the largest weight.
            let missing = one - weights[..to - from].iter().map(|&weight| i32::from(weight)).sum::<i32>();
            let middle = (centre as usize).clamp(from, to - 1) - from;
            weights[middle] = (i32::from(weights[middle]) + missing) as i16;
            self.taps.push(Taps { first: from - before, pairs: (before + to - from).div_ceil(2) });
        }
    }

    /// The first source pixel of an output, and the weights from there on.
    #[inline(always)]
    pub(super) fn taps(&self, output: usize) -> (usize, &[Pair]) {
        let Taps { first, pairs } = self.taps[output];
        (first, &self.weights[output * self.stride..][..pairs])
    }
}

/// The weights of `count` pixels, the first of which has the distance `first` from the output's centre, and zeros up to
/// the end of the last run.
#[inline(always)]
fn fill(first: f64, stretch: f64, one: i32, count: usize, raw: &mut [[f64; RUN]], weights: &mut [i16]) {
    /// Adding it rounds to an integer, which stands in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let mut sums = [0.0; RUN];
    let inverse = 1.0 / stretch;
    for (run, raw) in raw.iter_mut().enumerate() {
        for lane in 0..RUN {
            let pixel = run * RUN + lane;
            let weight = cubic((first + pixel as f64) * inverse);
            raw[lane] = if pixel < count { weight } else { 0.0 };
            sums[lane] += raw[lane];
        }
    }
    let four: [f64; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    let factor = f64::from(one) / ((four[0] + four[2]) + (four[1] + four[3]));
    for (raw, weights) in raw.iter().zip(weights.as_chunks_mut::<RUN>().0) {
        for lane in 0..RUN {
            // In range: see `Axis::bits`.
            weights[lane] = (raw[lane] * factor + ROUND).to_bits() as i16;
        }
    }
}

#[inline(always)]
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    let near = (1.5 * x - 2.5) * x * x + 1.0;
    let far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
    let outer = if x < 2.0 { far } else { 0.0 };
    if x < 1.0 { near } else { outer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds that `Axis::bits` and the passes' integers rely on, at all scales.
    #[test]
    fn weights_sum_to_one_and_fit_their_integers() {
        let mut axis = Axis::default();
        let sources = (1..600).chain([1000, 3001, 10_000]);
        for source in sources {
            for outputs in [1, 2, 7, 16, 48, 224, 1024] {
                for align in [1, 2] {
                    let long = f64::from(source);
                    let spans = [(0.0, long), (long / 3.0, long / 3.0), (0.0, 1.0), (long - 1.0, 1.0)];
                    for (first, length) in spans {
                        let source = source as usize;
                        axis.set(&Span { source, first, length }, outputs, align);
                        for output in 0..outputs {
                            let (first, pairs) = axis.taps(output);
                            let weights: Vec<i32> = pairs.as_flattened().iter().map(|&w| i32::from(w)).collect();
                            assert!(first % align == 0 && first < source && first + weights.len() < source + 2);
                            assert_eq!(weights.iter().sum::<i32>(), 1 << axis.bits, "{source} to {outputs}");
                            let magnitude: i32 = weights.iter().map(|weight| weight.abs()).sum();
                            let positive = (magnitude + (1 << axis.bits)) / 2;
                            // Sums of the first pass fit 16 bits, and those of the second, of any such sums, 32 bits.
                            let first = (i64::from(positive) * 255) << FRACTION >> axis.bits;
                            let second = first * i64::from(magnitude) + (1 << (axis.bits + FRACTION - 1));
                            assert!(first < 1 << 15 && second < 1 << 31, "{source} to {outputs}: {first} {second}");
                        }
                    }
                }
            }
        }
    }
}
