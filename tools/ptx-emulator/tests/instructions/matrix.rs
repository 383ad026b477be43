//! Matrix loads, stores and products (PTX ISA, 9.7.14.5), against the layouts that its figures give.

use crate::harness::{execute, warp, words};
use ::half::{bf16, f16};
use ptx_emulator::FaultKind;

/// Where row `row` of matrix `matrix` lies, in bytes: out of order, and with gaps.
fn row_at(matrix: usize, row: usize) -> usize {
    ((matrix * 8 + row) * 13 % 40) * 16
}

/// A load of `count` matrices from shared memory that holds `0, 1, 2, ...` as 16-bit numbers; register `i` of lane `l`
/// is at `4 * l + i` of what is returned. Lane `l` gives the address of row `l % 8` of matrix `l / 8`.
fn load(count: usize, trans: bool, generic: bool) -> Vec<u32> {
    let registers: Vec<String> = (0..count).map(|i| format!("%t{}", 10 + i)).collect();
    let (registers, suffix) = (registers.join(", "), if trans { ".trans" } else { "" });
    let at: Vec<u32> = (0..32).map(|lane| row_at(lane / 8, lane % 8) as u32).collect();
    let (convert, space) = if generic { ("cvta.shared.u64 %u2, %u2;", "") } else { ("", ".shared") };
    let body = format!(
        ".shared .align 16 .b8 area[640]; mov.u32 %t0, %laneid; mov.u64 %u0, area; mad.wide.u32 %u1, %t0, 4, %u0; mov.u32 %t1, %t0;
         FILL: mul.lo.u32 %t2, %t1, 2; add.u32 %t3, %t2, 1; prmt.b32 %t4, %t2, %t3, 0x5410; st.shared.u32 [%u1], %t4;
         add.u32 %t1, %t1, 32; add.u64 %u1, %u1, 128; setp.lt.u32 %p0, %t1, 160; @%p0 bra FILL;
         bar.warp.sync -1;
         mad.wide.u32 %u3, %t0, 4, %at0; ld.global.u32 %t5, [%u3]; cvt.u64.u32 %u4, %t5; add.u64 %u2, %u0, %u4; {convert}
         mov.u32 %t10, 0; mov.u32 %t11, 0; mov.u32 %t12, 0; mov.u32 %t13, 0;
         ldmatrix.sync.aligned.m8n8.x{count}{suffix}{space}.b16 {{{registers}}}, [%u2];
         mad.wide.u32 %u5, %t0, 16, %at1; st.global.v4.u32 [%u5], {{%t10, %t11, %t12, %t13}};"
    );
    warp("", &body, &[at, vec![0; 128]]).swap_remove(1)
}

#[test]
fn matrix_loads() {
    let forms = [1, 2, 4]
        .into_iter()
        .flat_map(|count| [(count, false, false), (count, true, true), (count, false, true), (count, true, false)]);
    for (count, trans, generic) in forms {
        let found = load(count, trans, generic);
        for lane in 0..32 {
            for i in 0..4 {
                // Lane l has row l / 4, columns 2 (l % 4) and the next; transposed, the same of the columns.
                let element = |o: usize| {
                    let (row, column) = (lane / 4, lane % 4 * 2 + o);
                    let (row, column) = if trans { (column, row) } else { (row, column) };
                    (row_at(i, row) / 2 + column) as u32
                };
                let expected = if i < count { element(0) | element(1) << 16 } else { 0 };
                assert_eq!(found[4 * lane + i], expected, "x{count} trans {trans}, lane {lane}, register {i}");
            }
        }
    }
}

#[test]
fn matrix_stores_undo_loads() {
    let forms = [1, 2, 4]
        .into_iter()
        .flat_map(|count| [(count, false, ".shared"), (count, true, ""), (count, false, ""), (count, true, ".shared")]);
    for (count, trans, space) in forms {
        let convert = if space.is_empty() { "cvta.shared.u64 %u2, %u2;" } else { "" };
        let (suffix, registers) =
            (if trans { ".trans" } else { "" }, ["%t10", "%t11", "%t12", "%t13"][..count].join(", "));
        let body = format!(
            ".shared .align 16 .b8 area[640]; mov.u32 %t0, %laneid; mov.u64 %u0, area;
             mad.wide.u32 %u3, %t0, 4, %at0; ld.global.u32 %t5, [%u3]; cvt.u64.u32 %u4, %t5; add.u64 %u2, %u0, %u4; {convert}
             mad.wide.u32 %u5, %t0, 16, %at1; ld.global.v4.u32 {{%t10, %t11, %t12, %t13}}, [%u5];
             stmatrix.sync.aligned.m8n8.x{count}{suffix}{space}.b16 [%u2], {{{registers}}};
             bar.warp.sync -1; setp.lt.u32 %p0, %t0, {};
             @%p0 ld{space}.v4.u32 {{%t10, %t11, %t12, %t13}}, [%u2]; mad.wide.u32 %u6, %t0, 16, %at2;
             @%p0 st.global.v4.u32 [%u6], {{%t10, %t11, %t12, %t13}};",
            8 * count
        );
        let at: Vec<u32> = (0..32).map(|lane| row_at(lane / 8, lane % 8) as u32).collect();
        // Every half is its lane, register and place in it.
        let code = |lane: usize, i: usize, o: usize| (lane * 8 + i * 2 + o) as u32;
        let fragments = (0..128).map(|at| code(at / 4, at % 4, 0) | code(at / 4, at % 4, 1) << 16).collect();
        let found = &warp("", &body, &[at, fragments, vec![0; 128]])[2];
        let halves: Vec<u16> = words(bytemuck::cast_slice(found));
        for (matrix, row, column) in (0..64 * count).map(|i| (i / 64, i / 8 % 8, i % 8)) {
            let (r, c) = if trans { (column, row) } else { (row, column) };
            let expected = code(r * 4 + c / 2, matrix, c % 2);
            assert_eq!(
                u32::from(halves[(matrix * 8 + row) * 8 + column]),
                expected,
                "x{count} {trans} {matrix} {row} {column}"
            );
        }
    }
}

/// A product's shape and types, and how its numbers are written to registers.
struct Product {
    k: usize,
    ty: &'static str,
    /// Type of the accumulators.
    sum: &'static str,
}

/// Small integers, and at times fractions, that every format holds: products and sums of them are exact in f32, and
/// those of integers in f16 too, so that neither the order of the sums nor their rounding matters.
fn number(i: usize, fraction: bool) -> f32 {
    let whole = (i * 29 % 17) as f32 - 8.0;
    if fraction { whole / 16.0 } else { whole }
}

impl Product {
    /// Encodings of a pair (or of one tf32 number) as a register.
    fn word(&self, numbers: &[f32]) -> u32 {
        let half = |x: f32| {
            u32::from(if self.ty == "bf16" { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() })
        };
        match numbers {
            // The 13 bits below a tf32 are not looked at.
            [one] => one.to_bits() | 0x155,
            [low, high] => half(*low) | half(*high) << 16,
            _ => unreachable!("a register holds one or two numbers"),
        }
    }

    fn check(&self) {
        let Product { k, ty, sum } = *self;
        let fraction = sum == "f32";
        let a = |row: usize, column: usize| number(row * 31 + column * 7 + 1, fraction);
        let b = |row: usize, column: usize| number(row * 13 + column * 19 + 5, fraction);
        let c = |row: usize, column: usize| number(row * 3 + column * 23, false);
        let per = if ty == "tf32" { 1 } else { 2 };
        // Element e of register i of a lane; g and t are the ISA's groupID and threadID_in_group.
        let mut fragments = vec![0u32; 32 * 12];
        let (of_a, of_b) = (16 * k / 32 / per, 8 * k / 32 / per);
        let of_c = if sum == "f32" { 4 } else { 2 };
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            // A tf32 register steps over 4 columns, a pair of halves over 8.
            let step = 4 * per;
            for i in 0..of_a {
                let row = if i % 2 == 0 { g } else { g + 8 };
                let pair: Vec<f32> = (0..per).map(|e| a(row, t * per + e + i / 2 * step)).collect();
                fragments[12 * lane + i] = self.word(&pair);
            }
            for i in 0..of_b {
                let pair: Vec<f32> = (0..per).map(|e| b(t * per + e + i * step, g)).collect();
                fragments[12 * lane + 4 + i] = self.word(&pair);
            }
            for i in 0..of_c {
                fragments[12 * lane + 6 + i] = match sum {
                    "f32" => c(if i < 2 { g } else { g + 8 }, 2 * t + i % 2).to_bits(),
                    _ => self.word(&[0, 1].map(|e| c(g + 8 * i, 2 * t + e))),
                };
            }
        }
        let list =
            |first: usize, count: usize| (0..count).map(|i| format!("%t{}", first + i)).collect::<Vec<_>>().join(", ");
        let body = format!(
            "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 48, %at0; ld.global.v4.u32 {{{}}}, [%u0];
             ld.global.v2.u32 {{{}}}, [%u0+16]; ld.global.v2.u32 {{%t7, %t8}}, [%u0+24]; ld.global.v2.u32 {{%t9, %t10}}, [%u0+32];
             mov.u32 %t13, 0; mov.u32 %t14, 0;
             mma.sync.aligned.m16n8k{k}.row.col.{sum}.{ty}.{ty}.{sum} {{{}}}, {{{}}}, {{{}}}, {{{}}};
             mad.wide.u32 %u1, %t0, 16, %at1; st.global.v4.u32 [%u1], {{%t11, %t12, %t13, %t14}};",
            list(1, 4),
            list(5, 2),
            list(11, of_c),
            list(1, of_a),
            list(5, of_b),
            list(7, of_c),
        );
        let found = &warp("", &body, &[fragments, vec![0; 128]])[1];
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let expected = |row: usize, column: usize| {
                (0..k).map(|i| f64::from(a(row, i)) * f64::from(b(i, column))).sum::<f64>() + f64::from(c(row, column))
            };
            for i in 0..of_c {
                let word = match sum {
                    "f32" => (expected(if i < 2 { g } else { g + 8 }, 2 * t + i % 2) as f32).to_bits(),
                    _ => self.word(&[0, 1].map(|e| expected(g + 8 * i, 2 * t + e) as f32)),
                };
                assert_eq!(found[4 * lane + i], word, "m16n8k{k} {ty} {sum}, lane {lane}, register {i}");
            }
        }
    }
}

#[test]
fn products_of_every_shape() {
    for k in [8, 16] {
        Product { k, ty: "bf16", sum: "f32" }.check();
        Product { k, ty: "f16", sum: "f32" }.check();
        Product { k, ty: "f16", sum: "f16" }.check();
    }
    for k in [4, 8] {
        Product { k, ty: "tf32", sum: "f32" }.check();
    }
}

#[test]
fn products_need_the_whole_warp() {
    for inst in [
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%t1, %t2, %t3, %t4}, {%t1, %t2}, {%t3}, {%t1, %t2, %t3, %t4};",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t1}, [%u0];",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%u0], {%t1};",
    ] {
        let body = format!(
            ".shared .align 16 .b8 area[256]; mov.u64 %u0, area; mov.u32 %t0, %laneid; setp.lt.u32 %p0, %t0, 31;
             mov.u32 %t1, 0; mov.u32 %t2, 0; mov.u32 %t3, 0; mov.u32 %t4, 0; @%p0 {inst}"
        );
        let fault = execute("", &body, [1, 32], None, &mut []).expect_err(inst);
        assert!(matches!(fault.kind, FaultKind::DivergentLanes { active: 0x7fff_ffff, .. }), "{inst} {fault}");
    }
}
