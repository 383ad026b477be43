use flipk::ops::layernorm::Norm;

use crate::harness::Case;

const EPS: f32 = 1e-5;

fn layernorm(x: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
    let width = gamma.len();
    let mut y = Vec::new();
    for row in x.chunks_exact(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        y.extend(row.iter().zip(gamma.iter().zip(beta)).map(|(x, (gamma, beta))| (x - mean) * rstd * gamma + beta));
    }
    y
}

#[test]
fn plain() {
    // A row of two has no gradient to speak of: its result is +-1 wherever it lies.
    for (rows, width) in [(1, 3), (3, 5), (64, 16), (131, 37), (2, 1280)] {
        Case { inputs: &[&[rows, width]], params: &[&[width], &[width]] }.check(
            |tape, x, p| tape.layernorm(x[0], Norm { gamma: p[0], beta: p[1], eps: EPS }),
            |operands| layernorm(&operands[0], &operands[1], &operands[2]),
        );
    }
}

/// The stream and its branch both reach the result, as in a transformer block, so the gradient of the sum is in place.
#[test]
fn with_residual() {
    for (rows, width) in [(3, 5), (70, 33)] {
        Case { inputs: &[&[rows, width], &[rows, width]], params: &[&[width], &[width], &[width], &[width]] }.check(
            |tape, x, p| {
                let norm = |first: usize| Norm { gamma: p[first], beta: p[first + 1], eps: EPS };
                let (sum, y) = tape.residual_layernorm(x[0], Some(x[1]), norm(0));
                tape.residual_layernorm(sum, Some(y), norm(2)).1
            },
            |operands| {
                let sum: Vec<f64> = operands[0].iter().zip(&operands[1]).map(|(x, delta)| x + delta).collect();
                let y = layernorm(&sum, &operands[2], &operands[3]);
                let sum: Vec<f64> = sum.iter().zip(&y).map(|(x, delta)| x + delta).collect();
                layernorm(&sum, &operands[4], &operands[5])
            },
        );
    }
}
