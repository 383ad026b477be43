//! `flipk train --ranks N --restarts M`: ranks that start again by themselves.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tracing::{error, warn};

use super::launch;
use super::signals::{count, stop_on_usr1};
use super::train::STOPPING;
use crate::train::RunFolder;

/// Flags of the parent alone.
const OF_PARENT: [&str; 2] = ["--ranks", "--restarts"];

/// Flags that only make sense when a run starts, and those that name it.
const OF_START: [&str; 5] = ["--out", "--resume", "--config", "--init-from", "--time"];

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// How long ranks that are still there are waited for: launchers may end before a process that was stopped.
const LEAVING: Duration = Duration::from_secs(60);

/// Starts the ranks as children. If they end badly, and not because of a signal to this process, starts them again from
/// the newest checkpoint of the run, up to `restarts` times. `out` and `resume`: those of the command line, one of
/// which must be given, so that the folder of the run is known.
///
/// # Errors
/// If it is not, or the ranks cannot be started.
pub(super) fn run(ranks: usize, restarts: usize, out: Option<&Path>, resume: Option<&Path>) -> Result<ExitCode> {
    let run = match (out, resume) {
        (_, Some(target)) => RunFolder::find(target)?.path().to_owned(),
        (Some(out), None) if RunFolder::open(out).is_ok() => {
            bail!("{0} already contains a run: continue it with --resume {0}, or choose another --out", out.display())
        }
        (Some(out), None) => out.to_owned(),
        (None, None) => bail!("--restarts needs --out or --resume, to know the run that is to be continued"),
    };
    let signals = Signals::listen()?;
    let given = launch::without(&OF_PARENT, std::env::args_os().skip(1));
    let again = resumed(&given, &run);
    for restart in 0.. {
        let args = if restart == 0 { &given } else { &again };
        let status = signals.pass_on_to(&mut start(launch::command(ranks, args.clone())?)?)?;
        if status.success() || signals.heard() {
            return Ok(code_of(status));
        }
        if restart == restarts {
            error!("the ranks ended ({status}) after {restart} restarts");
            return Ok(code_of(status));
        }
        let folder = match RunFolder::open(&run) {
            Ok(folder) => folder,
            Err(problem) => {
                error!("the ranks ended ({status}), and nothing can be continued: {problem}");
                return Ok(code_of(status));
            }
        };
        let (run, next) = (run.display(), restart + 1);
        warn!("the ranks ended ({status}); restart {next} of {restarts}, from the newest checkpoint of {run}");
        signals.wait_until_free(&folder);
        if signals.heard() {
            return Ok(code_of(status));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// The arguments that continue `run`. Other flags stay: they override its config.toml with what is already there.
fn resumed(given: &[OsString], run: &Path) -> Vec<OsString> {
    let mut resume = OsString::from("--resume=");
    resume.push(run);
    launch::without(&OF_START, given.iter().cloned()).into_iter().chain([resume]).collect()
}

/// The launcher, in a process group of its own: a terminal sends Ctrl-C to this process alone, which passes it on in
/// the way that leaves time for a checkpoint.
fn start(mut command: Command) -> Result<Child> {
    command.process_group(0).stdin(Stdio::null());
    #[cfg(target_os = "linux")]
    // SAFETY: `prctl` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // The ranks must not outlive this process. Without it, they run on.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
    let program = PathBuf::from(command.get_program());
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Signals to this process.
struct Signals {
    presses: Arc<AtomicUsize>,
    usr1: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> Result<Self> {
        let this = Self { presses: count(STOPPING)?, usr1: Arc::default() };
        stop_on_usr1(&this.usr1);
        Ok(this)
    }

    fn heard(&self) -> bool {
        self.presses.load(Ordering::Relaxed) > 0 || self.usr1.load(Ordering::Relaxed)
    }

    /// Waits until no process trains in `run`, or there is a signal. In the end, the next launch says what is wrong.
    fn wait_until_free(&self, run: &RunFolder) {
        let begun = Instant::now();
        while run.lock().is_err() && begun.elapsed() < LEAVING && !self.heard() {
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for the end of `child`. The first signal becomes SIGUSR1, which every launcher passes on to its ranks, so
    /// that they save a checkpoint; Open MPI kills its ranks a second after others. The second one ends the ranks.
    fn pass_on_to(&self, child: &mut Child) -> Result<ExitStatus> {
        let (mut passed, mut saves) = (0, false);
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the ranks")? {
                return Ok(status);
            }
            let presses = self.presses.load(Ordering::Relaxed);
            if self.heard() && !saves {
                saves = true;
                passed = presses.min(1);
                send(child, libc::SIGUSR1);
            }
            if presses > passed {
                send(child, if passed < 2 { libc::SIGINT } else { libc::SIGKILL });
                passed += 1;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn send(child: &Child, signal: libc::c_int) {
    // SAFETY: a signal to a child that was not waited for, so its number is not another process's.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

/// The exit code of a child, as a shell has it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_resumes_the_run_with_the_other_flags() {
        let given = ["train", "--out", "a", "--time=5m", "--batch", "8", "--config", "c.toml", "--device=cpu"];
        let again = resumed(&given.map(OsString::from), Path::new("a"));
        assert_eq!(again, ["train", "--batch", "8", "--device=cpu", "--resume=a"]);
        let again = resumed(&["train", "--resume=a/checkpoints/x", "--lr", "1"].map(OsString::from), Path::new("a"));
        assert_eq!(again, ["train", "--lr", "1", "--resume=a"]);
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let code = |raw| format!("{:?}", code_of(ExitStatus::from_raw(raw)));
        assert_eq!(code(0), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(7 << 8), format!("{:?}", ExitCode::from(7)));
        assert_eq!(code(libc::SIGKILL), format!("{:?}", ExitCode::from(137)));
    }
}
