//! Planted faults: each kind has a kernel that must be caught, and a clean twin that must not. Fixtures: `cuda/build`.

use ptx_emulator::{Fault, FaultKind, LaunchConfig, Memory, Module, Options, launch};

const PTX: &str = include_str!("cuda/faults.ptx");

fn run(name: &str, uploaded: bool, order: Option<u64>) -> Result<Vec<i32>, Fault> {
    let (memory, module) = (Memory::new(), Module::parse(PTX).unwrap());
    let address = memory.allocate(256);
    if uploaded {
        memory.write(address, bytemuck::cast_slice(&(0..64).collect::<Vec<i32>>())).unwrap();
    }
    let kernel = module.kernel(name).unwrap();
    let params = kernel.pack(&[&address.to_le_bytes(), &64i32.to_le_bytes()]).unwrap();
    let dynamic_shared = if name.starts_with("shared_range") { 256 } else { 0 };
    let grid = LaunchConfig { blocks: [1, 1, 1], threads: [64, 1, 1], dynamic_shared };
    launch(&memory, &module, kernel, grid, &params, &Options { order, ..Options::default() })?;
    let mut values = vec![0; 64];
    memory.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
    Ok(values)
}

/// The fault of the bad twin; the good one must pass in every order.
fn caught(name: &str) -> Fault {
    for order in [None, Some(1), Some(2), Some(3)] {
        if let Err(fault) = run(&format!("{name}_good"), true, order) {
            panic!("{fault}");
        }
    }
    let fault = run(&format!("{name}_bad"), true, None).expect_err(name);
    assert_eq!(fault.kernel, format!("{name}_bad"));
    // The line is told, through inlined calls, and lies in the twins' body.
    let mut location = fault.location.as_deref().unwrap();
    while let Some(outer) = &location.inlined_at {
        location = outer;
    }
    let body = include_str!("cuda/faults.cu").lines().skip_while(|line| !line.contains(&format!("TWINS({name})")));
    let first = include_str!("cuda/faults.cu").lines().count() - body.clone().count() + 1;
    let lines = first..first + body.take_while(|line| !line.is_empty()).count();
    assert!(&*location.file == "faults.cu" && lines.contains(&(location.line as usize)), "{fault}: not in {lines:?}");
    fault
}

#[test]
fn addresses() {
    let fault = caught("range");
    assert!(matches!(fault.kind, FaultKind::OutOfRange { space: "global", bytes: 4, .. }), "{fault}");
    assert_eq!((fault.thread, fault.block), (Some([63, 0, 0]), [0, 0, 0]));
    let fault = caught("alignment");
    assert!(matches!(fault.kind, FaultKind::Misaligned { space: "global", bytes: 8, .. }), "{fault}");
    let fault = caught("shared_range");
    assert_eq!(fault.kind, FaultKind::OutOfRange { space: "shared", address: 256, bytes: 4 });
}

#[test]
fn reads_of_what_was_never_written() {
    let fault = caught("unwritten_shared");
    assert!(matches!(fault.kind, FaultKind::Uninit { space: "shared", address: 20, .. }), "{fault}");
    assert_eq!(fault.thread, Some([58, 0, 0]));
    let fault = run("shuffle_good", false, None).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Uninit { space: "global", .. }), "{fault}");
}

#[test]
fn races() {
    let fault = caught("race");
    assert!(matches!(fault.kind, FaultKind::Uninit { .. } | FaultKind::DataRace { .. }), "{fault}");
    let fault = caught("warp_race");
    assert!(matches!(fault.kind, FaultKind::DataRace { other_writes: true, warp: Some(0), .. }), "{fault}");
    assert!(fault.to_string().contains("race on shared memory"), "{fault}");
    // A barrier that the other warp does not come to.
    let fault = caught("named_barrier");
    assert!(matches!(fault.kind, FaultKind::DataRace { warp: Some(1), lane: Some(31), .. }), "{fault}");
}

#[test]
fn divergence() {
    let fault = caught("barrier");
    assert!(matches!(fault.kind, FaultKind::DivergentBarrier { active: 0xffff, .. }), "{fault}");
    let fault = caught("shuffle");
    assert!(matches!(fault.kind, FaultKind::DivergentLanes { active: 0xffff, mask: u32::MAX }), "{fault}");
}

#[test]
fn missing_waits() {
    let fault = caught("wait");
    assert!(matches!(fault.kind, FaultKind::MissingWait { .. }), "{fault}");
    let fault = caught("wait_without_barrier");
    // The other warp has not even begun its copy.
    assert!(matches!(fault.kind, FaultKind::Uninit { space: "shared", .. }), "{fault}");
}

#[test]
fn traps() {
    assert_eq!(caught("trap").kind, FaultKind::Trap);
}
