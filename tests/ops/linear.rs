use flipk::autograd::Activation;
use flipk::ops::linear::Weights;

use crate::harness::Case;

/// The error function by its power series, which converges everywhere.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..150 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(kind: Option<Activation>, x: f64) -> f64 {
    match kind {
        None => x,
        Some(Activation::GeluTanh) => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Some(Activation::QuickGelu) => x / (1.0 + (-1.702 * x).exp()),
        // Beyond 5 the error function is 1 to f64's last place but one, and the series loses digits.
        Some(Activation::GeluExact) => 0.5 * x * (1.0 + if x.abs() > 6.0 { x.signum() } else { erf(x / 2f64.sqrt()) }),
    }
}

fn check(rows: usize, inputs: usize, outputs: usize, bias: bool, kind: Option<Activation>) {
    let shape = [outputs, inputs];
    let params: &[&[usize]] = if bias { &[&shape, &[outputs]] } else { &[&shape] };
    Case { inputs: &[&[rows, inputs]], params }.check(
        |tape, x, p| tape.linear(x[0], Weights { weight: p[0], bias: p.get(1).copied() }, kind),
        |operands| {
            let (x, weight) = (&operands[0], &operands[1]);
            let mut y = Vec::new();
            for row in 0..rows {
                for output in 0..outputs {
                    let at = |input: usize| weight[output * inputs + input];
                    let product: f64 = (0..inputs).map(|input| x[row * inputs + input] * at(input)).sum();
                    y.push(gelu(kind, product + operands.get(2).map_or(0.0, |bias| bias[output])));
                }
            }
            y
        },
    );
}

#[test]
fn plain_and_with_bias() {
    check(1, 1, 1, true, None);
    check(5, 7, 3, true, None);
    check(130, 33, 17, false, None);
}

#[test]
fn with_gelu() {
    check(3, 4, 5, true, Some(Activation::GeluTanh));
    check(65, 2, 31, true, Some(Activation::GeluTanh));
    check(7, 2, 9, false, Some(Activation::GeluTanh));
    check(7, 2, 9, true, Some(Activation::GeluExact));
    check(65, 2, 31, true, Some(Activation::QuickGelu));
}

#[test]
fn projection_multiplies_by_inputs_times_outputs() {
    for (rows, inputs, outputs) in [(1, 1, 1), (9, 16, 40), (130, 7, 3)] {
        Case { inputs: &[&[rows, inputs]], params: &[&[inputs, outputs]] }.check(
            |tape, x, p| tape.projection(x[0], p[0]),
            |operands| {
                let (x, weight) = (&operands[0], &operands[1]);
                let at = |row: usize, output: usize| {
                    (0..inputs).map(|input| x[row * inputs + input] * weight[input * outputs + output]).sum::<f64>()
                };
                (0..rows * outputs).map(|place| at(place / outputs, place % outputs)).collect()
            },
        );
    }
}
