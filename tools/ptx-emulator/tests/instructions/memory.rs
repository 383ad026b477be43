//! Loads and stores of every space and width, address conversions and asynchronous copies (PTX ISA, 9.7.9).

use crate::harness::{execute, parse, warp, words};
use ptx_emulator::{Fault, FaultKind, LaunchConfig, Memory, Options, launch};

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 + 11) as u8 | if i % 3 == 0 { 0x80 } else { 0 }).collect()
}

/// One warp on two buffers: one to read, one of zeros to write.
fn copy(module: &str, body: &str, from: Vec<u8>, to: usize) -> Result<Vec<u8>, Fault> {
    let mut buffers = [from, vec![0; to]];
    execute(module, body, [1, 32], None, &mut buffers)?;
    Ok(std::mem::take(&mut buffers[1]))
}

/// Lane `i` copies its element from the first buffer through `space` to the second.
fn through(space: &str, module: &str, place: &str, ty: &str, vector: usize, size: usize) {
    let (modifier, registers) = match vector {
        1 => (String::new(), "%v0".to_owned()),
        n => (format!(".v{n}"), format!("{{{}}}", (0..n).map(|i| format!("%v{i}")).collect::<Vec<_>>().join(", "))),
    };
    let file = format!(".b{}", (8 * size).max(16));
    let total = size * vector;
    let global = format!(
        ".reg {file} %v<8>; mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, {total}, %at0; mad.wide.u32 %u1, %t0, {total}, %at1;
         ld.global{modifier}.{ty} {registers}, [%u0];"
    );
    // A store and a load of the same place, by way of other registers cleared between them.
    let clear: String = (0..vector).map(|i| format!("mov{} %v{i}, 0; ", file.replace("b8", "b16"))).collect();
    let body = format!(
        "{global}\n{place}\nst{space}{modifier}.{ty} [%u2], {registers}; {clear}
         ld{space}{modifier}.{ty} {registers}, [%u2]; st.global{modifier}.{ty} [%u1], {registers};"
    );
    let from = bytes(32 * total);
    let to = copy(module, &body, from.clone(), 32 * total).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    assert_eq!(to, from, "{body}");
}

const TYPES: [(&str, usize); 14] = [
    ("b8", 1),
    ("u8", 1),
    ("s8", 1),
    ("b16", 2),
    ("u16", 2),
    ("s16", 2),
    ("b32", 4),
    ("u32", 4),
    ("s32", 4),
    ("f32", 4),
    ("b64", 8),
    ("u64", 8),
    ("s64", 8),
    ("f64", 8),
];

#[test]
fn every_width_in_every_space() {
    for (ty, size) in TYPES {
        for vector in [1, 2, 4, 8] {
            let total = size * vector;
            // Vectors of 32 bytes are of global memory only.
            if total > 32 || vector == 8 && total != 32 {
                continue;
            }
            let place = format!("mad.wide.u32 %u2, %t0, {total}, %at1;");
            through(".global", "", &place, ty, vector, size);
            if total > 16 {
                continue;
            }
            through("", "", &place, ty, vector, size);
            let shared = format!(".shared .align 16 .b8 area[{}];", 32 * total);
            let window = format!("mov.u64 %u3, area; mad.wide.u32 %u2, %t0, {total}, %u3;");
            through(".shared", &shared, &window, ty, vector, size);
            through(".shared::cta", &shared, &window, ty, vector, size);
            through("", &shared, &format!("{window} cvta.shared.u64 %u2, %u2;"), ty, vector, size);
            let dynamic = ".extern .shared .align 16 .b8 more[];";
            if 32 * total <= 256 {
                through(".shared", dynamic, &window.replace("area", "more"), ty, vector, size);
            }
            // Every lane has local memory of its own: the same address in all.
            let local = format!(".local .align 16 .b8 mine[{}]; mov.u64 %u2, mine;", 2 * total);
            through(".local", "", &local, ty, vector, size);
            through("", "", &format!("{local} cvta.local.u64 %u2, %u2;"), ty, vector, size);
        }
    }
}

#[test]
fn every_width_from_constants_and_parameters_and_to_calls() {
    // A function that hands its argument back, through memory of parameters.
    let module = ".const .align 16 .u32 table[4] = {0x83828180, 0x87868584, 0x8b8a8988, 0x8f8e8d8c}; \
                  .func (.param .align 16 .b8 result[16]) same(.param .align 16 .b8 x[16]) { .reg .b32 %r<4>; \
                  ld.param.v4.b32 {%r0, %r1, %r2, %r3}, [x]; st.param.v4.b32 [result], {%r0, %r1, %r2, %r3}; ret; }";
    let table: Vec<u8> = (0x80..0x90).collect();
    for (ty, size) in TYPES {
        for vector in [1, 2, 4] {
            if size * vector > 16 {
                continue;
            }
            let (modifier, registers) = match vector {
                1 => (String::new(), "%v0".to_owned()),
                n => (
                    format!(".v{n}"),
                    format!("{{{}}}", (0..n).map(|i| format!("%v{i}")).collect::<Vec<_>>().join(", ")),
                ),
            };
            let body = format!(
                ".reg .b{} %v<4>; .param .align 16 .b8 a[16]; .param .align 16 .b8 r[16];
                 ld.const{modifier}.{ty} {registers}, [table]; st.param.v2.b64 [a], {{0, 0}}; st.param{modifier}.{ty} [a], {registers};
                 call (r), same, (a); ld.param{modifier}.{ty} {registers}, [r]; st.global{modifier}.{ty} [%at0], {registers};
                 ldu.global{modifier}.{ty} {registers}, [%at0]; st.global{modifier}.{ty} [%at0+16], {registers};
                 ldu{modifier}.{ty} {registers}, [%at0]; st.global{modifier}.{ty} [%at0+32], {registers};",
                (8 * size).max(16)
            );
            let mut buffers = [vec![0; 48]];
            execute(module, &body, [1, 32], None, &mut buffers).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
            for copy in buffers[0].chunks(16) {
                assert_eq!(copy[..size * vector], table[..size * vector], "{body}");
            }
        }
    }
}

#[test]
fn loads_extend_to_their_register() {
    let body = ".reg .b64 %v<7>; mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 8, %at0; mad.wide.u32 %u1, %t0, 56, %at1;
        ld.global.s8 %v0, [%u0]; ld.global.u8 %v1, [%u0]; ld.global.s16 %v2, [%u0+2]; ld.global.u16 %v3, [%u0+2];
        ld.global.s32 %v4, [%u0+4]; ld.global.u32 %v5, [%u0+4]; ld.global.s8 %t1, [%u0+1]; mov.b64 %v6, {%t1, 0};
        st.global.v2.b64 [%u1], {%v0, %v1}; st.global.v2.b64 [%u1+16], {%v2, %v3};
        st.global.v2.b64 [%u1+32], {%v4, %v5}; st.global.b64 [%u1+48], %v6;"
        .replace("56", "64");
    let from = bytes(256);
    let to: Vec<u64> = words(&copy("", &body, from.clone(), 32 * 64).unwrap());
    for (x, found) in from.chunks(8).zip(to.chunks(8)) {
        let (half, word) = (u16::from_le_bytes([x[2], x[3]]), u32::from_le_bytes([x[4], x[5], x[6], x[7]]));
        let signed = [x[0] as i8 as i64, half as i16 as i64, word as i32 as i64].map(|x| x as u64);
        let expected = [signed[0], x[0].into(), signed[1], half.into(), signed[2], word.into()];
        assert_eq!(found[..6], expected);
        assert_eq!(found[6], u64::from(x[1] as i8 as i32 as u32));
    }
}

#[test]
fn stores_touch_only_their_bytes() {
    let body = "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 8, %at0; mov.b64 %u1, 0x1122334455667788;
        st.global.u8 [%u0+1], %u1; st.global.b16 [%u0+4], %u1; st.global.u8 [%u0+7], 255;";
    let found = warp("", body, &[vec![0; 64]]);
    assert_eq!(found[0][..2], [0x0000_8800, 0xff00_7788]);
}

#[test]
fn parameters_lie_at_their_alignment() {
    let ptx = ".version 9.0 .target sm_100a .address_size 64
        .visible .entry test(.param .u64 to, .param .u8 a, .param .u16 b, .param .f32 c, .param .align 16 .b8 d[24], .param .u64 e) {
            .reg .b64 %u<8>; .reg .b32 %t<8>; .reg .b16 %s<2>;
            ld.param.u64 %u0, [to]; ld.param.s8 %t0, [a]; ld.param.u16 %s0, [b]; ld.param.f32 %t1, [c];
            ld.param.v4.b32 {%t2, %t3, %t4, %t5}, [d]; ld.param.u32 %t6, [d+20]; ld.param.u64 %u1, [e];
            mov.b64 %u2, d; ld.param.u32 %t7, [%u2+16];
            st.global.u32 [%u0], %t0; st.global.u16 [%u0+4], %s0; st.global.b32 [%u0+8], %t1;
            st.global.v4.b32 [%u0+16], {%t2, %t3, %t4, %t5}; st.global.u32 [%u0+32], %t6; st.global.u32 [%u0+36], %t7;
            st.global.u64 [%u0+40], %u1; ret;
        }";
    let module = ptx_emulator::Module::parse(ptx).unwrap();
    let kernel = module.kernel("test").unwrap();
    let offsets: Vec<usize> = kernel.params().iter().map(|p| p.offset).collect();
    assert_eq!((offsets, kernel.param_bytes()), (vec![0, 8, 10, 12, 16, 40], 48));
    let memory = Memory::new();
    let to = memory.allocate(48);
    let structure: Vec<u8> = (1..25).collect();
    let arguments: [&[u8]; 6] =
        [&to.to_le_bytes(), &[0xfe], &[0x34, 0x12], &1.5f32.to_le_bytes(), &structure, &77u64.to_le_bytes()];
    let params = kernel.pack(&arguments).unwrap();
    let grid = LaunchConfig { blocks: [1; 3], threads: [1; 3], dynamic_shared: 0 };
    launch(&memory, &module, kernel, grid, &params, &Options::default()).unwrap();
    let mut back = [0; 48];
    memory.read(to, &mut back).unwrap();
    let found: Vec<u32> = words(&back);
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|o| structure[i + o]));
    let expected =
        [0xffff_fffe, 0x1234, 0x3fc0_0000, 0, word(0), word(4), word(8), word(12), word(20), word(16), 77, 0];
    assert_eq!(found, expected);
}

#[test]
fn variables_of_the_module() {
    let module = ".const .align 4 .u32 table[4] = {7, 8, 0x10, 4294967295}; .global .align 8 .f32 f = 0f3FC00000; \
                  .global .s16 few[3] = {-1, 2};";
    let body = "ld.const.u32 %t0, [table+8]; mov.u64 %u0, table; ld.const.u32 %t1, [%u0+12]; cvta.const.u64 %u1, %u0; cvta.to.const.u64 %u1, %u1;
        ld.u32 %t2, [%u1+4]; ld.global.f32 %t3, [f]; ld.global.s16 %t4, [few]; ld.global.s16 %t5, [few+4];
        mov.u32 %t6, 9; st.global.u32 [f], %t6; ld.global.u32 %t6, [f];
        st.global.v4.u32 [%at0], {%t0, %t1, %t2, %t3}; st.global.v2.u32 [%at0+16], {%t4, %t5}; st.global.u32 [%at0+24], %t6;";
    let found = warp(module, body, &[vec![0; 7]]);
    assert_eq!(found[0], [0x10, u32::MAX, 8, 0x3fc0_0000, u32::MAX, 0, 9]);
}

#[test]
fn generic_addresses_tell_their_space() {
    let body = ".shared .align 8 .b8 area[64]; .local .align 8 .b8 mine[8];
        mov.u64 %u0, area; cvta.shared.u64 %u1, %u0; mov.u64 %u2, mine; cvta.local.u64 %u3, %u2; cvta.global.u64 %u4, %at0;
        mov.u32 %t0, 0;
        isspacep.shared %p0, %u1; @%p0 add.u32 %t0, %t0, 1; isspacep.local %p0, %u3; @%p0 add.u32 %t0, %t0, 2;
        isspacep.global %p0, %u4; @%p0 add.u32 %t0, %t0, 4; isspacep.global %p0, %u1; @%p0 add.u32 %t0, %t0, 8;
        isspacep.shared %p0, %u3; @%p0 add.u32 %t0, %t0, 16; isspacep.local %p0, %u4; @%p0 add.u32 %t0, %t0, 32;
        cvta.to.shared.u64 %u5, %u1; setp.eq.u64 %p0, %u5, %u0; @%p0 add.u32 %t0, %t0, 64;
        cvta.to.local.u64 %u5, %u3; setp.eq.u64 %p0, %u5, %u2; @%p0 add.u32 %t0, %t0, 128;
        cvta.to.global.u64 %u5, %u4; setp.eq.u64 %p0, %u5, %at0; @%p0 add.u32 %t0, %t0, 256;
        mov.u64 %u0, g0; cvta.param.u64 %u1, %u0; isspacep.param %p0, %u1; @%p0 add.u32 %t0, %t0, 512;
        isspacep.param %p0, %u4; @%p0 add.u32 %t0, %t0, 1024; cvta.to.param.u64 %u5, %u1; setp.eq.u64 %p0, %u5, %u0;
        @%p0 add.u32 %t0, %t0, 2048; ld.u64 %u5, [%u1]; setp.eq.u64 %p0, %u5, %at0; @%p0 add.u32 %t0, %t0, 4096;
        st.global.u32 [%at0], %t0;";
    assert_eq!(warp("", body, &[vec![0]])[0], [1 + 2 + 4 + 64 + 128 + 256 + 512 + 2048 + 4096]);
}

#[test]
fn accesses_outside_a_space_are_faults() {
    let spaces = [
        ("st.local.u32 [%u2+-4], %t0;", "local"),
        ("st.local.u32 [%u2+16], %t0;", "local"),
        ("ld.local.u32 %t0, [%u2+-4];", "local"),
        ("ld.local.v4.u32 {%t0, %t1, %t2, %t3}, [%u2+16];", "local"),
        ("st.shared.u32 [%u3+320], %t0;", "shared"),
        ("ld.shared.u32 %t0, [%u3+-4];", "shared"),
        ("ld.global.u32 %t0, [%at0+4];", "global"),
        ("st.global.u32 [%at0+-4], %t0;", "global"),
        ("mov.u64 %u4, 16; ld.global.u32 %t0, [%u4];", "global"),
        ("atom.global.add.u32 %t0, [%at0+8], 1;", "global"),
        ("atom.shared.add.u32 %t0, [%u3+320], 1;", "shared"),
    ];
    for (access, space) in spaces {
        let body = format!(
            ".local .align 16 .b8 mine[16]; .shared .align 16 .b8 area[64]; mov.u64 %u2, mine; mov.u64 %u3, area; mov.u32 %t0, 1;
             {access}"
        );
        let fault = execute("", &body, [1, 32], None, &mut [vec![0; 4]]).expect_err(access);
        assert!(matches!(fault.kind, FaultKind::OutOfRange { space: s, .. } if s == space), "{access}: {fault}");
    }
    let constant = parse("", "ld.param.u64 %u0, [at0]; st.param.u64 [at0], %u0;", 1);
    assert!(constant.is_err(), "parameters of a kernel are not stored to");
}

/// Two groups of copies: `wait` decides which of them have been made.
fn two_groups(wait: &str, read: &str) -> Result<Vec<u32>, Fault> {
    let body = format!(
        "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 16, %at0; mov.u64 %u3, area; mad.wide.u32 %u2, %t0, 16, %u3;
         cp.async.ca.shared.global [%u2], [%u0], 16; cp.async.commit_group;
         cp.async.cg.shared.global.L2::128B [%u2+512], [%u0+512], 16; cp.async.commit_group;
         {wait}
         mad.wide.u32 %u1, %t0, 32, %at1; {read}"
    );
    let module = ".shared .align 16 .b8 area[1024];";
    Ok(words(&copy(module, &body, bytes(1024), 1024)?))
}

#[test]
fn copies_are_made_when_they_are_waited_for() {
    let (first, second) = (
        "ld.shared.v4.u32 {%t1, %t2, %t3, %t4}, [%u2]; st.global.v4.u32 [%u1], {%t1, %t2, %t3, %t4};",
        "ld.shared.v4.u32 {%t1, %t2, %t3, %t4}, [%u2+512]; st.global.v4.u32 [%u1+16], {%t1, %t2, %t3, %t4};",
    );
    let both = format!("{first} {second}");
    let source: Vec<u32> = words(&bytes(1024));
    for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;"] {
        let found = two_groups(wait, &both).unwrap();
        for lane in 0..32 {
            assert_eq!(found[8 * lane..][..4], source[4 * lane..][..4]);
            assert_eq!(found[8 * lane + 4..][..4], source[128 + 4 * lane..][..4]);
        }
    }
    let found = two_groups("cp.async.wait_group 1;", first).unwrap();
    assert!((0..32).all(|lane| found[8 * lane..][..4] == source[4 * lane..][..4]));
    for (wait, read) in [("cp.async.wait_group 1;", second), ("cp.async.wait_group 2;", first), ("", first)] {
        let fault = two_groups(wait, read).expect_err(wait);
        assert!(matches!(fault.kind, FaultKind::MissingWait { .. }), "{wait} {fault}");
    }
}

#[test]
fn copies_see_their_source_late_and_pad_with_zeros() {
    // The source changes between the copy's start and its wait: a kernel that relies on either value is wrong, and here
    // it sees the later one. Fewer bytes than the copy is wide are read; the rest becomes zero.
    for size in [0, 4, 6, 12, 16] {
        let body = format!(
            "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 16, %at0; mov.u64 %u3, area; mad.wide.u32 %u2, %t0, 16, %u3;
             mov.u32 %t5, {size}; cp.async.cg.shared.global [%u2], [%u0], 16, %t5; cp.async.commit_group;
             st.global.u32 [%u0], %t0; cp.async.wait_group 0;
             ld.shared.v4.u32 {{%t1, %t2, %t3, %t4}}, [%u2]; mad.wide.u32 %u1, %t0, 16, %at1;
             st.global.v4.u32 [%u1], {{%t1, %t2, %t3, %t4}};"
        );
        let from = bytes(512);
        let to = copy(".shared .align 16 .b8 area[512];", &body, from.clone(), 512).unwrap();
        for lane in 0..32 {
            let mut expected = from[16 * lane..][..16].to_vec();
            expected[..4].copy_from_slice(&(lane as u32).to_le_bytes());
            expected[size..].fill(0);
            assert_eq!(to[16 * lane..][..16], expected, "{size} bytes, lane {lane}");
        }
    }
    // Only what is read must be there: the last copy begins 4 bytes before the end.
    let tail = "mov.u64 %u3, area; mov.u32 %t5, 4; mov.u32 %t0, %laneid; setp.eq.u32 %p0, %t0, 0;
        @%p0 cp.async.ca.shared.global [%u3], [%at0+16], 16, %t5; cp.async.wait_all;
        @%p0 ld.shared.v2.u32 {%t1, %t2}, [%u3]; @%p0 st.global.v2.u32 [%at1], {%t1, %t2};";
    let to: Vec<u32> = words(&copy(".shared .align 16 .b8 area[16];", tail, bytes(20), 8).unwrap());
    assert_eq!(to, [words::<u32>(&bytes(20))[4], 0]);
}
