//! What the loader makes of servers, good and bad.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Batch, Loader, LoaderConfig, Position};
use crate::data::dataset::{Order, TrainingData};
use crate::data::sample::image::Decoding;
use crate::data::sample::{CaptionKeys, Tokenizer};
use crate::data::store::{ATTEMPTS, Access, CacheFolder, RANGE};
use crate::data::testing::server::{Mood, Server};
use crate::data::testing::{Archive, indexed, png};

/// What takes longer than this hangs.
const BOUND: Duration = Duration::from_secs(15);

/// An archive of some ranges.
fn archive() -> Archive {
    archive_of(20)
}

fn archive_of(samples: u64) -> Archive {
    let mut archive = Archive::default();
    for number in 0..samples {
        archive.add(&format!("{number}.png"), &png(60, 50, number)).add(&format!("{number}.txt"), b"a name");
    }
    assert!(std::fs::metadata(archive.file()).unwrap().len() > 2 * RANGE + 1000);
    archive
}

fn keys(cache: Option<CacheFolder>) -> CaptionKeys {
    let access = Access { io_timeout: Duration::from_millis(300), cache };
    CaptionKeys { access, ..CaptionKeys::default() }
}

/// A few batches of an epoch and a half, or the error that ends the run.
fn batches(spec: &str, order: Order) -> Result<Vec<Batch>, String> {
    batches_with(None, spec, order)
}

fn batches_with(cache: Option<CacheFolder>, spec: &str, order: Order) -> Result<Vec<Batch>, String> {
    let begun = Instant::now();
    let read = move || -> crate::data::Result<Vec<Batch>> {
        let data = TrainingData::open(&[spec], keys(cache), Decoding::default(), order, None)?;
        let tokenizer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\na\nname\n", "vocab.txt")?;
        let config = LoaderConfig { batch: 5, image_size: 16, patch_size: 4, context: 6, ..LoaderConfig::default() };
        let mut loader = Loader::new(data, tokenizer, config, Position::default())?;
        (0..6).map(|_| Ok(Batch { waited: Duration::ZERO, ..loader.next_batch()? })).collect()
    };
    let result = read().map_err(|error| error.to_string());
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    result
}

#[test]
fn batches_are_those_of_local_files_whatever_the_server_does() {
    let archive = archive();
    let local = |order| batches(&archive.file(), order).unwrap();
    let bytes = std::fs::read(archive.file()).unwrap();
    let once = |mood| move |number| if number == 1 { mood } else { Mood::Honest };
    for order in [Order::Global, Order::Shards] {
        let expected = local(order);
        for mood in [Mood::Honest, Mood::Stall, Mood::Silent, Mood::Cut, Mood::Busy, Mood::Changed] {
            let server = Server::new(once(mood));
            assert_eq!(batches(&server.put("a.tar", bytes.clone()), order).unwrap(), expected, "{mood:?}");
        }
        for mood in [Mood::NoRanges, Mood::Unmeasured] {
            let server = Server::new(move |_| mood);
            assert_eq!(batches(&server.put("a.tar", bytes.clone()), order).unwrap(), expected, "{mood:?}");
        }
    }
    // The whole file in one answer that is cut at first.
    let server = Server::new(|number| if number == 0 { Mood::Busy } else { Mood::NoRanges });
    assert_eq!(batches(&server.put("a.tar", bytes), Order::Global).unwrap(), local(Order::Global));
}

#[test]
fn an_index_in_front_changes_no_batch() {
    let archive = archive();
    let server = Server::new(|_| Mood::Honest);
    let archives = [std::fs::read(archive.file()).unwrap(), indexed(20).0];
    let [plain, front] = ["plain.tar", "front.tar"].map(|name| server.address(name));
    ["plain.tar", "front.tar"].iter().zip(&archives).for_each(|(name, bytes)| drop(server.put(name, bytes.clone())));
    for order in [Order::Global, Order::Shards] {
        assert_eq!(batches(&front, order).unwrap(), batches(&plain, order).unwrap());
    }
}

#[test]
fn packed_shards_and_braces_work_as_on_disk() {
    let archive = archive();
    let folder = tempfile::tempdir().unwrap();
    let packed = zstd::encode_all(&std::fs::read(archive.file()).unwrap()[..], 3).unwrap();
    let server = Server::new(|_| Mood::Honest);
    for name in ["0.tar.zst", "1.tar.zst"] {
        std::fs::write(folder.path().join(name), &packed).unwrap();
        server.put(&format!("f/{name}"), packed.clone());
    }
    let spec = "{0..1}.tar.zst";
    for order in [Order::Global, Order::Shards] {
        let local = batches(&folder.path().join(spec).display().to_string(), order).unwrap();
        assert_eq!(batches(&server.address(&format!("f/{spec}")), order).unwrap(), local);
    }
}

#[test]
fn servers_that_stay_bad_are_named_errors() {
    let bytes = std::fs::read(archive().file()).unwrap();
    let attempts = format!("({ATTEMPTS} attempts)");
    for (mood, what) in [
        (Mood::Stall, "no data for 0.3 s"),
        (Mood::Silent, "no answer for 0.3 s"),
        (Mood::Busy, "the server answered 503"),
        (Mood::Boasting, ""),
    ] {
        let server = Server::new(move |_| mood);
        let address = server.put("a.tar", bytes.clone());
        let error = batches(&address, Order::Global).unwrap_err();
        assert!(error.contains(&address) && error.contains(what) && error.contains(&attempts), "{mood:?}: {error}");
        assert_eq!(server.count("GET", "a.tar"), ATTEMPTS as usize, "{mood:?}");
    }
    let len = bytes.len();
    let contradicting = format!("`Content-Range: bytes 0-{len}/{len}`, which is not a part of a file");
    for (mood, what) in [
        (Mood::Denied, "access is denied (403: Forbidden)"),
        (Mood::Elsewhere, "was asked for bytes 0 to"),
        (Mood::Contradicting, &contradicting),
    ] {
        let server = Server::new(move |_| mood);
        let error = batches(&server.put("a.tar", bytes.clone()), Order::Shards).unwrap_err();
        assert!(error.contains(what), "{mood:?}: {error}");
        assert_eq!(server.count("GET", "a.tar"), 1, "{mood:?}");
    }
    let server = Server::new(|number| if number % 2 == 1 { Mood::Changed } else { Mood::Honest });
    let error = batches(&server.put("a.tar", bytes), Order::Global).unwrap_err();
    assert!(error.contains("it changed while it was fetched"), "{error}");
    let error = batches(&server.address("none.tar"), Order::Global).unwrap_err();
    assert!(error.contains("none.tar: there is no such file (404"), "{error}");
    let error = batches(&server.put("empty.tar", Vec::new()), Order::Global).unwrap_err();
    assert!(error.contains("(0 bytes)"), "{error}");
    let error = batches("http://127.0.0.1:1/a.tar", Order::Global).unwrap_err();
    assert!(error.contains(&attempts) && error.to_lowercase().contains("connect"), "{error}");
    let table = server.put("a.csv", b"filepath,title\na.jpg,a cat\n".to_vec());
    assert!(batches(&table, Order::Global).unwrap_err().contains("images of a table are read only from disk"));
}

/// Fetched, and then unpacked.
#[cfg(feature = "parquet")]
#[test]
fn parquet_at_an_address_is_that_on_disk() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/hugging-face.parquet");
    let server = Server::new(|_| Mood::Honest);
    let address = server.put("a.parquet", std::fs::read(&path).unwrap());
    for order in [Order::Global, Order::Shards] {
        assert_eq!(batches(&address, order).unwrap(), batches(&path.display().to_string(), order).unwrap());
    }
}

#[test]
fn counts_beside_the_shards_are_read_once() {
    let server = Server::new(|_| Mood::Honest);
    let bytes = std::fs::read(archive().file()).unwrap();
    (0..2).for_each(|number| drop(server.put(&format!("f/{number}.tar"), bytes.clone())));
    server.put("f/sizes.json", br#"{"0.tar": 20, "1.tar": 20}"#.to_vec());
    let spec = [server.address("f/{0..1}.tar")];
    let data = TrainingData::open(&spec, keys(None), Decoding::default(), Order::Shards, None).unwrap();
    assert_eq!((data.samples(), server.count("GET", "sizes.json")), (Some(40), 1));
    // Where the first folder says nothing, the others are not asked.
    for folder in 0..20 {
        server.put(&format!("g{folder}/0.tar"), bytes.clone());
    }
    let spec = [server.address("g{0..19}/0.tar")];
    let data = TrainingData::open(&spec, keys(None), Decoding::default(), Order::Shards, None).unwrap();
    assert_eq!((data.samples(), server.count("GET", "sizes.json"), server.count("GET", "__len__")), (None, 2, 2));
}

/// The shards in a cache, by name, and what they take together.
fn kept(folder: &Path) -> (Vec<PathBuf>, u64) {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut shards: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "shard")).collect();
    shards.sort();
    let bytes = shards.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    (shards, bytes)
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    let (archive, folder) = (archive(), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(archive.file()).unwrap();
    let expected = batches(&archive.file(), Order::Shards).unwrap();
    let server = Server::new(|_| Mood::Honest);
    let address = server.put("a.tar", bytes.clone());
    let cache = || Some(CacheFolder { folder: folder.path().to_owned(), bytes: 64 << 20 });
    let fetched = || server.count("GET", "a.tar");
    let ranges = bytes.len().div_ceil(RANGE as usize);
    for _ in 0..2 {
        assert_eq!(batches_with(cache(), &address, Order::Shards).unwrap(), expected);
        assert_eq!((fetched(), kept(folder.path()).0.len()), (ranges, 1));
    }
    // Damaged, cut, and not a shard at all.
    let path = kept(folder.path()).0.remove(0);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (times, wrong) in [(2, &damaged[..]), (3, &whole[..whole.len() / 2]), (4, &b"x"[..])] {
        std::fs::write(&path, wrong).unwrap();
        assert_eq!(batches_with(cache(), &address, Order::Shards).unwrap(), expected);
        assert_eq!((fetched(), std::fs::read(&path).unwrap() == whole), (times * ranges, true));
    }
    // Another object at the address is another shard.
    let other = archive_of(21);
    server.put("a.tar", std::fs::read(other.file()).unwrap());
    let expected = batches(&other.file(), Order::Shards).unwrap();
    assert_eq!(batches_with(cache(), &address, Order::Shards).unwrap(), expected);
    assert_eq!(kept(folder.path()).0.len(), 2);
}

#[test]
fn the_cache_is_never_larger_than_it_may_be() {
    let (archive, folder) = (archive(), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(archive.file()).unwrap();
    let server = Server::new(|_| Mood::Honest);
    (0..6).for_each(|number| drop(server.put(&format!("{number}.tar"), bytes.clone())));
    let limit = bytes.len() as u64 * 2 + 10_000;
    let cache = |bytes| Some(CacheFolder { folder: folder.path().to_owned(), bytes });
    let spec = server.address("{0..5}.tar");
    for order in [Order::Shards, Order::Global] {
        let expected = batches(&spec, order).unwrap();
        // Those in use stay readable although others took their place.
        assert_eq!(batches_with(cache(limit), &spec, order).unwrap(), expected);
        let (shards, bytes) = kept(folder.path());
        // In the order of shards, room was also made for shards of the next epoch, whose fetch was then stopped.
        let full = order == Order::Shards || shards.len() == 2;
        assert!(full && shards.len() <= 2 && bytes <= limit, "{} {bytes}", shards.len());
    }
    // The one that was used last stays.
    let last = server.address("5.tar");
    batches_with(cache(limit), &last, Order::Global).unwrap();
    let before = server.count("GET", "5.tar");
    batches_with(cache(limit), &server.address("4.tar"), Order::Global).unwrap();
    batches_with(cache(limit), &last, Order::Global).unwrap();
    assert_eq!(server.count("GET", "5.tar"), before);
    // Too small for any: fetched, and not kept.
    let small = tempfile::tempdir().unwrap();
    let tiny = Some(CacheFolder { folder: small.path().to_owned(), bytes: 1000 });
    batches_with(tiny, &last, Order::Global).unwrap();
    assert!(kept(small.path()).0.is_empty());
}

#[test]
fn what_a_killed_process_left_in_the_cache_is_removed() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::new(|_| Mood::Honest));
    let [left, written] = ["1-0.part", "2-0.part"].map(|name| folder.path().join(name));
    std::fs::write(&left, b"half").unwrap();
    // As by another process.
    let other = std::fs::File::create(&written).unwrap();
    other.lock().unwrap();
    let cache = CacheFolder { folder: folder.path().to_owned(), bytes: 64 << 20 };
    batches_with(Some(cache), &server.put("a.tar", std::fs::read(archive().file()).unwrap()), Order::Global).unwrap();
    assert!(!left.exists() && written.exists());
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = CacheFolder { folder: file.path().to_owned(), bytes: 64 << 20 };
    let error = batches_with(Some(cache), &server.address("a.tar"), Order::Global).unwrap_err();
    assert!(error.contains("cannot use the cache"), "{error}");
}
