//! Atomic operations and reductions in memory (PTX ISA, 9.7.13.6 and 9.7.13.7).

use crate::exact::{BF16, F16, F32, Format, Mode};
use crate::float::{SINGLES, fma, one};
use crate::harness::{L, W, execute, parse, product, words};

/// Every lane applies an operation to a cell of its own: what it returns, and what the cell holds then.
fn apply(space: &str, op: &str, ty: &str, size: usize, cases: &[Vec<u64>]) -> Vec<[u64; 2]> {
    let (kind, cas) = (format!("b{}", 8 * size), op == "cas");
    let operands = if cas { "%v1, %v2" } else { "%v1" };
    let (address, prepare) = match space {
        ".shared" => ("%u2", format!("st.shared.{kind} [%u2], %v0;")),
        _ => ("%u1", format!("st.global.{kind} [%u1], %v0;")),
    };
    let (atom, red) = (format!("atom{space}.{op}.{ty}"), format!("red{space}.{op}.{ty}"));
    let again = if cas || op == "exch" { "" } else { "1" };
    // The cell is at 8 bytes, and once more at 16 for the reduction without a result, which must leave the same.
    let reduce = match again {
        "" => String::new(),
        _ => format!("{prepare} {red} [{address}], %v1; ld{space}.{kind} %v5, [{address}];"),
    };
    let body = format!(
        ".reg .{kind} %v<6>; .shared .align 8 .b8 cells[1024];
         mov.u32 %t0, %ntid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %tid.x; mad.lo.u32 %t3, %t1, %t0, %t2;
         mad.wide.u32 %u0, %t3, 24, %at0; mad.wide.u32 %u1, %t3, 24, %at1; mov.u64 %u2, cells; mad.wide.u32 %u2, %t2, 8, %u2;
         ld.global.{kind} %v0, [%u0]; ld.global.{kind} %v1, [%u0+8]; ld.global.{kind} %v2, [%u0+16];
         {prepare} {atom} %v3, [{address}], {operands}; ld{space}.{kind} %v4, [{address}]; mov.{kind} %v5, %v4;
         {reduce}
         st.global.{kind} [%u1], %v3; st.global.{kind} [%u1+8], %v4; st.global.{kind} [%u1+16], %v5;"
    );
    let padded = cases.len().next_multiple_of(128);
    let case = |i: usize| &cases[i.min(cases.len() - 1)];
    let input: Vec<u64> = (0..padded).flat_map(|i| (0..3).map(move |o| case(i).get(o).copied().unwrap_or(0))).collect();
    let mut buffers = [bytemuck::cast_slice(&input).to_vec(), vec![0; 24 * padded]];
    let done = execute("", &body, [(padded / 128) as u32, 128], None, &mut buffers);
    done.unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    let found: Vec<u64> = words(&buffers[1]);
    let results = found.chunks(3).take(cases.len()).map(|x| {
        assert_eq!(x[1], x[2], "red does what atom does: {red}");
        [x[0], x[1]]
    });
    results.collect()
}

/// Old value and operands to the new value, in every space that atomics have.
fn check(op: &str, ty: &str, size: usize, cases: &[Vec<u64>], f: impl Fn(&[u64]) -> u64) {
    for space in [".global", ".shared", ""] {
        for (case, found) in cases.iter().zip(apply(space, op, ty, size, cases)) {
            assert_eq!(found, [case[0], f(case)], "atom{space}.{op}.{ty} {case:#x?}");
        }
    }
}

#[test]
fn integers() {
    for (bits, samples) in [(32u32, W), (64, L)] {
        let (ones, size) = (u64::MAX >> (64 - bits), bits as usize / 8);
        let signed = |x: u64| (x << (64 - bits)) as i64;
        let two = product(&[samples, samples]);
        let name = |kind: &str| format!("{kind}{bits}");
        check("add", &name("u"), size, &two, |x| x[0].wrapping_add(x[1]) & ones);
        check("min", &name("u"), size, &two, |x| x[0].min(x[1]));
        check("max", &name("u"), size, &two, |x| x[0].max(x[1]));
        check("min", &name("s"), size, &two, |x| if signed(x[0]) < signed(x[1]) { x[0] } else { x[1] });
        check("max", &name("s"), size, &two, |x| if signed(x[0]) > signed(x[1]) { x[0] } else { x[1] });
        check("and", &name("b"), size, &two, |x| x[0] & x[1]);
        check("or", &name("b"), size, &two, |x| x[0] | x[1]);
        check("xor", &name("b"), size, &two, |x| x[0] ^ x[1]);
        check("exch", &name("b"), size, &two, |x| x[1]);
        let three = product(&[samples, samples, &[5, ones - 2]]);
        check("cas", &name("b"), size, &three, |x| if x[0] == x[1] { x[2] } else { x[0] });
    }
    let two = product(&[W, W]);
    check("add", "s32", 4, &two, |x| x[0].wrapping_add(x[1]) & 0xffff_ffff);
    check("inc", "u32", 4, &two, |x| if x[0] >= x[1] { 0 } else { x[0] + 1 });
    check("dec", "u32", 4, &two, |x| if x[0] == 0 || x[0] > x[1] { x[1] } else { x[0] - 1 });
    let halves = product(&[&[0, 5, 0x8000, 0xffff], &[0, 5, 0xffff], &[7, 0xfffe]]);
    check("cas", "b16", 2, &halves, |x| if x[0] == x[1] { x[2] } else { x[0] });
}

#[test]
fn sums_of_floats() {
    let singles: Vec<u64> = SINGLES.into_iter().filter(|x| !F32.is_nan(*x)).collect();
    let sum = |x: &[u64]| fma(F32, Mode::Nearest, x[0], one(F32), x[1]);
    // Infinities of both signs make a NaN, of which the bits are not specified.
    let cases: Vec<Vec<u64>> = product(&[&singles, &singles]).into_iter().filter(|x| !F32.is_nan(sum(x))).collect();
    // In global memory subnormal numbers are flushed, in shared memory they are kept.
    let flushed = |x: &[u64]| F32.flush(sum(&[F32.flush(x[0]), F32.flush(x[1])]));
    let spaces = [(".global", &flushed as &dyn Fn(&[u64]) -> u64), ("", &flushed), (".shared", &sum)];
    for (space, reference) in spaces {
        for (case, found) in cases.iter().zip(apply(space, "add", "f32", 4, &cases)) {
            assert_eq!(found, [case[0], reference(case)], "{space} {case:#x?}");
        }
    }
    let doubles = [0.0, -0.0, 1.5, -1.5, 1e-310, 1e300, f64::MAX, 3.0e-17].map(f64::to_bits);
    let double = f64::from_bits;
    check("add", "f64", 8, &product(&[&doubles, &doubles]), |x| (double(x[0]) + double(x[1])).to_bits());
}

#[test]
fn sums_of_halves() {
    let numbers = |format: Format| -> Vec<u64> {
        let positive = [0, 1, 3 << (format.mantissa - 2), one(format), one(format) + 1, format.infinity() - 1];
        positive.into_iter().flat_map(|x| [x, x | format.sign()]).collect()
    };
    for (name, format) in [("f16", F16), ("bf16", BF16)] {
        let (of, sum) = (numbers(format), |a, b| fma(format, Mode::Nearest, a, one(format), b));
        let cases = product(&[&of, &of]);
        check("add.noftz", name, 2, &cases, |x| sum(x[0], x[1]));
        let pair = |i: usize, o: usize| cases[i][o] | cases[(i + 7) % cases.len()][o] << 16;
        let pairs: Vec<Vec<u64>> = (0..cases.len()).map(|i| vec![pair(i, 0), pair(i, 1)]).collect();
        check("add.noftz", &format!("{name}x2"), 4, &pairs, |x| {
            sum(x[0] & 0xffff, x[1] & 0xffff) | sum(x[0] >> 16, x[1] >> 16) << 16
        });
    }
}

#[test]
fn lanes_and_blocks_contend_for_one_cell() {
    // Counts, a maximum, a ring counter, and tickets: every old value is handed out once, whatever the order.
    let body = "mov.u32 %t0, %ntid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %tid.x; mad.lo.u32 %t3, %t1, %t0, %t2;
        atom.global.add.u32 %t4, [%at0], 1; atom.global.max.u32 %t5, [%at0+4], %t3; atom.global.inc.u32 %t6, [%at0+8], 9;
        red.relaxed.gpu.global.add.u64 [%at0+16], 3; mul.wide.u32 %u1, %t4, 4; add.u64 %u1, %u1, %at1; st.global.u32 [%u1], %t4;
        mad.lo.u32 %t7, %t3, 2, 1; atom.acq_rel.sys.global.cas.b32 %t8, [%at0+12], 0, %t7;";
    for order in [None, Some(1), Some(2)] {
        let mut buffers = [vec![0; 24], vec![0xff; 4 * 256]];
        execute("", body, [4, 64], order, &mut buffers).unwrap();
        let cells: Vec<u32> = words(&buffers[0]);
        assert_eq!([cells[0], cells[1], cells[2], cells[4], cells[5]], [256, 255, 256 % 10, 3 * 256, 0]);
        assert!(cells[3] % 2 == 1 && cells[3] < 512, "one of them was first: {}", cells[3]);
        assert_eq!(words::<u32>(&buffers[1]), (0..256).collect::<Vec<_>>(), "each ticket is given once");
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    for inst in [
        "atom.global.min.f32 %t0, [%at0], %t1",
        "atom.global.and.f16x2 %t0, [%at0], %t1",
        "atom.global.inc.u64 %u0, [%at0], %u1",
    ] {
        assert!(parse("", &format!("mov.u32 %t1, 1; mov.u64 %u1, 1; {inst};"), 1).is_err(), "{inst}");
    }
}
