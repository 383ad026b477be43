use flipk::autograd::{ParamId, Tape, Var};
use flipk::device::cuda::{Arg, EmulatorOptions, Launch, LaunchConfig};
use flipk::ops::AllOps;
use flipk::ops::linear::Weights;

use crate::harness::{Case, Recorded, assert_lean, check, gpu, real};

/// A tensor that is used twice: its gradients are added.
struct Twice {
    rows: usize,
    width: usize,
}

impl Case for Twice {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.rows, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.width, self.width], vec![self.width], vec![self.width]]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let linear = tape.linear(x[0], Weights { weight: p[0], bias: None }, None);
        let norm = flipk::ops::layernorm::Norm { gamma: p[1], beta: p[2], eps: 1e-6 };
        tape.residual_layernorm(linear, Some(x[0]), norm).1.into()
    }

    fn roundings(&self) -> (f64, f64) {
        (2.0, 3.0)
    }
}

#[test]
fn gradients_are_added() {
    for (rows, width) in [(1, 8), (37, 40), (300, 256)] {
        let counts = check(&format!("{rows} x {width}"), &Twice { rows, width });
        assert!(real() || counts.contains_key("add_into_bf16"));
        if width == 256 {
            assert_lean(&counts);
        }
    }
}

#[test]
fn a_size_that_no_int_holds_is_an_error() {
    let (device, _) = gpu::<f32>(EmulatorOptions::default());
    let (config, args) = (LaunchConfig::blocks(1, 256), [Arg::from(&(1usize << 31))]);
    let by_device = device.launch("add", "add_into_f32", config, &args).unwrap_err();
    let for_driver = Launch::new("add", "add_into_f32", config, &args).unwrap_err();
    for error in [by_device, for_driver].map(|error| error.to_string()) {
        assert!(error.ends_with("add_into_f32: a size of 2147483648; at most 2147483647 on a GPU"), "{error}");
    }
}
