//! The passes of a resize in plain code: what `avx2` must compute.

use super::{CHANNELS, FRACTION, Lanes, Line, ROWS, Taps};

/// Columns that are summed together.
const RUN: usize = 16;

/// The vertical pass for one line: `out[i]` is the weighted sum of the rows' bytes `i`, with [`FRACTION`] bits of
/// fraction.
#[inline(always)]
pub(super) fn mix_rows(line: &Line, out: &mut [i16]) {
    let shift = line.bits - FRACTION;
    for (start, out) in (0..).step_by(RUN).zip(out.chunks_mut(RUN)) {
        let mut sums = [1 << (shift - 1); RUN];
        for (index, [one, two]) in line.weights.iter().enumerate() {
            let [a, b] = line.rows(index).map(|row| &row[start..start + out.len()]);
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += i32::from(*a) * i32::from(*one) + i32::from(*b) * i32::from(*two);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (sum >> shift) as i16;
        }
    }
}

/// Eight lines, each `[pairs, 2, 3]` at a distance of `stride`, to `[pairs, 3, 8, 2]`.
#[inline(always)]
pub(super) fn interleave(lines: &[i16], stride: usize, out: &mut [Lanes]) {
    for (row, line) in lines.chunks(stride).take(ROWS).enumerate() {
        let (pairs, _) = line.as_chunks::<{ 2 * CHANNELS }>();
        for (out, pair) in out.iter_mut().zip(pairs) {
            for channel in 0..CHANNELS {
                out[(channel * ROWS + row) * 2] = pair[channel];
                out[(channel * ROWS + row) * 2 + 1] = pair[CHANNELS + channel];
            }
        }
    }
}

/// The horizontal pass: pixels of a patch for up to eight rows, `out: [rows, line]` bytes. `taps(x)` has the lanes and
/// weights of output `x`.
#[inline(always)]
pub(super) fn mix_columns<'a>(taps: impl Fn(usize) -> Taps<'a>, bits: u32, line: usize, out: &mut [u8]) {
    let shift = bits + FRACTION;
    for x in 0..line / CHANNELS {
        let (lanes, weights) = taps(x);
        let mut sums = [1 << (shift - 1); CHANNELS * ROWS];
        for (lanes, [one, two]) in lanes.iter().zip(weights) {
            let (pairs, _) = lanes.as_chunks::<2>();
            for (sum, [a, b]) in sums.iter_mut().zip(pairs) {
                *sum += i32::from(*a) * i32::from(*one) + i32::from(*b) * i32::from(*two);
            }
        }
        for (row, out) in out.chunks_mut(line).enumerate() {
            for channel in 0..CHANNELS {
                out[x * CHANNELS + channel] = (sums[channel * ROWS + row] >> shift).clamp(0, 255) as u8;
            }
        }
    }
}
