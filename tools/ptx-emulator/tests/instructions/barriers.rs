//! Barriers that a part of the block meets at: whom they hold back, and whose accesses they order.

use crate::harness::{HEADER, execute, words};
use ptx_emulator::{Fault, FaultKind};

const ORDERS: [Option<u64>; 8] = [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)];

/// Four warps. Each thread has a cell, at `%u1`, that holds 0, as all know; `%t0` is its number, `%t1` that of its
/// warp, `%p0` to `%p3` tell which warp that is. The body begins in line `HEADER + 2`.
fn run(body: &str, order: Option<u64>) -> Result<Vec<u32>, Fault> {
    let start = ".shared .align 4 .b32 cell[128]; mov.u32 %t0, %tid.x; shr.u32 %t1, %t0, 5; mov.u64 %u0, cell;
        mad.wide.u32 %u1, %t0, 4, %u0; setp.eq.u32 %p0, %t1, 0; setp.eq.u32 %p1, %t1, 1; setp.eq.u32 %p2, %t1, 2;
        setp.eq.u32 %p3, %t1, 3; mad.wide.u32 %u2, %t0, 4, %at0; mov.u32 %t2, 0; st.shared.u32 [%u1], %t2; bar.sync 0;";
    let mut buffers = [vec![0; 512]];
    execute("", &format!("{}\n{body}", start.replace('\n', " ")), [1, 128], order, &mut buffers)?;
    Ok(words(&buffers[0]))
}

fn clean(body: &str) {
    for order in ORDERS {
        run(body, order).unwrap_or_else(|fault| panic!("{order:?}: {fault}\n{body}"));
    }
}

/// The body must be caught in every order, in one of these of its lines; a race may be found at either of its accesses.
fn faults(body: &str, lines: &[u32]) -> Vec<Fault> {
    let fault = |order: &Option<u64>| {
        let fault = run(body, *order).expect_err(body);
        assert!(lines.contains(&(fault.line - HEADER - 1)), "{fault}\n{body}");
        fault
    };
    ORDERS.iter().map(fault).collect()
}

fn race(body: &str, lines: &[u32]) {
    for fault in faults(body, lines) {
        assert!(matches!(fault.kind, FaultKind::DataRace { .. }), "{fault}\n{body}");
    }
}

/// Pairs of warps that add up what their partner has, round for round.
const PAIRS: &str = "shr.u32 %t3, %t1, 1; add.u32 %t3, %t3, 1; xor.b32 %t4, %t0, 32; mad.wide.u32 %u3, %t4, 4, %u0; mov.u32 %t5, 0;
    mov.u32 %t7, %t0;
    AGAIN: st.shared.u32 [%u1], %t7;
    bar.sync %t3, 64;
    ld.shared.u32 %t6, [%u3];
    bar.sync %t3, 64;
    mad.lo.u32 %t7, %t7, 3, %t6; add.u32 %t5, %t5, 1; setp.lt.u32 %p4, %t5, 6; @%p4 bra AGAIN; st.global.u32 [%u2], %t7;";

#[test]
fn pairs_of_warps_exchange_in_any_order() {
    let mut expected: Vec<u32> = (0..128).collect();
    for _ in 0..6 {
        expected = (0..128).map(|i: usize| expected[i] * 3 + expected[i ^ 32]).collect();
    }
    for order in ORDERS {
        assert_eq!(run(PAIRS, order).unwrap_or_else(|fault| panic!("{fault}")), expected, "{order:?}");
    }
    // Without the second barrier a warp may write before its partner has read.
    let second = "bar.sync %t3, 64;\n    mad";
    race(&PAIRS.replace(second, "mad"), &[3, 5]);
    // Partners of another pair.
    let other = PAIRS.replace("%t0, 32", "%t0, 64");
    race(&other, &[3, 5]);
    let whole = other.replace("bar.sync %t3, 64", "bar.sync 0");
    clean(&whole);
}

#[test]
fn order_is_handed_on_from_barrier_to_barrier() {
    // 0 to 1 to 2, at barriers of all kinds of numbers at once; 3 only met 2, and before that.
    let body = |reads: &str| {
        format!(
            "mov.u32 %t3, 7; or.pred %p4, %p2, %p3; @%p4 bra HIGH;
            @%p0 st.shared.u32 [%u1], %t3;
            bar.sync 0, 64; @%p1 bar.sync 15, 64; bra JOIN;
            HIGH: @%p3 barrier.arrive 2, 64; @%p2 barrier.sync 2, 64; barrier.sync.aligned 1, 64; @%p2 bar.sync 15, 64;
            JOIN: {reads} ld.shared.u32 %t4, [cell+4];
            bar.sync 0; ld.shared.u32 %t4, [cell+4]; st.global.u32 [%u2], %t4;"
        )
    };
    for order in ORDERS {
        let found = run(&body("@%p2"), order).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(found, [7; 128]);
    }
    race(&body("@%p3"), &[2, 5]);
    // Neither others' barriers order the lanes of a warp, nor one that it does not wait at.
    let lanes = |between: &str| {
        format!(
            "@%p0 bar.sync 1, 64; @%p1 bar.sync 1, 64; @!%p2 bra OUT;
            st.shared.u32 [%u1], %t0; {between} ld.shared.u32 %t3, [cell+256]; OUT: bar.sync 0;"
        )
    };
    race(&lanes(""), &[2]);
    race(&lanes("bar.arrive 2, 64;"), &[2]);
    clean(&lanes("bar.sync 2, 32;"));
}

/// Warp 0 fills two places in turn, at barriers 1 and 2 when full; warp 1 adds them up, at barriers 3 and 4 when empty.
const RING: &str = "@%p0 bra MAKE; @%p1 bra TAKE; ret;
    MAKE: mov.u32 %t3, 0;
    NEXT: and.b32 %t4, %t3, 1; add.u32 %t5, %t4, 1; add.u32 %t6, %t4, 3; mad.wide.u32 %u3, %t4, 128, %u1; mad.lo.u32 %t7, %t3, 100, %t0;
    bar.sync %t6, 64;
    st.shared.u32 [%u3], %t7;
    bar.arrive %t5, 64; add.u32 %t3, %t3, 1; setp.lt.u32 %p4, %t3, 6; @%p4 bra NEXT; ret;
    TAKE: mov.u32 %t3, 0; mov.u32 %t8, 0; bar.arrive 3, 64; bar.arrive 4, 64;
    MORE: and.b32 %t4, %t3, 1; add.u32 %t5, %t4, 1; add.u32 %t6, %t4, 3; mad.wide.u32 %u3, %t4, 128, %u1;
    bar.sync %t5, 64;
    ld.shared.u32 %t7, [%u3+-128];
    bar.arrive %t6, 64;
    add.u32 %t8, %t8, %t7; add.u32 %t3, %t3, 1; setp.lt.u32 %p4, %t3, 6; @%p4 bra MORE; st.global.u32 [%u2], %t8;";

#[test]
fn a_producer_and_a_consumer_need_not_both_wait() {
    let expected: Vec<u32> = (0..32).map(|i| 1500 + 6 * i).collect();
    for order in ORDERS {
        assert_eq!(run(RING, order).unwrap_or_else(|fault| panic!("{fault}"))[32..64], expected, "{order:?}");
    }
    // The place is given back before it is read.
    let (read, given) = ("ld.shared.u32 %t7, [%u3+-128];", "bar.arrive %t6, 64;");
    let early = RING.replace(read, "HERE").replace(given, read).replace("HERE", given);
    race(&early, &[5, 11]);
    // A thread that only arrives learns nothing.
    let deaf = "@%p0 st.shared.u32 [%u1], %t0;
        @%p0 bar.arrive 1, 64; @%p1 bar.arrive 1, 64;
        @%p1 ld.shared.u32 %t3, [cell];";
    race(deaf, &[1, 3]);
}

#[test]
fn barriers_that_cannot_be_complete() {
    let deadlock = |barrier, arrived, needed| FaultKind::Deadlock { barrier, arrived, needed };
    let cases = [
        ("\n@%p0 bar.sync 1, 96; @%p1 bar.sync 1, 96;", deadlock(1, 64, 96)),
        ("\n@%p0 bar.sync 1, 64; @%p2 bar.sync 2, 64;", deadlock(1, 32, 64)),
        // A third warp that comes waits for a fourth.
        ("@%p3 exit;\nbar.sync 7, 64;", deadlock(7, 32, 64)),
        ("@%p3 exit;\nbar.sync 7, 128;", deadlock(7, 96, 128)),
    ];
    for (body, kind) in &cases {
        assert!(faults(body, &[2]).iter().all(|fault| fault.kind == *kind), "{body}");
    }
    let fault = run(cases[0].0, None).expect_err("a deadlock");
    assert!(fault.to_string().contains("64 of 96 threads reach barrier 1, at PTX line"), "{fault}");
    let misused = [
        ("\nbar.sync 1, 40;", "whole warps"),
        ("mov.u32 %t3, 0;\nbar.arrive 1, %t3;", "whole warps"),
        ("\nbar.sync 16;", "from 0 to 15"),
        ("and.b32 %t3, %t0, 1;\nbar.sync %t3, 64;", "differ in its number"),
        ("mul.lo.u32 %t3, %t1, 32; add.u32 %t3, %t3, 64;\nbar.sync 1, %t3;", "another count"),
        ("\nbar.arrive 1, 160; bar.arrive 1, 160;", "arrives again"),
    ];
    for (body, problem) in misused {
        for fault in faults(body, &[2]) {
            assert!(
                fault.to_string().contains("misused barrier") && fault.to_string().contains(problem),
                "{fault}\n{body}"
            );
        }
    }
}

#[test]
fn a_copy_may_write_from_its_beginning() {
    // The other warp reads the place, and meets this one only when the copy is already on its way.
    let body = |between: &str| {
        format!(
            "setp.eq.u32 %p4, %t0, 32;
            @%p0 ld.shared.u32 %t4, [cell]; {between}
            @%p4 cp.async.ca.shared.global [%u0], [%at0], 4; cp.async.commit_group;
            bar.sync 0; cp.async.wait_group 0;"
        )
    };
    for fault in faults(&body(""), &[2, 3]) {
        assert!(matches!(fault.kind, FaultKind::DataRace { .. } | FaultKind::MissingWait { .. }), "{fault}");
    }
    clean(&body("bar.sync 0;"));
}

#[test]
fn a_seed_puts_warps_into_another_order_after_each_barrier() {
    // In each of 8 rounds warps take numbers.
    let body = "mov.u32 %t3, 0; mad.wide.u32 %u3, %t1, 4, %at0; and.b32 %t4, %t0, 31; setp.eq.u32 %p4, %t4, 0;
        AGAIN: @%p4 atom.global.add.u32 %t5, [%at0+508], 1; @%p4 st.global.u32 [%u3], %t5; bar.sync 0; add.u64 %u3, %u3, 16;
        add.u32 %t3, %t3, 1; setp.lt.u32 %p5, %t3, 8; @%p5 bra AGAIN;";
    let rounds = |order| -> Vec<Vec<u32>> {
        let found = run(body, order).unwrap_or_else(|fault| panic!("{fault}"));
        found[..32].chunks(4).map(|round| round.iter().map(|number| number % 4).collect()).collect()
    };
    assert!(rounds(None).iter().all(|round| *round == [0, 1, 2, 3]));
    let mixed = rounds(Some(1));
    assert!(mixed.iter().any(|round| *round != mixed[0]), "{mixed:?}");
    assert_eq!(mixed, rounds(Some(1)));
}
