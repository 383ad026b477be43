use std::sync::Arc;

use flipk::autograd::{DECAY_BLOCK, Init, Layout, Parameters};
use flipk::device::Cpu;
use flipk::ops::adamw::{AdamW, HEAD, Hyper, NORM_BLOCK, cpu};
use flipk::optim::{AdamWConfig, Optimizer};

use crate::harness::normals;

/// Three updates against the formula in f64, over a length that is no multiple of a chunk nor of a decay block, with
/// blocks that decay and others that do not.
#[test]
fn adamw_follows_its_formula() {
    let len: usize = (1 << 14) + 77;
    let decay: Vec<u8> = (0..len.div_ceil(DECAY_BLOCK)).map(|block| u8::from(block % 5 < 3)).collect();
    let (mut values, mut m, mut v) = (normals(len, 0), vec![0.0; len], vec![0.0; len]);
    let mut exact: Vec<(f64, f64, f64)> = values.iter().map(|value| (f64::from(*value), 0.0, 0.0)).collect();
    let (beta1, beta2, eps, weight_decay, lr) = (0.9f32, 0.95f32, 1e-8f32, 0.2f32, 0.01f32);
    for step in 1..=3 {
        let grads = normals(len, step);
        let hyper = Hyper { lr, beta1, beta2, eps, weight_decay, step, clip_norm: 0.0 };
        cpu::step(&mut values, &grads, &mut m, &mut v, &decay, &hyper, 0.5);
        let (beta1, beta2, lr) = (f64::from(beta1), f64::from(beta2), f64::from(lr));
        for (place, ((value, m, v), grad)) in exact.iter_mut().zip(&grads).enumerate() {
            let grad = 0.5 * f64::from(*grad);
            *m = beta1 * *m + (1.0 - beta1) * grad;
            *v = beta2 * *v + (1.0 - beta2) * grad * grad;
            let (m_hat, v_hat) = (*m / (1.0 - beta1.powi(step as i32)), *v / (1.0 - beta2.powi(step as i32)));
            let decay = if decay[place / DECAY_BLOCK] != 0 { f64::from(weight_decay) } else { 0.0 };
            *value -= lr * (m_hat / (v_hat.sqrt() + f64::from(eps)) + decay * *value);
        }
    }
    for (place, (found, (expected, ..))) in values.iter().zip(&exact).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 1e-6 * expected.abs().max(1.0), "{place}: {found} {expected}");
    }
}

/// The norm of gradients, and the factor by which they are clipped.
fn head(grads: &[f32], clip_norm: f32) -> [f32; 2] {
    let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = AdamWConfig::default();
    let hyper = Hyper { lr: 0.0, beta1, beta2, eps, weight_decay, step: 1, clip_norm };
    let (mut partials, mut head) = (vec![0.0; Cpu::PARTIAL * grads.len().div_ceil(NORM_BLOCK)], [0.0; HEAD]);
    Cpu::default().adamw_squares(grads, &mut partials).unwrap();
    Cpu::default().adamw_scale(&hyper, &partials, None, &mut head, &hyper.numbers()).unwrap();
    [head[0], head[1]]
}

#[test]
fn the_norm_is_exact_clips_and_shows_what_is_not_finite() {
    let mut grads = normals(3 * NORM_BLOCK + 3, 0);
    let exact = grads.iter().map(|grad| f64::from(*grad).powi(2)).sum::<f64>().sqrt();
    let [norm, scale] = head(&grads, 1.0);
    assert!((f64::from(norm) / exact - 1.0).abs() < 1e-7 && (f64::from(scale) * exact - 1.0).abs() < 1e-7);
    assert_eq!([head(&grads, 0.0)[1], head(&grads, 1e6)[1]], [1.0, 1.0]);
    // Squares that overflow an f32.
    let [norm, _] = head(&vec![1e30; NORM_BLOCK], 0.0);
    assert!((norm / 1.28e32 - 1.0).abs() < 1e-6, "{norm}");
    grads[NORM_BLOCK] = f32::NAN;
    assert!(head(&grads, 1.0).iter().all(|value| value.is_nan()));
}

#[test]
fn without_gradients_weights_only_decay() {
    let mut layout = Layout::default();
    layout.add("w", &[3], Init::Constant(1.0), true);
    let layout = Arc::new(layout);
    let mut params = Parameters::new(&Cpu::default(), layout.clone(), &layout.initial_values(0)).unwrap();
    let mut optimizer = Optimizer::new(&Cpu::default(), &params, AdamWConfig::default()).unwrap();
    let before = params.download_values(&Cpu::default()).unwrap();
    // All gradients are zero: the update decays the weights.
    optimizer.step(&Cpu::default(), &mut params, 0.1).unwrap();
    assert_eq!(optimizer.norm(&Cpu::default()).unwrap(), 0.0);
    let after = params.download_values(&Cpu::default()).unwrap();
    assert!(after[0] < before[0]);
    assert_eq!(optimizer.download(&Cpu::default()).unwrap().step, 1);
}
