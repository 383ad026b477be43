//! The devices against golden states made by other implementations.

use std::path::Path;
use std::sync::Arc;

use flipk::device::cuda::{Activation, Emulated, EmulatorOptions};
use flipk::device::{Cpu, Cuda};
use flipk::golden::{Tolerances, verify};
use flipk::ops::AllOps;
use half::bf16;

fn agrees<D: AllOps>(device: Arc<D>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/flip_reference_tiny.safetensors");
    if !path.exists() {
        println!("skipped: no golden state beside the project (../shared/fixtures)");
        return;
    }
    let checks = verify(&path, device, Tolerances::of::<D::Act>()).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| !check.holds()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // 3 masks of 4 quantities, 62 gradients at ratio 0.5, 20 losses, 58 norms and the table: none may be left out.
    assert!(checks.len() > 140, "only {} quantities were compared", checks.len());
}

#[test]
fn cpu_agrees_with_the_authors_model() {
    agrees(Arc::new(Cpu));
}

fn emulated<T: Activation>() -> Arc<Cuda<T>> {
    let driver = Arc::new(Emulated::new(EmulatorOptions::default()));
    Arc::new(Cuda::new(driver).expect("the test command installs nvcc where there is none: tools/test"))
}

/// The whole trajectory through the kernels' f32 instances, at the CPU's tolerances.
#[test]
fn kernels_in_f32_agree_with_the_authors_model() {
    agrees(emulated::<f32>());
}

#[test]
fn kernels_in_bf16_agree_with_the_authors_model() {
    agrees(emulated::<bf16>());
}
