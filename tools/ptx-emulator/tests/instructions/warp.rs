//! Exchanges between the lanes of a warp, votes and barriers that reduce (PTX ISA, 9.7.9.6 and 9.7.13).

use crate::harness::{execute, warp, words};
use ptx_emulator::FaultKind;

/// Values of the lanes, all different, with bits all over.
fn values() -> Vec<u32> {
    (0..32u32).map(|i| (i * 7 + 3).wrapping_mul(2_654_435_761)).collect()
}

/// Each lane loads its word of the first buffer to `%t1` and has the address of its word of the last but `skip` in
/// `%u1`.
fn prologue(buffer: usize) -> String {
    format!(
        "mov.u32 %t0, %laneid; mad.wide.u32 %u0, %t0, 4, %at0; ld.global.u32 %t1, [%u0]; mad.wide.u32 %u1, %t0, 4, %at{buffer};"
    )
}

/// The ISA's pseudo-code: where a lane reads, and the predicate.
fn source(mode: &str, lane: i32, b: i32, c: i32) -> (usize, bool) {
    let (value, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let (most, least) = (lane & segment | clamp & !segment, lane & segment);
    let (from, fits) = match mode {
        "up" => (lane - value, lane - value >= most),
        "down" => (lane + value, lane + value <= most),
        "bfly" => (lane ^ value, lane ^ value <= most),
        _ => (least | value & !segment, (least | value & !segment) <= most),
    };
    (if fits { from as usize } else { lane as usize }, fits)
}

#[test]
fn shuffles_in_every_mode_and_segment() {
    let values = values();
    for mode in ["up", "down", "bfly", "idx"] {
        // The clamps that CUDA makes for widths of 32 to 1, and clamps inside of segments.
        let widths = [32, 16, 8, 4, 2, 1].map(|w| (32 - w) << 8 | if mode == "up" { 0 } else { 31 });
        for c in widths.into_iter().chain([20, 0x1803, 0x100f, 5 | 3 << 8]) {
            for b in [0, 1, 2, 3, 5, 8, 15, 16, 31, 32, 37] {
                let body = format!(
                    "{} shfl.sync.{mode}.b32 %t2|%p0, %t1, {b}, {c}, 0xffffffff; selp.u32 %t3, 1, 0, %p0;
                     st.global.u32 [%u1], %t2; st.global.u32 [%u1+128], %t3;",
                    prologue(1)
                );
                let found = &warp("", &body, &[values.clone(), vec![9; 64]])[1];
                for lane in 0..32 {
                    let (from, fits) = source(mode, lane as i32, b, c);
                    let expected = (values[from], u32::from(fits));
                    assert_eq!((found[lane], found[lane + 32]), expected, "{mode} {b} {c:#x}, lane {lane}");
                }
            }
        }
    }
}

#[test]
fn shuffles_by_operands_that_differ_between_lanes() {
    let values = values();
    let body = format!(
        "{} mad.lo.u32 %t2, %t0, 5, 7; and.b32 %t2, %t2, 63; shfl.sync.idx.b32 %t3, %t1, %t2, 0x1f, -1; st.global.u32 [%u1], %t3;",
        prologue(1)
    );
    let found = &warp("", &body, &[values.clone(), vec![0; 32]])[1];
    assert!((0..32).all(|lane| found[lane] == values[(lane * 5 + 7) % 32]));
}

#[test]
fn votes_see_only_the_lanes_of_their_mask() {
    let body = format!(
        "{} and.b32 %t2, %t1, 1; setp.ne.u32 %p0, %t2, 0; setp.lt.u32 %p1, %t0, 12; mov.u32 %t9, 0;
         @!%p1 bra REST;
         vote.sync.ballot.b32 %t3, %p0, 0xfff; vote.sync.all.pred %p2, %p0, 0xfff; vote.sync.any.pred %p3, %p0, 0xfff;
         vote.sync.uni.pred %p4, %p0, 0xfff; vote.sync.any.pred %p5, !%p0, 0xfff; activemask.b32 %t4;
         bra DONE;
         REST:
         vote.sync.ballot.b32 %t3, %p0, 0xfffff000; vote.sync.all.pred %p2, %p0, 0xfffff000;
         vote.sync.any.pred %p3, %p0, 0xfffff000; vote.sync.uni.pred %p4, %p0, 0xfffff000;
         vote.sync.any.pred %p5, !%p0, 0xfffff000; activemask.b32 %t4;
         DONE:
         selp.u32 %t5, 1, 0, %p2; @%p3 or.b32 %t5, %t5, 2; @%p4 or.b32 %t5, %t5, 4; @%p5 or.b32 %t5, %t5, 8;
         st.global.u32 [%u1], %t3; st.global.u32 [%u1+128], %t5; st.global.u32 [%u1+256], %t4;",
        prologue(1)
    );
    for input in [vec![0; 32], vec![1; 32], (0..32).map(|i| u32::from(i < 12)).collect(), (0..32).collect()] {
        let found = &warp("", &body, &[input.clone(), vec![7; 96]])[1];
        for lane in 0..32 {
            let members = if lane < 12 { 0xfffu32 } else { 0xffff_f000 };
            let ballot = (0..32).filter(|i| input[*i] & 1 == 1).fold(0, |b, i| b | 1u32 << i) & members;
            let (all, any) = (ballot == members, ballot != 0);
            let bits = u32::from(all) | u32::from(any) << 1 | u32::from(all || !any) << 2 | u32::from(!all) << 3;
            assert_eq!([found[lane], found[lane + 32], found[lane + 64]], [ballot, bits, members], "lane {lane}");
        }
    }
}

#[test]
fn matches() {
    let body = format!(
        "{} shr.u32 %t2, %t1, 1; match.any.sync.b32 %t3, %t2, -1; mov.b64 %u2, {{0, %t2}}; match.any.sync.b64 %t4, %u2, -1;
         match.all.sync.b32 %t5|%p0, %t2, -1; match.all.sync.b64 %t6|%p1, %u2, -1; selp.u32 %t7, 1, 0, %p0; selp.u32 %t8, 2, 0, %p1;
         or.b32 %t7, %t7, %t8; st.global.u32 [%u1], %t3; st.global.u32 [%u1+128], %t4; st.global.u32 [%u1+256], %t5;
         st.global.u32 [%u1+384], %t6; st.global.u32 [%u1+512], %t7;",
        prologue(1)
    );
    for input in [[8, 9].repeat(16), (0..32).map(|i| i * i % 11).collect::<Vec<u32>>()] {
        let found = &warp("", &body, &[input.clone(), vec![0; 160]])[1];
        let all = input.iter().all(|x| x / 2 == input[0] / 2);
        let whole = if all { u32::MAX } else { 0 };
        for lane in 0..32 {
            let same = (0..32).filter(|i| input[*i] / 2 == input[lane] / 2).fold(0, |m, i| m | 1u32 << i);
            let row = [0, 32, 64, 96, 128].map(|at| found[at + lane]);
            assert_eq!(row, [same, same, whole, whole, if all { 3 } else { 0 }], "lane {lane}");
        }
    }
}

/// The reduction's name and type, and what it makes of two values.
type Reduction = (&'static str, fn(u32, u32) -> u32);

const REDUCTIONS: [Reduction; 9] = [
    ("add.u32", u32::wrapping_add),
    ("add.s32", u32::wrapping_add),
    ("min.u32", std::cmp::min),
    ("max.u32", std::cmp::max),
    ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
    ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
    ("and.b32", |a, b| a & b),
    ("or.b32", |a, b| a | b),
    ("xor.b32", |a, b| a ^ b),
];

#[test]
fn reductions() {
    let values = values();
    for (name, f) in REDUCTIONS {
        let body = format!("{} redux.sync.{name} %t2, %t1, 0xffffffff; st.global.u32 [%u1], %t2;", prologue(1));
        let expected = values.iter().copied().reduce(f).unwrap();
        assert_eq!(warp("", &body, &[values.clone(), vec![0; 32]])[1], vec![expected; 32], "{name}");
    }
}

#[test]
fn lanes_with_different_masks_are_different_groups() {
    // Four tiles of eight lanes, converged, each with its own mask: as cooperative groups do it.
    let values = values();
    let tile = |lane: usize| lane / 8 * 8..lane / 8 * 8 + 8;
    for (name, f) in REDUCTIONS {
        let body = format!(
            "{} and.b32 %t2, %t0, 24; mov.u32 %t3, 255; shl.b32 %t3, %t3, %t2; redux.sync.{name} %t4, %t1, %t3;
             and.b32 %t5, %t1, 1; setp.ne.u32 %p0, %t5, 0; vote.sync.ballot.b32 %t6, %p0, %t3; match.any.sync.b32 %t7, %t5, %t3;
             elect.sync %t8|%p1, %t3; st.global.u32 [%u1], %t4; st.global.u32 [%u1+128], %t6; st.global.u32 [%u1+256], %t7;
             st.global.u32 [%u1+384], %t8;",
            prologue(1)
        );
        let found = &warp("", &body, &[values.clone(), vec![0; 128]])[1];
        for lane in 0..32 {
            let with = |bit: u32| tile(lane).filter(|i| values[*i] & 1 == bit).fold(0, |m, i| m | 1u32 << i);
            let sum = values[tile(lane)].iter().copied().reduce(f).unwrap();
            let row = [0, 32, 64, 96].map(|at| found[at + lane]);
            assert_eq!(row, [sum, with(1), with(values[lane] & 1), tile(lane).start as u32], "{name}, lane {lane}");
        }
    }
}

#[test]
fn masks_must_name_the_lanes_that_come() {
    let cases = [
        ("setp.lt.u32 %p0, %t0, 16; @%p0 vote.sync.any.pred %p1, %p0, -1;", 0xffff),
        ("vote.sync.any.pred %p1, %p1, 0xfffe;", u32::MAX),
        ("setp.eq.u32 %p0, %t0, 3; selp.u32 %t2, 8, -1, %p0; redux.sync.add.u32 %t3, %t0, %t2;", 0),
    ];
    for (body, lanes) in cases {
        let body = format!("mov.u32 %t0, %laneid; setp.eq.u32 %p1, %t0, 40; {body}");
        let fault = execute("", &body, [1, 32], None, &mut []).expect_err(&body);
        let FaultKind::DivergentLanes { active, .. } = fault.kind else { panic!("{body}: {fault}") };
        assert!(lanes == 0 || active == lanes, "{body}: {fault}");
    }
    let body = "mov.u32 %t0, %laneid; setp.lt.u32 %p0, %t0, 16; @!%p0 exit; shfl.sync.down.b32 %t1, %t0, 8, 31, -1;";
    let fault = execute("", body, [1, 32], None, &mut []).expect_err("lane 16 has ended");
    assert_eq!((fault.kind, fault.thread), (FaultKind::InactiveLane { lane: 16 }, Some([8, 0, 0])));
}

#[test]
fn an_elected_lane_leads() {
    let body = format!(
        "{} elect.sync %t2|%p0, -1; selp.u32 %t3, 100, 0, %p0; add.u32 %t3, %t3, %t2; st.global.u32 [%u1], %t3;",
        prologue(1)
    );
    let found = &warp("", &body, &[values(), vec![9; 32]])[1];
    assert_eq!((found[0], &found[1..]), (100, &[0; 31][..]));
}

#[test]
fn barriers_that_reduce() {
    // Three warps; the predicate holds for threads below a limit.
    let body = "mov.u32 %t0, %tid.x; ld.global.u32 %t1, [%at0]; setp.lt.u32 %p0, %t0, %t1;
        bar.red.popc.u32 %t2, 0, %p0; barrier.red.and.aligned.pred %p1, 1, %p0; bar.red.or.pred %p2, 0, 96, %p0;
        barrier.red.popc.u32 %t4, 2, !%p0; barrier.red.or.pred %p2, 3, %p2; bar.red.and.pred %p1, 4, %p1; selp.u32 %t3, 1, 0, %p1; @%p2 or.b32 %t3, %t3, 2;
        mad.wide.u32 %u0, %t0, 12, %at1; st.global.u32 [%u0], %t2; st.global.u32 [%u0+4], %t3; st.global.u32 [%u0+8], %t4;";
    for limit in [0u32, 1, 50, 95, 96] {
        for order in [None, Some(1), Some(2)] {
            let mut buffers = [limit.to_le_bytes().to_vec(), vec![0; 96 * 12]];
            execute("", body, [1, 96], order, &mut buffers).unwrap();
            let expected = [limit, u32::from(limit == 96) | u32::from(limit > 0) << 1, 96 - limit];
            assert!(words::<u32>(&buffers[1]).chunks(3).all(|found| found == expected), "{limit}");
        }
    }
}

#[test]
fn named_barriers_join_a_part_of_the_block() {
    // Warps 0 and 1 announce, warp 2 waits for them; warp 3 goes its own way.
    let body = ".shared .align 4 .b32 cell[64]; mov.u32 %t0, %tid.x; shr.u32 %t1, %t0, 5; mov.u64 %u0, cell;
        mad.wide.u32 %u1, %t0, 4, %u0; setp.lt.u32 %p0, %t1, 2; setp.eq.u32 %p1, %t1, 2;
        @%p0 st.shared.u32 [%u1], %t0; @%p0 bar.arrive 3, 96; @%p1 bar.sync 3, 96;
        @%p1 ld.shared.u32 %t2, [%u1+-256]; @%p1 ld.shared.u32 %t3, [%u1+-128]; @%p1 add.u32 %t2, %t2, %t3;
        mad.wide.u32 %u2, %t0, 4, %at0; @%p1 st.global.u32 [%u2+-256], %t2;";
    for order in [None, Some(1), Some(2), Some(3)] {
        let mut buffers = [vec![0; 128]];
        execute("", body, [1, 128], order, &mut buffers).unwrap();
        assert_eq!(words::<u32>(&buffers[0]), (0..32).map(|i| i + i + 32).collect::<Vec<_>>());
    }
}
