//! Ctrl-C, SIGTERM and SIGUSR1.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What happens after Ctrl-C while a model is trained.
pub(super) const STOPPING: &str = "a checkpoint is saved after this step";

/// What SIGUSR1 sets.
static ON_USR1: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Sets `stop` on SIGUSR1, too: SLURM sends it before the time is up (`--signal=USR1@120`), and launchers that end
/// their ranks a second after Ctrl-C pass it on.
pub(super) fn stop_on_usr1(stop: &Arc<AtomicBool>) {
    extern "C" fn on_usr1(_: libc::c_int) {
        if let Some(stop) = ON_USR1.get() {
            stop.store(true, Ordering::Relaxed);
        }
    }
    if ON_USR1.set(stop.clone()).is_ok() {
        let handler: extern "C" fn(libc::c_int) = on_usr1;
        // SAFETY: the handler only loads and stores atomics.
        unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    }
}

/// Within this time, a signal of a launch of several ranks is the same one again: a terminal sends Ctrl-C to all
/// processes, and the launcher passes it on.
const ECHO: Duration = Duration::from_secs(1);

/// The same for a process alone: `timeout` signals it, and then its whole process group. A person takes longer.
const ECHO_ALONE: Duration = Duration::from_millis(100);

/// A flag that the first Ctrl-C (or SIGTERM, or SIGHUP) sets; the second one ends the program. Signals that are ignored
/// stay ignored: `nohup` ignores SIGHUP, and a shell ignores SIGINT for what a script starts in the background.
pub(super) fn interrupt(what: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::default();
    interrupt_rank(&stop, what, true, false)?;
    Ok(stop)
}

/// As [`interrupt`], perhaps on one of several ranks. Only rank 0 prints.
pub(super) fn interrupt_rank(stop: &Arc<AtomicBool>, what: &'static str, is_root: bool, several: bool) -> Result<()> {
    let flag = stop.clone();
    let echo = if several { ECHO } else { ECHO_ALONE };
    let mut first = None;
    listen(move || {
        if flag.swap(true, Ordering::Relaxed) {
            if first.is_some_and(|first: Instant| first.elapsed() < echo) {
                return;
            }
            // Exit handlers of libraries may wait for a call of another thread, which may wait for another rank.
            // SAFETY: the process ends here.
            unsafe { libc::_exit(130) };
        }
        first = Some(Instant::now());
        if is_root {
            say_stopping(what);
        }
    })
}

fn say_stopping(what: &str) {
    if std::io::stdin().is_terminal() {
        // The terminal has printed `^C`.
        let _ = writeln!(std::io::stderr().lock());
    }
    tracing::info!("stopping: {what} (Ctrl-C again to stop at once)");
}

/// Counts Ctrl-C, SIGTERM and SIGHUP, without echoes, for a process that passes them on.
pub(super) fn count(what: &'static str) -> Result<Arc<AtomicUsize>> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut last: Option<Instant> = None;
    listen(move || {
        if last.is_some_and(|last| last.elapsed() < ECHO) {
            return;
        }
        last = Some(Instant::now());
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            say_stopping(what);
        }
    })?;
    Ok(count)
}

/// Calls `handler`, in a thread, on each Ctrl-C, SIGTERM or SIGHUP that is not ignored.
fn listen(handler: impl FnMut() + Send + 'static) -> Result<()> {
    let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
    let ignored: Vec<i32> = signals.into_iter().filter(|&signal| is_ignored(signal)).collect();
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")?;
    for signal in ignored {
        // SAFETY: SIG_IGN is not a function, so no handler can misbehave.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

pub(super) fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the current one is only written to `now`, which is all zeros if that fails.
    let now = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}
