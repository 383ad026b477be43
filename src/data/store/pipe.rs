//! The output of a command.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Spooled;
use super::access::{Fetching, seconds};

/// How often a wait looks whether it is stopped.
const TICK: Duration = Duration::from_millis(100);
/// How long messages are read after the end of the command.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// How much of the command's messages an error quotes.
const QUOTED_LINES: usize = 5;
const QUOTED_BYTES: usize = 2000;

/// Runs a command in `sh`, and writes its output to `into`.
///
/// # Errors
/// A command that cannot be started, fails, or prints nothing for the time that is allowed.
pub(super) fn run(command: &str, into: &mut Spooled, with: Fetching<'_>) -> io::Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // All of a pipeline is ended together, and Ctrl-C in a terminal does not reach it before the run has saved.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let child = shell.spawn().map_err(|error| io::Error::new(error.kind(), format!("cannot start `sh`: {error}")))?;
    let mut running = Running(child);
    let (Some(output), Some(messages)) = (running.0.stdout.take(), running.0.stderr.take()) else {
        return Err(io::Error::other("it has no output"));
    };
    let output = pass_on(output)?;
    let messages = pass_on(messages)?;
    let mut end = Vec::new();
    let written = write(&output, &messages, &mut end, into, with);
    let ended = written.and_then(|()| running.wait(with));
    drop(running);
    // Its last words, but without waiting for a process that outlives it.
    let ended_at = Instant::now();
    while ended_at.elapsed() < LAST_WORDS
        && let Ok(Ok(said)) = messages.recv_timeout(TICK)
    {
        keep(&mut end, &said);
    }
    let problem = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("the command failed ({status})"),
        Err(error) => error.to_string(),
    };
    let said = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join(" | ");
    Err(io::Error::other(if last.is_empty() { problem } else { format!("{problem}: {last}") }))
}

/// Writes the output to its end.
fn write(
    output: &Receiver<io::Result<Vec<u8>>>,
    messages: &Receiver<io::Result<Vec<u8>>>,
    end: &mut Vec<u8>,
    into: &mut Spooled,
    with: Fetching<'_>,
) -> io::Result<()> {
    let (mut last, mut at) = (Instant::now(), 0);
    loop {
        while let Ok(Ok(said)) = messages.try_recv() {
            keep(end, &said);
        }
        match output.recv_timeout(TICK) {
            Ok(bytes) => {
                let bytes = bytes?;
                into.write_at(&bytes, at).map_err(|error| {
                    let problem =
                        format!("cannot write its output to a temporary file (set TMPDIR to another folder): {error}");
                    io::Error::new(error.kind(), problem)
                })?;
                at += bytes.len() as u64;
                last = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => check(last, with)?,
        }
        if with.is_stopped() {
            return Err(io::Error::other("it was stopped"));
        }
    }
}

/// An error if nothing happened since `last` for the time that is allowed.
fn check(last: Instant, with: Fetching<'_>) -> io::Result<()> {
    let timeout = with.access.io_timeout;
    match last.elapsed() >= timeout {
        true => Err(io::Error::other(format!(
            "the command printed nothing for {}, and was ended (--io-timeout)",
            seconds(timeout)
        ))),
        false => Ok(()),
    }
}

fn keep(end: &mut Vec<u8>, said: &[u8]) {
    end.extend_from_slice(said);
    end.drain(..end.len().saturating_sub(QUOTED_BYTES));
}

/// Reads on a thread of its own, which ends when no one receives.
fn pass_on(mut from: impl Read + Send + 'static) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (send, receive) = sync_channel(4);
    let work = move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let passed = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => send.send(Ok(buffer[..read].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Err(error) => {
                    // Nothing more can be read, whether or not anyone hears why.
                    let _ = send.send(Err(error));
                    return;
                }
            };
            if passed.is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("pipe".to_owned()).spawn(work)?;
    Ok(receive)
}

/// A command that is ended when this is dropped.
struct Running(Child);

impl Running {
    /// Waits until it ends: it may close its output earlier.
    fn wait(&mut self, with: Fetching<'_>) -> io::Result<ExitStatus> {
        let (last, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if with.is_stopped() {
                return Err(io::Error::other("it was stopped"));
            }
            check(last, with)?;
            thread::sleep(pause);
            pause = (pause * 2).min(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Ok(group) = i32::try_from(self.0.id()) {
            // SAFETY: a signal to the group that was made for the command; it has no memory of ours.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        #[cfg(not(unix))]
        let _ = self.0.kill();
        // Frees its number; it was killed, so this does not wait.
        let _ = self.0.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::data::store::{Access, ReadAt, Spool};

    /// The output of a command, or the error, and how long it took.
    fn output(command: &str, stop: &AtomicBool) -> (Result<Vec<u8>, String>, Duration) {
        let (spool, begun) = (Spool::default(), Instant::now());
        let access = Access { io_timeout: Duration::from_millis(400), ..Access::default() };
        let mut spooled = spool.start().unwrap();
        let ran = run(command, &mut spooled, Fetching { access: &access, stop });
        let bytes = ran.map_err(|error| error.to_string()).map(|()| {
            let mut bytes = vec![0; spooled.len() as usize];
            spooled.read_at(&mut bytes, 0).unwrap();
            bytes
        });
        (bytes, begun.elapsed())
    }

    #[test]
    fn output_is_read_whole_and_failures_say_why() {
        let never = AtomicBool::new(false);
        let of = |command: &str| output(command, &never).0;
        assert_eq!(of("printf ab; printf cd | cat").unwrap(), b"abcd");
        assert_eq!(of("head -c 3000000 /dev/zero").unwrap().len(), 3_000_000);
        // Longer than the time that is allowed, but never silent for so long; and messages alone are no failure.
        assert_eq!(of("for i in 1 2 3; do sleep 0.2; printf $i; echo note >&2; done").unwrap(), b"123");
        // A process that leaves the group and talks on.
        let begun = Instant::now();
        let talks =
            "setsid sh -c 'for i in $(seq 60); do echo x >&2; sleep 0.05; done' > /dev/null & sleep 0.2; printf ab";
        assert_eq!(of(talks).unwrap(), b"ab");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let failed = of("printf abc; for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3").unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.ends_with("line 3 | line 4 | line 5 | line 6 | line 7"));
        assert!(of("no-such-program-anywhere").unwrap_err().contains("not found"));
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_started() {
        let marks = tempfile::tempdir().unwrap();
        let mark = marks.path().join("late").display().to_string();
        let never = AtomicBool::new(false);
        for command in [format!("(sleep 2; touch {mark}) | cat"), format!("exec >&-; sleep 2; touch {mark}")] {
            let (ran, took) = output(&command, &never);
            assert!(ran.unwrap_err().contains("printed nothing for 0.4 s") && took < Duration::from_millis(1900));
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                stop.store(true, Ordering::Relaxed);
            });
            let (ran, _) = output(&format!("while true; do sleep 0.1; printf a; done; touch {mark}"), &stop);
            assert!(ran.unwrap_err().contains("stopped"));
        });
        thread::sleep(Duration::from_millis(2100));
        assert!(!marks.path().join("late").exists());
    }
}
