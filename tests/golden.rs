//! The CPU against golden states made by other implementations.

use std::path::Path;
use std::sync::Arc;

use flipk::device::Cpu;
use flipk::golden::{Tolerances, verify};

#[test]
fn cpu_agrees_with_the_authors_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/flip_reference_tiny.safetensors");
    if !path.exists() {
        println!("skipped: no golden state beside the project (../shared/fixtures)");
        return;
    }
    let checks = verify(&path, Arc::new(Cpu), Tolerances::F32).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| !check.holds()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // 3 masks of 4 quantities, 62 gradients at ratio 0.5, 20 losses, 58 norms and the table: none may be left out.
    assert!(checks.len() > 140, "only {} quantities were compared", checks.len());
}
