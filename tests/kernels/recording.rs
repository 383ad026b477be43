//! A step that was recorded is the step: the same bits as call by call.

use flipk::autograd::Recompute;
use flipk::data::Batch;
use flipk::device::cuda::{Driver, Emulated, EmulatorOptions};
use flipk::device::{Buffer, Captured, Device};
use flipk::model::{Flip, ModelConfig, Preset, TowerConfig};
use flipk::optim::AdamWConfig;
use flipk::random::{Purpose, Random};
use flipk::train::{Keep, StepSize, Trainer};
use half::bf16;

use crate::harness::gpu;

pub fn batch(config: &ModelConfig, size: usize, kept: usize, step: u64) -> Batch {
    let mut random = Random::new(4, Purpose::Test, step, 0);
    let visible = |random: &mut Random| random.permutation(config.patches()).into_iter().take(kept).collect::<Vec<_>>();
    Batch {
        images: (0..size * kept * config.patch_len()).map(|_| random.below(256) as u8).collect(),
        tokens: (0..size * config.context).map(|_| random.below(config.vocab as u32) as i32).collect(),
        ids_keep: (0..size).flat_map(|_| visible(&mut random)).collect(),
        samples: (0..size as u64).collect(),
        ..Batch::default()
    }
}

#[test]
fn recorded_steps_give_the_same_bits() {
    let tower = TowerConfig::new(1, 64, 2);
    let config = ModelConfig {
        image_size: 32,
        patch_size: 8,
        vision: tower,
        text: tower,
        context: 6,
        vocab: 40,
        embed_dim: 16,
        ..Preset::Tiny.config()
    };
    let run = |size: StepSize, record: bool, wait: bool| {
        let (device, _) = gpu::<bf16>(EmulatorOptions::default());
        let flip = Flip::new(&config, true);
        let values = flip.layout().initial_values(2);
        // A norm that clips, so that what changes from step to step reaches every kernel of the update.
        let adamw = AdamWConfig { clip_norm: 0.5, ..AdamWConfig::default() };
        let mut trainer = Trainer::of_size(device, flip, &values, adamw, size).unwrap();
        if !record {
            trainer.disable_capture();
        }
        let batches = (0..5).map(|step| (batch(&config, 8, 8, step), 1e-3 * step as f64));
        let mut outcomes: Vec<_> = match wait {
            true => batches.map(|(batch, lr)| trainer.step(&batch, lr).unwrap()).collect(),
            false => batches.filter_map(|(batch, lr)| trainer.submit(&batch, lr).unwrap()).collect(),
        };
        outcomes.extend(trainer.drain().unwrap());
        (outcomes, trainer.download().unwrap(), trainer.graphs())
    };
    let whole = StepSize::whole(8, 8, Recompute::None);
    let one = StepSize { micro_batches: 4, keep: Keep::One, ..whole };
    let all = StepSize { keep: Keep::All, ..one };
    // Of micro-batches that take turns, the passes of the towers: vision, text, and backwards.
    for (size, graphs) in [(whole, 1), (one, 3), (all, 1)] {
        let (outcomes, weights, none) = run(size, false, true);
        assert!(outcomes[4].loss != outcomes[0].loss, "the steps do something");
        assert_eq!(none, 0);
        for wait in [true, false] {
            let recorded = run(size, true, wait);
            assert!((&recorded.0, &recorded.1) == (&outcomes, &weights), "{size:?}, waiting: {wait}");
            assert_eq!(recorded.2, graphs, "{size:?}");
        }
    }
}

/// What CUDA refuses, too.
#[test]
fn the_emulator_refuses_a_capture_that_other_calls_reach_into() {
    let driver = Emulated::new(EmulatorOptions::default());
    let [into, from] = [0; 2].map(|_| driver.allocate(16).unwrap().unwrap());
    let copy_on_fork = || {
        driver.begin_fork().unwrap();
        driver.copy(into, from, 16).unwrap();
        let event = driver.record_event().unwrap();
        driver.end_fork();
        event
    };
    driver.zero(from, 16).unwrap();
    let before = copy_on_fork();
    driver.begin_capture().unwrap();
    assert!(driver.join().is_err(), "nothing was forked in the capture");
    assert!(driver.wait_event(&before).is_err(), "an event from before");
    let within = copy_on_fork();
    assert!(driver.end_capture().is_err(), "the streams were not joined");
    assert!(driver.wait_event(&within).is_err(), "an event of a capture");
    driver.join().unwrap();

    driver.upload(from, &[1; 16]).unwrap();
    driver.begin_capture().unwrap();
    let within = copy_on_fork();
    driver.wait_event(&within).unwrap();
    let graph = driver.end_capture().unwrap();
    let mut found = [7; 16];
    for expected in [0, 1] {
        driver.download(&mut found, into).unwrap();
        assert_eq!(found, [expected; 16]);
        graph.replay().unwrap();
    }
    [into, from].into_iter().for_each(|address| driver.free(address));
}

#[test]
fn calls_are_not_replayed_if_another_rank_refused() {
    let (device, _) = gpu::<bf16>(EmulatorOptions::default());
    let mut sums = Buffer::<_, f32>::new(&*device, 16, "a test").unwrap();
    let mut ones = Buffer::<_, f32>::new(&*device, 16, "a test").unwrap();
    ones.upload(&*device, &[1.0; 16]).unwrap();
    let (mut captured, mut asked) = (Captured::default(), Vec::new());
    for _ in 0..4 {
        let agree = |own| {
            asked.push(own);
            Ok(false)
        };
        captured.run_on_all(&*device, agree, || device.add_into(sums.view_mut(), ones.view())).unwrap();
    }
    assert_eq!(asked, [true], "once, after a capture");
    assert!(!captured.is_captured());
    assert_eq!(sums.download(&*device).unwrap(), [4.0; 16]);
}
