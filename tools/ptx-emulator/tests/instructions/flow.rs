//! Guards, branches and calls; what is not known, or not so written, is an error with its line.

use crate::harness::{HEADER, execute, parse, warp, words};
use ptx_emulator::FaultKind;

#[test]
fn guards_leave_other_lanes_alone() {
    let body = "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 4, %at0; setp.lt.u32 %p0, %t0, 10; mov.u32 %t1, 7; mov.u64 %u1, 1;
        @%p0 mov.u32 %t1, 8; @!%p0 add.u32 %t1, %t1, %t0; @%p0 cvt.u64.u32 %u1, %t1; mov.b64 {%t2, _}, %u1;
        @%p0 st.global.u32 [%u0], %t1; @!%p0 st.global.u32 [%u0+128], %t1; st.global.u32 [%u0+256], %t2;";
    let found = &warp("", body, &[vec![1000; 96]])[0];
    for lane in 0..32 {
        let row = [found[lane], found[lane + 32], found[lane + 64]];
        assert_eq!(row, if lane < 10 { [8, 1000, 8] } else { [1000, 7 + lane as u32, 1] }, "lane {lane}");
    }
}

#[test]
fn lanes_that_part_and_loop_meet_again() {
    // Lane l goes round l % 5 + 1 times; then all vote together.
    let body = "mov.u32 %t0, %laneid; rem.u32 %t1, %t0, 5; mov.u32 %t2, 0;
        AGAIN: add.u32 %t2, %t2, 3; setp.eq.u32 %p0, %t1, 0; @%p0 bra OUT; sub.u32 %t1, %t1, 1; bra.uni AGAIN;
        OUT: activemask.b32 %t3; redux.sync.add.u32 %t4, %t2, -1; mad.wide.u32 %u0, %t0, 12, %at0;
        st.global.u32 [%u0], %t2; st.global.u32 [%u0+4], %t3; st.global.u32 [%u0+8], %t4;";
    let rounds = |lane: u32| 3 * (lane % 5 + 1);
    for (lane, found) in warp("", body, &[vec![0; 96]])[0].chunks(3).enumerate() {
        assert_eq!(found, [rounds(lane as u32), u32::MAX, (0..32).map(rounds).sum()]);
    }
}

#[test]
fn tables_of_branches_and_calls() {
    let module = ".func (.param .b32 result) twice(.param .b32 x) { .reg .b32 %r<2>; ld.param.b32 %r0, [x]; add.u32 %r1, %r0, %r0; \
                  st.param.b32 [result], %r1; ret; }";
    let body = "mov.u32 %t0, %laneid; and.b32 %t1, %t0, 3; mov.u32 %t2, 0; setp.ne.u32 %p0, %t1, 3;
        ways: .branchtargets ZERO, ONE, TWO;
        @%p0 brx.idx %t1, ways; bra DONE;
        ZERO: mov.u32 %t2, 10; bra DONE;
        ONE: { .param .b32 a; .param .b32 r; st.param.b32 [a], %t0; call.uni (r), twice, (a); ld.param.b32 %t2, [r]; } bra DONE;
        TWO: mov.u32 %t2, 30;
        DONE: mad.wide.u32 %u0, %t0, 4, %at0; st.global.u32 [%u0], %t2;";
    let found = &warp(module, body, &[vec![9; 32]])[0];
    assert!((0..32).all(|lane| found[lane as usize] == [10, 2 * lane, 30, 0][lane as usize % 4]), "{found:?}");
    let outside = "mov.u32 %t1, 5; ways: .branchtargets ONE; brx.idx %t1, ways; ONE: ret;";
    let fault = execute("", outside, [1, 32], None, &mut []).expect_err("beyond the table");
    assert!(matches!(fault.kind, FaultKind::OutOfRange { space: "branch table", address: 5, .. }), "{fault}");
}

#[test]
fn special_registers() {
    let body = "mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ntid.x; mov.u32 %t3, %nctaid.x; mad.lo.u32 %t4, %t1, %t2, %t0;
        mad.wide.u32 %u0, %t4, 64, %at0; st.global.v4.u32 [%u0], {%t0, %t1, %t2, %t3};
        mov.u32 %t5, %laneid; mov.u32 %t6, %warpid; mov.u32 %t7, %nwarpid; mov.u32 %t8, WARP_SZ; st.global.v4.u32 [%u0+16], {%t5, %t6, %t7, %t8};
        mov.u32 %t5, %lanemask_eq; mov.u32 %t6, %lanemask_lt; mov.u32 %t7, %lanemask_le; mov.u32 %t8, %lanemask_gt;
        st.global.v4.u32 [%u0+32], {%t5, %t6, %t7, %t8}; mov.u32 %t5, %lanemask_ge; mov.u32 %t6, %dynamic_smem_size;
        mov.u16 %s0, %tid.x; mov.b32 %t7, {%s0, 0}; mov.u32 %t8, %tid.y; st.global.v4.u32 [%u0+48], {%t5, %t6, %t7, %t8};";
    let mut buffers = [vec![0; 2 * 64 * 64]];
    execute("", body, [2, 64], Some(5), &mut buffers).unwrap();
    for (i, found) in words::<u32>(&buffers[0]).chunks(16).enumerate() {
        let (i, lane) = (i as u32, i as u32 % 32);
        let equal = 1u32 << lane;
        let (below, above) = (equal - 1, !(equal - 1) & !equal);
        let expected =
            [i % 64, i / 64, 64, 2, lane, i % 64 / 32, 2, 32, equal, below, below | equal, above, above | equal, 256];
        assert_eq!(found[..14], expected);
        assert_eq!(found[14..], [i % 64, 0]);
    }
}

#[test]
fn what_is_not_modelled_changes_nothing() {
    let body = "mov.u32 %t0, 7; membar.gl; fence.acq_rel.gpu; fence.proxy.async; nanosleep.u32 100; pmevent 3;
        setmaxnreg.inc.sync.aligned.u32 64; griddepcontrol.wait; prefetch.global.L2 [%at0]; prefetchu.L1 [%at0];
        applypriority.global.L2::evict_normal [%at0], 128; discard.global.L2 [%at0+128], 128;
        createpolicy.fractional.L2::evict_last.b64 %u0, 1.0; createpolicy.cvt.L2.b64 %u1, 0;
        ld.global.L2::cache_hint.u32 %t1, [%at0], %u0; add.u32 %t0, %t0, %t1; st.global.L2::cache_hint.u32 [%at0+4], %t0, %u0;
        red.global.add.L2::cache_hint.u32 [%at0+8], %t0, %u0;";
    assert_eq!(warp("", body, &[vec![5, 0, 1, 9]])[0], [5, 12, 1 + 32 * 12, 9]);
}

#[test]
fn lanes_that_exit_do_nothing_more() {
    let body = "mov.u32 %t0, %laneid; setp.lt.u32 %p0, %t0, 12; @%p0 exit; mad.wide.u32 %u0, %t0, 4, %at0; st.global.u32 [%u0], %t0;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 12 { 99 } else { lane }).collect();
    assert_eq!(warp("", body, &[vec![99; 32]])[0], expected);
}

#[test]
fn immediates() {
    let body = "mov.f32 %t0, 1.5; mov.f32 %t1, 0f40490FDB; mov.f64 %u0, 0d3FF8000000000000; mov.f64 %u1, -2.5; mov.u32 %t2, -1; mov.b32 %t3, 0b1011;
        mov.u32 %t4, 017; mov.u64 %u2, 0xffffffffffffffff; mov.f32 %t5, 0fBF800000; mov.s32 %t6, 0x7fffffffU;
        st.global.v4.b32 [%at0], {%t0, %t1, %t2, %t3}; st.global.v2.b64 [%at0+16], {%u0, %u1}; st.global.b64 [%at0+32], %u2;
        st.global.v2.b32 [%at0+40], {%t4, %t5}; st.global.b32 [%at0+48], %t6;";
    let found = &warp("", body, &[vec![0; 13]])[0];
    let wide = [0x3ff8_0000_0000_0000u64, (-2.5f64).to_bits(), u64::MAX].map(|x| [x as u32, (x >> 32) as u32]).concat();
    let expected = [vec![0x3fc0_0000, 0x4049_0fdb, u32::MAX, 11], wide, vec![15, 0xbf80_0000, 0x7fff_ffff]].concat();
    assert_eq!(found, &expected);
}

#[test]
fn what_is_not_known_is_an_error_with_its_line() {
    let cases = [
        ("wgmma.fence.sync.aligned;", "wgmma"),
        ("tex.1d.v4.f32.s32 {%t0, %t1, %t2, %t3}, [%u0, {%t0}];", "expected"),
        ("mbarrier.init.shared.b64 [%u0], 1;", "mbarrier"),
        ("frobnicate.u32 %t0, %t1;", "frobnicate"),
        ("add.frob.u32 %t0, %t1, %t1;", ".frob"),
        ("add.u33 %t0, %t1, %t1;", ".u33"),
        ("add.u32 %t0, %t1;", "operands"),
        ("add.u32 %t0, %t1, %t99;", "%t99"),
        ("add.u64 %t0, %u1, %u1;", "%t0"),
        ("add.u32 %q0, %t1, %t1;", "%q0"),
        ("bra NOWHERE;", "NOWHERE"),
        ("mul.u32 %t0, %t1, %t1;", ".lo"),
        ("cvt.u32.f32 %t0, %t1;", "`cvt.u32.f32`"),
        ("match.sync.b32 %t0, %t1, -1;", "match"),
        ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%u0, %u1}, {%u2}, {%u3}, {%u4, %u5};", "mma"),
        ("cp.async.bulk.commit_group;", ".bulk"),
        ("ld.global.v2.u32 %t0, [%u0];", "registers"),
        ("add.u32 %t0 %t1, %t1;", "expected"),
        ("atom.global.sub.u32 %t0, [%u0], %t1;", "`atom.global.sub.u32`"),
    ];
    for (inst, named) in cases {
        let body = format!("mov.u32 %t1, 1;\nmov.u64 %u0, 0;\n{inst}\nmov.u32 %t2, 2;");
        let error = parse("", &body, 0).expect_err(inst);
        assert_eq!(error.line, HEADER + 3, "{error}");
        assert!(error.to_string().contains(named), "{inst}: {error}");
    }
}

#[test]
fn faults_name_the_line_and_the_registers() {
    let fault = execute("", "mov.u32 %t0, 1;\nadd.u32 %t1, %t0, %t2;", [1, 32], None, &mut []).unwrap_err();
    assert_eq!((fault.line, fault.kind), (HEADER + 2, FaultKind::UninitRegister { name: "%t2".into() }));
    for trap in ["trap", "brkpt"] {
        let fault = execute("", &format!("mov.u32 %t0, 1;\n\n{trap};"), [1, 32], None, &mut []).unwrap_err();
        assert_eq!((fault.line, fault.kind), (HEADER + 3, FaultKind::Trap));
    }
}

#[test]
fn neither_the_order_of_blocks_nor_of_warps_matters() {
    // Warps exchange through shared memory in turns, and blocks write what all of theirs made.
    let body = ".shared .align 4 .b32 cell[128]; mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mad.lo.u32 %t2, %t1, 128, %t0; mov.u64 %u0, cell;
        mad.wide.u32 %u1, %t0, 4, %u0; mov.u32 %t3, 0; add.u32 %t4, %t0, 37; and.b32 %t4, %t4, 127; mad.wide.u32 %u2, %t4, 4, %u0;
        AGAIN: st.shared.u32 [%u1], %t2; bar.sync 0; ld.shared.u32 %t5, [%u2]; bar.sync 0; mad.lo.u32 %t2, %t2, 3, %t5;
        add.u32 %t3, %t3, 1; setp.lt.u32 %p0, %t3, 6; @%p0 bra AGAIN;
        mad.lo.u32 %t6, %t1, 128, %t0; mad.wide.u32 %u3, %t6, 4, %at0; st.global.u32 [%u3], %t2;";
    let mut expected: Vec<Vec<u32>> = (0..5).map(|block| (0..128).map(|i| block * 128 + i).collect()).collect();
    for block in &mut expected {
        for _ in 0..6 {
            *block = (0..128).map(|i| block[i].wrapping_mul(3).wrapping_add(block[(i + 37) % 128])).collect();
        }
    }
    for order in [None, Some(0), Some(1), Some(2), Some(u64::MAX)] {
        let mut buffers = [vec![0; 5 * 512]];
        execute("", body, [5, 128], order, &mut buffers).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(words::<u32>(&buffers[0]), expected.concat(), "{order:?}");
    }
}
