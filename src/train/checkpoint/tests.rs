//! Checkpoints on disk, whole and damaged.

use super::*;
use crate::data::Tally;
use crate::model::{Flip, Preset};

fn state(step: u64) -> State {
    let mut found = Found::default();
    found.add([Tally::lost(step)]);
    State {
        model: Preset::Tiny.config(),
        loss: Loss::Infonce,
        step,
        samples: 640,
        position: Position { streams: vec![crate::data::StreamPosition { epoch: 3, group: 0, index: 17 }] },
        seed: u64::MAX,
        fingerprint: 5,
        seconds: 0.0,
        arithmetic: None,
        micro_batches: None,
        found,
    }
}

#[test]
fn a_checkpoint_comes_back_as_it_was_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Flip::new(&Preset::Tiny.config(), true).layout().clone();
    let arena = |seed| layout.initial_values(seed);
    for step in 1..=4 {
        let moments = Moments { m: arena(2), v: arena(3), step };
        save(&path_of(folder.path(), step), &state(step), &layout, &arena(step), &moments).unwrap();
        prune(folder.path(), 2);
    }
    let kept: Vec<PathBuf> = [3, 4].map(|step| path_of(folder.path(), step)).into();
    assert_eq!(list(folder.path()), kept);
    let newest = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(newest.state, state(4));
    assert!(newest.weights(&layout).unwrap() == arena(4));
    assert!(newest.moments(&layout).unwrap() == Moments { m: arena(2), v: arena(3), step: 4 });
}

#[test]
fn equal_states_are_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Flip::new(&Preset::Tiny.config(), true).layout().clone();
    let arena = layout.initial_values(1);
    let moments = Moments { m: arena.clone(), v: arena.clone(), step: 1 };
    let bytes = |seconds: f64| {
        let path = path_of(folder.path(), 1);
        save(&path, &State { seconds, ..state(1) }, &layout, &arena, &moments).unwrap();
        fs::read(path).unwrap()
    };
    let first = bytes(0.0);
    assert!((1..20).all(|seconds| bytes(f64::from(seconds)) == first));
}

/// By step, not by name; a user's own copies are neither the newest checkpoint nor pruned.
#[test]
fn checkpoints_are_listed_by_their_step() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [99_999_999, 100_000_000, 100_000_001].map(|step| path_of(folder.path(), step));
    let copies = ["step-00000001-best.safetensors", "best.safetensors", "step-00000002.partial"];
    let copies = copies.map(|name| folder.path().join(name));
    for path in steps.iter().chain(&copies) {
        fs::write(path, "").unwrap();
    }
    assert_eq!(list(folder.path()), steps);
    prune(folder.path(), 1);
    assert_eq!(list(folder.path()), steps[2..]);
    assert!(copies.iter().all(|copy| copy.exists()));
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| Checkpoint::open(path).err().map(|error| error.to_string()).unwrap();
    assert!(error(folder.path()).contains("holds no step-*.safetensors"));
    let path = path_of(folder.path(), 1);
    fs::write(&path, b"not one").unwrap();
    assert!(error(&path).contains("is not a checkpoint"));
    let layout = Flip::new(&Preset::Tiny.config(), true).layout().clone();
    let zeros = vec![0.0; layout.arena_len()];
    let moments = Moments { m: zeros.clone(), v: zeros.clone(), step: 1 };
    save(&path, &state(1), &layout, &zeros, &moments).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(error(&path).contains("is not a checkpoint"));
    assert!(error(Path::new("/nowhere")).contains("cannot open /nowhere"));
}

/// The header's sizes are only a claim, for which nothing is allocated.
#[test]
fn a_model_that_is_larger_than_the_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let unchecked = &crate::fuzzing::seeds::checkpoints()[2];
    let huge = crate::fuzzing::seeds::edit_header(unchecked, |header| {
        let state = &mut header["__metadata__"]["flipk"];
        *state = state.as_str().unwrap().replace("\"width\":4", "\"width\":65536").into();
    });
    fs::write(file.path(), huge).unwrap();
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    let flip = Flip::new(&checkpoint.state.model, true);
    for error in [checkpoint.weights(flip.layout()).err(), checkpoint.moments(flip.layout()).err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("parameters, and the file only"), "{error}");
    }
}

#[test]
fn damage_is_found_and_the_newest_intact_checkpoint_named() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Flip::new(&Preset::Tiny.config(), true).layout().clone();
    let arena = layout.initial_values(1);
    let paths: Vec<PathBuf> = (1..=3).map(|step| path_of(folder.path(), step)).collect();
    for (path, step) in paths.iter().zip(1..) {
        let moments = Moments { m: arena.clone(), v: arena.clone(), step };
        save(path, &state(step), &layout, &arena, &moments).unwrap();
    }
    let bytes = fs::read(&paths[2]).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(&paths[2], bytes).unwrap();
        Checkpoint::open_intact(&paths[2]).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(error(&bytes), "");
    assert!(error(&[]).contains("it is empty (0 bytes)"));
    assert!(error(&vec![0; bytes.len()]).contains("it has only zero bytes"));
    assert!(error(&bytes[..50_000]).contains("it is truncated: its header describes more than the 50000 bytes"));
    for at in [bytes.len() - 5, bytes.len() / 2, bytes.len() / 6] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(error(&changed).contains("it is damaged"), "byte {at}");
        // The header is intact, so only reading the tensors finds it.
        let opened = Checkpoint::open(folder.path()).unwrap();
        assert!(opened.weights(&layout).is_err() || opened.moments(&layout).is_err(), "byte {at}");
    }
    fs::copy(&paths[1], &paths[2]).unwrap();
    let copied = Checkpoint::open_intact(&paths[2]).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(copied.contains("its name says step 3, but it was written at step 2"), "{copied}");
    // A digit of the state.
    let mut changed = bytes.clone();
    let samples = bytes.windows(4).position(|window| window == b":640").unwrap();
    changed[samples + 1] ^= 1;
    assert!(error(&changed).contains("it is damaged: the state in its header"));
    assert!(Checkpoint::open(&paths[2]).is_err());
    fs::write(&paths[2], &bytes[..50_000]).unwrap();
    fs::write(&paths[1], b"").unwrap();
    let message = Checkpoint::open(folder.path()).err().map(|error| error.to_string()).unwrap();
    assert!(message.contains("step-00000003") && message.contains("it is truncated"), "{message}");
    assert!(message.contains("step-00000001.safetensors is intact: use that file instead"), "{message}");
}

#[test]
fn the_error_names_the_program_that_wrote_other_weights() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = |bytes: &[u8]| {
        fs::write(file.path(), bytes).unwrap();
        Checkpoint::open(file.path()).err().map(|error| error.to_string()).unwrap()
    };
    let weights = |name: &str| {
        let one = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        safetensors::serialize([("visual.conv1.weight".to_owned(), one.clone()), (name.to_owned(), one)], None).unwrap()
    };
    let message = error(&weights("visual.transformer.resblocks.0.ln_1.weight"));
    assert!(message.contains("weights of OpenCLIP") && message.contains("only its own checkpoints"), "{message}");
    assert!(error(&weights("text_model.embeddings.position_ids")).contains("Hugging Face"));
    assert!(error(&weights("a.b")).contains("such as `a.b`"));
    assert!(error(b"PK\x03\x04 archive/data.pkl").contains("a PyTorch file (a ZIP of pickles)"));
    assert!(error(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("a Python pickle"));
}
