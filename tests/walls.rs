//! A room imports only from rooms below it in the table of docs/architecture.md, a room of `data` only from those below
//! it in the table of `data/mod.rs`, and a file of `autograd` only from files before it in the table of
//! `autograd/mod.rs`. In no folder do modules import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A row of a table: the names in its first column, and those in its last, which it must not import.
type Row = (Vec<String>, Vec<String>);

/// What stands between backticks, as a module: `src/ops/<op>/` and `src/simd.rs` are `ops` and `simd`.
fn modules(column: &str) -> Vec<String> {
    let quoted = column.split('`').skip(1).step_by(2);
    let module = |path: &str| path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default().to_owned();
    quoted.map(module).collect()
}

/// The rows of the first table after `heading`; each line may begin with `//!`.
fn table(text: &str, heading: &str) -> Vec<Row> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let lines = lines.skip_while(|line| !line.starts_with(heading)).skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    let columns = |row: &str| row.trim_matches('|').split('|').map(modules).collect::<Vec<_>>();
    rows.map(columns).map(|columns| (columns[0].clone(), columns[columns.len() - 1].clone())).collect()
}

/// The names after each `prefix` in the code: `prefix name`, or each `name` of `prefix {name::..., name}`.
fn imports(source: &str, prefix: &str) -> BTreeSet<String> {
    let code: String = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let word =
        |text: &str| text.trim_start().split(|c: char| c != '_' && !c.is_alphanumeric()).next().map(str::to_owned);
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        found.extend(word(rest));
        let mut depth = 0;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                found.extend(word(&rest[at + 1..]));
            }
        }
    }
    found
}

/// The files under `folder`, in order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let is_source = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    let all = paths.into_iter().flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    all.filter(|path| is_source(path)).collect()
}

/// What `module` imports although its row forbids it.
fn forbidden(rows: &[Row], module: &str, imports: &BTreeSet<String>) -> Vec<String> {
    let Some(at) = rows.iter().position(|(names, _)| names.iter().any(|name| name == module)) else {
        return vec![format!("`{module}` is not in the table")];
    };
    let above = rows[..at].iter().flat_map(|(names, _)| names);
    let forbidden: Vec<&String> = above.chain(&rows[at].1).filter(|name| imports.contains(*name)).collect();
    forbidden.into_iter().map(|name| format!("`{module}` imports `{name}`")).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn rooms_import_only_from_rooms_below_them() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rooms = table(&text, "## Rooms");
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let room = inside.iter().next().and_then(|name| Path::new(name).file_stem()).unwrap().to_str().unwrap();
        // The root is no room; fuzz targets are compiled for tests only, and reach into every room.
        if room == "lib" || room == "fuzzing" {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let mut imported = imports(&source, "crate::");
        imported.append(&mut imports(&source, "flipk::"));
        // From the root of a room, `super` is the crate.
        let depth = inside.iter().count() - usize::from(inside.ends_with("mod.rs"));
        imported.append(&mut imports(&source, &"super::".repeat(depth.max(1))));
        imported.remove(room);
        wrong
            .extend(forbidden(&rooms, room, &imported).into_iter().map(|what| format!("{}: {what}", inside.display())));
    }
    assert!(wrong.is_empty(), "against the table of docs/architecture.md:\n{}", wrong.join("\n"));
}

#[test]
fn rooms_of_data_import_only_from_rooms_below_them() {
    let folder = root().join("src/data");
    let rows = table(&fs::read_to_string(folder.join("mod.rs")).unwrap(), "");
    let rows: Vec<Row> = rows.into_iter().map(|(names, _)| (names, vec![])).collect();
    let mut wrong = Vec::new();
    for path in sources(&folder).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        let inside = path.strip_prefix(&folder).unwrap();
        let room = inside.iter().next().and_then(|name| Path::new(name).file_stem()).unwrap().to_str().unwrap();
        // Tests may use everything.
        if ["mod", "fuzzing", "proptests", "testing"].contains(&room) {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let mut imported = imports(&source, "crate::data::");
        let depth = inside.iter().count() - usize::from(inside.ends_with("mod.rs"));
        imported.append(&mut imports(&source, &"super::".repeat(depth.max(1))));
        imported.remove(room);
        wrong.extend(forbidden(&rows, room, &imported).into_iter().map(|what| format!("{}: {what}", inside.display())));
    }
    assert!(wrong.is_empty(), "against the table of src/data/mod.rs:\n{}", wrong.join("\n"));
}

#[test]
fn files_of_autograd_import_only_from_files_before_them() {
    let folder = root().join("src/autograd");
    let mut rows = table(&fs::read_to_string(folder.join("mod.rs")).unwrap(), "");
    // That table begins at the bottom, and files of one row are in order too.
    rows = rows.into_iter().flat_map(|(names, _)| names).map(|name| (vec![name], vec![])).rev().collect();
    let mut wrong = Vec::new();
    for path in sources(&folder).into_iter().filter(|path| !path.ends_with("mod.rs") && !path.ends_with("proptests.rs"))
    {
        let file = path.file_stem().unwrap().to_str().unwrap();
        wrong.extend(forbidden(&rows, file, &imports(&fs::read_to_string(&path).unwrap(), "super::")));
    }
    assert!(wrong.is_empty(), "against the table of src/autograd/mod.rs:\n{}", wrong.join("\n"));
}

/// The code of a module without its tests.
fn code(path: &Path) -> String {
    let source = fs::read_to_string(path).unwrap();
    source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// For each module of a folder, the others that it imports from. What `mod.rs` exports comes from the module that has
/// it.
fn siblings(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let is_test = |name: &str| name.ends_with("tests") || ["testing", "fuzzing", "mod"].contains(&name);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let modules: BTreeSet<String> = paths.map(|path| name(&path)).filter(|name| !is_test(name)).collect();
    let exports = code(&folder.join("mod.rs"));
    let of_module = |module: &String| {
        let items = imports(&exports, &format!("{module}::"));
        // A list in braces has no first word.
        let items = items.into_iter().filter(|item| !item.is_empty());
        items.map(|item| (item, module.clone())).collect::<Vec<_>>()
    };
    let exports: BTreeMap<String, String> = modules.iter().flat_map(of_module).collect();
    let inside = folder.strip_prefix(root().join("src")).unwrap();
    let absolute = inside.iter().fold("crate::".to_owned(), |path, part| path + part.to_str().unwrap() + "::");
    let mut found = BTreeMap::new();
    for path in sources(folder) {
        let within = path.strip_prefix(folder).unwrap();
        let module = name(Path::new(within.iter().next().unwrap()));
        if is_test(&module) || is_test(&name(&path)) && !path.ends_with("mod.rs") {
            continue;
        }
        let (code, depth) = (code(&path), within.iter().count() - usize::from(path.ends_with("mod.rs")));
        let mut words = imports(&code, &absolute);
        words.append(&mut imports(&code, &"super::".repeat(depth.max(1))));
        let others = words.iter().map(|word| exports.get(word).unwrap_or(word));
        let others = others.filter(|other| **other != module && modules.contains(*other)).cloned();
        found.entry(module.clone()).or_insert_with(BTreeSet::new).extend(others);
    }
    found
}

/// The modules that are left when those that import from none of the others are taken away again and again.
fn circle(mut modules: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let left: BTreeSet<String> = modules.keys().cloned().collect();
        modules.values_mut().for_each(|others| others.retain(|other| left.contains(other)));
        modules.retain(|_, others| !others.is_empty());
        if modules.len() == left.len() {
            return modules;
        }
    }
}

#[test]
fn modules_of_a_folder_do_not_import_each_other_in_a_circle() {
    let files = sources(&root().join("src"));
    let folders: BTreeSet<&Path> =
        files.iter().filter(|path| path.ends_with("mod.rs")).filter_map(|path| path.parent()).collect();
    assert!(folders.len() > 40, "{folders:?}");
    let circles: Vec<_> = folders
        .into_iter()
        .map(|folder| (folder, circle(siblings(folder))))
        .filter(|(_, modules)| !modules.is_empty())
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
    let planted = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")];
    let planted = planted.map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])));
    assert!(!circle(planted.into_iter().collect()).is_empty());
}

#[test]
fn a_planted_import_is_found() {
    let rows = table(
        "## Rooms\n\n| room | has | has not |\n|---|---|---|\n| `src/cli/`, `src/main.rs` | | |\n| `src/model/` | x | `device` |\n| `src/ops/<op>/` | | |\n| `src/device/` | | |\n",
        "## Rooms",
    );
    let check = |room: &str, source: &str| forbidden(&rows, room, &imports(source, "crate::"));
    assert_eq!(
        check("ops", "use crate::{\n    device::Cpu, // crate::cli\n    model::{Flip, config},\n};"),
        ["`ops` imports `model`"]
    );
    assert_eq!(check("device", "fn f() { crate::ops::run() }"), ["`device` imports `ops`"]);
    assert_eq!(check("model", "use crate::device::Cpu;"), ["`model` imports `device`"]);
    assert_eq!(check("ops", "use crate::device;\n/// [`crate::model`]"), [""; 0]);
    assert_eq!(check("new", ""), ["`new` is not in the table"]);
}
