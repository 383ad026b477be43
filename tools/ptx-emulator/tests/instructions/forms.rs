//! Every form in the table of the emulator (`src/forms/table.rs`) is executed by a test of this folder.

use ptx_emulator::forms;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Names the file to which the opcodes that run are appended.
const FILE: &str = "PTX_EMULATOR_OPCODES";

/// Notes the opcodes of a PTX file, if asked to.
pub fn record(ptx: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(path) = std::env::var_os(FILE) else { return };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    for form in opcodes(ptx).filter_map(forms::canonical) {
        if seen.insert(form.clone()) {
            writeln!(file, "{form}").unwrap();
        }
    }
}

/// The first word of every statement, behind its label and its guard.
fn opcodes(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split([';', '{', '}', '\n']).filter_map(|statement| {
        let mut words = statement.split_whitespace().skip_while(|word| word.starts_with('@') || word.ends_with(':'));
        words.next().filter(|word| word.starts_with(char::is_alphabetic))
    })
}

#[test]
fn opcodes_are_found_in_a_kernel() {
    let text = "L: @!%p0 add.u32 %t0, %t1, 1; { .reg .b32 x; call.uni (r), f, (a); } mov.b32 {%a, %b}, %c;\nret;";
    assert_eq!(opcodes(text).collect::<Vec<_>>(), ["add.u32", "call.uni", "mov.b32", "ret"]);
}

#[test]
fn every_form_is_executed_by_a_test() {
    if std::env::var_os(FILE).is_some() {
        return; // This is the run below.
    }
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("opcodes-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let run = Command::new(std::env::current_exe().unwrap()).env(FILE, &path).output().unwrap();
    let executed = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    let executed: BTreeSet<String> = executed.lines().map(str::to_owned).collect();
    let missing: Vec<_> = forms::all().into_iter().filter(|form| !executed.contains(form)).collect();
    assert!(missing.is_empty(), "{} forms are not tested: {}", missing.len(), missing.join(" "));
}
