//! What the texts refer to exists: links, paths, commands, options.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use flipk::model::{ModelConfig, Preset, TowerConfig};

use crate::{Text, assert_none, root, texts};

/// `path` from `folder`, without `.` and `..`; `None` outside the repository.
fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::CurDir => (),
            Component::ParentDir if whole.pop() => (),
            _ => return None,
        }
    }
    Some(whole)
}

/// The fragment by which a heading of Markdown is linked.
fn fragment(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_in_markdown_resolve() {
    let files = texts();
    let markdown: HashMap<&str, &Text> =
        files.iter().filter(|file| file.kind() == "md").map(|file| (file.path.as_str(), file)).collect();
    let mut problems = Vec::new();
    for (path, file) in &markdown {
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let whole = if target.is_empty() { Some(PathBuf::from(path)) } else { resolve(file.folder(), target) };
            match whole.filter(|whole| root().join(whole).exists()) {
                None => problems.push(format!("{path} links to {link}, which is not there")),
                Some(whole) if !anchor.is_empty() => {
                    let headings = markdown[whole.to_str().unwrap()].text.lines().filter(|line| line.starts_with('#'));
                    if !headings.into_iter().any(|line| fragment(line.trim_start_matches('#').trim()) == anchor) {
                        problems.push(format!("{path} links to {link}, and no heading has this name"));
                    }
                }
                Some(_) => (),
            }
        }
    }
    assert_none(problems);
}

/// The words of a text that look like a path into one of the repository's folders, or like that of a source file.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 10] =
        [".ci", ".github", "benches", "docs", "examples", "fuzz", "kernels", "src", "tests", "tools"];
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-/<>*{}$".contains(c)))
        .map(|word| word.trim_end_matches(['.', '-']))
        .filter(|word| {
            let inside = |(first, rest): (&str, &str)| FOLDERS.contains(&first) && !rest.is_empty();
            let source = [".rs", ".cu", ".cuh"].iter().any(|extension| word.ends_with(extension));
            !word.starts_with('/') && word.split_once('/').is_some_and(|parts| source || inside(parts))
        })
}

#[test]
fn paths_in_texts_exist() {
    let mut problems = Vec::new();
    for file in texts() {
        let near = ["", "src", "tools/ptx-emulator", "tools/ptx-emulator/src"].map(Path::new);
        for path in paths(&file.text) {
            // Patterns and placeholders: src/ops/<op>/, kernels/*.cu, kernels/NAME.cu.
            let placeholder = path.contains(['<', '*', '{', '$', '>']) || path.split(['/', '.']).any(is_placeholder);
            let exists = |folder: &Path| root().join(folder).join(path).exists();
            if !placeholder && !near.iter().any(|folder| exists(folder)) && !exists(file.folder()) {
                problems.push(format!("{}: {path}", file.path));
            }
        }
    }
    assert_none(problems);
}

/// Whether a part of a path is a placeholder such as `NAME` or `x`.
fn is_placeholder(part: &str) -> bool {
    part.len() == 1 || part.chars().all(|c| c.is_ascii_uppercase()) && !["", "README"].contains(&part)
}

#[test]
fn nothing_refers_to_a_file_outside() {
    let mut problems = Vec::new();
    for file in texts() {
        for word in file.text.split(|c: char| !(c.is_alphanumeric() || "._-/".contains(c))) {
            if word.starts_with("../") && resolve(file.folder(), word).is_none() {
                problems.push(format!("{}: {word}", file.path));
            }
            if ["home", "root", "work", "mnt"].iter().any(|folder| word.starts_with(&format!("/{folder}/"))) {
                problems.push(format!("{}: {word}", file.path));
            }
        }
    }
    assert_none(problems);
}

/// The commands in `sh` blocks of a Markdown file, without comments.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.split(" #").next()).map(str::trim)
}

#[test]
fn commands_in_markdown_exist() {
    let help = |subcommand: &str| {
        let run = Command::new(env!("CARGO_BIN_EXE_flipk")).args(subcommand.split(' ')).arg("--help").output().unwrap();
        run.status.success().then(|| String::from_utf8(run.stdout).unwrap())
    };
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (mut problems, mut checked) = (Vec::new(), 0);
    for file in texts().iter().filter(|file| file.kind() == "md") {
        for command in commands(&file.text) {
            checked += 1;
            let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
            let ok = match words.as_slice() {
                ["flipk", rest @ ..] | ["cargo", "run", "--release", "--", rest @ ..] => {
                    let subcommand: Vec<&str> = rest.iter().copied().take_while(|word| is_subcommand(word)).collect();
                    let (deep, flat) = (subcommand.join(" "), subcommand.first().copied().unwrap_or_default());
                    let help = help(&deep).or_else(|| help(flat)).unwrap_or_default();
                    let options = rest.iter().filter(|word| word.starts_with("--"));
                    let known = |option: &str| help.contains(option.split('=').next().unwrap_or(option));
                    !help.is_empty() && options.into_iter().all(|option| known(option))
                }
                ["cargo", command @ ("bench" | "test" | "run"), rest @ ..] => {
                    let kind = rest.windows(2).find(|pair| ["--bench", "--test", "--example"].contains(&pair[0]));
                    kind.is_none_or(|pair| {
                        let folder = match pair[0] {
                            "--bench" => "benches",
                            "--test" => "tests",
                            _ => "examples",
                        };
                        let file = root().join(folder).join(pair[1]);
                        file.with_extension("rs").is_file() || file.join("main.rs").is_file()
                    }) && (*command != "bench" || manifest.contains("[[bench]]"))
                }
                // `paths_in_texts_exist` checks programs of the repository.
                _ => true,
            };
            if !ok {
                problems.push(format!("{}: {command}", file.path));
            }
        }
    }
    assert!(checked > 20, "only {checked} commands found");
    assert_none(problems);
}

fn is_subcommand(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

#[test]
fn every_tool_is_in_the_index() {
    let files = texts();
    let index = &files.iter().find(|file| file.path == "tools/README.md").unwrap().text;
    let tools = files.iter().filter_map(|file| file.path.strip_prefix("tools/"));
    let missing = tools.filter(|path| !path.starts_with("ptx-emulator/") && *path != "README.md");
    assert_none(missing.filter(|path| !index.contains(&format!("]({path})"))).map(str::to_owned).collect());
}

#[test]
fn compared_models_have_the_sizes_of_the_presets() {
    let file = fs::read_to_string(root().join("tools/gpu/models.json")).unwrap();
    let models: HashMap<String, HashMap<String, usize>> = serde_json::from_str(&file).unwrap();
    for (name, preset) in [("b16", Preset::B16), ("l16", Preset::L16)] {
        let sizes = &models[name];
        let tower = |tower: &str| {
            let [layers, width, heads] = ["layers", "width", "heads"].map(|size| sizes[&format!("{tower}_{size}")]);
            TowerConfig::new(layers, width, heads)
        };
        let config = ModelConfig {
            image_size: sizes["image_size"],
            patch_size: sizes["patch_size"],
            vision: tower("vision"),
            text: tower("text"),
            context: sizes["context"],
            vocab: sizes["vocab"],
            embed_dim: sizes["embed_dim"],
            ..preset.config()
        };
        assert_eq!(config, preset.config(), "{name}");
    }
}

/// Reductions of MPI and NCCL may round differently from call to call, so no such function is ever looked up.
#[test]
fn no_library_adds_floats() {
    let adds =
        ["MPI_Allreduce", "MPI_Iallreduce", "MPI_Reduce", "MPI_Ireduce", "MPI_Scan", "ncclAllReduce", "ncclReduce"];
    let mut problems = Vec::new();
    for file in texts().iter().filter(|file| file.path.starts_with("src/")) {
        let found = adds.iter().filter(|name| file.text.contains(**name));
        problems.extend(found.map(|name| format!("{} has {name}", file.path)));
    }
    assert_none(problems);
}
