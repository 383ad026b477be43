//! Logic, shifts and bit fields (PTX ISA, 9.7.1.16 to 9.7.1.21 and 9.7.8), against the ISA's own pseudo-code.

use crate::harness::{DATA, W, agree, product, run, samples};

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

const WIDTHS: [(u32, char); 3] = [(16, 'h'), (32, 'w'), (64, 'l')];

#[test]
fn logic() {
    for (bits, kind) in WIDTHS {
        let (two, one) = ([samples(kind); 2], [samples(kind)]);
        let widths = format!("{kind}={kind}{kind}");
        agree(&format!("and.b{bits}"), &widths, &two, |x| x[0] & x[1]);
        agree(&format!("or.b{bits}"), &widths, &two, |x| x[0] | x[1]);
        agree(&format!("xor.b{bits}"), &widths, &two, |x| x[0] ^ x[1]);
        agree(&format!("not.b{bits}"), &widths[..3], &one, |x| !x[0] & mask(bits));
        agree(&format!("cnot.b{bits}"), &widths[..3], &one, |x| u64::from(x[0] == 0));
    }
    let bit: &[u64] = &[0, 1];
    agree("and.pred", "p=pp", &[bit, bit], |x| x[0] & x[1]);
    agree("or.pred", "p=pp", &[bit, bit], |x| x[0] | x[1]);
    agree("xor.pred", "p=pp", &[bit, bit], |x| x[0] ^ x[1]);
    agree("not.pred", "p=p", &[bit], |x| 1 - x[0]);
    agree("mov.pred", "p=p", &[bit], |x| x[0]);
}

#[test]
fn shifts_clamp_their_count() {
    let counts: &[u64] = &[0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0x1_0000, 0x8000_0000, 0xffff_ffff];
    for (bits, kind) in WIDTHS {
        let (of, widths) = ([samples(kind), counts], format!("{kind}={kind}w"));
        let most = u64::from(bits);
        let left = |x: &[u64]| if x[1] >= most { 0 } else { x[0] << x[1] & mask(bits) };
        let right = |x: &[u64]| if x[1] >= most { 0 } else { x[0] >> x[1] };
        let signed = |x: &[u64]| {
            let wide = (x[0] << (64 - bits)) as i64 >> (64 - bits);
            (wide >> x[1].min(most - 1)) as u64 & mask(bits)
        };
        agree(&format!("shl.b{bits}"), &widths, &of, left);
        agree(&format!("shr.b{bits}"), &widths, &of, right);
        agree(&format!("shr.u{bits}"), &widths, &of, right);
        agree(&format!("shr.s{bits}"), &widths, &of, signed);
    }
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        let count = |c: u64| if clamp { c.min(32) } else { c & 31 };
        let left = |x: &[u64]| (u128::from(x[1] << 32 | x[0]) << count(x[2]) >> 32) as u64 & mask(32);
        let right = |x: &[u64]| (x[1] << 32 | x[0]) >> count(x[2]) & mask(32);
        agree(&format!("shf.l.{mode}.b32"), "w=www", &[W, W, counts], left);
        agree(&format!("shf.r.{mode}.b32"), "w=www", &[W, W, counts], right);
    }
}

#[test]
fn counting_and_finding_bits() {
    for (bits, kind) in &WIDTHS[1..] {
        let (of, top) = ([samples(*kind)], bits - 1);
        let narrow = format!("w={kind}");
        agree(&format!("popc.b{bits}"), &narrow, &of, |x| (0..*bits).filter(|i| x[0] >> i & 1 == 1).count() as u64);
        let highest = |x: u64| (0..*bits).rev().find(|i| x >> i & 1 == 1);
        agree(&format!("clz.b{bits}"), &narrow, &of, |x| u64::from(highest(x[0]).map_or(*bits, |i| top - i)));
        let reversed = |x: &[u64]| (0..*bits).fold(0, |r, i| r | (x[0] >> i & 1) << (top - i));
        agree(&format!("brev.b{bits}"), &format!("{kind}={kind}"), &of, reversed);
        for (ty, signed) in [("u", false), ("s", true)] {
            // The highest bit that is not a copy of the sign; none: all ones.
            let found = |x: u64| highest(if signed && x >> top == 1 { !x & mask(*bits) } else { x });
            agree(&format!("bfind.{ty}{bits}"), &narrow, &of, |x| found(x[0]).map_or(mask(32), u64::from));
            let shift = |x: &[u64]| found(x[0]).map_or(mask(32), |i| u64::from(top - i));
            agree(&format!("bfind.shiftamt.{ty}{bits}"), &narrow, &of, shift);
        }
    }
}

#[test]
fn bit_fields() {
    let places: &[u64] = &[0, 1, 4, 8, 30, 31, 32, 33, 63, 64, 200, 255, 256, 0x104];
    for (bits, kind) in &WIDTHS[1..] {
        let top = u64::from(bits - 1);
        for (ty, signed) in [("u", false), ("s", true)] {
            let extract = |x: &[u64]| {
                let (a, pos, len) = (x[0], x[1] & 0xff, x[2] & 0xff);
                let sign = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(top) & 1 };
                (0..=top).fold(0, |d, i| d | if i < len && pos + i <= top { a >> (pos + i) & 1 } else { sign } << i)
            };
            let widths = format!("{kind}={kind}ww");
            agree(&format!("bfe.{ty}{bits}"), &widths, &[samples(*kind), places, places], extract);
        }
        let insert = |x: &[u64]| {
            let (a, b, pos, len) = (x[0], x[1], x[2] & 0xff, x[3] & 0xff);
            (0..len).filter(|i| pos + i <= top).fold(b, |f, i| f & !(1 << (pos + i)) | (a >> i & 1) << (pos + i))
        };
        let few = &samples(*kind)[4..];
        agree(&format!("bfi.b{bits}"), &format!("{kind}={kind}{kind}ww"), &[few, few, places, places], insert);
    }
}

#[test]
fn permutations_of_bytes() {
    let pairs: &[u64] = &[0x8301_fe02, 0x7f80_ff00];
    let byte = |x: &[u64], i: u64| (x[1] << 32 | x[0]) >> (8 * i) & 0xff;
    // Selectors in every place, the sign of each byte among them.
    let selectors: Vec<u64> = (0..16).flat_map(|s| [s, s << 4, s << 8, s << 12, s * 0x1111, 0x7531 ^ s]).collect();
    agree("prmt.b32", "w=www", &[pairs, pairs, &selectors], |x| {
        (0..4).fold(0, |d, i| {
            let selector = x[2] >> (4 * i) & 15;
            let found = byte(x, selector & 7);
            let sign = if found >> 7 == 1 { 0xff } else { 0 };
            d | if selector & 8 != 0 { sign } else { found } << (8 * i)
        })
    });
    // The ISA's tables: for each mode and c[1:0], the bytes of the result from the highest down.
    let tables = [
        ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
        ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
        ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
        ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
        ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
        ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
    ];
    for (mode, rows) in tables {
        agree(&format!("prmt.b32.{mode}"), "w=www", &[pairs, pairs, &[0, 1, 2, 3, 6, 0xffff_fffd]], |x| {
            let row: u64 = rows[(x[2] & 3) as usize];
            (0..4).fold(0, |d, i| d | byte(x, row >> (4 * i) & 15) << (8 * i))
        });
    }
}

#[test]
fn every_table_of_three_inputs() {
    // The table is by definition what the function makes of these three bytes.
    let case = [vec![0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa], vec![0x0f12_f0ff, 0x3333_cccc, 0xaaaa_5555]];
    for group in (0..256u64).collect::<Vec<_>>().chunks(4) {
        let body: String =
            group.iter().zip("defg".chars()).map(|(lut, d)| format!("lop3.b32 %{d}, %a, %b, %c, {lut:#x}; ")).collect();
        let found = run("wwww=www", &body, &case);
        for (i, lut) in group.iter().enumerate() {
            assert_eq!(found[0][i], lut * 0x0101_0101, "{lut:#x}");
            let bit = |x: u64, i: u32| x >> i & 1;
            let index = |i| bit(case[1][0], i) << 2 | bit(case[1][1], i) << 1 | bit(case[1][2], i);
            assert_eq!(found[1][i], (0..32).fold(0, |d, i| d | (lut >> index(i) & 1) << i), "{lut:#x}");
        }
    }
}

#[test]
fn moves_pack_and_unpack() {
    for (ty, kind) in DATA {
        agree(&format!("mov.{ty}"), &format!("{kind}={kind}"), &[samples(kind)], |x| x[0]);
    }
    for x in product(&[W, W]) {
        let cases = [x.clone()];
        let found = run("lhhw=ww", "mov.b64 %d, {%a, %b}; mov.b32 {%e, %f}, %a; mov.b32 %g, {%f, %e};", &cases);
        let expected = [x[1] << 32 | x[0], x[0] & 0xffff, x[0] >> 16, x[0] << 16 & mask(32) | x[0] >> 16];
        assert_eq!(found[0], expected);
    }
    let cases = product(&[samples('l')]);
    let four = "mov.b64 {%d, %e, %f, %g}, %a;";
    for (x, found) in cases.iter().zip(run("hhhh=l", four, &cases)) {
        assert_eq!(found, [0, 16, 32, 48].map(|shift| x[0] >> shift & 0xffff));
    }
    let join = "mov.b64 {%s0, %s1, %s2, %s3}, %a; mov.b64 %d, {%s3, %s2, %s1, %s0}; mov.b64 {_, %e}, %a;";
    for (x, found) in cases.iter().zip(run("lw=l", join, &cases)) {
        let swapped = (0..4).fold(0, |d, i| d << 16 | x[0] >> (16 * i) & 0xffff);
        assert_eq!(found, [swapped, x[0] >> 32]);
    }
}
