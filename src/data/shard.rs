//! One shard in memory: the bytes of its archive and which of them make which sample.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    ops::{Deref, Range},
};

use flate2::read::MultiGzDecoder;
use memmap2::Mmap;

use super::{Error, Location, Result, embedded, source::some, tar};

/// Extensions of images. What a file holds is told by its content.
const IMAGES: [&str; 11] = ["jpg", "png", "jpeg", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif"];
const GZIP: [u8; 2] = [0x1F, 0x8B];
/// A gzipped shard is inflated into memory; one larger than this is better stored as a plain `.tar`.
const MAX_INFLATED: u64 = 8 << 30;

/// An indexed archive.
pub(super) struct Shard {
    pub name: String,
    bytes: Bytes,
    pub samples: Vec<Entry>,
    /// Every extension in the archive, for error messages.
    pub extensions: BTreeSet<String>,
}

/// The members that share a key, as ranges of the archive's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub key: Box<str>,
    pub image: Option<Range<usize>>,
    pub txt: Option<Range<usize>>,
    pub json: Option<Range<usize>>,
    /// The number of a class, as evaluation archives have it.
    pub cls: Option<Range<usize>>,
    /// Why a member of this sample is not whole.
    pub cut: Option<Box<str>>,
}

enum Bytes {
    Mapped(Mmap),
    Inflated(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Inflated(bytes) => bytes,
        }
    }
}

impl Shard {
    /// Maps (or inflates) and indexes one shard.
    ///
    /// # Errors
    /// A file that cannot be read, is no tar archive, or holds no sample.
    pub fn open(location: &Location) -> Result<Self> {
        let name = location.to_string();
        let (bytes, cut) = match location {
            Location::Embedded(wanted) => {
                let archive = embedded::SHARDS.iter().find(|(known, _)| known == wanted);
                inflate(archive.map_or(&[][..], |(_, archive)| archive), &name)?
            }
            Location::File(path) => {
                let read = |source| Error::Read { path: path.clone(), source };
                let file = File::open(path).map_err(read)?;
                // Nothing is mapped from an empty file.
                if file.metadata().map_err(read)?.len() == 0 {
                    return Err(empty(name, "an empty file of 0 bytes".to_owned()));
                }
                // SAFETY: the map is only ever read. As with every memory-mapped data set, nobody may shorten the
                // file while it is in use; the shards of a data set are written once.
                let map = unsafe { Mmap::map(&file) }.map_err(read)?;
                match map.starts_with(&GZIP) {
                    true => inflate(&map, &name)?,
                    false => (Bytes::Mapped(map), None),
                }
            }
        };
        Self::index(name, bytes, cut)
    }

    fn index(name: String, bytes: Bytes, inflation: Option<String>) -> Result<Self> {
        let index = match tar::index(&bytes) {
            Ok(index) => index,
            Err(problem) => {
                let problem = inflation.map_or(problem.clone(), |inflation| format!("{inflation}; {problem}"));
                return Err(Error::NotTar { shard: name, problem });
            }
        };
        let mut samples: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut extensions = BTreeSet::new();
        let mut entry_of = |samples: &mut Vec<Entry>, key: &str| match places.get(key) {
            Some(&at) => at,
            None => {
                places.insert(key.to_owned(), samples.len());
                samples.push(Entry { key: key.into(), ..Entry::default() });
                samples.len() - 1
            }
        };
        for member in index.members {
            let Some((key, extension)) = key_and_extension(&member.name) else { continue };
            let last = extension.rsplit('.').next().unwrap_or(extension).to_ascii_lowercase();
            let slot: fn(&mut Entry) -> &mut Option<Range<usize>> = match &*last {
                "txt" => |entry| &mut entry.txt,
                "json" => |entry| &mut entry.json,
                "cls" => |entry| &mut entry.cls,
                image if IMAGES.contains(&image) => |entry| &mut entry.image,
                _ => {
                    extensions.insert(last);
                    continue;
                }
            };
            let at = entry_of(&mut samples, key);
            slot(&mut samples[at]).get_or_insert(member.data);
            extensions.insert(last);
        }
        let cut = index.cut.map(|cut| (cut.name, cut.problem));
        if let Some((member, problem)) = cut.or_else(|| inflation.map(|inflation| (None, inflation))) {
            let key = member.as_deref().and_then(key_and_extension).map_or("(unnamed)", |(key, _)| key);
            let at = entry_of(&mut samples, key);
            samples[at].cut = Some(format!("{}: {problem}", member.as_deref().unwrap_or("the archive")).into());
        }
        if samples.is_empty() {
            return Err(empty(name, some(extensions.into_iter().map(|extension| format!(".{extension}")))));
        }
        Ok(Self { name, bytes, samples, extensions })
    }

    pub fn bytes(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.clone().map(|range| &self.bytes[range])
    }
}

/// What an image is looked for in, for an error message.
pub(super) fn image_members() -> String {
    format!("members ending in .{}", IMAGES.join(", ."))
}

fn empty(shard: String, found: String) -> Error {
    Error::EmptyShard { shard, looked_for: format!("{}, .txt, .json or .cls", image_members()), found }
}

/// WebDataset's rule: the key is the path up to the first dot of the base name, the extension what follows it.
/// Hidden files, `__meta__` files and those without a dot belong to no sample.
fn key_and_extension(member: &str) -> Option<(&str, &str)> {
    let member = member.strip_prefix("./").unwrap_or(member);
    let base = member.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + member[base..].find('.')?;
    let stem = &member[base..dot];
    let private = stem.starts_with("__") && stem.ends_with("__");
    (!stem.is_empty() && !private).then(|| (&member[..dot], &member[dot + 1..]))
}

/// Inflates a gzipped archive; from a damaged one, what comes before the damage, and why it ends there.
fn inflate(gzipped: &[u8], name: &str) -> Result<(Bytes, Option<String>)> {
    let mut bytes = Vec::new();
    let result = MultiGzDecoder::new(gzipped).take(MAX_INFLATED).read_to_end(&mut bytes);
    if bytes.len() as u64 == MAX_INFLATED {
        let problem = format!("it inflates to more than {} GiB; store it as a plain .tar", MAX_INFLATED >> 30);
        return Err(Error::Spec { spec: name.to_owned(), problem });
    }
    Ok((Bytes::Inflated(bytes), result.err().map(|error| format!("gzip: {error}"))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn keys_follow_the_webdataset_rule() {
        assert_eq!(key_and_extension("a/b.c/001.left.jpg"), Some(("a/b.c/001", "left.jpg")));
        assert_eq!(key_and_extension("./001.txt"), Some(("001", "txt")));
        for none in ["README", "a.b/README", ".hidden.jpg", "x/._1.jpg", "__meta__.json"] {
            assert_eq!(key_and_extension(none), None, "{none}");
        }
    }

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        tar::append(&mut bytes, "1.JPG", b"image 1");
        tar::append(&mut bytes, "2.png", b"image 2");
        tar::append(&mut bytes, "1.txt", b"one");
        tar::append(&mut bytes, "notes.md", b"no sample");
        tar::append(&mut bytes, "2.json", &[b' '; 2000]);
        tar::finish(&mut bytes);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Shard> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Shard::open(&Location::File(file.path().to_owned()))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn samples_are_members_that_share_a_key() {
        for bytes in [archive(), gzip(&archive())] {
            let shard = open(&bytes).unwrap();
            let read = |range| shard.bytes(range).map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
            let samples: Vec<_> = shard.samples.iter().map(|e| (&*e.key, read(&e.image), read(&e.txt))).collect();
            let some = |text: &str| Some(text.to_owned());
            assert_eq!(samples, [("1", some("image 1"), some("one")), ("2", some("image 2"), None)]);
            assert!(shard.samples[1].json.is_some() && shard.samples.iter().all(|entry| entry.cut.is_none()));
            assert_eq!(shard.extensions.iter().collect::<Vec<_>>(), ["jpg", "json", "md", "png", "txt"]);
        }
    }

    #[test]
    fn a_cut_shard_keeps_its_whole_samples() {
        let (tar, gz) = (archive(), gzip(&archive()));
        for bytes in [&tar[..tar.len() - 2000], &gz[..gz.len() - 2000]] {
            let shard = open(bytes).unwrap();
            let cut: Vec<bool> = shard.samples.iter().map(|entry| entry.cut.is_some()).collect();
            assert_eq!(cut, [false, true]);
            assert!(shard.samples[1].cut.as_deref().unwrap().contains("2.json"));
        }
        // Cut between members: the gzip stream alone tells that something is missing.
        let shard = open(&gz[..10 + 5 + 1024]).unwrap();
        assert_eq!(shard.samples.len(), 2);
        assert!(shard.samples[1].cut.as_deref().unwrap().contains("gzip"));
    }

    #[test]
    fn empty_shards_say_what_they_hold() {
        let error = |bytes: &[u8]| open(bytes).err().unwrap().to_string();
        assert!(error(b"").contains("0 bytes"));
        assert!(error(&[0; 10240]).contains("found nothing"));
        let mut bytes = Vec::new();
        tar::append(&mut bytes, "a.mp3", b"sound");
        assert!(error(&bytes).contains("found .mp3"));
        assert!(error(b"%PDF-1.4").contains("not a tar"));
        assert!(matches!(Shard::open(&Location::File("/nonexistent.tar".into())), Err(Error::Read { .. })));
    }
}
