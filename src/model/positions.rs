//! The fixed 2-D sine-cosine position table.

/// `[side² + 1, width]`: row 0, for CLS, is zero; row `1 + y * side + x` holds the sines and cosines of `x`, then those
/// of `y` (docs/method.md, "Vision tower"), at `width / 4` frequencies `10000^(-4 i / width)`; as in MAE (He et al.
/// 2022, appendix). `width` is a multiple of 4.
pub fn sincos_2d(side: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let mut table = vec![0.0; (side * side + 1) * width];
    for (patch, row) in table.chunks_exact_mut(width).skip(1).enumerate() {
        for (half, coordinate) in [patch % side, patch / side].into_iter().enumerate() {
            for i in 0..quarter {
                // In f64, as numpy computes it for MAE.
                let angle = coordinate as f64 * libm::pow(10_000.0, -(i as f64) / quarter as f64);
                row[half * 2 * quarter + i] = libm::sin(angle) as f32;
                row[(half * 2 + 1) * quarter + i] = libm::cos(angle) as f32;
            }
        }
    }
    table
}
