//! Runs the targets on mutated files: no panic, no hang, and no more memory than the file gives reason for.
//!
//! | variable | what it sets |
//! |---|---|
//! | `FLIPK_FUZZ_INPUTS` | inputs per target; without it, a few hundred on one thread |
//! | `FLIPK_FUZZ_FIRST` | the number of the first one, to repeat a finding |
//! | `FLIPK_FUZZ_KEEP` | a folder that gets the inputs of findings |

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{mutate::mutated, seeds};
use crate::random::{Purpose, Random};

/// A target with its limits.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    words: &'static [&'static [u8]],
    /// Corrects checksums, so that what is behind them is reached; half of the inputs are corrected.
    repair: fn(&mut [u8]),
    /// Processor time for one input.
    seconds: f64,
    /// Bytes in use at once, apart from [`PER_BYTE`] for each byte of the input.
    memory: usize,
}

const PER_BYTE: usize = 1 << 10;
/// Wall-clock time after which an input counts as a hang.
const HANG: Duration = Duration::from_secs(120);
/// More than this in use ends the process, before it takes the machine's memory.
const MAX_MEMORY: usize = 6 << 30;
/// Inputs per target in an ordinary test run.
const FEW: u64 = 300;

/// Counts what the current thread has allocated while a target runs on it.
struct Counting;

#[derive(Clone, Copy)]
struct Count {
    live: isize,
    peak: isize,
    /// The target's name and the input's number.
    running: Option<(&'static str, u64)>,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { live: 0, peak: 0, running: None }) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn add(bytes: isize) {
        // A thread that ends has no count any more.
        let _ = COUNT.try_with(|cell| {
            let mut count = cell.get();
            let Some((name, number)) = count.running else { return };
            count.live = count.live.saturating_add(bytes);
            count.peak = count.peak.max(count.live);
            cell.set(count);
            if count.live > MAX_MEMORY as isize {
                count.running = None;
                cell.set(count);
                eprintln!("{name}: input {number} holds {} bytes, {bytes} of them new", count.live);
                std::process::abort();
            }
        });
    }
}

// SAFETY: everything is the system allocator's; the counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        Self::add(-(layout.size() as isize));
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::add(size as isize - layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(start, layout, size) }
    }
}

/// Processor time of this thread, in seconds; of the process where that is not known.
fn processor_time() -> f64 {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for a write.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64()
    }
}

/// What one input cost, and why it is a finding, if it is one.
struct Outcome {
    seconds: f64,
    memory: usize,
    finding: Option<String>,
}

impl Target {
    /// The input of this number.
    fn input(&self, seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
        let key = self.name.bytes().fold(0, |key, byte| key * 31 + u64::from(byte));
        let mut random = Random::new(key, Purpose::Test, 0, number);
        let mut bytes = match number as usize {
            // The seeds themselves come first.
            number if number < seeds.len() => return seeds[number].clone(),
            _ => mutated(&mut random, seeds, self.words),
        };
        if random.below(2) == 0 {
            (self.repair)(&mut bytes);
        }
        bytes
    }

    fn try_one(&self, bytes: &[u8], number: u64) -> Outcome {
        COUNT.set(Count { live: 0, peak: 0, running: Some((self.name, number)) });
        let begun = processor_time();
        let ran = catch_unwind(AssertUnwindSafe(|| (self.run)(bytes)));
        let seconds = processor_time() - begun;
        let memory = COUNT.replace(Count { live: 0, peak: 0, running: None }).peak.max(0) as usize;
        let allowed = self.memory + PER_BYTE * bytes.len();
        let finding = match ran {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Some(format!("panics: {}", text.or(panic.downcast_ref().copied()).unwrap_or_default()))
            }
            Ok(()) if seconds > self.seconds => Some(format!("takes {seconds:.1} s")),
            Ok(()) if memory > allowed => Some(format!("allocates {memory} bytes")),
            Ok(()) => None,
        };
        Outcome { seconds, memory, finding }
    }

    /// Runs as many inputs as the environment says, and fails with what was found.
    fn fuzz(&self) {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let (asked, first) = (number("FLIPK_FUZZ_INPUTS"), number("FLIPK_FUZZ_FIRST").unwrap_or(0));
        let threads = if asked.is_some() { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
        let (seeds, end) = ((self.seeds)(), first + asked.unwrap_or(FEW));
        let (next, begun) = (AtomicU64::new(first), Instant::now());
        // Of each thread: the input that it is at, and since when.
        let at: Vec<[AtomicU64; 2]> = (0..threads).map(|_| [const { AtomicU64::new(0) }; 2]).collect();
        let since = || begun.elapsed().as_millis() as u64;
        let done = AtomicBool::new(false);
        let mut outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
            let worker = |at: &[AtomicU64; 2]| {
                let mut found: Vec<(u64, Outcome)> = Vec::new();
                let mut worst = Outcome { seconds: 0.0, memory: 0, finding: None };
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        at[1].store(u64::MAX, Ordering::Relaxed);
                        found.push((end, worst));
                        return found;
                    }
                    at[0].store(number, Ordering::Relaxed);
                    at[1].store(since(), Ordering::Relaxed);
                    let outcome = self.try_one(&self.input(&seeds, number), number);
                    worst.seconds = worst.seconds.max(outcome.seconds);
                    worst.memory = worst.memory.max(outcome.memory);
                    if outcome.finding.is_some() {
                        found.push((number, outcome));
                    }
                }
            };
            let workers: Vec<_> = at.iter().map(|at| scope.spawn(move || worker(at))).collect();
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                    for [number, from] in &at {
                        if since().saturating_sub(from.load(Ordering::Relaxed)) > HANG.as_millis() as u64 {
                            eprintln!("{}: input {} hangs", self.name, number.load(Ordering::Relaxed));
                            std::process::abort();
                        }
                    }
                }
            });
            let found =
                workers.into_iter().flat_map(|worker| worker.join().expect("a worker catches panics")).collect();
            done.store(true, Ordering::Relaxed);
            watch.join().expect("the watch does not panic");
            found
        });
        outcomes.sort_by_key(|(number, _)| *number);
        let most = |of: fn(&Outcome) -> f64| outcomes.iter().map(|(_, outcome)| of(outcome)).fold(0.0, f64::max);
        let found: Vec<(u64, &str)> = outcomes.iter().filter_map(|(n, o)| Some((*n, o.finding.as_deref()?))).collect();
        let mut out = std::io::stdout().lock();
        let _ = writeln!(
            out,
            "{:<10} {:>7} inputs {:>8.1} s  slowest {:>8.1} ms  most memory {:>8.1} MiB  findings {}",
            self.name,
            end - first,
            begun.elapsed().as_secs_f64(),
            1e3 * most(|outcome| outcome.seconds),
            most(|outcome| outcome.memory as f64) / f64::from(1 << 20),
            found.len()
        );
        if let Some(folder) = std::env::var_os("FLIPK_FUZZ_KEEP") {
            for (number, _) in &found {
                let file = std::path::Path::new(&folder).join(format!("{}-{number}", self.name));
                std::fs::write(file, self.input(&seeds, *number)).expect("the folder can be written");
            }
        }
        let shown: Vec<String> = found.iter().take(20).map(|(number, what)| format!("input {number} {what}")).collect();
        assert!(found.is_empty(), "{} findings in {}:\n{}", found.len(), self.name, shown.join("\n"));
    }
}

/// What most parsers may take.
const PLAIN: Target = Target {
    name: "",
    run: |_| {},
    seeds: || vec![Vec::new()],
    words: &[],
    repair: |_| {},
    seconds: 1.0,
    memory: 32 << 20,
};

#[cfg(feature = "parquet")]
#[test]
fn parquet() {
    Target {
        name: "parquet",
        run: super::parquet,
        seeds: seeds::parquets,
        words: &[b"PAR1", b"\x15\x00\x15", b"\x19\x1c", b"\xFF\xFF\xFF\xFF\x0F"],
        // The crate makes room for the size that the header of a page states, which is less than 2 GiB, and may fill it
        // with zeros.
        memory: 3 << 30,
        seconds: 4.0,
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn shard() {
    Target {
        name: "shard",
        run: super::shard,
        seeds: seeds::shards,
        words: &[
            b"ustar\x0000",
            b"ustar  \0",
            b"././@LongLink",
            b"\x80\0\0\0",
            b"12 path=a.jpg\n",
            b"11 size=9\n",
            &[0; 512],
        ],
        repair: seeds::repair_shard,
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn front() {
    Target { name: "front", run: super::front, seeds: seeds::fronts, words: &[&[0; 4], &[0; 8], b"\x01"], ..PLAIN }
        .fuzz();
}

#[test]
fn raw() {
    Target { name: "raw", run: super::raw, seeds: seeds::raws, words: &[&[0; 4], b"\x01\0\0\0"], ..PLAIN }.fuzz();
}

/// A decoder may hold the pixels of the largest image twice: as they are stored, in up to 8 bytes each, and as RGB.
#[test]
fn image() {
    Target {
        name: "image",
        run: super::image,
        seeds: seeds::images,
        words: &[
            b"IHDR",
            b"IDAT",
            b"PLTE",
            b"IEND",
            b"\xFF\xC2",
            b"\xFF\xDA",
            b"\xFF\xD9",
            b"VP8L",
            b"VP8X",
            b"ANMF",
            b"\x2C\0\0\0\0",
        ],
        repair: seeds::repair_png,
        seconds: 20.0,
        memory: 2 << 30,
    }
    .fuzz();
}

#[test]
fn record() {
    Target {
        name: "record",
        run: super::record,
        seeds: seeds::records,
        words: &[b"\\u", b"\\ud83d", b"\"caption\":", b"NaN", b"[[", b"{\"", b"\":", b"\xEF\xBB\xBF", b"null"],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn filter() {
    Target {
        name: "filter",
        run: super::filter,
        seeds: seeds::filters,
        words: &[b" and ", b" or ", b"not ", b" in ('a', ", b" is not null", b">=", b"(", b")", b"''", b"`a`.", b"1e5"],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn text() {
    Target {
        name: "text",
        run: super::text,
        seeds: seeds::texts,
        words: &[b"\xEF\xBB\xBF", b"\xFF\xFE", b"\0\0\xFE\xFF", b"\r\n", b"\r", b"\xE2\x80\xA8", b"e\xCC\x81", b"\0"],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn list() {
    Target {
        name: "list",
        run: super::list,
        seeds: seeds::texts,
        words: &[
            b"{c}",
            b"{}",
            b"lambda c: f'",
            b"\t",
            b"\",\n",
            b"9223372036854775807 ",
            b"-9223372036854775808 ",
            b"n01440764",
        ],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn tokenizer() {
    Target {
        name: "tokenizer",
        run: super::tokenizer,
        seeds: seeds::tokenizers,
        words: &[
            b"\"type\":",
            b"\"BPE\"",
            b"\"Unigram\"",
            b"\"WordPiece\"",
            b"\"ByteLevel\"",
            b"\"Regex\":",
            b"null",
            b"##",
            b"[UNK]\n",
            b"(a*)*b",
        ],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn checkpoint() {
    Target {
        name: "checkpoint",
        run: super::checkpoint,
        seeds: seeds::checkpoints,
        words: &[
            b"\"F32\"",
            b"\"F64\"",
            b"\"shape\":[",
            b"\"data_offsets\":[0,",
            b"\\\"width\\\":65536",
            b"\\\"layers\\\":4096",
            b"adamw.m/",
        ],
        repair: seeds::repair_header,
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn golden() {
    Target {
        name: "golden",
        run: super::golden,
        seeds: seeds::golden_states,
        words: &[
            b"\"F32\"",
            b"\"I32\"",
            b"\"shape\":[",
            b"\"data_offsets\":[0,",
            b"\\\"batch\\\":0",
            b"65536",
            b"ids_keep",
        ],
        repair: seeds::repair_header,
        seconds: 5.0,
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn options() {
    Target {
        name: "options",
        run: super::options,
        seeds: seeds::configs,
        words: &[
            b"[model]\n",
            b"time = '9h'\n",
            b"batch = ",
            b"samples = ",
            b"inf",
            b"nan",
            b"= [[",
            b"'''",
            b"1979-05-27",
            b"mask_ratio = ",
        ],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn metrics() {
    Target {
        name: "metrics",
        run: super::metrics,
        seeds: seeds::metrics,
        words: &[b"{\"step\":", b"1e308", b"-1e308", b"1e-308", b"null", b"\n", b"18446744073709551615"],
        ..PLAIN
    }
    .fuzz();
}

#[test]
fn pattern() {
    Target {
        name: "pattern",
        run: super::pattern,
        seeds: seeds::patterns,
        // What names may take, and room for them to grow.
        memory: 1 << 30,
        words: &[b"{0..9}", b"{000..999}", b"{a,b}", b"{", b"}", b"..", b"[!a-", b"**", b"18446744073709551615"],
        ..PLAIN
    }
    .fuzz();
}
