//! Patch gathering on the CPU: a table per channel turns each byte into its normalised value.

use rayon::prelude::*;

use super::Shape;

fn tables(mean: [f32; 3], std: [f32; 3]) -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel]))
}

fn normalise(bytes: &[u8], tables: &[[f32; 256]; 3], out: &mut [f32]) {
    for (out, bytes) in out.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
        for channel in 0..3 {
            out[channel] = tables[channel][bytes[channel] as usize];
        }
    }
}

/// `images: [batch, side, side, 3]`, `ids: [batch, kept] -> out: [batch * kept, patch * patch * 3]`.
pub fn forward(shape: Shape, images: &[u8], ids: &[u32], mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    let Shape { side, patch, kept, .. } = shape;
    let tables = tables(mean, std);
    let row = patch * patch * 3;
    let samples = out.par_chunks_mut(kept * row).zip(images.par_chunks(side * side * 3).zip(ids.par_chunks(kept)));
    samples.for_each(|(out, (image, ids))| {
        for (out, id) in out.chunks_exact_mut(row).zip(ids) {
            let (top, left) = (*id as usize / (side / patch) * patch, *id as usize % (side / patch) * patch);
            for (y, out) in out.chunks_exact_mut(patch * 3).enumerate() {
                let start = ((top + y) * side + left) * 3;
                normalise(&image[start..start + patch * 3], &tables, out);
            }
        }
    });
}

/// As [`forward`], from bytes that were gathered before: `patches: [rows, patch * patch * 3]`.
pub fn from_patches(patches: &[u8], mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    const CHUNK: usize = 3 * 1024;
    let tables = tables(mean, std);
    let chunks = out.par_chunks_mut(CHUNK).zip(patches.par_chunks(CHUNK));
    chunks.for_each(|(out, bytes)| normalise(bytes, &tables, out));
}
