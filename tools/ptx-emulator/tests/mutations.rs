//! Damaged PTX: whatever the text, parsing and running it end in a result, soon, and never in a panic.

use ptx_emulator::{Counts, Fault, Kernel, LaunchConfig, Memory, Module, Options, launch};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// `splitmix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.get(self.below(from.len())).copied().unwrap_or_default()
    }
}

/// One small file for each kernel of a PTX file: what comes before the first kernel, the kernel, and the names of
/// sources.
fn kernels(ptx: &str) -> Vec<String> {
    let sources: String =
        ptx.lines().filter(|line| line.starts_with("\t.file")).map(|line| format!("{line}\n")).collect();
    let mut parts = ptx.split(".visible .entry");
    let head = parts.next().unwrap_or_default();
    let kernel = |kernel: &str| kernel.split("\t.file").next().unwrap_or_default().to_owned();
    parts.map(|part| format!("{head}.visible .entry{}{sources}", kernel(part))).collect()
}

/// What nvcc does not write into the fixtures.
const RARE: &str = ".version 8.0
.target sm_80
.address_size 64
.const .align 4 .u32 table[4] = {7, 8, 0x10, 9};
.extern .shared .align 16 .b8 more[];
.func (.param .b32 result) twice(.param .b32 x) {
    .reg .b32 %r<2>;
    ld.param.b32 %r0, [x];
    add.u32 %r1, %r0, %r0;
    st.param.b32 [result], %r1;
    ret;
}
.visible .entry rare(.param .u64 p) {
    .reg .b64 %u<4>; .reg .b32 %t<10>; .reg .pred %p<3>;
    .local .align 8 .b8 mine[16];
    ld.param.u64 %u0, [p];
    mov.u32 %t0, %laneid;
    and.b32 %t1, %t0, 3;
    ways: .branchtargets ZERO, ONE;
    setp.lt.u32 %p0, %t1, 2;
    @%p0 brx.idx %t1, ways;
    bra DONE;
    ZERO: mov.u32 %t2, 10;
    bra DONE;
    ONE: { .param .b32 a; .param .b32 r; st.param.b32 [a], %t0; call.uni (r), twice, (a); ld.param.b32 %t2, [r]; }
    DONE: ld.const.u32 %t3, [table+4];
    mov.u64 %u1, mine;
    st.local.v2.u32 [%u1], {%t0, %t3};
    mov.b64 {%t4, %t5}, %u0;
    mov.u32 %t4, %tid.x;
    mov.u64 %u2, more;
    mad.wide.u32 %u2, %t4, 4, %u2;
    st.shared.u32 [%u2], %t3;
    shfl.sync.down.b32 %t6|%p1, %t0, 1, 31, -1;
    vote.sync.ballot.b32 %t7, %p1, 0xffffffff;
    cp.async.ca.shared.global [%u2], [%u0], 4;
    cp.async.wait_all;
    bar.red.popc.u32 %t8, 0, 64, %p1;
    atom.global.add.u32 %t2, [%u0+4], 1;
    sub.cc.u32 %t2, %t3, %t0;
    subc.u32 %t2, %t3, 0;
    st.global.u32 [%u0], %t2;
    ret;
}
";

const PIECES: [&str; 40] = [
    "0",
    "1",
    "-1",
    "31",
    "4294967295",
    "18446744073709551615",
    "0x7fffffffffffffff",
    "0f7F800000",
    "0d7FF0000000000000",
    "1e999",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    ";",
    ",",
    ":",
    "|",
    "!",
    "@",
    "\"",
    "/*",
    ".reg .b32 %q<4000000000>;",
    ".shared .align 8 .b8 s[1000000000000];",
    ".local .b8 l[400000];",
    ".u64",
    ".pred",
    ".v4",
    ".f16x2",
    ".sat",
    "%p1",
    "_",
    "ret;",
    "bra L;",
    "\u{e9}",
    "L:",
];

/// Damages a text in one to three places; `words` are those of all texts.
fn damage(text: &str, words: &[&str], random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(3) {
        let (at, other) = (random.below(lines.len()), random.below(lines.len()));
        let line = lines[at].clone();
        let cut = |random: &mut Random| (0..=random.below(line.len() + 1)).rev().find(|at| line.is_char_boundary(*at));
        let (a, b) = (cut(random).unwrap_or(0), cut(random).unwrap_or(0));
        let (start, end) = (a.min(b), a.max(b));
        match random.below(16) {
            0 => lines[at].replace_range(start..end, ""),
            1 => lines[at].insert_str(start, random.pick(&PIECES)),
            2 => lines.swap(at, other),
            3 => lines.insert(at, lines[other].clone()),
            4 => drop(lines.remove(at)),
            5 if random.below(20) == 0 => lines.truncate(at + 1),
            6 => {
                let (copy, times) = (line[start..end].to_owned(), 1 + random.below(40));
                lines[at].insert_str(start, &copy.repeat(times));
            }
            7 | 8 => {
                let digit = line[start..].find(|c: char| c.is_ascii_digit()).map(|digit| start + digit);
                if let Some(digit) = digit {
                    let end = line[digit..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |end| digit + end);
                    lines[at].replace_range(digit..end, random.pick(&PIECES[..7]));
                }
            }
            // A word in place of another that begins alike: an opcode, a register, a label.
            _ => {
                let parts: Vec<&str> = line.split([' ', '\t']).filter(|part| !part.is_empty()).collect();
                let part = random.pick(&parts);
                let alike: Vec<&str> = words.iter().copied().filter(|word| word.get(..2) == part.get(..2)).collect();
                if !alike.is_empty() {
                    lines[at] = line.replacen(part, random.pick(&alike), 1);
                }
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

/// Runs a kernel for a while on a little memory; faults are results too.
fn run(module: &Module, kernel: &Kernel, seed: u64) -> Result<Counts, Fault> {
    let memory = Memory::new();
    let address = memory.allocate(4096);
    memory.write(address, &[1; 2048]).unwrap();
    let values: Vec<Vec<u8>> = kernel
        .params()
        .iter()
        .map(|param| match param.bytes {
            8 => address.to_le_bytes().to_vec(),
            bytes => (0..bytes).map(|i| if i % 4 == 0 { 8 } else { 0 }).collect(),
        })
        .collect();
    let params = kernel.pack(&values.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let config = LaunchConfig { blocks: [2, 1, 1], threads: [64, 1, 1], dynamic_shared: 1024 };
    let options = Options { limit: 3000, order: Some(seed), ..Options::default() };
    launch(&memory, module, kernel, config, &params, &options)
}

/// How many of `count` damaged files were parsed, and how many of their kernels ran to their end.
fn mutate(corpus: Vec<String>, count: u64) -> [usize; 2] {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut words: Vec<&str> = corpus.iter().flat_map(|text| text.split_whitespace()).collect();
        words.sort_unstable();
        words.dedup();
        for seed in 0..count {
            let mut random = Random(seed);
            let text = damage(&corpus[random.below(corpus.len())], &words, &mut random);
            let done = catch_unwind(AssertUnwindSafe(|| match Module::parse(&text) {
                Ok(module) => [1, module.kernels().filter(|kernel| run(&module, kernel, seed).is_ok()).count()],
                Err(_) => [0, 0],
            }));
            if send.send(done.map_err(|_| text)).is_err() {
                break;
            }
        }
    });
    let mut sums = [0, 0];
    for seed in 0..count {
        match receive.recv_timeout(Duration::from_secs(120)) {
            Ok(Ok(done)) => sums.iter_mut().zip(done).for_each(|(sum, done)| *sum += done),
            Ok(Err(text)) => panic!("input {seed} makes a panic:\n{text}"),
            Err(_) => panic!("input {seed} does not end"),
        }
    }
    sums
}

fn fixtures() -> Vec<String> {
    let files = [include_str!("cuda/kernels.ptx"), include_str!("cuda/faults.ptx"), RARE];
    files.iter().flat_map(|file| kernels(file)).collect()
}

#[test]
fn the_texts_run_undamaged() {
    let rare = Module::parse(RARE).unwrap();
    run(&rare, rare.kernel("rare").unwrap(), 1).unwrap_or_else(|fault| panic!("{fault}"));
    for text in fixtures() {
        Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn a_thousand_damaged_files_neither_panic_nor_hang() {
    let [parsed, ran] = mutate(fixtures(), 1000);
    // Enough of them get as far as the decoder and the run.
    assert!(parsed > 100 && ran > 20, "{parsed} parsed, {ran} ran");
    println!("{parsed} parsed, {ran} ran");
}

/// `PTX_CORPUS=DIR` adds the PTX files of a folder.
#[test]
#[ignore = "takes minutes, and the test above tries fewer files: run it by `cargo test --release -p ptx-emulator --test mutations -- --ignored`"]
fn a_hundred_thousand_damaged_files_neither_panic_nor_hang() {
    let mut corpus = fixtures();
    if let Some(folder) = std::env::var_os("PTX_CORPUS") {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "ptx") {
                corpus.extend(kernels(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    let files = corpus.len();
    let [parsed, ran] = mutate(corpus, 100_000);
    println!("of 100000 files, made from {files}, {parsed} were parsed and {ran} kernels ran to their end");
}
