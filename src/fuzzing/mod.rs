//! Fuzz targets: one function per kind of file that a user or a disk can hand to flipk. They are compiled for tests and
//! for cargo-fuzz (`fuzz/`), which passes `--cfg fuzzing`; they are no part of the library.
//!
//! A target must not panic, hang, overflow its stack, or allocate memory out of proportion to the input. `driver` runs
//! each on mutated files with the stable toolchain: a few hundred in every test run, `tools/fuzz` any number.

#[cfg(test)]
mod driver;
#[cfg(test)]
mod mutate;
#[cfg(test)]
pub(crate) mod seeds;

use std::{cell::RefCell, path::Path, sync::Arc};

use tempfile::NamedTempFile;

#[cfg(feature = "parquet")]
pub use crate::data::fuzzing::parquet;
pub use crate::{
    data::fuzzing::{filter, front, image, pattern, raw, record, shard, text, tokenizer},
    train::fuzzing::metrics,
};
use crate::{
    device::Cpu,
    eval::{ClassNames, Templates},
    golden::{self, Tolerances},
    model::{Flip, Preset},
    optim::Moments,
    train::{Options, Settings, checkpoint::Checkpoint},
};

/// How the tests of properties draw: the same cases each time, so that a failure repeats; `PROPTEST_CASES` draws more.
#[cfg(test)]
pub(crate) fn cases(cases: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    let default = Config { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { Config { cases, ..default } }
}

thread_local! {
    static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
}

/// Calls `read` with the path of a file that holds `bytes`.
pub(crate) fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    let file = FILE.take().unwrap_or_else(|| NamedTempFile::new().expect("a temporary file"));
    std::fs::write(file.path(), bytes).expect("a temporary file can be written");
    read(file.path());
    FILE.set(Some(file));
}

/// Files of class names and of prompt templates.
pub fn list(bytes: &[u8]) {
    with_file(bytes, |path| {
        let _ = ClassNames::from_file(path);
        if let Ok(templates) = Templates::from_file(path) {
            assert!(templates.iter().all(|fill| fill("name").contains("name")));
        }
    });
}

/// A checkpoint: its state, and its weights and moments for the model that it names.
pub fn checkpoint(bytes: &[u8]) {
    with_file(bytes, |path| {
        let _ = Checkpoint::open_checked(path);
        let Ok(checkpoint) = Checkpoint::open(path) else { return };
        let flip = Flip::with_loss(&checkpoint.state.model, checkpoint.state.loss, true);
        if let Ok(weights) = checkpoint.weights(flip.layout()) {
            assert_eq!(weights.len(), flip.layout().arena_len());
        }
        if let Ok(Moments { m, v, .. }) = checkpoint.moments(flip.layout()) {
            assert_eq!(m.len(), v.len());
        }
    });
}

/// A golden state, verified on the CPU.
pub fn golden(bytes: &[u8]) {
    with_file(bytes, |path| {
        let _ = golden::verify(path, Arc::new(Cpu::default()), Tolerances::F32);
    });
}

/// A `config.toml`: options that are accepted resolve to settings that are written and read back unchanged.
pub fn options(bytes: &[u8]) {
    const VOCAB: usize = 4096;
    let mut written = None;
    with_file(bytes, |path| {
        let Ok(options) = Options::default().over_file(path) else { return };
        let Ok(settings) = Settings::resolve(options, Preset::Tiny.config(), VOCAB) else { return };
        let steps = settings.length.steps(settings.loader.batch, 1000);
        settings.warmup_steps(steps);
        written = settings.options.to_toml().ok().zip(Some(settings.options));
    });
    let Some((toml, options)) = written else { return };
    with_file(toml.as_bytes(), |path| {
        let again = Options::default().over_file(path).expect("what was written can be read");
        assert_eq!(again, options);
        again.check_whole(path).expect("what was resolved is complete");
    });
}
