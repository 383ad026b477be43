use std::sync::Arc;

use flipk::autograd::{Init, Layout, Parameters, Tape};
use flipk::device::Cpu;
use flipk::ops::pairwise::{IMAGE_CORRECT, LOSS, TEXT_CORRECT};

use crate::common::loss_in_parts;
use crate::harness::{TOLERANCE, error, unit_rows};

/// Both towers and the two scalars.
#[derive(Clone)]
struct Point {
    images: Vec<f64>,
    texts: Vec<f64>,
    logit_scale: f64,
    logit_bias: f64,
}

/// A loss on the tape, and by its formula: from the matrix of logits and the bias, the sum over the samples.
#[derive(Clone, Copy)]
enum Loss {
    Contrastive,
    Sigmoid,
}

impl Loss {
    fn formula(self, logit: &dyn Fn(usize, usize) -> f64, logit_bias: f64, batch: usize) -> f64 {
        let lse = |logits: Vec<f64>| {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln()
        };
        let of_pair = |i: usize| match self {
            Self::Contrastive => {
                let (row, column) = (0..batch).map(|j| (logit(i, j), logit(j, i))).unzip();
                (lse(row) + lse(column)) / 2.0 - logit(i, i)
            }
            // -ln σ(x) = ln(1 + e^-x)
            Self::Sigmoid => {
                let sign = |j| if i == j { 1.0 } else { -1.0 };
                (0..batch).map(|j| (-sign(j) * (logit(i, j) + logit_bias)).exp().ln_1p()).sum()
            }
        };
        (0..batch).map(of_pair).sum()
    }

    /// Loss and both counts from the whole matrix of logits.
    fn reference(self, at: &Point, batch: usize, width: usize) -> (f64, usize, usize) {
        let scale = at.logit_scale.clamp(0.0, 100f64.ln()).exp();
        let logits: Vec<f64> = (0..batch * batch)
            .map(|pair| {
                let (image, text) = (&at.images[pair / batch * width..], &at.texts[pair % batch * width..]);
                scale * (0..width).map(|k| image[k] * text[k]).sum::<f64>()
            })
            .collect();
        let logit = |i: usize, j: usize| logits[i * batch + j];
        let loss = self.formula(&logit, at.logit_bias, batch) / batch as f64;
        let rows = (0..batch).filter(|&i| (0..batch).all(|j| logit(i, i) >= logit(i, j)));
        let columns = (0..batch).filter(|&i| (0..batch).all(|j| logit(i, i) >= logit(j, i)));
        (loss, rows.count(), columns.count())
    }
}

/// The outcome, and the gradients of images, of texts and of the scalars, in one part or in several.
fn run(kind: Loss, at: [f32; 2], operands: [&[f32]; 2], sizes @ [batch, width, parts]: [usize; 3]) -> [Vec<f32>; 4] {
    let mut layout = Layout::default();
    let scale = layout.add("logit_scale", &[1], Init::Constant(at[0]), true);
    let bias = layout.add("logit_bias", &[1], Init::Constant(at[1]), false);
    let (layout, cpu) = (Arc::new(layout), Cpu::default());
    let scalars = match kind {
        Loss::Contrastive => (scale, None),
        Loss::Sigmoid => (scale, Some(bias)),
    };
    if parts > 1 {
        return loss_in_parts(&cpu, &layout, scalars, operands, sizes);
    }
    let mut tape = Tape::<Cpu>::new(layout.clone());
    let (images, texts) = (tape.input_var(&[batch, width]), tape.input_var(&[batch, width]));
    let outcome = match kind {
        Loss::Contrastive => tape.contrastive(images, texts, scale),
        Loss::Sigmoid => tape.sigmoid(images, texts, scale, bias),
    };
    let mut program = tape.train(Arc::new(cpu)).unwrap();
    let mut parameters = Parameters::new(&cpu, layout.clone(), &layout.initial_values(0)).unwrap();
    program.write(images.slot(), operands[0]).unwrap();
    program.write(texts.slot(), operands[1]).unwrap();
    program.forward(&parameters).unwrap();
    program.backward(&mut parameters).unwrap();
    let grads = parameters.download_grads(&cpu).unwrap();
    let grad = |var| program.read(program.input_grad(var).unwrap()).unwrap();
    let scalars = [Some(scalars.0), scalars.1].into_iter().flatten().map(|id| grads[layout.get(id).offset]).collect();
    [program.read(outcome).unwrap(), grad(images), grad(texts), scalars]
}

fn check(kind: Loss, batch: usize, width: usize, logit_scale: f32, logit_bias: f32) {
    check_in_parts(kind, batch, width, [logit_scale, logit_bias], 1);
}

fn check_in_parts(kind: Loss, batch: usize, width: usize, at @ [logit_scale, logit_bias]: [f32; 2], parts: usize) {
    let operands = [0, 1].map(|item| unit_rows(batch, width, item));
    let [found, dimages, dtexts, scalars] =
        run(kind, at, operands.each_ref().map(|rows| &rows[..]), [batch, width, parts]);
    let exact = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
    let point = Point {
        images: exact(&operands[0]),
        texts: exact(&operands[1]),
        logit_scale: logit_scale.into(),
        logit_bias: logit_bias.into(),
    };
    let (loss, rows, columns) = kind.reference(&point, batch, width);
    assert!((f64::from(found[LOSS]) - loss).abs() < 1e-5 * loss.max(0.1), "{} {loss}", found[LOSS]);
    assert_eq!((found[IMAGE_CORRECT] as usize, found[TEXT_CORRECT] as usize), (rows, columns));

    const STEP: f64 = 1e-5;
    let slope = |place: &dyn Fn(&mut Point) -> &mut f64| {
        let at = |delta: f64| {
            let mut moved = point.clone();
            *place(&mut moved) += delta;
            kind.reference(&moved, batch, width).0
        };
        (at(STEP) - at(-STEP)) / (2.0 * STEP)
    };
    for (operand, grad) in [dimages, dtexts].into_iter().enumerate() {
        let places: Vec<usize> = (0..grad.len()).step_by(grad.len().div_ceil(20)).collect();
        let checked: Vec<f32> = places.iter().map(|place| grad[*place]).collect();
        let expected: Vec<f64> = (places.iter())
            .map(|place| slope(&|point| &mut [&mut point.images, &mut point.texts][operand][*place]))
            .collect();
        let error = error(&checked, &expected);
        assert!(error < TOLERANCE, "operand {operand}: {error:e}");
    }
    let expected = [slope(&|point| &mut point.logit_scale), slope(&|point| &mut point.logit_bias)];
    for (found, expected) in scalars.into_iter().map(f64::from).zip(expected) {
        // Both sum batch x batch terms of both signs, up to the temperature each.
        let size = f64::from(logit_scale).exp().clamp(1.0, 100.0) * expected.abs().max(1.0);
        assert!((found - expected).abs() < 1e-5 * size, "{found} {expected}");
    }
}

#[test]
fn one_pair_one_tile_and_odd_tiles() {
    for (batch, width, logit_scale, logit_bias) in
        [(1, 8, 1.0, 0.5), (7, 5, 2.0, -1.0), (128, 16, 2.3, -10.0), (131, 12, 3.0, -4.0), (260, 3, 1.0, 2.0)]
    {
        check(Loss::Sigmoid, batch, width, logit_scale, logit_bias);
        check(Loss::Contrastive, batch, width, logit_scale, 0.0);
    }
    // CLIP's first temperature, 1 / 0.07.
    check(Loss::Contrastive, 128, 16, 2.659_26, 0.0);
}

#[test]
fn a_temperature_outside_its_limits_is_held_and_gets_no_gradient() {
    for (logit_scale, logit_bias) in [(5.0, -10.0), (-0.5, 0.0)] {
        check(Loss::Sigmoid, 9, 6, logit_scale, logit_bias);
        check(Loss::Contrastive, 9, 6, logit_scale, 0.0);
    }
}

/// Parts of less than a tile, of a tile, and between tiles, each with its own rows and columns against the whole batch.
#[test]
fn parts_of_a_batch_add_up_to_it() {
    for (batch, width, parts) in [(6, 5, 2), (9, 4, 3), (256, 3, 2), (260, 6, 4), (300, 3, 2), (24, 8, 24)] {
        check_in_parts(Loss::Sigmoid, batch, width, [2.0, -4.0], parts);
        check_in_parts(Loss::Contrastive, batch, width, [2.659_26, 0.0], parts);
    }
    check_in_parts(Loss::Contrastive, 9, 6, [5.0, 0.0], 3);
    check_in_parts(Loss::Sigmoid, 9, 6, [-0.5, 0.0], 3);
}

/// The bits of a part are those of its rows in one pass over the batch.
#[test]
fn embeddings_have_the_same_gradients_in_parts() {
    let (batch, width) = (384, 7);
    let operands = [0, 1].map(|item| unit_rows(batch, width, item));
    let operands = operands.each_ref().map(|rows| &rows[..]);
    for kind in [Loss::Contrastive, Loss::Sigmoid] {
        let [whole, parts] = [1, 3].map(|parts| run(kind, [2.0, -3.0], operands, [batch, width, parts]));
        assert!(whole[1] == parts[1] && whole[2] == parts[2]);
    }
}
