//! What a rank holds on an emulated GPU.

use std::sync::Arc;

use super::super::network::tests::ideal;
use super::{KEPT, plan, simulate, small};
use crate::autograd::Recompute;
use crate::device::Cuda;
use crate::device::cuda::{Emulated, EmulatorOptions, kernels};
use crate::group::{Group, Threads};
use crate::model::{Flip, Loss, Preset};
use crate::ops::copy_blocks::COPY_BLOCK;
use crate::optim::{AdamWConfig, Slices};
use crate::train::{StepSize, Trainer, master_bytes};

/// Bytes that the emulated GPU of each rank holds, if `size` is that of all ranks.
fn held(ranks: usize, vocab: usize, size: StepSize) -> Vec<usize> {
    let run = move |group: Threads| {
        let flip = small(vocab, Loss::Infonce);
        let values = vec![0.0; flip.layout().arena_len()];
        let driver = Arc::new(Emulated::new(EmulatorOptions::default()));
        let device = Arc::new(Cuda::<half::bf16>::new(driver.clone()).unwrap());
        let group: Arc<dyn Group> = Arc::new(group);
        let trainer = Trainer::in_group(device, flip, &values, AdamWConfig::default(), size, group).unwrap();
        (driver.allocated(), trainer)
    };
    let ranks: Vec<_> = Threads::group(ranks).into_iter().map(|group| std::thread::spawn(move || run(group))).collect();
    // A group must not be dropped while other ranks use it.
    let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    ranks.iter().map(|(held, _)| *held).collect()
}

/// Bytes of the parameters that ops read in f32.
fn read_in_f32(flip: &Flip) -> usize {
    let blocks = flip.layout().specs().iter().filter(|spec| !spec.rounded).map(|spec| spec.len.div_ceil(COPY_BLOCK));
    4 * COPY_BLOCK * blocks.sum::<usize>()
}

/// The bytes of moments and f32 weights are divided by the number of ranks, and the emulator holds what is simulated.
#[test]
fn moments_and_f32_weights_are_divided() {
    let vocab = 100_000;
    let flip = small(vocab, Loss::Infonce);
    let (plan, arena) = (plan(&flip, ideal()), flip.layout().arena_len());
    for ranks in [1, 2, 4] {
        let simulated = simulate(&plan, ranks).memory;
        let of = |what| simulated.iter().find(|held| held.what == what).map_or(0, |held| held.bytes);
        let most = 12 * arena / ranks + (1 << 20) + read_in_f32(&flip);
        assert!(of("weights") + of("moments") <= most, "{ranks} ranks: {simulated:?}");
        if kernels::KERNELS.is_empty() {
            continue;
        }
        // These ranks exchange gradients through the host.
        let all: usize = simulated.iter().map(|held| held.bytes).sum();
        let most = master_bytes(flip.layout(), &Slices::new(arena, ranks)).into_iter().max().unwrap();
        let masters = if ranks > 1 { ranks * most } else { 0 };
        let expected = all - of("exchange buffers") + masters;
        let batch = plan.size.batch * ranks;
        let size = StepSize { micro_batches: ranks, ..StepSize::whole(batch, KEPT, Recompute::None) };
        let held = held(ranks, vocab, size);
        // Besides, there are decay flags and other small numbers. Other ranks may have shorter slices.
        let most = expected + arena / 64 + (64 << 10);
        assert!(held[0] >= expected && held.iter().all(|held| *held <= most), "{held:?}, not {expected}");
    }
}

/// The sizes in docs/architecture.md.
#[test]
fn few_parameters_are_read_in_f32() {
    for (preset, bytes) in [(Preset::B16, 2_946_304), (Preset::L16, 6_162_688), (Preset::H14, 10_640_640)] {
        let flip = Flip::new(&preset.config(), true);
        assert_eq!(read_in_f32(&flip), bytes, "{preset:?}");
        assert!(bytes * 100 < 4 * flip.layout().arena_len());
    }
}
