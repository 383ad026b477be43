//! `flipk verify`.

use std::path::Path;

use crate::harness::flipk;

#[test]
fn the_golden_state_holds_and_a_changed_one_does_not() {
    let golden = Path::new("tests/fixtures/golden/flip_tiny.safetensors");
    let ran = flipk(&["verify", &golden.display().to_string()]).expect(0);
    assert!(ran.stdout.contains("verdict") && ran.stdout.contains("quantities hold"), "{}", ran.stdout);
    // One wrong byte in the last tensor: the exponent of its last number.
    let mut bytes = std::fs::read(golden).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.safetensors");
    std::fs::write(&changed, bytes).unwrap();
    let ran = flipk(&["verify", &changed.display().to_string()]).expect(1);
    assert!(ran.stdout.contains("FAILED"), "{}", ran.stdout);
}

#[test]
fn a_file_that_is_no_golden_state_is_refused() {
    let ran = flipk(&["verify", "Cargo.toml"]).expect(1);
    assert!(ran.stderr.contains("Cargo.toml: not a safetensors file"), "{}", ran.stderr);
}
