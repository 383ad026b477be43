//! Position tables of another size.

/// A table `[side², width]` as one of `[to², width]`, by bicubic interpolation with antialiasing, as OpenCLIP's
/// `resize_pos_embed` computes it (PyTorch's `interpolate(mode="bicubic", antialias=True)`).
pub(super) fn square(table: &[f32], width: usize, side: usize, to: usize) -> Vec<f32> {
    // Rows of the image are the outer axis.
    let rows = axis(table, side * width, side, to);
    rows.chunks_exact(side * width).flat_map(|row| axis(row, width, side, to)).collect()
}

/// `[from, width]` to `[to, width]`.
fn axis(values: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut out = vec![0.0; to * width];
    for (place, out) in out.chunks_exact_mut(width).enumerate() {
        let centre = scale * (place as f64 + 0.5);
        let support = 2.0 * stretch;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..last).map(|at| cubic((at as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        for (column, out) in out.iter_mut().enumerate() {
            let terms = weights.iter().zip(first..);
            let sum: f64 = terms.map(|(weight, at)| weight * f64::from(values[at * width + column])).sum();
            *out = (sum / total) as f32;
        }
    }
    out
}

/// Keys' cubic with a = -1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `torch.nn.functional.interpolate(torch.arange(9.).view(1, 1, 3, 3) ** 2, size=N, mode="bicubic",
    /// antialias=True, align_corners=False)`, PyTorch 2.15.
    #[test]
    fn tables_are_pytorchs() {
        let table: Vec<f32> = (0..9).map(|i| (i * i) as f32).collect();
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-3, "{found:?} {expected:?}");
            }
        };
        close(&square(&table, 1, 3, 2), TWO);
        close(&square(&table, 1, 3, 4), FOUR);
        close(&square(&table, 1, 3, 3), &table);
        // Columns are independent.
        let pairs: Vec<f32> = table.iter().flat_map(|x| [*x, -x]).collect();
        let found = square(&pairs, 2, 3, 2);
        close(&found.iter().step_by(2).copied().collect::<Vec<_>>(), TWO);
    }

    const TWO: &[f32] = &[2.8712, 8.1979, 30.2845, 47.0445];
    const FOUR: &[f32] = &[
        -0.5060, -0.2283, 1.2673, 3.0433, 3.5198, 6.0216, 10.7567, 14.7568, 19.2044, 24.9457, 34.3995, 41.6391,
        36.7150, 44.6803, 57.3736, 66.8373,
    ];
}
