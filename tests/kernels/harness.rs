//! Records an op on the CPU and on an emulated GPU, with the same operands, and compares results and gradients.
//!
//! Operands are rounded to bf16 before either device sees them, so what differs is what the device rounds on the way:
//! each rounding to bf16 (8 significant bits) is off by at most 2^-8 of the number. A case states how many roundings
//! there are between operands and results; the difference of all numbers together may be as large as if each of them
//! erred as far as it can, that of a single one four times as large, since it may be small where what was rounded was
//! large.

use std::collections::BTreeMap;
use std::sync::Arc;

use flipk::autograd::{Backward, ParamId, Parameters, Tape, Var};
use flipk::device::cuda::{ActType, Driver, Emulated, EmulatorOptions, Gpu};
use flipk::device::{Cpu, Cuda, Float};
use flipk::ops::AllOps;
use half::bf16;
use ptx_emulator::Counts;

use crate::common::{self, largest};

/// The result of an op.
pub enum Out<A> {
    Act(Var<A>),
    Full(Var<f32>),
}

/// What a recorded op returned, and the buffers that the host fills.
pub type Recorded<A> = common::Recorded<Out<A>>;

impl<A> From<Var<A>> for Recorded<A> {
    fn from(out: Var<A>) -> Self {
        Out::Act(out).into()
    }
}

/// An op with its operands' shapes, on any device.
pub trait Case {
    /// Activations.
    fn inputs(&self) -> Vec<Vec<usize>>;
    fn params(&self) -> Vec<Vec<usize>>;
    fn record<D: AllOps>(&self, tape: &mut Tape<D>, inputs: &[Var<D::Act>], params: &[ParamId]) -> Recorded<D::Act>;
    /// Roundings to bf16 between the operands and the result, and between them and the gradients.
    fn roundings(&self) -> (f64, f64) {
        (1.0, 1.0)
    }
}

/// The result, then the gradients of all inputs and parameters that have one.
#[derive(PartialEq)]
pub struct Found(Vec<(String, Vec<f32>)>);

/// Rounded to bf16.
pub fn normals(len: usize, item: u64) -> Vec<f32> {
    rounded(common::normals(len, item))
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect()
}

fn act<A: Float>(values: &[f32]) -> Vec<A> {
    values.iter().map(|value| A::from_f32(*value)).collect()
}

fn run<D: AllOps>(device: Arc<D>, case: &impl Case) -> Found {
    let (layout, params, values) = common::params(&case.params());
    let values = rounded(values);
    let mut tape = Tape::<D>::new(layout.clone());
    let inputs: Vec<Var<D::Act>> = case.inputs().iter().map(|shape| tape.input_var(shape)).collect();
    let recorded = case.record(&mut tape, &inputs, &params);
    let wants_grad = match recorded.out {
        Out::Act(out) => {
            tape.retain(out.slot());
            tape.wants_grad(out)
        }
        Out::Full(out) => {
            tape.retain(out.slot());
            tape.wants_grad(out)
        }
    };
    let (mut seed_act, mut seed_full) = (None, None);
    let plan = |plan: &mut Backward<D>| match recorded.out {
        Out::Act(out) => seed_act = wants_grad.then(|| plan.seed(out)),
        Out::Full(out) => seed_full = wants_grad.then(|| plan.seed(out)),
    };
    let mut program = tape.train_from(device.clone(), plan).unwrap();
    let mut parameters = Parameters::new(&*device, layout.clone(), &values).unwrap();
    for (index, (var, shape)) in inputs.iter().zip(case.inputs()).enumerate() {
        program.write(var.slot(), &act(&normals(shape.iter().product(), index as u64))).unwrap();
    }
    recorded.write(&mut program);
    program.forward(&parameters).unwrap_or_else(|error| panic!("{error}"));
    let floats = |values: Vec<D::Act>| values.into_iter().map(Float::to_f32).collect::<Vec<f32>>();
    let out = match recorded.out {
        Out::Act(out) => floats(program.read(out.slot()).unwrap()),
        Out::Full(out) => program.read(out.slot()).unwrap(),
    };
    let mut found = vec![("the result".to_owned(), out)];
    if wants_grad {
        let seeds = normals(found[0].1.len(), 99);
        seed_act.into_iter().for_each(|seed| program.write(seed, &act(&seeds)).unwrap());
        seed_full.into_iter().for_each(|seed| program.write(seed, &seeds).unwrap());
        program.backward(&mut parameters).unwrap_or_else(|error| panic!("{error}"));
        for (index, var) in inputs.iter().enumerate() {
            if let Some(grad) = program.input_grad(*var) {
                found.push((format!("the gradient of input {index}"), floats(program.read(grad).unwrap())));
            }
        }
        let grads = parameters.download_grads(&*device).unwrap();
        for id in &params {
            let spec = layout.get(*id);
            found.push((format!("the gradient of parameter {}", spec.name), grads[spec.range()].to_vec()));
        }
    }
    Found(found)
}

/// The L2 norm of the difference relative to that of `expected`.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let differences = &mut found.iter().zip(expected).map(|(found, expected)| f64::from(*found) - f64::from(*expected));
    squares(differences) / squares(&mut expected.iter().map(|value| f64::from(*value))).max(1e-30)
}

/// The largest difference, each relative to its number or, for small ones, to the root mean square of all.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares: f64 = expected.iter().map(|value| f64::from(*value).powi(2)).sum();
    let typical = (squares / expected.len().max(1) as f64).sqrt().max(1e-30);
    largest(found.iter().zip(expected).map(|(found, expected)| {
        let (found, expected) = (f64::from(*found), f64::from(*expected));
        (found - expected).abs() / expected.abs().max(typical)
    }))
}

/// f32 sums in another order than the CPU's, over some thousand terms.
const F32_TOLERANCE: f64 = 2e-5;

/// Whether the kernels run on a real GPU instead of the emulator (`tools/gpu/run.py` sets this).
pub fn real() -> bool {
    std::env::var("FLIPK_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

fn device<T: ActType>(driver: Arc<dyn Driver>) -> Arc<Cuda<T>> {
    Arc::new(Cuda::new(driver).expect("the test command installs nvcc where there is none: tools/test"))
}

/// The GPU under test, and what takes its counts: those of the emulator, none of a real one.
pub fn gpu<T: ActType>(options: EmulatorOptions) -> (Arc<Cuda<T>>, impl Fn() -> BTreeMap<String, Counts>) {
    let emulated = (!real()).then(|| Arc::new(Emulated::new(options)));
    let driver: Arc<dyn Driver> = match &emulated {
        Some(emulated) => emulated.clone(),
        None => Arc::new(Gpu::new(0).unwrap_or_else(|error| panic!("{error}"))),
    };
    (device(driver), move || emulated.as_ref().map(|driver| driver.take_counts()).unwrap_or_default())
}

fn on_gpu<T: ActType>(case: &impl Case, options: EmulatorOptions) -> (Found, BTreeMap<String, Counts>) {
    let (device, counts) = gpu::<T>(EmulatorOptions { count: true, ..options });
    (run(device, case), counts())
}

/// Prints how far the GPU is from the emulator on the same inputs; both are within the tolerance of the CPU.
fn print_difference<T: ActType>(name: &str, case: &impl Case, found: &Found) {
    let emulated = run(device::<T>(Arc::new(Emulated::new(EmulatorOptions::default()))), case);
    let differences = found.0.iter().zip(&emulated.0).map(|((_, gpu), (_, emulated))| distance(gpu, emulated));
    println!("{name}, {}: emulator and GPU differ by {:e}", T::SUFFIX, differences.fold(0.0, f64::max));
}

fn compare<T: ActType>(
    name: &str,
    case: &impl Case,
    expected: &Found,
    options: EmulatorOptions,
) -> BTreeMap<String, Counts> {
    let (found, counts) = on_gpu::<T>(case, options);
    let roundings = case.roundings();
    if real() {
        print_difference::<T>(name, case, &found);
    }
    for (index, ((what, found), (_, expected))) in found.0.iter().zip(&expected.0).enumerate() {
        let (all, one) = match size_of::<T>() {
            2 => {
                let all = 2f64.powi(-8) * if index == 0 { roundings.0 } else { roundings.1 };
                (all, 4.0 * all)
            }
            _ => (F32_TOLERANCE, F32_TOLERANCE),
        };
        let (distance, error) = (distance(found, expected), error(found, expected));
        let precision = T::SUFFIX;
        assert!(distance <= all, "{name}, {precision}: {what} is off by {distance:.2e}, allowed {all:.2e}");
        assert!(error <= one, "{name}, {precision}: an element of {what} is off by {error:.2e}, allowed {one:.2e}");
    }
    assert_eq!(found.0.len(), expected.0.len());
    for order in [1, 2] {
        let shuffled = EmulatorOptions { order: Some(order), ..options };
        assert!(on_gpu::<T>(case, shuffled).0 == found, "{name}: another order of blocks gives another result");
    }
    counts
}

/// Holds the bf16 kernels alone to the CPU.
pub fn check_bf16(name: &str, case: &impl Case) {
    compare::<bf16>(name, case, &run(Arc::new(Cpu::default()), case), EmulatorOptions::default());
}

/// As [`check`], on a GPU whose blocks may use `shared` bytes of shared memory.
pub fn check_with_shared(shared: usize, name: &str, case: &impl Case) {
    if real() {
        return println!("skipped: a real GPU has the shared memory that it has");
    }
    let expected = run(Arc::new(Cpu::default()), case);
    let options = EmulatorOptions { shared: Some(shared), ..EmulatorOptions::default() };
    compare::<f32>(name, case, &expected, options);
    compare::<bf16>(name, case, &expected, options);
}

/// Holds both precisions to the CPU; returns what the bf16 kernels did.
pub fn check(name: &str, case: &impl Case) -> BTreeMap<String, Counts> {
    let expected = run(Arc::new(Cpu::default()), case);
    compare::<f32>(name, case, &expected, EmulatorOptions::default());
    compare::<bf16>(name, case, &expected, EmulatorOptions::default())
}

/// Whole sectors, both ways (but for a direction with less than a tenth of the traffic: statistics, pooled rows), and
/// no avoidable bank conflict.
pub fn assert_lean(counts: &BTreeMap<String, Counts>) {
    for (kernel, counts) in counts {
        let all = counts.global_loads.sectors + counts.global_stores.sectors;
        for (what, traffic) in [("loads", &counts.global_loads), ("stores", &counts.global_stores)] {
            let efficiency = traffic.efficiency();
            let lean = efficiency >= 0.9 || traffic.sectors * 10 < all;
            assert!(lean, "{kernel}: {:.0} % of what its {what} move is used", 100.0 * efficiency);
        }
        let banks = counts.shared;
        assert!(banks.passes == banks.least, "{kernel}: {} passes over banks, {} needed", banks.passes, banks.least);
    }
}
