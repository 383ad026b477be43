//! Several ranks that MPI connects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flipk::device::Cpu;

use crate::harness::{
    FLIPK, Ran, assert_same, checkpoint, ended, flipk, hear_signals, json, number_in, resume, train_args, wait_for,
};
use crate::shards::{shard, vocab};
use crate::watch::signal;

/// The folder with mpiexec: that of tools/mpich, or one in PATH.
pub fn mpi() -> Option<PathBuf> {
    if std::env::var_os("FLIPK_RUNNER").is_some() {
        eprintln!("skipped: a launcher cannot start ranks in another runner");
        return None;
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mpich/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = [own].into_iter().chain(std::env::split_paths(&path));
    let found = folders.find(|folder| folder.join("mpiexec").is_file());
    if found.is_none() {
        eprintln!("skipped: there is no mpiexec; tools/mpich installs one");
    }
    found
}

/// A command that finds the launcher.
pub fn with_mpi(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, as a shell gives it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    hear_signals(&mut command);
    command
}

pub fn start(folder: &Path, ranks: usize, args: &[String]) -> Child {
    let mut command = with_mpi(&folder.join("mpiexec"), folder);
    command.args(["-n", &ranks.to_string(), FLIPK]).args(args).spawn().unwrap()
}

fn run(folder: &Path, ranks: usize, args: &[String]) -> Ran {
    ended(start(folder, ranks, args))
}

/// 24 shards of 3 to 5 samples with some broken ones, and flags of a run over them.
pub fn data(folder: &Path) -> Vec<String> {
    let shards = folder.join("shards");
    fs::create_dir(&shards).unwrap();
    (0..24).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 3 + number % 3, number % 5 == 0));
    let data = format!("--data={}", shards.display());
    let fixed = ["--order=shards", "--batch=24", "--max-bad=0.5", "--clip-norm=1", "--threads=1", "--loader-threads=1"];
    [data, vocab(folder)].into_iter().chain(fixed.map(str::to_owned)).collect()
}

/// A folder with two runs in it that do not exist yet, and the data for both.
pub fn two_runs() -> (tempfile::TempDir, Vec<String>, [PathBuf; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let runs = ["one", "two"].map(|name| folder.path().join(name));
    (folder, data, runs)
}

pub fn args(out: &Path, data: &[String], more: &[&str]) -> Vec<String> {
    let data: Vec<&str> = data.iter().map(String::as_str).collect();
    train_args(out, &[&data[..], more].concat())
}

/// The process of a rank whose command line names `out`, if it is running.
pub fn find_process(rank: usize, out: &Path) -> Option<i32> {
    let wanted = ["PMI_RANK", "FLIPK_RANK"].map(|name| format!("{name}={rank}\0"));
    let is_wanted = |pid: &i32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let [command, environment] =
            ["cmdline", "environ"].map(|name| String::from_utf8_lossy(&read(name)).into_owned());
        let is_rank = wanted.iter().any(|wanted| environment.contains(wanted));
        command.starts_with(FLIPK) && command.contains(&*out.to_string_lossy()) && is_rank
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_wanted)
}

/// As [`find_process`]; it must be running.
pub fn process_of(rank: usize, out: &Path) -> i32 {
    find_process(rank, out).unwrap_or_else(|| panic!("rank {rank} is not running"))
}

#[test]
fn any_number_of_ranks_writes_the_same_checkpoints() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let cases = [(8, &[2, 4, 8][..], "f32"), (12, &[3, 6, 12], "f32"), (8, &[2, 4, 8], "bf16")];
    for (micro_batches, numbers, precision) in cases.into_iter().take(if has_bf16() { 3 } else { 2 }) {
        let [micro_batches, precision] =
            [format!("--micro-batches={micro_batches}"), format!("--precision={precision}")];
        let flags = [&*micro_batches, &*precision, "--steps=8", "--save-every=4"];
        let out = |ranks: usize| folder.path().join(format!("{micro_batches}{precision}-{ranks}"));
        let bytes = |ranks, step| fs::read(checkpoint(&out(ranks), step)).unwrap();
        let first = if numbers[0] == 3 { 3 } else { 1 };
        if first == 1 {
            flipk(&args(&out(1), &data, &flags)).expect(0);
        }
        for &ranks in numbers {
            let said = run(&mpi, ranks, &args(&out(ranks), &data, &flags)).expect(0).stderr;
            assert!(said.contains(&format!("{ranks} ranks, connected by MPICH")), "{said}");
            for step in [4, 8] {
                assert!(bytes(ranks, step) == bytes(first, step), "{flags:?}, {ranks} ranks, step {step}");
            }
        }
    }
}

/// Whether this processor has bf16 instructions.
fn has_bf16() -> bool {
    Cpu::bf16().inspect_err(|error| eprintln!("skipped: bf16: {error}")).is_ok()
}

/// Open MPI's launcher, if there is one.
fn open_mpi() -> Option<&'static str> {
    let is_open_mpi = |launcher: &&str| {
        let version = Command::new(launcher).arg("--version").output();
        version.is_ok_and(|found| String::from_utf8_lossy(&found.stdout).contains("Open"))
    };
    let found = ["mpirun.openmpi", "mpirun"].into_iter().find(is_open_mpi);
    if found.is_none() || std::env::var_os("FLIPK_RUNNER").is_some() {
        eprintln!("skipped: there is no Open MPI in PATH, or a launcher cannot start ranks in another runner");
        return None;
    }
    found
}

#[test]
fn open_mpi_writes_the_same_checkpoints() {
    let Some(launcher) = open_mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let precisions = ["--precision=f32", "--precision=bf16"];
    for precision in precisions.into_iter().take(if has_bf16() { 2 } else { 1 }) {
        let checkpoints = [1, 2, 4, 8].map(|ranks: usize| {
            let out = folder.path().join(format!("{precision}-{ranks}"));
            let args = args(&out, &data, &[precision, "--micro-batches=8", "--steps=8", "--save-every=0"]);
            let mut command = Command::new(launcher);
            command.args(["--oversubscribe", "-n", &ranks.to_string(), FLIPK]).args(args);
            // Tests may run as root, which Open MPI warns of.
            let root = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"].map(|name| (name, "1"));
            let ran = ended(command.envs(root).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
            let said = ran.expect(0).stderr;
            assert!(ranks == 1 || said.contains(&format!("{ranks} ranks, connected by Open MPI")), "{said}");
            fs::read(checkpoint(&out, 8)).unwrap()
        });
        assert!(checkpoints.iter().all(|other| *other == checkpoints[0]), "{precision}");
    }
}

#[test]
fn any_number_of_ranks_counts_broken_samples_alike() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let trained = |ranks: usize, name: &str, more: &[&str]| {
        let out = folder.path().join(format!("{name}-{ranks}"));
        let flags = [&["--micro-batches=4", "--steps=12", "--log-every=4"], more].concat();
        let ran = run(&mpi, ranks, &args(&out, &data, &flags));
        (ran, out)
    };
    let counted = [1, 2, 4].map(|ranks| {
        let (ran, out) = trained(ranks, "good", &[]);
        ran.expect(0);
        let epochs = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let epoch = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["epoch"].as_f64().unwrap();
        let epochs: Vec<_> = epochs.lines().map(|line| (epoch(line) * 1e6).round()).collect();
        (json(&out.join("summary.json"))["skipped"].clone(), epochs)
    });
    assert!(counted[0].0["bad_image"].as_u64().unwrap() >= 12, "{counted:?}");
    assert!(counted.iter().all(|other| *other == counted[0]), "{counted:?}");
    // A run that is resumed counts as many.
    let (half, whole) = (trained(2, "half", &["--save-every=6"]).1, folder.path().join("good-1"));
    fs::remove_file(checkpoint(&half, 12)).unwrap();
    flipk(&resume(&half)).expect(0);
    assert_eq!(json(&half.join("summary.json"))["skipped"], counted[0].0);
    assert_same([&half, &whole], 12);
    // 5 of 96 are broken, which takes some batches to find out.
    let stopped = [1, 2, 4].map(|ranks| {
        let (ran, out) = trained(ranks, "bad", &["--max-bad=0.04"]);
        let said = ran.expect(1).stderr;
        assert_eq!(said.matches("too many broken samples").count(), 1, "{said}");
        // The count goes on when the run does.
        let resumed = flipk(&resume(&out)).expect(1).stderr;
        assert!(resumed.contains("too many broken samples"), "{resumed}");
        let saved = fs::read_dir(out.join("checkpoints")).unwrap();
        saved.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    });
    assert_eq!(stopped[0].len(), 1, "{stopped:?}");
    assert!(stopped.iter().all(|other| *other == stopped[0]), "{stopped:?}");
}

/// Two machines with two ranks each, by the variables that say so: gradients are exchanged within machines, and then
/// between them.
#[test]
fn ranks_on_several_machines_write_the_same_checkpoints() {
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [one, four]) = two_runs();
    let flags = ["--micro-batches=4", "--steps=4"];
    flipk(&args(&one, &data, &flags)).expect(0);
    let place = "export MPI_LOCALRANKID=$((PMI_RANK % 2)) MPI_LOCALNRANKS=2; exec \"$0\" \"$@\"";
    let mut command = with_mpi(&mpi.join("mpiexec"), &mpi);
    command.args(["-n", "4", "sh", "-c", place, FLIPK]).args(args(&four, &data, &flags));
    ended(command.spawn().unwrap()).expect(0);
    assert_same([&one, &four], 4);
}

/// Rank 0 computes on the CPU, rank 1 on an emulated GPU.
#[test]
fn ranks_on_different_devices_are_refused() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let devices = "[ $PMI_RANK = 0 ] && device=cpu || device=emulator; exec \"$0\" \"$@\" --device=$device";
    let mut command = with_mpi(&mpi.join("mpiexec"), &mpi);
    command.args(["-n", "2", "sh", "-c", devices, FLIPK]).args(args(&folder.path().join("run"), &data, &["--steps=1"]));
    let ran = ended(command.spawn().unwrap());
    let words =
        "rank 0 computes on the CPU, and rank 1 on a GPU: start as many ranks as there are GPUs, or choose with";
    assert!(ran.code != Some(0) && ran.stderr.matches(words).count() == 1, "{}", ran.stderr);
}

/// Trains on one rank, and returns the flags of the run.
pub fn train_60_steps(out: &Path, data: &[String]) -> [&'static str; 2] {
    let flags = ["--micro-batches=4", "--steps=60"];
    flipk(&args(out, data, &[&flags[..], &["--save-every=0"]].concat())).expect(0);
    flags
}

/// Some ranks are killed, and the run continues with other numbers of them.
#[test]
fn a_killed_rank_ends_all_and_other_numbers_go_on_to_the_bit() {
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [whole, killed]) = two_runs();
    let flags = train_60_steps(&whole, &data);
    let first = args(&killed, &data, &[&flags[..], &["--save-every=3"]].concat());
    let resume = resume(&killed);
    for (ranks, rank, args, at) in [(4, 2, &first, 9), (2, 0, &resume, 24)] {
        let mut child = start(&mpi, ranks, args);
        wait_for(&checkpoint(&killed, at), &mut child);
        signal(process_of(rank, &killed), libc::SIGKILL);
        let begun = Instant::now();
        let ran = ended(child);
        assert_ne!(ran.code, Some(0), "{}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(20), "all ranks end soon");
        assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    }
    flipk(&resume).expect(0);
    assert_same([&whole, &killed], 60);
}

#[test]
fn ctrl_c_saves_a_checkpoint() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let mut last: u64 = 0;
    for number in [libc::SIGINT, libc::SIGUSR1] {
        let first = args(&out, &data, &["--steps=100000", "--save-every=5", "--keep=1000000"]);
        let resume = resume(&out);
        let mut child = start(&mpi, 2, if out.exists() { &resume } else { &first });
        wait_for(&checkpoint(&out, last / 5 * 5 + 10), &mut child);
        signal(child.id() as i32, number);
        let ran = ended(child);
        assert_eq!(ran.code, Some(0), "signal {number}: {}{}", ran.stdout, ran.stderr);
        last = number_in(&ran.stdout, "stopped after step ", ";");
        assert!(checkpoint(&out, last).exists());
    }
}

#[test]
fn ranks_start_by_themselves_and_only_the_first_speaks() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let mut command = with_mpi(Path::new(FLIPK), &mpi);
    command.args(args(&out, &data, &["--steps=4", "--ranks=2"]));
    let ran = ended(command.spawn().unwrap()).expect(0);
    assert_eq!(ran.stdout.matches("final loss").count(), 1, "{}", ran.stdout);
    assert_eq!(ran.stderr.matches("run folder:").count(), 1, "{}", ran.stderr);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 4);
    assert!(metrics.contains("\"slowest_rank\":"), "{metrics}");
    assert!(fs::read_to_string(out.join("config.toml")).unwrap().contains("micro_batches = 2"));
}

/// How rank 1 and rank 0 end, with torchrun's variables, without torchrun.
pub fn as_torchrun(args: &[String]) -> [Ran; 2] {
    // The port after this one is used.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() - 1;
    let start = |rank: usize| {
        let mut command = Command::new(FLIPK);
        for (name, value) in [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)] {
            command.env(name, value.to_string());
        }
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    [1, 0].map(start).map(ended)
}

#[test]
fn ranks_of_torchrun_need_no_mpi() {
    let (_folder, data, [one, two]) = two_runs();
    let flags = ["--micro-batches=4", "--steps=6"];
    flipk(&args(&one, &data, &flags)).expect(0);
    let said = as_torchrun(&args(&two, &data, &flags)).map(|rank| rank.expect(0));
    assert!(said[1].stderr.contains("2 ranks, connected by TCP") && said[0].stdout.is_empty(), "{}", said[1].stderr);
    assert_same([&one, &two], 6);
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_step() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let said = run(&mpi, 3, &args(&out, &data, &["--micro-batches=8"])).stderr;
    assert!(said.contains("3 ranks cannot share 8 micro-batches of 8 streams"), "{said}");
    assert!(said.contains("these numbers of ranks fit: 1, 2, 4, 8"), "{said}");
    // Two programs in one launch.
    let mut command = with_mpi(&mpi.join("mpiexec"), &mpi);
    command.args(["-n", "1", FLIPK]).args(args(&out, &data, &["--micro-batches=2"])).args([":", "-n", "1", FLIPK]);
    let said = ended(command.args(args(&out, &data, &["--micro-batches=2", "--seed=1"])).spawn().unwrap()).stderr;
    assert!(said.contains("rank 1 has other options than rank 0"), "{said}");
    let with = |name: &str, value: &str| {
        let mut command = with_mpi(&mpi.join("mpiexec"), &mpi);
        command.env(name, value).env("OMPI_COMM_WORLD_RANK", "0").args(["-n", "2", FLIPK]);
        let ran = ended(command.args(args(&out, &data, &[])).spawn().unwrap());
        assert_ne!(ran.code, Some(0));
        ran.stderr
    };
    assert!(with("OMPI_COMM_WORLD_SIZE", "4").contains("the environment names two launches"));
    let said = with("FLIPK_MPI", "/nowhere/libmpi.so");
    assert!(said.contains("no MPI library can be opened") && said.contains("pip install mpich"), "{said}");
    assert!(!out.exists(), "nothing was begun");
}

/// After the first step with a rate, no weight is usable.
#[test]
fn a_diverged_run_names_samples_of_all_ranks() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let ran = run(&mpi, 2, &args(&out, &data, &["--steps=20", "--save-every=1", "--lr=1e30", "--warmup-samples=24"]));
    assert_ne!(ran.code, Some(0));
    assert_eq!(ran.stderr.matches("training has diverged").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("of its 24 samples are not finite: ") && ran.stderr.contains(" (rank 0), "));
    let report = json(&out.join("diverged.json"));
    assert_eq!(report["samples"].as_array().unwrap().len(), 24);
    let last = report["not_finite"].as_array().unwrap().last().unwrap();
    assert!(last.as_str().unwrap().ends_with(" (rank 1)"), "{report}");
}

/// Every sample of the second rank's streams is broken.
#[test]
fn a_rank_without_data_ends_all_with_its_reason() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<String> = data(folder.path()).into_iter().filter(|flag| !flag.starts_with("--max-bad")).collect();
    let out = folder.path().join("run");
    let ran = run(&mpi, 2, &args(&out, &data, &["--steps=1000", "--max-bad=0.01"]));
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("broken"), "{}", ran.stderr);
}

#[test]
fn the_emulated_gpus_of_two_ranks_train_as_one() {
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [one, two]) = two_runs();
    let flags = ["--device=emulator", "--micro-batches=2", "--batch=8", "--steps=3"];
    flipk(&args(&one, &data, &flags)).expect(0);
    run(&mpi, 2, &args(&two, &data, &flags)).expect(0);
    assert_same([&one, &two], 3);
}

/// MPI, NCCL and CUDA are opened when they are needed.
#[test]
fn the_program_links_to_no_library_of_ranks() {
    let Ok(listed) = Command::new("ldd").arg(FLIPK).output() else {
        eprintln!("skipped: there is no ldd");
        return;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).to_lowercase();
    assert!(listed.contains("libc.so"), "{listed}");
    assert!(!["mpi", "nccl", "cuda"].iter().any(|library| listed.contains(library)), "{listed}");
}

/// What connects ranks is measured, and a step is simulated with it.
#[test]
fn the_network_between_ranks_is_measured() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("network.json").display().to_string();
    let measure = format!("--measure-network={file}");
    let alone = flipk(&["profile", &measure]).expect(1);
    assert!(alone.stderr.contains("--measure-network needs several ranks: mpiexec -n 4"), "{}", alone.stderr);
    let Some(folder) = mpi() else { return };
    let ran = run(&folder, 2, &["profile".to_owned(), measure]).expect(0);
    assert!(ran.stdout.starts_with("measured on 2 ranks, 2 a node (") && ran.stdout.contains("GB/s"), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("written: ").count(), 1, "only rank 0 speaks: {}", ran.stdout);
    let from = ["--from=benches/results/gpu-h200.json", "--ranks=2", "--network"];
    let ran = flipk(&[&["profile"], &from[..], &[&file]].concat()).expect(0);
    assert!(ran.stdout.contains("measured on 2 ranks"), "{}", ran.stdout);
}
