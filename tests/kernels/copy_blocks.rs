//! Blocks of the arena that are packed and unpacked: bit for bit what the CPU copies.

use std::sync::Arc;

use flipk::device::cuda::EmulatorOptions;
use flipk::device::{Buffer, Cpu};
use flipk::ops::copy_blocks::{COPY_BLOCK, CopyBlocks};
use half::bf16;

use crate::harness::{assert_lean, gpu, normals, real};

/// The packed blocks, and an arena of other values into which they were unpacked.
fn run<D: CopyBlocks>(device: &Arc<D>, arena: &[f32], blocks: &[i32]) -> [Vec<f32>; 2] {
    let buffer = |values: &[f32]| {
        let mut buffer = Buffer::<D, f32>::new(&**device, values.len(), "a test").unwrap();
        buffer.upload(device, values).unwrap();
        buffer
    };
    let (arena, mut other) = (buffer(arena), buffer(&normals(arena.len(), 2)));
    let mut numbers = Buffer::<D, i32>::new(&**device, blocks.len(), "a test").unwrap();
    numbers.upload(device, blocks).unwrap();
    let mut dense = buffer(&vec![7.0; blocks.len() * COPY_BLOCK]);
    device.pack_blocks(arena.view(), numbers.view(), dense.view_mut()).unwrap();
    device.unpack_blocks(other.view_mut(), numbers.view(), dense.view()).unwrap();
    [dense.download(device).unwrap(), other.download(device).unwrap()]
}

#[test]
fn blocks_are_packed_and_unpacked() {
    let (device, counts) = gpu::<bf16>(EmulatorOptions { count: true, ..EmulatorOptions::default() });
    let arena = normals(40 * COPY_BLOCK, 1);
    let many: Vec<i32> = (0..40).rev().map(|block| if block % 7 == 3 { -1 } else { block }).collect();
    for blocks in [&[39][..], &[-1, -1], &[3, -1, 0, 21], &many] {
        let found = run(&device, &arena, blocks);
        assert!(found == run(&Arc::new(Cpu::default()), &arena, blocks), "{blocks:?}");
        assert!(found[0].iter().zip(&arena[39 * COPY_BLOCK..]).all(|(one, other)| blocks[0] != 39 || one == other));
    }
    let counts = counts();
    assert!(real() || counts.len() == 2);
    assert_lean(&counts);
}
