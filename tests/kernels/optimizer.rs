use std::sync::Arc;

use flipk::autograd::{Init, Layout, ParamId, Parameters, Tape};
use flipk::device::cuda::{ActType, EmulatorOptions};
use flipk::device::{Cpu, Float};
use flipk::ops::AllOps;
use flipk::ops::linear::Weights;
use flipk::optim::{AdamWConfig, Optimizer};
use half::bf16;

use crate::harness::{assert_lean, error, gpu, normals, real};

const SIZES: [[usize; 2]; 3] = [[3, 8], [40, 16], [70, 104]];

/// Weights, moments and norm after some steps with gradients that `grads` makes, through one product per weight.
fn run<D: AllOps>(device: &Arc<D>, clip_norm: f32, poison: bool) -> (Vec<f32>, Vec<f32>, Vec<f32>, f64, Vec<f32>) {
    let mut layout = Layout::default();
    let add = |(index, shape): (usize, &[usize; 2])| {
        layout.add(format!("w{index}"), shape, Init::Normal { std: 1.0 }, index != 1)
    };
    let ids: Vec<ParamId> = SIZES.iter().enumerate().map(add).collect();
    let layout = Arc::new(layout);
    let mut params = Parameters::new(&**device, layout.clone(), &layout.initial_values(1)).unwrap();
    let config = AdamWConfig { clip_norm, ..AdamWConfig::default() };
    let mut optimizer = Optimizer::new(&**device, &params, config).unwrap();
    for step in 0..3 {
        for (index, (id, [outputs, inputs])) in ids.iter().zip(SIZES).enumerate() {
            let mut tape = Tape::<D>::new(layout.clone());
            let x = tape.input_var::<D::Act>(&[8, inputs]);
            let y = tape.linear(x, Weights { weight: *id, bias: None }, None);
            let mut seed = None;
            let mut program = tape.train_from(device.clone(), |plan| seed = Some(plan.seed(y))).unwrap();
            let act = |values: Vec<f32>| values.into_iter().map(D::Act::from_f32).collect::<Vec<_>>();
            let mut rows = normals(8 * inputs, 10 * step + index as u64);
            if poison && index == 2 {
                rows[5] = f32::INFINITY;
            }
            program.write(x.slot(), &act(rows)).unwrap();
            program.forward(&params).unwrap();
            program.write(seed.unwrap(), &act(normals(8 * outputs, 50 + step))).unwrap();
            program.backward(&mut params).unwrap();
        }
        optimizer.step(device, &mut params, 1e-2).unwrap();
    }
    let moments = optimizer.download(device).unwrap();
    let values = params.download_values(device).unwrap();
    (values, moments.m, moments.v, optimizer.norm(device).unwrap(), shadow(device, &layout, &params))
}

/// The copy of the weights that products read, through a product with the identity.
fn shadow<D: AllOps>(device: &Arc<D>, layout: &Arc<Layout>, params: &Parameters<D>) -> Vec<f32> {
    let [outputs, inputs] = SIZES[2];
    let mut tape = Tape::<D>::new(layout.clone());
    let x = tape.input_var::<D::Act>(&[inputs, inputs]);
    let id = layout.specs().iter().position(|spec| spec.name == "w2").map(|index| layout.id(index)).unwrap();
    let y = tape.linear(x, Weights { weight: id, bias: None }, None);
    tape.retain(y.slot());
    let mut program = tape.inference(device.clone()).unwrap();
    let identity: Vec<D::Act> =
        (0..inputs * inputs).map(|at| D::Act::from_f32(f32::from(u8::from(at % (inputs + 1) == 0)))).collect();
    program.write(x.slot(), &identity).unwrap();
    program.forward(params).unwrap();
    let rows: Vec<f32> = program.read(y.slot()).unwrap().into_iter().map(Float::to_f32).collect();
    (0..outputs * inputs).map(|at| rows[at % inputs * outputs + at / inputs]).collect()
}

fn check<T: ActType>(clip_norm: f32) {
    let (device, counts) = gpu::<T>(EmulatorOptions { count: true, ..Default::default() });
    let expected = run(&Arc::new(Cpu::default()), clip_norm, false);
    let found = run(&device, clip_norm, false);
    // Gradients are f32 sums of exact products on both; Adam divides one by the root of another.
    assert!(
        error(&found.0, &expected.0) < 1e-5
            && error(&found.1, &expected.1) < 1e-5
            && error(&found.2, &expected.2) < 1e-5
    );
    assert!((found.3 - expected.3).abs() < 1e-6 * expected.3);
    // The last parameter of the arena, but for what pads it.
    let len = SIZES[2][0] * SIZES[2][1];
    let start = found.0.len() - len.next_multiple_of(64);
    let rounded: Vec<f32> = found.0[start..start + len].iter().map(|value| T::from_f32(*value).to_f32()).collect();
    assert!(found.4 == rounded, "the compute copy is the rounded weights");
    let mut counts = counts();
    counts.retain(|kernel, _| kernel == "adamw_update" || kernel == "adamw_squares");
    assert!(real() || counts.len() == 2);
    assert_lean(&counts);
    let unchanged = run(&device, clip_norm, true);
    assert!(!unchanged.3.is_finite());
    assert!(unchanged.0.iter().all(|value| value.is_finite()) && unchanged.1.iter().all(|m| *m == 0.0));
}

#[test]
fn adamw_clips_updates_and_copies() {
    for clip_norm in [0.0, 1.0, 1e6] {
        check::<f32>(clip_norm);
        check::<bf16>(clip_norm);
    }
}
