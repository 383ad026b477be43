//! Sums over rows: bit for bit those of the CPU, in the tree's order.

use std::sync::Arc;

use flipk::device::cuda::EmulatorOptions;
use flipk::device::{Buffer, Cpu};
use flipk::ops::sum_rows::SumRows;
use half::bf16;

use crate::harness::{assert_lean, gpu, normals, real};

fn run<D: SumRows>(device: &Arc<D>, rows: &[f32], count: usize) -> Vec<f32> {
    let mut from = Buffer::<D, f32>::new(&**device, rows.len(), "a test").unwrap();
    from.upload(device, rows).unwrap();
    let mut into = Buffer::<D, f32>::unwritten(&**device, rows.len() / count, "a test").unwrap();
    device.sum_rows(into.view_mut(), from.view(), count).unwrap();
    into.download(device).unwrap()
}

/// The tree as it is defined.
fn plain(mut sums: Vec<f32>) -> f32 {
    while sums.len() > 1 {
        sums = sums.chunks(2).map(|pair| pair.iter().copied().reduce(|a, b| a + b).unwrap()).collect();
    }
    sums[0]
}

#[test]
fn rows_are_added_in_the_order_of_the_tree() {
    let (device, counts) = gpu::<bf16>(EmulatorOptions { count: true, ..EmulatorOptions::default() });
    let cpu = Arc::new(Cpu::default());
    for (count, len) in [
        (1, 64),
        (2, 4),
        (3, 1028),
        (5, 12),
        (6, 64),
        (7, 8),
        (8, 4096),
        (31, 20),
        (32, 64),
        (45, 4),
        (256, 64),
        (300, 8),
    ] {
        let rows = normals(count * len, count as u64);
        let found = run(&device, &rows, count);
        assert!(found == run(&cpu, &rows, count), "{count} x {len}");
        let column = |at: usize| plain((0..count).map(|row| rows[row * len + at]).collect());
        assert!(found.iter().enumerate().all(|(at, sum)| *sum == column(at)), "{count} x {len}");
    }
    let counts = counts();
    assert!(real() || counts.len() == 1);
    assert_lean(&counts);
}

#[test]
fn more_rows_than_the_kernel_holds_are_an_error() {
    let (device, _) = gpu::<bf16>(EmulatorOptions::default());
    let buffer = |len| Buffer::<_, f32>::new(&*device, len, "a test").unwrap();
    let (mut into, rows) = (buffer(4), buffer(4 * 4096));
    let error = device.sum_rows(into.view_mut(), rows.view(), 4096).unwrap_err().to_string();
    assert!(error.contains("a sum over 4096 ranks; at most 4095"), "{error}");
}
