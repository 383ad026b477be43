//! Sequence assembly on the CPU.

use rayon::prelude::*;

use super::{Assemble, Gradients, Shape};
use crate::device::{Cpu, DeviceError};
use crate::simd::wide;

impl Assemble for Cpu {
    fn assemble_scratch(_: &Shape, _: bool) -> usize {
        0
    }

    fn assemble_forward(
        &self,
        shape: &Shape,
        patches: &[f32],
        ids: &[u32],
        cls: &[f32],
        pos: &[f32],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let &Shape { kept, width, .. } = shape;
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
        Ok(())
    }

    fn assemble_backward(
        &self,
        shape: &Shape,
        dout: &[f32],
        ids: &[u32],
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError> {
        let &Shape { kept, width, .. } = shape;
        let Gradients { dpatches, dcls, dpos, .. } = gradients;
        if let Some(dpatches) = dpatches {
            let samples = dpatches.par_chunks_mut(kept * width).zip(dout.par_chunks((kept + 1) * width));
            samples.for_each(|(dpatches, dout)| dpatches.copy_from_slice(&dout[width..]));
        }
        let dcls = dcls.sum_into();
        wide(
            #[inline(always)]
            || {
                for sample in dout.chunks_exact((kept + 1) * width) {
                    add(dcls, sample);
                }
            },
        );
        let Some(dpos) = dpos else { return Ok(()) };
        let dpos = dpos.sum_into();
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
        Ok(())
    }
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
