//! A step on a CPU allocates next to nothing: its buffers were placed when it was recorded, or are kept from the first
//! step. What remains are the small blocks that return its outcome.

use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::data::Batch;
use flipk::device::Cpu;
use flipk::model::{Flip, Preset};
use flipk::optim::AdamWConfig;
use flipk::random::{Purpose, Random};
use flipk::train::{Keep, StepSize, Trainer};

use super::counted;

/// Allocations of a step and their bytes, after the first ones.
fn per_step(cpu: Cpu, size: usize, micro_batches: usize) -> (usize, usize) {
    let config = Preset::Tiny.config();
    let kept = config.patches() / 2;
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    let batch = Batch {
        images: (0..size * kept * config.patch_len()).map(|_| random.below(256) as u8).collect(),
        tokens: (0..size * config.context).map(|_| random.below(config.vocab as u32) as i32).collect(),
        ids_keep: (0..size as u32 * kept as u32).map(|index| index % kept as u32).collect(),
        samples: (0..size as u64).collect(),
        ..Batch::default()
    };
    let flip = Flip::new(&config, true);
    let values = flip.layout().initial_values(1);
    let size = StepSize { micro_batches, keep: Keep::One, ..StepSize::whole(size, kept, Recompute::None) };
    let mut trainer = Trainer::of_size(Arc::new(cpu), flip, &values, AdamWConfig::default(), size).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        for _ in 0..3 {
            trainer.step(&batch, 1e-3).unwrap();
        }
        let used = counted(|| {
            for _ in 0..10 {
                trainer.step(&batch, 1e-3).unwrap();
            }
        });
        (used.allocations / 10, used.bytes / 10)
    })
}

#[test]
fn a_step_allocates_next_to_nothing() {
    let _alone = super::alone();
    for (precision, cpu) in [("f32", Ok(Cpu::default())), ("bf16", Cpu::bf16())] {
        let Ok(cpu) = cpu else {
            println!("{precision} skipped: this processor has no instructions for it");
            continue;
        };
        for (batch, micro_batches) in [(8, 1), (64, 1), (64, 8)] {
            let (count, bytes) = per_step(cpu, batch, micro_batches);
            let name = format!("{precision}, batch {batch} in {micro_batches}");
            println!("{name}: {count} allocations, {bytes} bytes a step");
            let (most, most_bytes) = (16 * micro_batches, 4096 * micro_batches);
            assert!(count <= most && bytes <= most_bytes, "{name}: {count} allocations, {bytes} bytes a step");
        }
    }
}
