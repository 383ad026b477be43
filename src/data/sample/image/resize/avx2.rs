//! The passes of a resize with AVX2: integer arithmetic as in `plain`, so that the bits are the same.

use std::arch::x86_64::*;

use super::weights::Pair;
use super::{CHANNELS, FRACTION, Lanes, Line, ROWS, Taps, plain};

/// Bytes of a line that are summed together.
const RUN: usize = 32;
/// Pixels of a row that are written together.
const QUAD: usize = 4;

/// Two weights in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
fn spread([one, two]: Pair) -> __m256i {
    _mm256_set1_epi32(i32::from(one) & 0xFFFF | i32::from(two) << 16)
}

/// [`plain::mix_rows`].
#[target_feature(enable = "avx2")]
pub(super) fn mix_rows(line: &Line, out: &mut [i16]) {
    let length = out.len();
    if length < RUN {
        return plain::mix_rows(line, out);
    }
    assert!(length <= line.length && (line.first + 2 * line.weights.len() - 2) <= line.last);
    assert!(line.last * line.stride + line.length <= line.source.len());
    let mut start = 0;
    while start + 2 * RUN <= length {
        // SAFETY: both runs are in the output, which is no longer than the rows, which are in the source.
        unsafe { mix_runs::<2>(line, start, &mut out[start..]) };
        start += 2 * RUN;
    }
    while start < length {
        // The last run overlaps the one before.
        start = start.min(length - RUN);
        // SAFETY: as above, of one run.
        unsafe { mix_runs::<1>(line, start, &mut out[start..]) };
        start += RUN;
    }
}

/// `RUNS` runs from byte `start` of the rows on.
///
/// # Safety
/// They must be in all rows and in `out`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn mix_runs<const RUNS: usize>(line: &Line, start: usize, out: &mut [i16]) {
    let shift = line.bits - FRACTION;
    let (round, count) = (_mm256_set1_epi32(1 << (shift - 1)), _mm_cvtsi32_si128(shift as i32));
    let zero = _mm256_setzero_si256();
    let mut sums = [[round; 4]; RUNS];
    let mut row = line.first;
    for &weights in line.weights {
        // SAFETY: `row` is at most the last row, and by the caller the runs are in all rows.
        let (a, b) = unsafe {
            let a = line.source.as_ptr().add(row * line.stride + start);
            (a, a.add(if row < line.last { line.stride } else { 0 }))
        };
        let weights = spread(weights);
        for (run, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let [a, b] = [a, b].map(|row| unsafe { _mm256_loadu_si256(row.add(run * RUN).cast()) });
            let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let pairs = [
                _mm256_unpacklo_epi8(low, zero),
                _mm256_unpackhi_epi8(low, zero),
                _mm256_unpacklo_epi8(high, zero),
                _mm256_unpackhi_epi8(high, zero),
            ];
            for (sum, pairs) in sums.iter_mut().zip(pairs) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, weights));
            }
        }
        row += 2;
    }
    for (run, sums) in sums.into_iter().enumerate() {
        let sums = sums.map(|sum| _mm256_sra_epi32(sum, count));
        let (low, high) = (_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        // The lanes hold numbers 0 to 7 and 16 to 23, 8 to 15 and 24 to 31.
        let halves = [_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)];
        // SAFETY: by the caller the run is in `out`.
        unsafe {
            let out = out.as_mut_ptr().add(run * RUN);
            _mm256_storeu_si256(out.cast(), halves[0]);
            _mm256_storeu_si256(out.add(RUN / 2).cast(), halves[1]);
        }
    }
}

/// [`plain::interleave`]. `lines` has two numbers more than the last line's pairs.
#[target_feature(enable = "avx2")]
pub(super) fn interleave(lines: &[i16], stride: usize, out: &mut [Lanes]) {
    assert!(lines.len() >= (ROWS - 1) * stride + out.len() * 2 * CHANNELS + 2);
    #[rustfmt::skip]
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, 12, 13, 14, 15));
    for (pair, out) in out.iter_mut().enumerate() {
        let row = |row: usize| {
            // SAFETY: 8 numbers from the pair's first on, of which 6 are its own, are in `lines`: checked above.
            let load =
                |row: usize| unsafe { _mm_loadu_si128(lines.as_ptr().add(row * stride + pair * 2 * CHANNELS).cast()) };
            _mm256_shuffle_epi8(_mm256_set_m128i(load(row + 4), load(row)), order)
        };
        let rows = [row(0), row(1), row(2), row(3)];
        let red_green = [_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpacklo_epi32(rows[2], rows[3])];
        let blue = [_mm256_unpackhi_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[2], rows[3])];
        let channels = [
            _mm256_unpacklo_epi64(red_green[0], red_green[1]),
            _mm256_unpackhi_epi64(red_green[0], red_green[1]),
            _mm256_unpacklo_epi64(blue[0], blue[1]),
        ];
        let (out, _) = out.as_chunks_mut::<{ 2 * ROWS }>();
        for (out, channel) in out.iter_mut().zip(channels) {
            // SAFETY: 32 bytes are written to an array of 16 numbers of two bytes.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), channel) };
        }
    }
}

/// [`plain::mix_columns`].
#[target_feature(enable = "avx2")]
pub(super) fn mix_columns<'a>(taps: impl Fn(usize) -> Taps<'a>, bits: u32, line: usize, out: &mut [u8]) {
    let width = line / CHANNELS;
    let shift = bits + FRACTION;
    let (round, count) = (_mm256_set1_epi32(1 << (shift - 1)), _mm_cvtsi32_si128(shift as i32));
    let pixels = |quads: __m128i| _mm256_broadcastsi128_si256(quads);
    let by_row = pixels(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let packed = pixels(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    // Eight rows of one pixel: four bytes each, the last of which is spare.
    let pixel = |x: usize| {
        let (lanes, weights) = taps(x);
        let mut sums = [round; CHANNELS];
        for (lanes, &weights) in lanes.iter().zip(weights) {
            let weights = spread(weights);
            for (sum, lanes) in sums.iter_mut().zip(lanes.as_chunks::<{ 2 * ROWS }>().0) {
                // SAFETY: 32 bytes are read from an array of 16 numbers of two bytes.
                let lanes = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(lanes, weights));
            }
        }
        let [r, g, b] = sums.map(|sum| _mm256_sra_epi32(sum, count));
        let bytes = _mm256_packus_epi16(_mm256_packs_epi32(r, g), _mm256_packs_epi32(b, b));
        _mm256_shuffle_epi8(bytes, by_row)
    };
    for first in (0..width).step_by(QUAD) {
        let count = QUAD.min(width - first);
        // Past the end, the last pixel again, which is not written.
        let quad = [0, 1, 2, 3].map(|x| pixel((first + x).min(width - 1)));
        let low = [_mm256_unpacklo_epi32(quad[0], quad[1]), _mm256_unpacklo_epi32(quad[2], quad[3])];
        let high = [_mm256_unpackhi_epi32(quad[0], quad[1]), _mm256_unpackhi_epi32(quad[2], quad[3])];
        let rows = [
            _mm256_unpacklo_epi64(low[0], low[1]),
            _mm256_unpackhi_epi64(low[0], low[1]),
            _mm256_unpacklo_epi64(high[0], high[1]),
            _mm256_unpackhi_epi64(high[0], high[1]),
        ];
        for (row, both) in rows.into_iter().enumerate() {
            let both = _mm256_shuffle_epi8(both, packed);
            let halves = [_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)];
            for (half, row) in halves.into_iter().zip([row, row + 4]) {
                let mut bytes = [0; 16];
                // SAFETY: 16 bytes are written to an array of 16.
                unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), half) };
                let at = row * line + first * CHANNELS;
                match out.get_mut(at..) {
                    Some(out) if count == QUAD && out.len() >= QUAD * CHANNELS => {
                        out[..QUAD * CHANNELS].copy_from_slice(&bytes[..QUAD * CHANNELS]);
                    }
                    Some(out) if !out.is_empty() => {
                        out[..count * CHANNELS].copy_from_slice(&bytes[..count * CHANNELS]);
                    }
                    _ => {}
                }
            }
        }
    }
}
