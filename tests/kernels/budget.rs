//! `ptxas -v` on every kernel: no spills, and no more registers and shared memory than `kernels/budget.txt` allows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use flipk::device::cuda::kernels::KERNELS;

/// Registers per thread and bytes of static shared memory.
type Use = (u32, u32);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn ptxas() -> PathBuf {
    let found = Command::new(root().join("tools/cuda-compiler")).arg("--find").output().unwrap();
    assert!(found.status.success(), "there is no nvcc: run the tests by tools/test");
    Path::new(String::from_utf8(found.stdout).unwrap().trim()).with_file_name("ptxas")
}

/// What ptxas says of each kernel, and of which it spills registers.
fn compile(ptxas: &Path, name: &str, ptx: &str, arch: &str) -> (BTreeMap<String, Use>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{name}.ptx"));
    std::fs::write(&file, ptx).unwrap();
    let run = Command::new(ptxas)
        .args(["-v", "-arch", arch, "-o"])
        .arg(folder.path().join("out"))
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap() + &String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "ptxas -arch {arch} does not take {name}.ptx:\n{said}");
    let (mut uses, mut spilled, mut kernel) = (BTreeMap::new(), Vec::new(), String::new());
    for line in said.lines() {
        // Of `Used 40 registers, used 1 barriers, 4096 bytes smem` the number before a word.
        let before = |word: &str| {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            let at = words.iter().rposition(|found| *found == word)?;
            words[..at].iter().rev().find_map(|word| word.parse::<u32>().ok())
        };
        if let Some(name) = line.split('\'').nth(1).filter(|_| line.contains("Compiling entry function")) {
            name.clone_into(&mut kernel);
        } else if line.contains("spill stores") && !line.contains(" 0 bytes spill stores") {
            spilled.push(kernel.clone());
        } else if line.contains("Used ") {
            uses.insert(kernel.clone(), (before("registers").unwrap(), before("smem").unwrap_or(0)));
        }
    }
    assert!(!uses.is_empty(), "{said}");
    (uses, spilled)
}

#[test]
fn kernels_stay_within_their_budget() {
    assert!(!KERNELS.is_empty(), "flipk was built without nvcc: run the tests by tools/test");
    let ptxas = ptxas();
    let (mut uses, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, ptx) in KERNELS {
        let [ampere, hopper] = std::thread::scope(|scope| {
            ["sm_80", "sm_90"]
                .map(|arch| scope.spawn(|| compile(&ptxas, name, ptx, arch)))
                .map(|run| run.join().unwrap())
        });
        for (arch, spilled) in [("sm_80", ampere.1), ("sm_90", hopper.1)] {
            problems.extend(spilled.into_iter().map(|kernel| format!("{kernel} spills registers on {arch}")));
        }
        uses.extend(hopper.0);
    }
    let text = std::fs::read_to_string(root().join("kernels/budget.txt")).unwrap();
    let mut budget: BTreeMap<&str, Use> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let &[kernel, registers, shared] = &line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        budget.insert(kernel, (registers.parse().unwrap(), shared.parse().unwrap()));
    }
    for (kernel, (registers, shared)) in &uses {
        match budget.remove(kernel.as_str()) {
            None => problems.push(format!("not in the budget: {kernel} {registers} {shared}")),
            Some((most, most_shared)) if *registers > most || *shared > most_shared => problems.push(format!(
                "{kernel} uses {registers} registers and {shared} bytes of shared memory; its budget is {most} and {most_shared}"
            )),
            Some(_) => {}
        }
    }
    problems.extend(budget.keys().map(|kernel| format!("in the budget, but not compiled: {kernel}")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
