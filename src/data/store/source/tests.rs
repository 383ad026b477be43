//! What users write for their data.

use super::*;
use crate::data::store::left_out;

#[test]
fn shards_are_found_by_brace_glob_and_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.tar", "a.tar", "c.tar.gz", "note.txt"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    let names = |pattern: &str| -> Vec<String> {
        let spec = folder.path().join(pattern).display().to_string();
        let shards = Source::parse(&spec).unwrap().shards;
        let name = |shard: &Location| shard.to_string().rsplit('/').next().unwrap().to_owned();
        shards.iter().map(name).collect()
    };
    assert_eq!(names("{b,a}.tar"), ["b.tar", "a.tar"]);
    assert_eq!(names("*.tar"), ["a.tar", "b.tar"]);
    assert_eq!(names(""), ["a.tar", "b.tar", "c.tar.gz"]);
    // A file whose name has braces is not a pattern.
    std::fs::write(folder.path().join("{a,b}.tar"), b"x").unwrap();
    assert_eq!(names("{a,b}.tar"), ["{a,b}.tar"]);
    std::fs::remove_file(folder.path().join("{a,b}.tar")).unwrap();
    // In any case, and including those with a compression that is not read, an error later on.
    for name in ["D.TAR", "B.Tgz", "e.tar.zst", "._a.tar", "a.tar.md5"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    std::fs::create_dir(folder.path().join("folder.tar")).unwrap();
    assert_eq!(names(""), ["D.TAR", "a.tar", "b.tar", "c.tar.gz", "B.Tgz", "e.tar.zst"]);
    // Parquet, but not img2dataset's table about the shard or the folder next to it.
    for name in ["a.parquet", "c.parquet", "f.Parquet", "g.parquet"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    std::fs::create_dir(folder.path().join("g")).unwrap();
    assert_eq!(names("")[6..], ["f.Parquet"]);
    assert_eq!(names("*.parquet"), ["a.parquet", "c.parquet", "g.parquet"]);
    std::fs::remove_file(folder.path().join("f.Parquet")).unwrap();
    let spec = [folder.path().display().to_string()];
    assert!(left_out(&spec).is_empty());
    std::fs::write(folder.path().join("folder.tar/f.tar"), b"x").unwrap();
    assert_eq!(left_out(&spec).len(), 1);
    assert!(left_out(&spec)[0].contains("shards in 1 of the subfolders of") && left_out(&spec)[0].contains("**/*.tar"));
    for name in ["one.jpg", "two.PNG", "notes.txt"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    assert!(left_out(&spec)[1].contains("2 images beside the shards in"), "{:?}", left_out(&spec));
    let outer = tempfile::tempdir().unwrap();
    std::fs::create_dir(outer.path().join("in")).unwrap();
    std::fs::write(outer.path().join("in/a.tar"), b"x").unwrap();
    let error = Source::parse(&outer.path().display().to_string()).unwrap_err().to_string();
    assert!(error.contains("holds in; subfolders are not searched"), "{error}");
    assert!(error.contains("/**/*.tar` finds"), "{error}");
    std::fs::remove_file(outer.path().join("in/a.tar")).unwrap();
    for (name, end) in [("in/a.PARQUET", "/**/*.parquet`"), ("in/a.tfrecord-00000-of-00001", "/**/*.tfrecord*`")] {
        std::fs::write(outer.path().join(name), b"x").unwrap();
        let error = Source::parse(&outer.path().display().to_string()).unwrap_err().to_string();
        assert!(error.contains(end), "{error}");
        std::fs::remove_file(outer.path().join(name)).unwrap();
    }
    // A table alone.
    std::fs::write(outer.path().join("metadata.csv"), b"file_name,text\n").unwrap();
    let error = Source::parse(&outer.path().display().to_string()).unwrap_err().to_string();
    assert!(error.contains("name it instead of the folder: ") && error.ends_with("/metadata.csv"), "{error}");
}

#[test]
#[cfg(feature = "remote")]
fn a_cache_that_cannot_be_made_is_one_error() {
    use crate::data::store::CacheFolder;
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Some(CacheFolder { folder: file.path().to_owned(), bytes: 1 << 30 });
    let access = Access { cache, ..Access::default() };
    let error = Source::parse_with("http://host/{0..9}.tar", &access).unwrap_err().to_string();
    let start = format!("cannot use the cache folder {} (--cache): it is a file", file.path().display());
    assert_eq!(error, start);
    // No one can make a folder there.
    let cache = Some(CacheFolder { folder: "/proc/flipk/cache".into(), bytes: 1 << 30 });
    let access = Access { cache, ..Access::default() };
    let error = Source::parse_with("http://host/{0..9}.tar", &access).unwrap_err();
    assert!(matches!(error, DataError::Cache { .. }), "{error}");
}

#[test]
fn sources_that_only_other_programs_read_are_named() {
    // Without the feature, addresses are refused before anything else is looked at.
    let remote = |why| if cfg!(feature = "remote") { why } else { "build flipk with the feature `remote`" };
    for (spec, why) in [
        ("hdfs://host/a.tar", "hdfs:// addresses are not read, but s3://"),
        ("https://example.org/shards/", remote("web servers give no list of a folder")),
        ("https://example.org/*.tar", remote("web servers give no list of files")),
        ("s3:///a.tar", remote("the name after :// is missing")),
        ("pipe: ", "the command is missing"),
        ("file:///data/a.tar", "give the path alone: `/data/a.tar`"),
    ] {
        let error = Source::parse(spec).unwrap_err().to_string();
        assert!(error.contains(spec) && error.contains(why), "{error}");
    }
    // A file is a file, whatever it is called.
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("a::b.tar");
    std::fs::write(&odd, b"x").unwrap();
    let two = format!("{}::embedded:noto", odd.display());
    assert!(
        Source::parse_all(&two, &Access::default()).unwrap_err().to_string().contains("no such file"),
        "it is split everywhere"
    );
    let found = Source::parse_all(&odd.display().to_string(), &Access::default()).unwrap();
    assert!(found.len() == 1 && found[0].shards == [Location::File(odd)]);
}

#[test]
fn addresses_and_commands_expand_their_braces() {
    let names =
        |spec: &str| -> Vec<String> { Source::parse(spec).unwrap().shards.iter().map(Location::to_string).collect() };
    assert_eq!(names("pipe:cat {1..2}.tar"), ["pipe:cat 1.tar", "pipe:cat 2.tar"]);
    if cfg!(feature = "remote") {
        assert_eq!(names("s3://b/f/{a,b}.tar"), ["s3://b/f/a.tar", "s3://b/f/b.tar"]);
        // What follows a question mark is neither a pattern nor a folder.
        for signed in ["https://host/a.tar?X-Signature=1*2", "https://host/get?path=a/", "https://host/b?[a]=1?"] {
            assert_eq!(names(signed), [signed]);
        }
        let two = Source::parse_all("http://[::1]:80/a.tar::http://host/b.tar", &Access::default()).unwrap();
        let specs: Vec<&str> = two.iter().map(|source| &*source.spec).collect();
        assert_eq!(specs, ["http://[::1]:80/a.tar", "http://host/b.tar"]);
    }
}

#[test]
fn errors_say_what_is_missing_and_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.tar"), b"x").unwrap();
    let error =
        |pattern: &str| Source::parse(&folder.path().join(pattern).display().to_string()).unwrap_err().to_string();
    let missing = error("{a,b,c}.tar");
    assert!(missing.contains("2 of the 3 shards") && missing.contains("do not exist"), "{missing}");
    assert!(error("{a,b}.tar").contains("one of the 2 shards of"), "{}", error("{a,b}.tar"));
    assert!(error("b.tar").starts_with("there is no such file: "), "{}", error("b.tar"));
    assert!(missing.contains("b.tar") && missing.contains("holds a.tar"), "{missing}");
    let unmatched = error("*.tgz");
    assert!(unmatched.contains("nothing matches") && unmatched.contains("holds a.tar"), "{unmatched}");
    for (spec, hint) in
        [("a.tar,b.tar", "one by one"), ("{000-010}.tar", "two dots"), ("'a.tar'", ""), ("b.tar", "holds a.tar")]
    {
        assert!(error(spec).contains(hint), "{}", error(spec));
    }
    assert!(Source::parse("~/no.tar").unwrap_err().to_string().contains("outside of single quotes"));
    assert!(Source::parse("'no.tar'").unwrap_err().to_string().contains("the quotes are a part"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("loop.tar"), folder.path().join("loop.tar")).unwrap();
        std::os::unix::fs::symlink("/nowhere/x.tar", folder.path().join("gone.tar")).unwrap();
        assert!(error("loop.tar").contains("is a link to"), "{}", error("loop.tar"));
        assert!(error("gone.tar").contains("a link to /nowhere/x.tar, which cannot be followed"));
    }
    assert!(error("nowhere/*.tar").contains("cannot be read"));
    assert!(Source::parse("embedded:nonesuch").unwrap_err().to_string().contains("there are only embedded:noto"));
}

#[test]
fn files_are_checked_without_asking_servers_or_running_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("a.tar"), b"x").unwrap();
    let elsewhere = "s3://none/*.tar::az://none/f/::hdfs://a";
    for found in [&path("a.tar"), &path("*.tar"), elsewhere, "pipe: ", "pipe:cat a::b", "embedded:noto"] {
        Source::check_files(found).unwrap();
    }
    let mixed = format!("{elsewhere}::{}", path("b.tar"));
    for (spec, why) in [(mixed, "no such file"), (path("*.tgz"), "nothing matches")] {
        let error = Source::check_files(&spec).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
