//! Ctrl-C and its kin.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};

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

/// A flag that the first Ctrl-C (or SIGTERM, or SIGHUP) sets; the second one ends the program. Signals that are ignored
/// stay ignored: `nohup` ignores SIGHUP, and a shell ignores SIGINT for what a script starts in the background.
pub(super) fn interrupt(what: &'static str) -> Result<Arc<AtomicBool>> {
    let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
    let ignored: Vec<i32> = signals.into_iter().filter(|&signal| is_ignored(signal)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if std::io::stdin().is_terminal() {
            // The terminal has printed `^C`.
            let _ = writeln!(std::io::stderr().lock());
        }
        tracing::info!("stopping: {what} (Ctrl-C again to stop at once)");
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")?;
    for signal in ignored {
        // SAFETY: SIG_IGN is not a function, so no handler can misbehave.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(stop)
}

fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the current one is only written to `now`, which is all zeros if that fails.
    let now = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}
