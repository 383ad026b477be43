//! Licences and sources of all dependencies, as `cargo deny check licenses sources` checks them by deny.toml.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::{assert_none, root};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Whether an SPDX expression can be met with the `allowed` licences. `/` is an old way to write `OR`.
fn allows(allowed: &BTreeSet<&str>, expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "_WITH_");
    let words: Vec<String> = spaced.split_whitespace().map(|word| word.replace("_WITH_", " WITH ")).collect();
    let (value, rest) = any(allowed, &words);
    assert!(rest.is_empty(), "{expression} is not understood at {rest:?}");
    value
}

fn any<'w>(allowed: &BTreeSet<&str>, words: &'w [String]) -> (bool, &'w [String]) {
    let (mut value, mut rest) = all(allowed, words);
    while let Some(("OR", after)) = rest.split_first().map(|(word, after)| (word.as_str(), after)) {
        let (next, after) = all(allowed, after);
        (value, rest) = (value | next, after);
    }
    (value, rest)
}

fn all<'w>(allowed: &BTreeSet<&str>, words: &'w [String]) -> (bool, &'w [String]) {
    let (mut value, mut rest) = one(allowed, words);
    while let Some(("AND", after)) = rest.split_first().map(|(word, after)| (word.as_str(), after)) {
        let (next, after) = one(allowed, after);
        (value, rest) = (value & next, after);
    }
    (value, rest)
}

fn one<'w>(allowed: &BTreeSet<&str>, words: &'w [String]) -> (bool, &'w [String]) {
    let (first, rest) = words.split_first().expect("a licence");
    if first == "(" {
        let (value, rest) = any(allowed, rest);
        return (value, &rest[1..]);
    }
    (allowed.contains(first.as_str()), rest)
}

#[test]
fn expressions_are_evaluated() {
    let allowed = BTreeSet::from(["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 OR MIT AND Zlib", true),
        ("(GPL-3.0 OR MIT) AND Unicode-3.0", false),
        ("(GPL-3.0 OR MIT) AND Zlib", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(allows(&allowed, expression), expected, "{expression}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_crates_io() {
    let config: toml::Table = fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let allowed = config["licenses"]["allow"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    // Those of this platform were downloaded to compile this test.
    let platform = format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline", &platform];
    let found = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let metadata: Value = serde_json::from_slice(&found.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let mut problems = Vec::new();
    for package in packages {
        let name = format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        match package["license"].as_str() {
            Some(licence) if allows(&allowed, licence) => (),
            licence => problems.push(format!("{name} has the licence {licence:?}")),
        }
        // Members of the workspace have no source.
        if package["source"].as_str().is_some_and(|source| source != REGISTRY) {
            problems.push(format!("{name} comes from {}", package["source"]));
        }
    }
    assert_none(problems);
}
