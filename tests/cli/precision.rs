//! `--precision`: what it prints, and that a run keeps it.

use flipk::device::Cpu;

use crate::harness::{flipk, json, train};

#[test]
fn what_auto_chooses_is_printed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let ran = train(&run, &["--device=cpu", "--steps=1"]).expect(0);
    assert!(ran.stderr.contains("--precision auto: f32 on this device"), "{}", ran.stderr);
    let has_amx = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("amx_bf16"));
    assert_eq!(ran.stderr.contains("--precision bf16 it multiplies"), has_amx, "{}", ran.stderr);
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("precision = \"f32\""), "{config}");
    let ran = flipk(&["train", "--device=cpu", &format!("--resume={}", run.display())]).expect(0);
    assert!(!ran.stderr.contains("--precision auto") && !ran.stderr.contains("changed:"), "{}", ran.stderr);
}

#[test]
fn a_run_in_bf16_is_resumed_in_bf16() {
    if let Err(error) = Cpu::bf16() {
        return println!("skipped: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let ran = train(&run, &["--device=cpu", "--steps=1", "--precision=bf16"]).expect(0);
    assert!(ran.stderr.contains("GFLOP/s in bf16 and"), "{}", ran.stderr);
    let resume = format!("--resume={}", run.display());
    let device = || json(&run.join("summary.json"))["device"].as_str().unwrap().to_owned();
    let ran = flipk(&["train", "--device=cpu", &resume, "--steps=2"]).expect(0);
    assert!(ran.stderr.contains("changed: steps;") && device().contains("bf16 products"), "{}", ran.stderr);
    let ran = flipk(&["train", "--device=cpu", &resume, "--precision=f32"]).expect(0);
    assert!(ran.stderr.contains("changed: precision;") && !device().contains("bf16"), "{}", ran.stderr);
    let said = "was computed in cpu, bf16 summed in";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("continues in cpu, f32;"), "{}", ran.stderr);
}
