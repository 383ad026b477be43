//! The process that starts the ranks of `flipk train`: it waits for them, passes signals on, and starts them again.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tracing::{error, warn};

use super::launch::{Launch, without};
use super::signals::{STOPPING, count, stop_on_usr1};
use super::suspend;
use crate::train::RunFolder;

/// Flags of the parent alone.
const OF_PARENT: [&str; 2] = ["--ranks", "--restarts"];

/// Flags that only make sense when a run starts, and those that name it.
const OF_START: [&str; 5] = ["--out", "--resume", "--config", "--init-from", "--time"];

/// Interval between polls.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a restart waits for the lock of the run's folder: a stopped rank may outlive its launcher.
const LEAVING: Duration = Duration::from_secs(60);

/// How long the other ranks may take to end after one has failed. Then they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// What the first, second and third Ctrl-C are passed on as. SIGUSR1, because every launcher passes it on to its ranks,
/// which save a checkpoint; Open MPI kills its ranks a second after any other signal. Then SIGTERM, because programs
/// that a script starts in the background ignore SIGINT.
const PASSED_ON: [libc::c_int; 3] = [libc::SIGUSR1, libc::SIGTERM, libc::SIGKILL];

/// Starts the ranks as children. If they fail, and this process has got no signal, starts them again from the newest
/// checkpoint of the run, as often as `restarts` says.
///
/// # Errors
/// If the ranks cannot be started.
pub(super) fn run(launch: &Launch, restarts: Option<&Restarts>) -> Result<ExitCode> {
    let signals = Signals::listen()?;
    let given = without(&OF_PARENT, std::env::args_os().skip(1));
    let mut restarted = 0;
    loop {
        let args = match restarts {
            Some(restarts) if RunFolder::open(&restarts.run).is_ok() => resumed(&given, &restarts.run),
            _ => given.clone(),
        };
        let status = Ranks::start(launch.commands(&args)?)?.wait(&signals)?;
        let failed = !status.success() && !signals.heard();
        match restarts.filter(|_| failed) {
            Some(restarts) if restarts.allow(restarted, status, &signals) => restarted += 1,
            _ => return Ok(code_of(status)),
        }
    }
}

/// `--restarts`.
pub(super) struct Restarts {
    max: usize,
    /// The folder of the run.
    run: PathBuf,
}

impl Restarts {
    /// Up to `max` restarts. `out` and `resume`: those of the command line, one of which must be given, so that the
    /// folder of the run is known.
    ///
    /// # Errors
    /// If neither is given, if `out` already contains a run, or if `resume` is a checkpoint file.
    pub(super) fn new(max: usize, out: Option<&Path>, resume: Option<&Path>) -> Result<Self> {
        let run = match (out, resume) {
            (_, Some(target)) if target.is_file() => {
                bail!(
                    "--restarts continues from the newest checkpoint: give --resume the run's folder, not a checkpoint"
                )
            }
            (_, Some(target)) => RunFolder::find(target)?.path().to_owned(),
            (Some(out), None) if RunFolder::open(out).is_ok() => bail!(
                "{0} already contains a run: continue it with --resume {0}, or choose another --out",
                out.display()
            ),
            (Some(out), None) => out.to_owned(),
            (None, None) => bail!("--restarts needs --out or --resume, to know the run that is to be continued"),
        };
        Ok(Self { max, run })
    }

    /// Whether ranks that ended with `status`, after `restarted` restarts, may start again; says so, and waits until
    /// the run's folder is free.
    fn allow(&self, restarted: usize, status: ExitStatus, signals: &Signals) -> bool {
        if comes_again(status) {
            error!("no restart: the run would fail again in the same way");
            return false;
        }
        if restarted == self.max {
            error!("the ranks ended ({status}) after {restarted} restarts");
            return false;
        }
        let folder = match RunFolder::open(&self.run) {
            Ok(folder) => folder,
            // Nothing has begun yet.
            Err(_) if status.signal().is_some() => {
                warn!("the ranks ended ({status}); restart {} of {}, from the beginning", restarted + 1, self.max);
                return true;
            }
            Err(_) => {
                error!("the ranks ended ({status}) before the run began: no restart");
                return false;
            }
        };
        let (run, next, max) = (self.run.display(), restarted + 1, self.max);
        warn!("the ranks ended ({status}); restart {next} of {max}, from the newest checkpoint of {run}");
        // If it stays locked, the next launch says so.
        let _ = folder.lock_within(LEAVING, || {
            suspend::if_asked(std::iter::empty());
            signals.heard()
        });
        !signals.heard()
    }
}

/// The arguments that continue `run`. Other flags stay: they override its config.toml with what is already there.
fn resumed(given: &[OsString], run: &Path) -> Vec<OsString> {
    let mut resume = OsString::from("--resume=");
    resume.push(run);
    without(&OF_START, given.iter().cloned()).into_iter().chain([resume]).collect()
}

/// The children: a launcher, or ranks in their order. Those that are left when it is dropped are killed.
struct Ranks(Vec<Child>);

impl Ranks {
    fn start(commands: Vec<Command>) -> Result<Self> {
        let mut this = Self(Vec::new());
        for command in commands {
            this.0.push(start(command)?);
        }
        Ok(this)
    }

    /// Waits until all have ended, and returns how: as the first that was killed, else as the first whose failure comes
    /// again, else as the first that failed. Once one has failed, the others have [`GRACE`] to report their errors.
    fn wait(&mut self, signals: &Signals) -> Result<ExitStatus> {
        let (mut passed, mut ending) = (0, false);
        // The first that was killed by another process, whose failure comes again, and that failed.
        let (mut killed, mut again, mut failed) = (None, None, None);
        let several = self.0.len() > 1;
        loop {
            let mut running = 0;
            for (rank, child) in self.0.iter_mut().enumerate() {
                match child.try_wait().context("cannot wait for the ranks")? {
                    None => running += 1,
                    Some(status) if status.success() => {}
                    Some(status) => {
                        failed.get_or_insert((status, Instant::now()));
                        again = again.or(Some(status).filter(|&status| comes_again(status)));
                        let is_first = killed.is_none() && again.is_none() && !ending && !signals.heard();
                        // It cannot say so itself.
                        if let Some(signal) = signal_of(status).filter(|_| is_first) {
                            match several {
                                true => error!("rank {rank} was killed ({status}); all ranks end"),
                                false => error!("a rank was killed (signal: {signal}); all ranks end"),
                            }
                            killed = Some(status);
                        }
                    }
                }
            }
            if running == 0 {
                return Ok(killed.or(again).or(failed.map(|(status, _)| status)).unwrap_or_default());
            }
            while passed < signals.number() {
                self.send(PASSED_ON[passed.min(2)]);
                passed += 1;
            }
            if !ending && failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
                ending = true;
                self.send(libc::SIGKILL);
            }
            suspend::if_asked(self.0.iter().map(Child::id));
            std::thread::sleep(PAUSE);
        }
    }

    fn send(&mut self, signal: libc::c_int) {
        for child in &mut self.0 {
            if let Ok(None) = child.try_wait() {
                // SAFETY: the child was not waited for, so its number is not another process's.
                unsafe { libc::kill(child.id() as libc::pid_t, signal) };
            }
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.send(libc::SIGKILL);
        self.0.iter_mut().for_each(|child| drop(child.wait()));
    }
}

/// A child in a process group of its own: a terminal sends Ctrl-C to this process alone, which passes it on in the way
/// that leaves time for a checkpoint.
fn start(mut command: Command) -> Result<Child> {
    command.process_group(0).stdin(Stdio::null());
    let parent = std::process::id();
    // SAFETY: these functions may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // A terminal with `stty tostop` would stop a group in the background that writes to it.
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            // If this process dies, ranks save a checkpoint and end.
            #[cfg(target_os = "linux")]
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
            }
        })
    };
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
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
        suspend::listen();
        Ok(this)
    }

    /// The number of Ctrl-C, SIGTERM and SIGHUP so far. SIGUSR1 and the first of them count once: SLURM sends both.
    fn number(&self) -> usize {
        self.presses.load(Ordering::Relaxed).max(self.usr1.load(Ordering::Relaxed).into())
    }

    fn heard(&self) -> bool {
        self.number() > 0
    }
}

/// Whether ranks that end so would do so again. 1: see the help of `flipk train`; 2: a wrong command line. All else may
/// pass, a panic or a signal, too.
fn comes_again(status: ExitStatus) -> bool {
    matches!(status.code(), Some(1 | 2))
}

/// The signal that killed a child, or a rank of a launcher. Open MPI adds 128 to it, as a shell does. Hydra, the
/// launcher of MPICH and Intel MPI, ends with the signal itself; no rank ends with such a code.
fn signal_of(status: ExitStatus) -> Option<i32> {
    let kills = [libc::SIGILL, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM];
    let of_code = |code: i32| match code {
        129.. => Some(code - 128),
        _ => Some(code).filter(|code| kills.contains(code)),
    };
    status.signal().or_else(|| of_code(status.code()?))
}

/// The exit code of a child, as a shell has it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = signal_of(status).map(|signal| 128 + signal).or(status.code()).unwrap_or(1);
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
        assert_eq!(code(75 << 8), format!("{:?}", ExitCode::from(75)));
        assert_eq!([code(9 << 8), code(137 << 8)], [code(libc::SIGKILL), code(libc::SIGKILL)], "of launchers");
        assert_eq!(code(libc::SIGKILL), format!("{:?}", ExitCode::from(137)));
    }
}
