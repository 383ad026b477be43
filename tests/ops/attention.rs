use crate::harness::Case;

fn attention(qkv: &[f64], batch: usize, n: usize, heads: usize, d: usize, causal: bool) -> Vec<f64> {
    let width = heads * d;
    let at = |sample: usize, token: usize, part: usize, head: usize, i: usize| {
        qkv[(sample * n + token) * 3 * width + part * width + head * d + i]
    };
    let mut out = vec![0.0; batch * n * width];
    for sample in 0..batch {
        for head in 0..heads {
            for query in 0..n {
                let keys = if causal { query + 1 } else { n };
                let scores: Vec<f64> = (0..keys)
                    .map(|key| {
                        let dot: f64 =
                            (0..d).map(|i| at(sample, query, 0, head, i) * at(sample, key, 1, head, i)).sum();
                        (dot / (d as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                for i in 0..d {
                    out[(sample * n + query) * width + head * d + i] =
                        (0..keys).map(|key| scores[key] / total * at(sample, key, 2, head, i)).sum();
                }
            }
        }
    }
    out
}

#[test]
fn bidirectional_and_causal() {
    for (batch, n, heads, d) in [(1, 1, 1, 4), (2, 5, 3, 8), (1, 19, 2, 32), (1, 33, 1, 80)] {
        for causal in [false, true] {
            Case { inputs: &[&[batch, n, 3 * heads * d]], params: &[] }.check(
                |tape, x, _| tape.attention(x[0], heads, causal),
                |operands| attention(&operands[0], batch, n, heads, d, causal),
            );
        }
    }
}
