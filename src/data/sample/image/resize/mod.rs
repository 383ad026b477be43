//! Bicubic resize of some patches of an image, antialiased when it shrinks, as in Pillow.
//!
//! Vertically first, for eight rows of a patch at a time and the columns that its visible patches need; then
//! horizontally, with one row in each lane of a register. All arithmetic is in integers: the bits of a patch depend
//! neither on the other patches that are computed nor on the instruction set. Pillow goes horizontally first and rounds
//! to whole numbers in between; results differ by at most 2.
//!
//! | file | what it does |
//! |---|---|
//! | `weights` | the filter's weights for one axis |
//! | `plain`, `avx2` | both passes in plain code, and with AVX2 |

#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;

pub(super) use self::weights::Span;
use self::weights::{Axis, Pair};
use crate::data::sample::augment::CropRect;
#[cfg(target_arch = "x86_64")]
use crate::simd;

const CHANNELS: usize = 3;
/// Rows that go through the second pass together.
const ROWS: usize = 8;
/// Fraction bits between the passes. The filter's overshoot keeps values within -64 and 320.
const FRACTION: u32 = 6;

/// Two neighbouring columns of eight rows: `[3, 8, 2]`.
type Lanes = [i16; CHANNELS * ROWS * 2];

/// The lanes and weights of one output.
type Taps<'a> = (&'a [Lanes], &'a [Pair]);

/// What a line of the first pass is a sum of.
struct Line<'a> {
    /// From the first byte of the line in the first row on.
    source: &'a [u8],
    /// Bytes from row to row.
    stride: usize,
    /// Bytes of the line.
    length: usize,
    /// The last row that may be read.
    last: usize,
    first: usize,
    weights: &'a [Pair],
    bits: u32,
}

impl Line<'_> {
    /// The rows of a pair of weights. The second may be missing; its weight is 0 then.
    #[inline(always)]
    fn rows(&self, pair: usize) -> [&[u8]; 2] {
        let row = self.first + 2 * pair;
        [row, (row + 1).min(self.last)].map(|row| &self.source[row * self.stride..][..self.length])
    }
}

/// What is resized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// `[.., width, 3]`
    pub(super) pixels: &'a [u8],
    pub(super) width: u32,
    /// Pixels outside it do not contribute. It lies inside the image.
    pub(super) crop: CropRect,
    /// Where the outputs lie in the crop.
    pub(super) rows: Span,
    pub(super) columns: Span,
    /// Whether the result is flipped horizontally.
    pub(super) mirrored: bool,
}

/// Resizes to squares of one size, patch by patch; reuses its work space.
#[derive(Debug)]
pub(super) struct Resizer {
    side: usize,
    patch: usize,
    rows: Axis,
    columns: Axis,
    /// Eight lines between the passes.
    lines: Vec<i16>,
    /// The same by pairs of columns, `[pairs]`.
    lanes: Vec<Lanes>,
    /// Pairs of columns that some visible patches need, without overlaps.
    needed: Vec<Range<usize>>,
    passes: Passes,
}

impl Resizer {
    /// For squares of `side` x `side` pixels, in patches of `patch` x `patch`; `patch` divides `side`.
    pub(super) fn new(side: usize, patch: usize) -> Self {
        let (rows, columns) = (Axis::default(), Axis::default());
        let (lines, lanes, needed) = (Vec::new(), Vec::new(), Vec::new());
        Self { side, patch, rows, columns, lines, lanes, needed, passes: Passes::best() }
    }

    /// Computes the patches `ids`, into `out` (`[ids, patch, patch, 3]`).
    ///
    /// # Panics
    /// If the square has fewer patches, or `out` has another length.
    pub(super) fn resize(&mut self, from: &Source, ids: &[u32], out: &mut [u8]) {
        let bytes = self.patch * self.patch * CHANNELS;
        assert_eq!(out.len(), ids.len() * bytes, "bytes of {} patches", ids.len());
        self.rows.set(&from.rows, self.side, 1);
        self.columns.set(&from.columns, self.side, 2);
        let pairs = (from.crop.width as usize).div_ceil(2);
        self.lines.resize(ROWS * stride(pairs), 0);
        self.lanes.resize(pairs, [0; _]);
        let across = self.side / self.patch;
        let mut rest = out;
        for ids in ids.chunk_by(|a, b| *a as usize / across == *b as usize / across) {
            let (own, others) = rest.split_at_mut(ids.len() * bytes);
            self.need(from.mirrored, ids);
            for top in (0..self.patch).step_by(ROWS) {
                let rows = ROWS.min(self.patch - top);
                self.down(from, ids[0] as usize / across * self.patch + top, rows);
                let line = self.patch * CHANNELS;
                for (out, id) in own.chunks_exact_mut(bytes).zip(ids) {
                    self.along(from.mirrored, *id, &mut out[top * line..][..rows * line]);
                }
            }
            rest = others;
        }
    }

    /// The first of a patch's columns in the square, before that is mirrored.
    fn left(&self, mirrored: bool, id: u32) -> usize {
        let left = id as usize % (self.side / self.patch) * self.patch;
        if mirrored { self.side - self.patch - left } else { left }
    }

    /// Lists the pairs of columns that patches of one row need.
    fn need(&mut self, mirrored: bool, ids: &[u32]) {
        let mut needed = std::mem::take(&mut self.needed);
        needed.clear();
        needed.extend(ids.iter().map(|&id| {
            let left = self.left(mirrored, id);
            let (first, _) = self.columns.taps(left);
            let (last, weights) = self.columns.taps(left + self.patch - 1);
            first / 2..last / 2 + weights.len()
        }));
        needed.sort_unstable_by_key(|range| range.start);
        needed.dedup_by(|next, range| {
            let meet = next.start <= range.end;
            if meet {
                range.end = range.end.max(next.end);
            }
            meet
        });
        self.needed = needed;
    }

    /// The vertical pass for `rows` rows of the square from `top` on.
    fn down(&mut self, from: &Source, top: usize, rows: usize) {
        let CropRect { left, top: above, width, height } = from.crop;
        let across = from.width as usize * CHANNELS;
        let start = above as usize * across + left as usize * CHANNELS;
        let stride = stride(self.lanes.len());
        for needed in &self.needed {
            let columns = needed.start * 2..(needed.end * 2).min(width as usize);
            let source = &from.pixels[start + columns.start * CHANNELS..];
            let length = columns.len() * CHANNELS;
            for row in 0..rows {
                let (first, weights) = self.rows.taps(top + row);
                let last = height as usize - 1;
                let line = Line { source, stride: across, length, first, last, weights, bits: self.rows.bits };
                self.passes.mix_rows(&line, &mut self.lines[row * stride + columns.start * CHANNELS..][..length]);
            }
            let lines = &self.lines[columns.start * CHANNELS..];
            self.passes.interleave(lines, stride, &mut self.lanes[needed.clone()]);
        }
    }

    /// The horizontal pass for those rows of patch `id`, into `out` (`[rows, patch, 3]`).
    fn along(&self, mirrored: bool, id: u32, out: &mut [u8]) {
        let left = self.left(mirrored, id);
        self.passes.mix_columns(
            #[inline(always)]
            |x| {
                let (first, weights) = self.columns.taps(left + if mirrored { self.patch - 1 - x } else { x });
                (&self.lanes[first / 2..][..weights.len()], weights)
            },
            self.columns.bits,
            self.patch * CHANNELS,
            out,
        );
    }
}

/// Numbers from line to line between the passes: `avx2` reads two behind a pair.
fn stride(pairs: usize) -> usize {
    pairs * 2 * CHANNELS + 2
}

/// What the passes are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    Plain,
    /// Only where [`simd::has_avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Passes {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if simd::has_avx2() {
            return Self::Avx2;
        }
        Self::Plain
    }

    #[inline(always)]
    fn mix_rows(self, line: &Line, out: &mut [i16]) {
        match self {
            Self::Plain => plain::mix_rows(line, out),
            // SAFETY: this processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::mix_rows(line, out) },
        }
    }

    #[inline(always)]
    fn interleave(self, lines: &[i16], stride: usize, out: &mut [Lanes]) {
        match self {
            Self::Plain => plain::interleave(lines, stride, out),
            // SAFETY: this processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::interleave(lines, stride, out) },
        }
    }

    #[inline(always)]
    fn mix_columns<'a>(self, taps: impl Fn(usize) -> Taps<'a>, bits: u32, line: usize, out: &mut [u8]) {
        match self {
            Self::Plain => plain::mix_columns(taps, bits, line, out),
            // SAFETY: this processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::mix_columns(taps, bits, line, out) },
        }
    }
}
