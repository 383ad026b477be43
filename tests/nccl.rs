//! Ranks on emulated GPUs, connected by a double of NCCL that checks the calls and moves the bytes
//! (tests/fixtures/nccl/double.c).
#![cfg(all(feature = "emulator", target_os = "linux"))]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};

use flipk::autograd::Recompute;
use flipk::data::{Batch, kept_patches};
use flipk::device::cuda::{ActType, Emulated, EmulatorOptions};
use flipk::device::{Cuda, DeviceError};
use flipk::group::{Alone, Group, Nccl, Threads};
use flipk::model::{Flip, Loss, ModelConfig, Preset, TowerConfig};
use flipk::optim::{AdamWConfig, Moments};
use flipk::random::{Purpose, Random};
use flipk::train::{Keep, StepOutcome, StepSize, Trainer};
use half::bf16;
use libloading::{Library, Symbol};

const BATCH: usize = 12;
const STEPS: u64 = 3;

fn config() -> ModelConfig {
    let tower = TowerConfig::new(1, 64, 1);
    let sizes = ModelConfig { image_size: 32, context: 8, vocab: 600, embed_dim: 32, ..Preset::Tiny.config() };
    ModelConfig { vision: tower, text: tower, ..sizes }
}

fn batch(step: u64, kept: usize) -> Batch {
    let (config, mut random) = (config(), Random::new(5, Purpose::Test, step, 0));
    let visible = |random: &mut Random| random.permutation(config.patches()).into_iter().take(kept).collect::<Vec<_>>();
    Batch {
        images: (0..BATCH * kept * config.patch_len()).map(|_| random.below(256) as u8).collect(),
        tokens: (0..BATCH * config.context).map(|_| random.below(600) as i32).collect(),
        ids_keep: (0..BATCH).flat_map(|_| visible(&mut random)).collect(),
        ..Batch::default()
    }
}

/// How a rank computes.
#[derive(Clone, Copy)]
enum How {
    /// Without NCCL, call by call.
    Plain,
    /// With NCCL; whether calls are captured and replayed.
    Nccl { record: bool },
}

/// What a run leaves on rank 0.
type Left = (Vec<StepOutcome>, Vec<f32>, Moments);
/// What a rank sees: the temperature, which one rank updates, after each of the last steps, and in f32 all weights.
type Seen = (Vec<f64>, Option<Vec<f32>>);

/// Trains as one rank.
fn rank<T: ActType>(
    group: Arc<dyn Group>,
    loss: Loss,
    (micro_batches, keep): (usize, Keep),
    how: How,
) -> (Option<Left>, Seen) {
    let flip = Flip::with_loss(&config(), loss, true);
    let values = flip.layout().initial_values(1);
    let adamw = AdamWConfig { clip_norm: 0.5, ..AdamWConfig::default() };
    let driver = Arc::new(Emulated::new(EmulatorOptions::default()));
    let (nccl, record) = match how {
        How::Plain => (None, false),
        How::Nccl { record } => (Some(Arc::new(Nccl::join(&*group).unwrap())), record),
    };
    let device = Arc::new(Cuda::<T>::new(driver).unwrap().connected(nccl));
    let kept = kept_patches(config().patches(), 0.5);
    let size = StepSize { micro_batches, keep, ..StepSize::whole(BATCH, kept, Recompute::None) };
    let (own, of) = (group.rank(), group.size());
    let mut trainer = Trainer::in_group(device, flip, &values, adamw, size, group).unwrap();
    if !record {
        trainer.disable_capture();
    }
    let mut outcomes = Vec::new();
    for step in 0..STEPS {
        // Not `step`, which waits for gathered weights: the ops of the next step must do so themselves.
        let before = trainer.submit(&batch(step, kept).part(own, of), 1e-3).unwrap_or_else(|error| panic!("{error}"));
        outcomes.extend(before);
    }
    outcomes.extend(trainer.drain().unwrap());
    let mut scales = Vec::new();
    for step in STEPS..STEPS + 2 {
        outcomes.extend(trainer.submit(&batch(step, kept).part(own, of), 1e-3).unwrap());
        outcomes.extend(trainer.drain().unwrap());
        scales.push(trainer.logit_scale().unwrap());
    }
    trainer.settle().unwrap();
    let weights = (!T::SHADOW).then(|| trainer.params().download_values(trainer.device()).unwrap());
    let graphs = trainer.graphs();
    match record {
        false => assert_eq!(graphs, 0),
        // Micro-batches that take turns in memory are uploaded between graphs.
        true if keep == Keep::One && of < micro_batches => assert!(graphs > 1),
        true => assert_eq!(graphs, 1),
    }
    (trainer.download().unwrap().map(|(weights, moments)| (outcomes, weights, moments)), (scales, weights))
}

/// What `ranks` ranks leave, `local` of them on each machine; all see the same.
fn run<T: ActType>([ranks, local]: [usize; 2], loss: Loss, parts: (usize, Keep), record: bool) -> (Left, Seen) {
    // Dropped together: a thread that ends early would end the others' group.
    let ended = Arc::new(Barrier::new(ranks));
    let start = |group: Threads| {
        let ended = ended.clone();
        std::thread::spawn(move || {
            let left = rank::<T>(Arc::new(group), loss, parts, How::Nccl { record });
            ended.wait();
            left
        })
    };
    let ranks: Vec<_> = Threads::on_machines(ranks, local).into_iter().map(start).collect();
    let mut ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let (left, seen) = ranks.swap_remove(0);
    assert!(ranks.iter().all(|(_, other)| *other == seen), "a rank has old weights");
    (left.unwrap(), seen)
}

/// All-gathers, broadcasts, sends and receives so far.
fn totals(library: &Path) -> [i64; 4] {
    let mut totals = [0; 4];
    // SAFETY: the function of double.c; C's long has 64 bits on Linux's 64-bit machines.
    unsafe {
        let library = Library::new(library).unwrap();
        let read: Symbol<unsafe extern "C" fn(*mut i64)> = library.get(b"double_totals").unwrap();
        read(totals.as_mut_ptr());
    }
    totals
}

fn made_since(library: &Path, before: [i64; 4]) -> [i64; 4] {
    let now = totals(library);
    [0, 1, 2, 3].map(|kind| now[kind] - before[kind])
}

/// One test, since it sets a variable of the process.
#[test]
fn ranks_that_nccl_connects_leave_the_bits_of_one() {
    if flipk::device::cuda::kernels::KERNELS.is_empty() {
        eprintln!("skipped: there are no kernels; tools/cuda-compiler installs their compiler");
        return;
    }
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("FLIPK_NCCL", "/nowhere/libnccl.so.2") };
    let missing = Nccl::join(&Alone).unwrap_err().to_string();
    assert!(missing.contains("NCCL cannot be opened") && missing.contains("pip install nvidia-nccl"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnccl.so.2");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nccl/double.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).args([&library, &source]).status();
    assert!(built.unwrap().success(), "the C compiler with which Rust links");
    // SAFETY: as above.
    unsafe { std::env::set_var("FLIPK_NCCL", &library) };
    for loss in [Loss::Infonce, Loss::Sigmoid] {
        let (left, seen) = rank::<bf16>(Arc::new(Alone), loss, (4, Keep::One), How::Plain);
        let expected = (left.unwrap(), seen);
        assert!(
            expected.1.0[0] != expected.1.0[1] && expected.0.0[2].loss != expected.0.0[0].loss,
            "the steps do something"
        );
        for ranks in [[1, 1], [2, 2], [4, 4], [4, 2]] {
            for keep in [Keep::One, Keep::All] {
                let left = run::<bf16>(ranks, loss, (4, keep), true);
                assert!(left == expected, "{loss:?}, {keep:?}, {ranks:?} ranks in all and a machine");
            }
        }
    }
    for (ranks, parts) in [(1, 1), (1, 4), (2, 2), (2, 4)] {
        let [recorded, plain] = [true, false].map(|record| {
            let before = totals(&library);
            let size = (parts, Keep::All);
            (run::<bf16>([ranks; 2], Loss::Infonce, size, record), made_since(&library, before))
        });
        assert!(recorded.0 == plain.0, "{ranks} ranks, {parts} micro-batches");
        // Replayed steps begin with gathering weights, and so does the first one, which needs none of other ranks.
        // Only weights are broadcast: before each of five steps but the first, and at the end.
        let more = [0, 1, 2, 3].map(|kind| recorded.1[kind] - plain.1[kind]);
        let is_one_gathering = more[0] > 0 && more[1] > 0 && 5 * more[0] < plain.1[0] && 5 * more[1] == plain.1[1];
        assert!(
            is_one_gathering && more[2..] == [0, 0],
            "{ranks} ranks, {parts} micro-batches: {more:?}, {:?}",
            plain.1
        );
    }
    let before = totals(&library);
    let six = |ranks| run::<f32>(ranks, Loss::Infonce, (6, Keep::One), true);
    assert!(six([3, 3]) == six([6, 2]));
    let made = made_since(&library, before);
    // Every sent message is received, and slices of unequal length are broadcast.
    assert!(made[2] > 0 && made[2] == made[3] && made[0] > 0 && made[1] > 0, "{made:?}");
    let without = Cuda::<f32>::new(Arc::new(Emulated::new(EmulatorOptions::default()))).unwrap();
    let refused = flipk::device::Device::all_to_all(&without, Vec::new(), Vec::new());
    assert!(matches!(refused, Err(DeviceError::Unsupported { .. })));
}
