//! What a pack has so far: `pack.jsonl`, whose first line says what is packed and how, and each other line what a whole
//! shard holds and where the next one begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::archive::PARTIAL;
use super::pack::{Filter, Form, Pack, PackError, ShardLimit};
use crate::data::loader::Skipped;
use crate::data::text::count;
use crate::log;
use crate::units::Bytes;

const NAME: &str = "pack.jsonl";
/// Written last, for programs that want the number of samples beforehand (OpenCLIP).
const SIZES: &str = "sizes.json";
/// Version of the journal. Version 1 compared sources by their lengths alone.
const VERSION: u32 = 2;
/// Bytes of a pack whose checksums take long enough for a line that says so.
const NOTED_BYTES: u64 = 4 << 30;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    version: u32,
    options: Pack,
    /// Over the shards that are packed, and how they are read.
    source: u32,
}

impl Head {
    /// The first line of the journal.
    fn line(&self) -> Vec<u8> {
        (serde_json::to_string(self).unwrap_or_default() + "\n").into_bytes()
    }

    /// Whether a pack with this first line can be continued.
    ///
    /// # Errors
    /// Why not.
    fn fits(&self, first: &[u8]) -> Result<(), String> {
        // Shards are the same whatever the limit of broken samples is.
        let found = serde_json::from_slice(first).map(|Self { version, options, source }| {
            let options = Pack { max_bad: self.options.max_bad, ..options };
            Self { version, options, source }
        });
        match found {
            Ok(found) if found == *self => Ok(()),
            Ok(found) if found.version == VERSION && found.source != self.source => {
                let problem = "it has a pack of other shards, of shards that have changed since (by length, time of \
                               change or ETag), or with other captions, columns or filter; give another --out";
                Err(problem.to_owned())
            }
            Ok(found) if found.version == VERSION => {
                let differences = differences(&found.options, &self.options);
                Err(format!("it has a pack with {differences}; give the same options, or another --out"))
            }
            _ => Err(format!("its {NAME} is not that of a pack of this version")),
        }
    }
}

/// A shard that is whole, and what came before its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) shard: String,
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
    /// Where the next sample is: its shard (0 if shuffled) and its number.
    pub(super) next: (u64, u64),
    /// Samples that were read so far, and those that were skipped.
    pub(super) visited: u64,
    pub(super) skipped: Skipped,
    /// Shards so far that could not be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) unusable_shards: u64,
    /// An estimate of the samples that damage has erased from shards that were read whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(super) struct Journal {
    folder: PathBuf,
    file: File,
    pub(super) lines: Vec<Line>,
}

impl Journal {
    /// Begins a pack in `folder`, which is created, or continues the one that is there, once the checksums of its
    /// shards have been compared.
    pub(super) fn open(folder: &Path, options: &Pack, source: u32) -> Result<Self, PackError> {
        let io = |what: &Path| {
            let path = what.to_owned();
            move |source| PackError::Write { path, source }
        };
        let path = folder.join(NAME);
        let refuse = |problem: String| Err(PackError::Folder { folder: folder.to_owned(), problem });
        if folder.is_file() {
            return refuse("it is a file; give a folder".to_owned());
        }
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let head = Head { version: VERSION, options: options.clone(), source };
        let names: Vec<String> = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect())
            .map_err(io(folder))?;
        if !path.exists()
            && let Some(other) = names.iter().find(|name| *name != &format!("{NAME}{PARTIAL}"))
        {
            return refuse(format!("it holds {other}, which is not part of a pack; choose a new or empty folder"));
        }
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io(&path))?;
        if file.try_lock().is_err() {
            return refuse("another program is packing into it".to_owned());
        }
        // Not before the lock: they may be those of the other program.
        for name in names.iter().filter(|name| name.ends_with(PARTIAL)) {
            let partial = folder.join(name);
            std::fs::remove_file(&partial).map_err(io(&partial))?;
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(io(&path))?;
        // The last line may be cut; its shard is written again.
        let whole: Vec<&[u8]> =
            text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
        let (first, rest) = whole.split_first().map_or((&[][..], &[][..]), |(first, rest)| (*first, rest));
        let has_shards = names.iter().any(|name| name.ends_with(".tar"));
        let lines: Vec<Line> = rest.iter().map_while(|line| serde_json::from_slice(line).ok()).collect();
        let is_begun = match head.fits(first) {
            Ok(()) => true,
            // Nothing that is whole would be lost.
            Err(_) if rest.is_empty() && !has_shards && serde_json::from_slice::<Head>(first).is_ok() => false,
            // It is new, or its first line was being written.
            Err(_) if whole.is_empty() && !has_shards && head.line().starts_with(&text) => false,
            Err(problem) => return refuse(problem),
        };
        // After a power failure the last line may be anything, but not one before it.
        if lines.len() + 1 < rest.len() {
            return refuse(format!("line {} of its {NAME} is damaged; pack into a new folder", lines.len() + 2));
        }
        if let Some(problem) = changed(folder, &lines) {
            return refuse(format!("{problem}; pack into a new folder"));
        }
        let end = match is_begun {
            true => first.len() + rest[..lines.len()].iter().map(|line| line.len()).sum::<usize>(),
            false => 0,
        };
        let ready = file.set_len(end as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        let ready = ready.and_then(|_| if is_begun { Ok(()) } else { file.write_all(&head.line()) });
        ready.and_then(|()| file.sync_data()).map_err(io(&path))?;
        Ok(Self { folder: folder.to_owned(), file, lines })
    }

    /// Whether the pack is whole.
    pub(super) fn is_complete(&self) -> bool {
        std::fs::read(self.folder.join(SIZES)).is_ok_and(|sizes| sizes == self.sizes().as_bytes())
    }

    /// Notes a shard that has its name already.
    pub(super) fn add(&mut self, line: Line) -> Result<(), PackError> {
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        let written = sync_folder(&self.folder)
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.sync_data());
        written.map_err(|source| PackError::Write { path: self.folder.join(NAME), source })?;
        self.lines.push(line);
        Ok(())
    }

    /// Writes the number of samples in each shard.
    pub(super) fn complete(&self) -> Result<(), PackError> {
        let path = self.folder.join(SIZES);
        write_whole(&path, self.sizes().as_bytes()).map_err(|source| PackError::Write { path, source })
    }

    /// The number of samples in each shard, as JSON.
    fn sizes(&self) -> String {
        let sizes = self.lines.iter().map(|line| (line.shard.clone(), line.samples.into()));
        format!("{:#}\n", serde_json::Value::Object(sizes.collect()))
    }
}

/// What is wrong with the first shard that is not as it was written.
fn changed(folder: &Path, lines: &[Line]) -> Option<String> {
    let bytes: u64 = lines.iter().map(|line| line.bytes).sum();
    if bytes > NOTED_BYTES {
        let shards = count(lines.len() as u64, "shard");
        log::line(&format!("checking the {shards} that are there ({})", Bytes(bytes as usize)));
    }
    let problem = |line: &Line| {
        let problem = match checksum(&folder.join(&line.shard), line.bytes) {
            Ok(Ok(crc32c)) if crc32c == line.crc32c => return None,
            Ok(Ok(_)) => "has changed since it was written (its checksum is wrong)".to_owned(),
            Ok(Err(len)) => format!("has {len} bytes instead of {}", line.bytes),
            Err(error) => format!("cannot be read ({error})"),
        };
        Some(format!("{} {problem}", line.shard))
    };
    lines.par_iter().find_map_first(problem)
}

/// The CRC-32C of a file, or its length if that is not `len`.
fn checksum(path: &Path, len: u64) -> io::Result<Result<u32, u64>> {
    let mut file = File::open(path)?;
    let found = file.metadata()?.len();
    if found != len {
        return Ok(Err(found));
    }
    let (mut piece, mut sum) = (vec![0; PIECE], 0);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(sum)),
            Ok(read) => sum = crc32c::crc32c_append(sum, &piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The options of two packs that differ, as flags.
fn differences(before: &Pack, now: &Pack) -> String {
    // Two are equal if they give the same tokens, whatever is said about them.
    let tokens = if before.tokens == now.tokens { before.tokens.clone() } else { now.tokens.clone() };
    let now = &Pack { tokens, ..now.clone() };
    let pairs = flags(before).into_iter().zip(flags(now)).filter(|(before, now)| before != now);
    let (before, now): (Vec<String>, Vec<String>) = pairs.unzip();
    format!("{}, and this command has {}", before.join(" "), now.join(" "))
}

/// The options of a pack that decide on its bytes.
fn flags(pack: &Pack) -> [String; 7] {
    let unless = |flag: &str, given: bool| if given { flag.to_owned() } else { format!("no {flag}") };
    [
        format!("--size={}", pack.size),
        match pack.form {
            Form::Jpeg(quality) => format!("--quality={quality}"),
            Form::Raw => "--raw".to_owned(),
        },
        match pack.filter {
            Filter::Area => "--filter=area".to_owned(),
            Filter::Bicubic => "--filter=bicubic".to_owned(),
        },
        unless("--jpeg-scaling", pack.jpeg_scaling),
        match pack.limit {
            ShardLimit::Samples(samples) => format!("--shard-samples={samples}"),
            ShardLimit::Bytes(bytes) => format!("--shard-size={bytes}"),
        },
        match pack.shuffle {
            Some(seed) => format!("--shuffle --seed={seed}"),
            None => "no --shuffle".to_owned(),
        },
        match &pack.tokens {
            Some(tokens) => format!("--tokens ({}, fingerprint {})", tokens.description, tokens.fingerprint),
            None => "no --tokens".to_owned(),
        },
    ]
}

/// Writes a file under a temporary name, syncs it, and gives it its name.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = PathBuf::from(format!("{}{PARTIAL}", path.display()));
    let mut file = File::create(&partial)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&partial, path)).inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes renames survive a power failure.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_program_leaves_the_shard_of_the_first_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (form, filter, limit) = (Form::Raw, Filter::Area, ShardLimit::Samples(1));
        let options =
            Pack { size: 8, form, filter, jpeg_scaling: false, limit, shuffle: None, max_bad: 0.1, tokens: None };
        let first = Journal::open(folder.path(), &options, 1).unwrap();
        let partial = folder.path().join("000000.tar.part");
        std::fs::write(&partial, "half").unwrap();
        let refused = Journal::open(folder.path(), &options, 1).err().unwrap().to_string();
        assert!(refused.contains("another program is packing") && partial.exists(), "{refused}");
        drop(first);
        Journal::open(folder.path(), &Pack { max_bad: 0.5, ..options }, 1).unwrap();
        assert!(!partial.exists());
    }

    #[test]
    fn damage_before_the_last_line_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (form, filter, limit) = (Form::Raw, Filter::Area, ShardLimit::Samples(1));
        let options =
            Pack { size: 8, form, filter, jpeg_scaling: false, limit, shuffle: None, max_bad: 0.1, tokens: None };
        let open = || Journal::open(folder.path(), &options, 1).map_err(|error| error.to_string());
        // Without a whole shard, other options start from the beginning.
        drop(Journal::open(folder.path(), &options, 2).unwrap());
        drop(Journal::open(folder.path(), &Pack { size: 9, ..options.clone() }, 1).unwrap());
        let mut journal = open().unwrap();
        for number in 0..3 {
            let shard = format!("{number:06}.tar");
            std::fs::write(folder.path().join(&shard), shard.as_bytes()).unwrap();
            let crc32c = crc32c::crc32c(shard.as_bytes());
            let (bytes, next) = (shard.len() as u64, (0, number + 1));
            let skipped = Skipped::new();
            let line = Line {
                shard,
                samples: 1,
                bytes,
                crc32c,
                next,
                visited: number + 1,
                skipped,
                unusable_shards: 0,
                lost: 0,
            };
            journal.add(line).unwrap();
        }
        journal.complete().unwrap();
        drop(journal);
        assert!(open().unwrap().is_complete());
        let path = folder.path().join(NAME);
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        // A part of the last one, and then another text instead of it.
        for last in [&lines[3][..9], "\0\0\n"] {
            std::fs::write(&path, lines[..3].concat() + last).unwrap();
            let journal = open().unwrap();
            assert!(journal.lines.len() == 2 && !journal.is_complete());
        }
        std::fs::write(&path, [lines[0], lines[1], "{}\n", lines[3]].concat()).unwrap();
        assert!(open().err().unwrap().contains("line 3 of its pack.jsonl is damaged"));
        std::fs::write(&path, lines[0]).unwrap();
        let other = Journal::open(folder.path(), &options, 2).err().unwrap().to_string();
        assert!(other.contains("a pack of other shards"), "the shards are not overwritten: {other}");
        std::fs::write(&path, &whole).unwrap();
        std::fs::write(folder.path().join("000001.tar"), "000000.tar").unwrap();
        let other = Journal::open(folder.path(), &Pack { size: 9, ..options.clone() }, 1).err().unwrap().to_string();
        assert!(
            other.contains(
                "a pack with --size=8, and this command has --size=9; give the same options, or another --out"
            ),
            "{other}"
        );
        let refused = open().err().unwrap();
        assert!(refused.contains("000001.tar has changed since it was written"), "{refused}");
    }
}
