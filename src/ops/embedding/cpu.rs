//! Token embedding on the CPU. Backwards, places are walked in order on one thread, so that every sum has one order.

use rayon::prelude::*;

use super::Shape;

/// Elements of a part that a thread fills with zeros: a smaller table is filled before a sleeping thread wakes.
const ZEROS: usize = 1 << 21;

/// `out[b, t] = table[tokens[b, t]] + pos[t]`
pub fn forward(shape: Shape, tokens: &[i32], table: &[f32], pos: &[f32], out: &mut [f32]) {
    let Shape { context, width, .. } = shape;
    out.par_chunks_mut(context * width).zip(tokens.par_chunks(context)).for_each(|(out, tokens)| {
        for ((out, token), pos) in out.chunks_exact_mut(width).zip(tokens).zip(pos.chunks_exact(width)) {
            let row = &table[*token as usize * width..][..width];
            out.iter_mut().zip(row.iter().zip(pos)).for_each(|(out, (row, pos))| *out = row + pos);
        }
    });
}

/// `dtable[v] (+)= Σ dout` over the places of `v`, `dpos[t] (+)= Σ_b dout[b, t]`.
pub fn backward(
    shape: Shape,
    tokens: &[i32],
    dout: &[f32],
    (dtable, add_table): (&mut [f32], bool),
    (dpos, add_pos): (&mut [f32], bool),
) {
    let Shape { context, width, .. } = shape;
    if !add_table {
        dtable.par_chunks_mut(ZEROS).for_each(|part| part.fill(0.0));
    }
    if !add_pos {
        dpos.fill(0.0);
    }
    for (place, (token, dout)) in tokens.iter().zip(dout.chunks_exact(width)).enumerate() {
        let row = &mut dtable[*token as usize * width..][..width];
        row.iter_mut().zip(dout).for_each(|(row, dout)| *row += dout);
        let pos = &mut dpos[place % context * width..][..width];
        pos.iter_mut().zip(dout).for_each(|(pos, dout)| *pos += dout);
    }
}
