//! The repository itself: sizes of files and functions, what its texts refer to, and its dependencies.

mod dependencies;
mod sizes;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository that is text.
struct Text {
    /// From the repository's root.
    path: String,
    text: String,
}

impl Text {
    fn folder(&self) -> &Path {
        Path::new(&self.path).parent().unwrap()
    }

    /// The extension, or `sh` for a script without one.
    fn kind(&self) -> &str {
        match Path::new(&self.path).extension() {
            Some(extension) => extension.to_str().unwrap(),
            None if self.text.starts_with("#!/usr/bin/env bash") => "sh",
            None => "",
        }
    }
}

/// Every text file outside of what git ignores.
fn texts() -> Vec<Text> {
    let ignored = [".git", "target", "runs", "__pycache__"];
    let (mut folders, mut files) = (vec![PathBuf::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if ignored.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(Text { path: path.to_str().unwrap().to_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Fails with one line for each problem.
#[track_caller]
fn assert_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
