//! Small kernels from snippets: declarations, loads of operands and stores of results are made here.

use crate::forms;
use ptx_emulator::{Fault, FaultKind, LaunchConfig, Memory, Module, Options, ParseError, launch};

/// Integer types: name, width of the register that holds one, bits, signed.
pub const INTEGERS: [(&str, char, u32, bool); 8] = [
    ("u8", 'h', 8, false),
    ("s8", 'h', 8, true),
    ("u16", 'h', 16, false),
    ("s16", 'h', 16, true),
    ("u32", 'w', 32, false),
    ("s32", 'w', 32, true),
    ("u64", 'l', 64, false),
    ("s64", 'l', 64, true),
];

/// Types of moves and selections, with the width of their register.
#[rustfmt::skip]
pub const DATA: [(&str, char); 11] = [
    ("b16", 'h'), ("u16", 'h'), ("s16", 'h'), ("b32", 'w'), ("u32", 'w'), ("s32", 'w'), ("f32", 'w'), ("b64", 'l'), ("u64", 'l'),
    ("s64", 'l'), ("f64", 'l'),
];

/// Lines that stand before the body, so that tests can tell which line a fault must name.
pub const HEADER: u32 = 6;

/// A kernel with the addresses of `buffers` buffers in `%at0`, `%at1`, ... and scratch registers `%t` (32 bits), `%u`
/// (64), `%s` (16) and `%p` (predicates).
fn text(module: &str, body: &str, buffers: usize) -> String {
    assert!(!module.contains('\n'), "the header's length is fixed");
    let params: Vec<String> = (0..buffers).map(|i| format!(".param .u64 g{i}")).collect();
    let loads: String = (0..buffers).map(|i| format!("ld.param.u64 %at{i}, [g{i}]; ")).collect();
    format!(
        ".version 9.0\n.target sm_100a\n.address_size 64\n{module}\n.visible .entry test({}) {{\n\
         .reg .b64 %at<8>; .reg .b32 %t<24>; .reg .b64 %u<8>; .reg .b16 %s<8>; .reg .pred %p<8>; {loads}\n{body}\nret;\n}}\n",
        params.join(", ")
    )
}

pub fn parse(module: &str, body: &str, buffers: usize) -> Result<Module, ParseError> {
    Module::parse(&text(module, body, buffers))
}

/// Runs a body that reads and writes buffers of bytes; `module` may declare variables, on one line.
pub fn execute(
    module: &str,
    body: &str,
    [blocks, threads]: [u32; 2],
    order: Option<u64>,
    buffers: &mut [Vec<u8>],
) -> Result<(), Fault> {
    let parsed = parse(module, body, buffers.len()).unwrap_or_else(|error| panic!("{error}\n{body}"));
    let memory = Memory::new();
    let mut addresses = Vec::new();
    for buffer in buffers.iter() {
        let address = memory.allocate(buffer.len());
        memory.write(address, buffer).unwrap();
        addresses.push(address.to_le_bytes());
    }
    let kernel = parsed.kernel("test").unwrap();
    let arguments: Vec<&[u8]> = addresses.iter().map(|a| &a[..]).collect();
    let params = kernel.pack(&arguments).unwrap();
    let grid = LaunchConfig { blocks: [blocks, 1, 1], threads: [threads, 1, 1], dynamic_shared: 256 };
    let done = launch(&memory, &parsed, kernel, grid, &params, &Options { order, ..Options::default() });
    if done.is_ok() || done.as_ref().is_err_and(|fault| fault.kind == FaultKind::Trap) {
        forms::record(&text(module, body, buffers.len()));
    }
    done?;
    for (buffer, address) in buffers.iter_mut().zip(&addresses) {
        memory.read(u64::from_le_bytes(*address), buffer).unwrap();
    }
    Ok(())
}

/// A buffer as elements, whatever its alignment.
pub fn words<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// As [`execute`] of one warp, which must succeed, on words: every buffer is an input and an output.
pub fn warp(module: &str, body: &str, buffers: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut bytes: Vec<Vec<u8>> = buffers.iter().map(|b| bytemuck::cast_slice(b).to_vec()).collect();
    execute(module, body, [1, 32], None, &mut bytes).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    bytes.iter().map(|b| words(b)).collect()
}

/// The widths of an operand: `h` 16 bits, `w` 32, `l` 64, `p` a predicate.
fn width(kind: char) -> (&'static str, &'static str) {
    match kind {
        'h' => (".b16", "u16"),
        'w' => (".b32", "u32"),
        'l' => (".b64", "u64"),
        'p' => (".pred", "u32"),
        _ => panic!("{kind} is no width"),
    }
}

/// Runs `body` for each case in a thread of its own. `widths` are those of the results `%d`, `%e`, `%f`, `%g`, and,
/// behind `=`, of the operands `%a`, `%b`, `%c`, `%i`. Results are zero-extended.
pub fn run(widths: &str, body: &str, cases: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let (results, operands) = widths.split_once('=').unwrap();
    let (results, operands): (Vec<char>, Vec<char>) = (results.chars().collect(), operands.chars().collect());
    let mut lines = String::from(
        "mov.u32 %t21, %ctaid.x; mov.u32 %t22, %ntid.x; mov.u32 %t23, %tid.x; mad.lo.u32 %t21, %t21, %t22, %t23; ",
    );
    for (name, kind) in ["a", "b", "c", "i"].iter().zip(&operands).chain(["d", "e", "f", "g"].iter().zip(&results)) {
        lines += &format!(".reg {} %{name}; ", width(*kind).0);
    }
    lines += &format!("mad.wide.u32 %u6, %t21, {}, %at0; ", 8 * operands.len());
    for (i, (name, kind)) in ["a", "b", "c", "i"].iter().zip(&operands).enumerate() {
        lines += &match kind {
            'p' => format!("ld.global.u32 %t20, [%u6+{}]; setp.ne.u32 %{name}, %t20, 0; ", 8 * i),
            _ => format!("ld.global.{} %{name}, [%u6+{}]; ", width(*kind).1, 8 * i),
        };
    }
    lines += &format!("\n{body}\nmad.wide.u32 %u7, %t21, {}, %at1; ", 8 * results.len());
    for (i, (name, kind)) in ["d", "e", "f", "g"].iter().zip(&results).enumerate() {
        lines += &match kind {
            'p' => format!("selp.u32 %t20, 1, 0, %{name}; st.global.u32 [%u7+{}], %t20; ", 8 * i),
            _ => format!("st.global.{} [%u7+{}], %{name}; ", width(*kind).1, 8 * i),
        };
    }
    // Whole warps; the last case fills the rest of the last block.
    let threads = if cases.len() <= 32 { 32 } else { 128 };
    let padded = cases.len().next_multiple_of(threads);
    let input: Vec<u64> = (0..padded).flat_map(|i| cases[i.min(cases.len() - 1)].iter().copied()).collect();
    let mut found: Vec<Vec<u8>> = Vec::new();
    for order in [None, Some(7)] {
        let mut buffers = [bytemuck::cast_slice(&input).to_vec(), vec![0; 8 * results.len() * padded]];
        let grid = [(padded / threads) as u32, threads as u32];
        execute("", &lines, grid, order, &mut buffers).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
        found.push(std::mem::take(&mut buffers[1]));
    }
    assert!(found[0] == found[1], "the order of blocks and warps matters: {body}");
    let found: Vec<u64> = words(&found[0]);
    found.chunks(results.len()).take(cases.len()).map(<[u64]>::to_vec).collect()
}

/// Every combination of one sample per operand.
pub fn product(samples: &[&[u64]]) -> Vec<Vec<u64>> {
    samples.iter().fold(vec![Vec::new()], |cases, samples| {
        cases.iter().flat_map(|case| samples.iter().map(|s| [case.as_slice(), &[*s]].concat())).collect()
    })
}

/// Holds `inst %d, %a, ...` to a reference, bit by bit, over all combinations of samples.
pub fn agree(inst: &str, widths: &str, samples: &[&[u64]], reference: impl Fn(&[u64]) -> u64) {
    agree_on(inst, widths, &product(samples), reference);
}

/// As [`agree`], on given cases.
pub fn agree_on(inst: &str, widths: &str, cases: &[Vec<u64>], reference: impl Fn(&[u64]) -> u64) {
    let operands = ["%a", "%b", "%c", "%i"][..cases[0].len()].join(", ");
    let found = run(widths, &format!("{inst} %d, {operands};"), cases);
    for (case, found) in cases.iter().zip(found) {
        let expected = reference(case);
        assert!(found[0] == expected, "{inst} of {case:#x?}: {:#x}, not {expected:#x}", found[0]);
    }
}

/// Edges of 16, 32 and 64 bits.
pub const H: &[u64] = &[0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x100, 0x1234, 0x7fff, 0x8000, 0x8001, 0xbeef, 0xfffe, 0xffff];
#[rustfmt::skip]
pub const W: &[u64] = &[
    0, 1, 2, 7, 31, 32, 33, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000, 0xff_ffff, 0x1234_5678, 0x7fff_ffff, 0x8000_0000,
    0x8000_0001, 0xdead_beef, 0xffff_fffe, 0xffff_ffff,
];
#[rustfmt::skip]
pub const L: &[u64] = &[
    0, 1, 2, 10, 63, 64, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x0123_4567_89ab_cdef,
    0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, 0x8000_0000_0000_0001, 0xfedc_ba98_7654_3210, 0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// Samples by the width of their operand.
pub fn samples(kind: char) -> &'static [u64] {
    match kind {
        'h' => H,
        'w' => W,
        _ => L,
    }
}
