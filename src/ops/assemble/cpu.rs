//! Sequence assembly on the CPU.

use rayon::prelude::*;

use super::Shape;
use crate::simd::wide;

/// `out[b] = [cls + pos[0], patches[b, k] + pos[1 + ids[b, k]]...]`
pub fn forward(shape: Shape, patches: &[f32], ids: &[u32], cls: &[f32], pos: &[f32], out: &mut [f32]) {
    let Shape { kept, width, .. } = shape;
    let samples =
        out.par_chunks_mut((kept + 1) * width).zip(patches.par_chunks(kept * width).zip(ids.par_chunks(kept)));
    samples.for_each(|(out, (patches, ids))| {
        wide(
            #[inline(always)]
            || {
                let (first, rest) = out.split_at_mut(width);
                sum(first, cls, pos);
                for ((out, patch), id) in rest.chunks_exact_mut(width).zip(patches.chunks_exact(width)).zip(ids) {
                    sum(out, patch, &pos[(*id as usize + 1) * width..]);
                }
            },
        );
    });
}

#[inline(always)]
fn sum(out: &mut [f32], a: &[f32], b: &[f32]) {
    for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *out = a + b;
    }
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Hands `dout` back to the patches, the CLS token and, where it is learned, the position table.
pub fn backward(
    shape: Shape,
    dout: &[f32],
    ids: &[u32],
    dpatches: Option<&mut [f32]>,
    (dcls, add_cls): (&mut [f32], bool),
    dpos: Option<(&mut [f32], bool)>,
) {
    let Shape { kept, width, .. } = shape;
    if let Some(dpatches) = dpatches {
        let samples = dpatches.par_chunks_mut(kept * width).zip(dout.par_chunks((kept + 1) * width));
        samples.for_each(|(dpatches, dout)| dpatches.copy_from_slice(&dout[width..]));
    }
    if !add_cls {
        dcls.fill(0.0);
    }
    wide(
        #[inline(always)]
        || {
            for sample in dout.chunks_exact((kept + 1) * width) {
                add(dcls, sample);
            }
        },
    );
    let Some((dpos, add_pos)) = dpos else { return };
    if !add_pos {
        dpos.fill(0.0);
    }
    wide(
        #[inline(always)]
        || {
            for (sample, ids) in dout.chunks_exact((kept + 1) * width).zip(ids.chunks_exact(kept)) {
                let rows = std::iter::once(0).chain(ids.iter().map(|id| *id as usize + 1));
                for (dout, row) in sample.chunks_exact(width).zip(rows) {
                    add(&mut dpos[row * width..][..width], dout);
                }
            }
        },
    );
}
