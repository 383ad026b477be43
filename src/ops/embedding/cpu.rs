//! Token embedding on the CPU. Backwards, places are walked in order on one thread, so that every sum has one order.

use rayon::prelude::*;

use super::{Embedding, Gradients, Shape};
use crate::device::{Cpu, DeviceError};

/// Elements that one thread fills with zeros. Filling less takes less time than waking a thread.
const ZEROS: usize = 1 << 21;

impl Embedding for Cpu {
    fn embedding_scratch(_: &Shape) -> usize {
        0
    }

    fn embedding_forward(
        &self,
        shape: &Shape,
        tokens: &[i32],
        table: &[f32],
        pos: &[f32],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let &Shape { context, width, .. } = shape;
        out.par_chunks_mut(context * width).zip(tokens.par_chunks(context)).for_each(|(out, tokens)| {
            for ((out, token), pos) in out.chunks_exact_mut(width).zip(tokens).zip(pos.chunks_exact(width)) {
                let row = &table[*token as usize * width..][..width];
                out.iter_mut().zip(row.iter().zip(pos)).for_each(|(out, (row, pos))| *out = row + pos);
            }
        });
        Ok(())
    }

    fn embedding_backward(
        &self,
        shape: &Shape,
        tokens: &[i32],
        dout: &[f32],
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError> {
        let &Shape { context, width, .. } = shape;
        let Gradients { dtable, dpos, .. } = gradients;
        if !dtable.accumulate {
            dtable.view.par_chunks_mut(ZEROS).for_each(|part| part.fill(0.0));
        }
        let (dtable, dpos) = (dtable.view, dpos.sum_into());
        for (place, (token, dout)) in tokens.iter().zip(dout.chunks_exact(width)).enumerate() {
            let row = &mut dtable[*token as usize * width..][..width];
            row.iter_mut().zip(dout).for_each(|(row, dout)| *row += dout);
            let pos = &mut dpos[place % context * width..][..width];
            pos.iter_mut().zip(dout).for_each(|(pos, dout)| *pos += dout);
        }
        Ok(())
    }
}
