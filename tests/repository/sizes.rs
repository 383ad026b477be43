//! Files, functions and lines stay short enough to read.

use crate::{assert_none, texts};

/// Lines of a source file.
const FILE: usize = 500;
/// Lines of a function from its signature to its closing brace.
const FUNCTION: usize = 80;
/// Columns of a line.
const LINE: usize = 120;

/// Source files and functions (`path` or `path: name`) that may be longer, with their limits and the reason.
const LONGER: &[(&str, usize, &str)] = &[
    ("kernels/attention_forward.cuh: forward", 100, "its phases share registers and shared memory"),
    ("kernels/attention_forward.cuh: forward_long", 100, "its phases share registers and shared memory"),
    ("kernels/layernorm.cu: backward", 100, "its phases share registers and shared memory"),
    ("src/device/gemm/amx.rs: multiply", 100, "one block of assembly"),
];

const SOURCES: [&str; 5] = ["rs", "cu", "cuh", "py", "sh"];

fn limit(name: &str, usual: usize) -> usize {
    LONGER.iter().find(|(longer, ..)| *longer == name).map_or(usual, |(_, limit, _)| *limit)
}

/// Name and number of lines of each function of formatted Rust or CUDA: from the line with its name to the brace that
/// closes it at the same indentation.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let body = lines[start..].iter().take_while(|line| !line.trim_end().ends_with(';'));
        if line.trim_end().ends_with('}') || !body.into_iter().any(|line| line.trim_end().ends_with('{')) {
            continue;
        }
        let closes = |line: &&str| line.strip_prefix(indentation).is_some_and(|rest| rest.starts_with('}'));
        let length = 1 + lines[start..].iter().position(closes).expect("every function ends");
        found.push((name, length));
    }
    found
}

/// The name of the function that starts on `line`.
fn function(line: &str) -> Option<&str> {
    let start = line.trim_start();
    let name = if let Some((before, name)) = start.split_once("fn ") {
        let words = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "\"C\"", "async"];
        before.split_whitespace().all(|word| words.contains(&word)).then_some(name)?
    } else {
        // CUDA: a declaration specifier, then a return type and a name.
        let cuda = ["__device__", "__global__", "__host__", "template <"].iter().any(|word| start.starts_with(word));
        let (before, _) = start.split_once('(').filter(|_| cuda)?;
        before.rsplit([' ', '*', '&']).next()?
    };
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    (end > 0).then_some(&name[..end])
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let rust = "impl A {\n    pub fn one(&self) {\n        if x {\n        }\n    }\n\n    fn two(\n        a: u8,\n    ) -> u8 {\n        1\n    }\n}\n\
                trait B {\n    fn declared(&self);\n}\nfn empty() {}\n";
    assert_eq!(functions(rust), [("one", 4), ("two", 5)]);
    let cuda = "__device__ __forceinline__ float half(float x) {\n    return x / 2;\n}\n";
    assert_eq!(functions(cuda), [("half", 3)]);
}

#[test]
fn files_are_short() {
    let sources = texts().into_iter().filter(|file| SOURCES.contains(&file.kind()));
    let lines = |text: &str| text.lines().count();
    let long = sources.filter(|file| lines(&file.text) > limit(&file.path, FILE));
    assert_none(long.map(|file| format!("{} has {} lines", file.path, lines(&file.text))).collect());
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for file in texts().iter().filter(|file| ["rs", "cu", "cuh"].contains(&file.kind())) {
        for (name, length) in functions(&file.text) {
            if length > limit(&format!("{}: {name}", file.path), FUNCTION) {
                long.push(format!("{}: {name} has {length} lines", file.path));
            }
        }
    }
    assert_none(long);
}

#[test]
fn exceptions_are_needed() {
    let files = texts();
    let needed = |name: &str| {
        let (path, function) = name.split_once(": ").unwrap_or((name, ""));
        files.iter().find(|file| file.path == path).is_some_and(|file| match function {
            "" => file.text.lines().count() > FILE,
            _ => functions(&file.text).iter().any(|(name, length)| *name == function && *length > FUNCTION),
        })
    };
    let idle = LONGER.iter().filter(|(name, ..)| !needed(name));
    assert_none(idle.map(|(name, ..)| format!("{name} is no longer too long: remove it from LONGER")).collect());
}

#[test]
fn lines_are_short_and_end_without_spaces() {
    let mut problems = Vec::new();
    for file in texts().iter().filter(|file| SOURCES.contains(&file.kind()) || file.kind() == "md") {
        for (number, line) in file.text.lines().enumerate() {
            let place = format!("{}:{}", file.path, number + 1);
            if line.ends_with([' ', '\t']) {
                problems.push(format!("{place} ends with a space"));
            }
            // rustfmt wraps code and leaves strings alone; tables and addresses in Markdown cannot be wrapped.
            let wraps = file.kind() != "md" && (file.kind() != "rs" || line.trim_start().starts_with("//"));
            if wraps && line.chars().count() > LINE {
                problems.push(format!("{place} has more than {LINE} columns"));
            }
        }
    }
    assert_none(problems);
}
