//! The same bits on every processor: the result of 20 steps does not depend on the instruction set.

use std::path::Path;

use flipk::device::isa::Isa;

use crate::harness::{checkpoint, flipk_with, tensors};

/// A small `tiny` with all its ops: two layers, several heads, and rows and widths that are not multiples of a vector
/// or a tile.
const RUN: &[&str] = &[
    "--device=cpu",
    "--precision=f32",
    "--image-size=40",
    "--patch-size=8",
    "--vision-layers=2",
    "--vision-width=72",
    "--vision-heads=3",
    "--text-layers=2",
    "--text-width=56",
    "--text-heads=2",
    "--embed-dim=40",
    "--context=13",
    "--batch=21",
    "--mask-ratio=0.5",
    "--clip-norm=1",
    "--lr=1e-3",
    "--warmup-samples=100",
    "--steps=20",
    "--log-every=1",
];

/// CRC-32C of the losses, one line each as in `metrics.jsonl`, and of all weights and moments, in the order of their
/// names. Change them only if results are meant to change, and say so in the commit.
const INFONCE: [u32; 2] = [0xd834_9d55, 0xc442_1513];
const SIGMOID: [u32; 2] = [0xb170_d5ae, 0x6833_cf05];

fn hashes(run: &Path) -> [u32; 2] {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let losses: String = metrics
        .lines()
        .map(|line| format!("{}\n", serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"]))
        .collect();
    assert_eq!(losses.lines().count(), 20);
    let weights = tensors(&checkpoint(run, 20)).values().fold(0, |hash, bytes| crc32c::crc32c_append(hash, bytes));
    [crc32c::crc32c(losses.as_bytes()), weights]
}

fn check(isa: Isa) {
    if !isa.is_there() {
        return println!("skipped: this processor has at most {}", Isa::best());
    }
    let folder = tempfile::tempdir().unwrap();
    let found = ["infonce", "sigmoid"].map(|loss| {
        let run = folder.path().join(loss);
        let (out, loss) = (format!("--out={}", run.display()), format!("--loss={loss}"));
        let args: Vec<&str> = ["train", &out, &loss].iter().chain(RUN).copied().collect();
        flipk_with(isa.name(), &args).expect(0);
        hashes(&run)
    });
    assert!(found == [INFONCE, SIGMOID], "with {isa}: {found:#010x?}");
}

#[test]
fn plain_code_gives_these_bits() {
    check(Isa::Portable);
}

#[test]
fn avx2_gives_these_bits() {
    check(Isa::Avx2);
}

#[test]
fn avx512_gives_these_bits() {
    check(Isa::Avx512);
}
