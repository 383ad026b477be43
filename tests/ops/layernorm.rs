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

/// The mean of each sample's `tokens` rows.
fn mean(rows: &[f64], tokens: usize, width: usize) -> Vec<f64> {
    let samples = rows.chunks_exact(tokens * width);
    let mean = |sample: &[f64], i: usize| sample.iter().skip(i).step_by(width).sum::<f64>() / tokens as f64;
    samples.flat_map(|sample| (0..width).map(|i| mean(sample, i)).collect::<Vec<_>>()).collect()
}

#[test]
fn pooled() {
    for (batch, tokens, width) in [(1, 1, 3), (3, 1, 16), (3, 5, 5), (2, 66, 37), (2, 3, 1280)] {
        let shape = [batch, tokens, width];
        Case { inputs: &[&shape, &shape], params: &[&[width], &[width]] }.check(
            |tape, x, p| tape.pooled_norm(x[0], x[1], Norm { gamma: p[0], beta: p[1], eps: EPS }),
            |operands| {
                let sum: Vec<f64> = operands[0].iter().zip(&operands[1]).map(|(x, delta)| x + delta).collect();
                mean(&layernorm(&sum, &operands[2], &operands[3]), tokens, width)
            },
        );
    }
}

/// Behind another normalisation, as in a tower, and with its parameters, whose gradients are then sums of two.
#[test]
fn pooled_after_a_block() {
    let (batch, tokens, width) = (3, 4, 7);
    let shape = [batch, tokens, width];
    Case { inputs: &[&shape, &shape], params: &[&[width], &[width]] }.check(
        |tape, x, p| {
            let norm = Norm { gamma: p[0], beta: p[1], eps: EPS };
            let (sum, y) = tape.residual_layernorm(x[0], Some(x[1]), norm);
            tape.pooled_norm(sum, y, norm)
        },
        |operands| {
            let sum: Vec<f64> = operands[0].iter().zip(&operands[1]).map(|(x, delta)| x + delta).collect();
            let y = layernorm(&sum, &operands[2], &operands[3]);
            let sum: Vec<f64> = sum.iter().zip(&y).map(|(x, delta)| x + delta).collect();
            mean(&layernorm(&sum, &operands[2], &operands[3]), tokens, width)
        },
    );
}
