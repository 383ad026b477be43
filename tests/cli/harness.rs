//! The program as a user runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::pack;
use crate::robust::png;

pub const FLIPK: &str = env!("CARGO_BIN_EXE_flipk");

/// A model of a few thousand weights and a token table, so that a step takes milliseconds.
pub const SMALL: &[&str] = &[
    "--data=embedded:noto",
    "--eval-data=embedded:twemoji",
    "--image-size=16",
    "--patch-size=4",
    "--vision-layers=1",
    "--vision-width=32",
    "--vision-heads=2",
    "--text-layers=1",
    "--text-width=32",
    "--text-heads=2",
    "--embed-dim=16",
    "--batch=32",
    "--lr=1e-3",
    "--log-every=1",
];

pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Self { code: output.status.code(), stdout, stderr }
    }

    /// Fails with everything that was printed if the exit code is another.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// The program, started by the command in `FLIPK_RUNNER` if there is one: `tools/aarch64` runs it in qemu.
pub fn command() -> Command {
    let runner = std::env::var("FLIPK_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([FLIPK]);
    let mut command = Command::new(words.next().unwrap_or(FLIPK));
    // Ceilings that are measured during the tests are not the machine's.
    command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    hear_signals(command.args(words));
    command
}

/// Resets signals that the tests' parent may ignore (`nohup`, a background job of a script): a child would ignore them
/// too.
pub fn hear_signals(command: &mut Command) {
    #[cfg(unix)]
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGTSTP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

pub fn flipk<S: AsRef<str>>(args: &[S]) -> Ran {
    let args = args.iter().map(AsRef::as_ref);
    Ran::new(command().args(args).output().unwrap())
}

/// As [`flipk`], with the instruction set `isa` as `FLIPK_CPU`.
pub fn flipk_with<S: AsRef<str>>(isa: &str, args: &[S]) -> Ran {
    let args = args.iter().map(AsRef::as_ref);
    Ran::new(command().env("FLIPK_CPU", isa).args(args).output().unwrap())
}

/// Runs `train` with the arguments of [`train_args`].
pub fn train(out: &Path, more: &[&str]) -> Ran {
    flipk(&train_args(out, more))
}

/// `train` with `more` and those of [`SMALL`] that it does not set. Other data than the embedded come without
/// evaluation, unless `more` asks for it.
pub fn train_args(out: &Path, more: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let is_set = |wanted: &str| more.iter().any(|flag| name(flag) == name(wanted));
    let own_data = is_set("--data");
    let small = SMALL.iter().filter(|flag| !(is_set(flag) || own_data && flag.starts_with("--eval-data")));
    let out = format!("--out={}", out.display());
    ["train", &out].iter().chain(small).chain(more).map(|arg| (*arg).to_owned()).collect()
}

/// Writes a shard with these captions and a vocabulary of these words, and returns the flags that name them.
pub fn data_flags(folder: &Path, captions: &[impl AsRef<str>], words: &str) -> [String; 2] {
    let mut archive = Vec::new();
    for (number, caption) in captions.iter().enumerate() {
        pack::append(&mut archive, format!("{number}.png"), &png(number as u8));
        pack::append(&mut archive, format!("{number}.txt"), caption.as_ref().as_bytes());
    }
    pack::finish(&mut archive);
    let [data, tokenizer] = ["a.tar", "vocab.txt"].map(|name| folder.join(name));
    std::fs::write(&data, archive).unwrap();
    let words = words.split_whitespace().map(|word| format!("{word}\n"));
    std::fs::write(&tokenizer, format!("[PAD]\n[UNK]\n{}", words.collect::<String>())).unwrap();
    [format!("--data={}", data.display()), format!("--tokenizer={}", tokenizer.display())]
}

/// Starts the program and waits until `path` exists.
pub fn start_until(args: &[String], path: &Path) -> Child {
    let mut child = command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(path, &mut child);
    child
}

/// Waits until `path` exists.
pub fn wait_for(path: &Path, child: &mut Child) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {} was there", path.display());
        assert!(begun.elapsed() < Duration::from_secs(120), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The arguments that continue a run.
pub fn resume(out: &Path) -> Vec<String> {
    ["train".to_owned(), format!("--resume={}", out.display())].into()
}

/// The number between two parts of a text.
pub fn number_in(text: &str, before: &str, after: &str) -> u64 {
    let number = text.split(before).nth(1).and_then(|rest| rest.split(after).next());
    number.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// Two runs must have the same checkpoint of a step.
pub fn assert_same(runs: [&Path; 2], step: u64) {
    let [one, two] = runs.map(|run| std::fs::read(checkpoint(run, step)).unwrap());
    assert!(one == two, "the checkpoints of step {step} differ");
}

pub fn ended(child: Child) -> Ran {
    Ran::new(child.wait_with_output().unwrap())
}

pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:08}.safetensors"))
}

/// Every tensor of a checkpoint, byte by byte: weights and moments.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect()
}

pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
