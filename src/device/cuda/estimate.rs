//! Estimates an H100's time from the emulator's counts: that of its slowest unit, each at a rate reached in practice.
//!
//! Not a measurement: latencies, caches and the overlap of units are not modelled.

use ptx_emulator::Counts;

use super::driver::Gemm;
use crate::device::h100::{BANDWIDTH, GEMM};

/// FLOP/s of `mma.sync` in bf16, about two thirds of what Hopper's own matrix instructions reach.
const MMA: f64 = 620e12;
/// Warp instructions per second: 132 SMs with four schedulers at 1.7 GHz.
const ISSUE: f64 = 132.0 * 4.0 * 1.7e9;
/// Passes over shared memory per second: one per SM and clock.
const SHARED: f64 = 132.0 * 1.7e9;
/// Seconds of an empty kernel.
const LAUNCH: f64 = 2e-6;

/// Seconds for a kernel.
pub(super) fn launch(counts: &Counts) -> f64 {
    slowest(counts).0 + LAUNCH
}

/// Seconds of the slowest unit, and which it is.
pub(super) fn slowest(counts: &Counts) -> (f64, &'static str) {
    let moved = 32 * (counts.global_loads.sectors + counts.global_stores.sectors);
    let units = [
        (moved as f64 / BANDWIDTH, "memory"),
        (counts.mma_flops as f64 / MMA, "tensor cores"),
        (counts.warp_instructions() as f64 / ISSUE, "issue"),
        (counts.shared.passes as f64 / SHARED, "shared memory"),
    ];
    units.into_iter().fold((0.0, "-"), |max, unit| if unit.0 > max.0 { unit } else { max })
}

/// Seconds for a matrix product.
pub(super) fn gemm(product: &Gemm) -> f64 {
    let &Gemm { m, n, k, .. } = product;
    (2.0 * (m * n * k) as f64 / GEMM).max(product.moved_bytes() as f64 / BANDWIDTH) + LAUNCH
}

/// Seconds for a copy or a fill that reads and writes `bytes` together.
pub(super) fn copy(bytes: usize) -> f64 {
    bytes as f64 / BANDWIDTH + LAUNCH
}
