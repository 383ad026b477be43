//! Ctrl-Z: a terminal stops this process alone, since its ranks are in process groups of their own.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::signals::is_ignored;

/// SIGTSTP has come, and no SIGCONT since.
static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on, notes SIGTSTP, unless it is ignored, instead of stopping at once.
pub(super) fn listen() {
    if !is_ignored(libc::SIGTSTP) {
        note();
    }
}

fn note() {
    extern "C" fn on_signal(signal: libc::c_int) {
        ASKED.store(signal == libc::SIGTSTP, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = on_signal;
    for signal in [libc::SIGTSTP, libc::SIGCONT] {
        // SAFETY: the handler only stores an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// After SIGTSTP, stops the ranks and then this process; all go on once SIGCONT comes (`fg`, `bg`). `children`: ranks,
/// or their launcher. A launcher is not stopped, so that it can still end its ranks.
pub(super) fn if_asked(children: impl Iterator<Item = u32>) {
    if !ASKED.load(Ordering::Relaxed) {
        return;
    }
    let ranks = ranks_of(children.map(|child| child as libc::pid_t).collect());
    // A launcher may start ranks in sessions of their own, where SIGTSTP does nothing.
    send(&ranks, libc::SIGSTOP);
    // SAFETY: this process has nothing to undo when it stops.
    unsafe { libc::signal(libc::SIGTSTP, libc::SIG_DFL) };
    // A SIGCONT that came meanwhile would not come again.
    if ASKED.load(Ordering::Relaxed) {
        // The signal itself, since the system ignores it where no shell could continue this process.
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGTSTP) };
    }
    ASKED.store(false, Ordering::Relaxed);
    note();
    send(&ranks, libc::SIGCONT);
}

fn send(processes: &[libc::pid_t], signal: libc::c_int) {
    for process in processes {
        // SAFETY: a stopped process keeps its number, unless it is killed; then another one may get a SIGCONT.
        unsafe { libc::kill(*process, signal) };
    }
}

/// Those of `processes` and, on Linux, of their descendants that run this program.
fn ranks_of(mut processes: Vec<libc::pid_t>) -> Vec<libc::pid_t> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<[libc::pid_t; 2]> = numbers.filter_map(|number| Some([number, parent_of(number)?])).collect();
    let mut next = 0;
    while let Some(&process) = processes.get(next) {
        processes.extend(parents.iter().filter(|[_, parent]| *parent == process).map(|[number, _]| *number));
        next += 1;
    }
    let program = |process: &str| -> Option<PathBuf> { fs::read_link(format!("/proc/{process}/exe")).ok() };
    let own = program("self");
    processes.retain(|process| program(&process.to_string()) == own);
    processes
}

/// The parent of a process, on Linux.
fn parent_of(process: libc::pid_t) -> Option<libc::pid_t> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // `number (name) state parent ...`
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
