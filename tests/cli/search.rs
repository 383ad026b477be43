//! `flipk embed` and `flipk search`.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::harness::flipk;
use crate::place::Place;
use crate::robust::png;

/// Images need no captions; texts and images of a model are the rows that evaluation uses.
#[test]
fn embeddings_are_written_in_order() {
    let place = Place::new();
    let shard = place.shard("a.tar", &[0, 1, 2, 3, 4].map(|image| (image, [("json", "{}")].as_slice())));
    place.train("run", &["--steps=2"]).expect(0);
    let [run, out] = ["run", "out.safetensors"].map(|name| place.path(name).display().to_string());
    let texts = place.file("texts.txt", "a cat\na dog\na cat\n");
    let flags =
        [format!("--images={shard}"), format!("--texts={texts}"), format!("--out={out}"), "--batch=2".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ran = flipk(&[&["embed", &run], flags.as_slice()].concat()).expect(0);
    assert!(ran.stdout.contains("5 images, 3 texts"), "{}", ran.stdout);
    let bytes = fs::read(&out).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    let rows = |name: &str| {
        let tensor = found.tensor(name).unwrap();
        assert_eq!(tensor.shape()[1], 16);
        tensor.data().chunks_exact(16 * 4).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!((rows("images").len(), rows("texts").len()), (5, 3));
    assert!(rows("texts")[0] == rows("texts")[2] && rows("texts")[0] != rows("texts")[1]);
    let keys = fs::read_to_string(format!("{out}.keys")).unwrap();
    assert_eq!(keys.lines().collect::<Vec<_>>(), ["000", "001", "002", "003", "004"]);

    let npy = place.path("out.npy").display().to_string();
    flipk(&["embed", &run, "--images", &shard, "--out", &npy]).expect(0);
    let bytes = fs::read(&npy).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.ends_with(&rows("images")[4]), "the last row is another");
    let error = flipk(&["embed", &run, "--images", &shard, "--texts", &texts, "--out", &npy]).expect(1).stderr;
    assert!(error.contains("can have one matrix"), "{error}");
    let error = flipk(&["embed", &run, "--images", &shard, "--out", "x.bin"]).expect(1).stderr;
    assert!(error.contains("must end in .npy, .safetensors or .parquet"), "{error}");
    let error = flipk(&["embed", &run, "--out", &npy]).expect(2).stderr;
    assert!(error.contains("--images <SHARDS>") && error.contains("--texts <FILE>"), "{error}");
}

/// A trained model, and five images as a shard.
fn images() -> (Place, String, String) {
    let place = Place::new();
    let shard = place.shard("a.tar", &[0, 1, 2, 3, 4].map(|image| (image, [("txt", "a cat")].as_slice())));
    place.train("run", &["--steps=2"]).expect(0);
    let run = place.path("run").display().to_string();
    (place, run, shard)
}

/// Rows and scores of each query, as JSON has them.
fn matches(args: &[&str]) -> Vec<Vec<(u64, f64)>> {
    let printed = flipk(&[&["search"], args, &["--json"]].concat()).expect(0).stdout;
    let answers: Vec<Value> = serde_json::from_str(&printed).unwrap();
    let found = |answer: &Value| {
        let found = answer["matches"].as_array().unwrap().iter();
        found.map(|found| (found["row"].as_u64().unwrap(), found["score"].as_f64().unwrap())).collect()
    };
    answers.iter().map(found).collect()
}

/// Images and every form of their embeddings give the same matches, best first.
#[test]
fn search_finds_the_same_in_images_and_embeddings() {
    let (place, run, shard) = images();
    let query = place.path("query.png").display().to_string();
    fs::write(&query, png(3)).unwrap();
    let queries = [run.as_str(), "a cat", "a dog", "--image", &query, "--in"];
    let found = matches(&[&queries[..], &[&shard]].concat());
    assert!(found.len() == 3 && found.iter().all(|found| found.len() == 5), "{found:?}");
    assert!(found.iter().all(|found| found.is_sorted_by(|a, b| a.1 >= b.1)), "{found:?}");
    assert!(found[2][0].0 == 3 && found[2][0].1 > 0.9999, "{found:?}");
    for form in ["npy", "safetensors", "parquet"] {
        let out = place.path(&format!("out.{form}")).display().to_string();
        flipk(&["embed", &run, "--images", &shard, "--out", &out]).expect(0);
        assert_eq!(Path::new(&format!("{out}.keys")).exists(), form != "parquet");
        assert_eq!(matches(&[&queries[..], &[&out]].concat()), found, "{form}");
        let best: Vec<_> = found.iter().map(|found| found[..2].to_vec()).collect();
        assert_eq!(matches(&[&queries[..], &[&out, "--top=2", "--images", &shard]].concat()), best, "{form}");
        let table = flipk(&["search", &run, "a cat", "--in", &out]).expect(0).stdout;
        assert!(table.starts_with("a cat\n") && table.lines().all(|line| !line.contains("row")), "{table}");
        // With the images there are their shards and captions.
        let table = flipk(&["search", &run, "a cat", "--in", &out, "--images", &shard]).expect(0).stdout;
        assert_eq!(table.matches("a.tar:").count(), 5, "{table}");
        assert_eq!(table.matches("  a cat").count(), 5, "{table}");
    }
}

#[test]
fn search_draws_what_it_found() {
    let (place, run, shard) = images();
    let [sheet, out] = ["sheet.png", "out.npy"].map(|name| place.path(name).display().to_string());
    flipk(&["search", &run, "x", "y", "--in", &shard, "--picture", &sheet, "--columns=3"]).expect(0);
    let size = |path: &str| image::image_dimensions(path).unwrap();
    assert_eq!(size(&sheet).0, 3 * 244 + 20);
    let first = fs::read(&sheet).unwrap();
    flipk(&["embed", &run, "--images", &shard, "--out", &out]).expect(0);
    let flags = ["--in", &out, "--images", &shard, "--picture", &sheet, "--columns=3"];
    flipk(&[&["search", &run, "x", "y"], &flags[..]].concat()).expect(0);
    assert!(fs::read(&sheet).unwrap() == first, "another picture");
    let error = flipk(&["search", &run, "x", "--in", &out, "--picture", &sheet]).expect(1).stderr;
    assert!(error.contains("a picture needs the images"), "{error}");
    let [jpeg, other] = ["sheet.JPG", "sheet.webp"].map(|name| place.path(name).display().to_string());
    flipk(&["search", &run, "x", "--in", &shard, "--picture", &jpeg]).expect(0);
    assert!(fs::read(&jpeg).unwrap().starts_with(&[0xFF, 0xD8]) && size(&jpeg).0 > 0);
    let error = flipk(&["search", &run, "x", "--in", &shard, "--picture", &other]).expect(1).stderr;
    assert!(error.contains("its name must end in .png, .jpg or .jpeg"), "{error}");
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    let (place, run, shard) = images();
    let [out, other] = ["out.npy", "other.tar"].map(|name| place.path(name).display().to_string());
    flipk(&["embed", &run, "--images", &shard, "--out", &out]).expect(0);
    let error = |args: &[&str]| flipk(&[&["search", &run, "x", "--in"], args].concat()).expect(1).stderr;
    let bytes = fs::read(&out).unwrap();
    let changed = |from: &str, to: &str, end: usize| {
        let text = String::from_utf8_lossy(&bytes[10..1024]).replace(from, to);
        let header = [&bytes[..10], &text.as_bytes()[..1014]].concat();
        let path = place.path(&format!("{}-{end}.npy", to.trim())).display().to_string();
        fs::write(&path, [&header, &bytes[1024..end]].concat()).unwrap();
        path
    };
    let end = bytes.len();
    for (path, problem) in [
        (changed("", "", end - 1), "it is cut: it has no room for 5 x 16 numbers"),
        (changed("(5, 16)", "(10, 8)", end), "the embeddings have 8 numbers each, and the model's have 16"),
        (changed("(5, 16)", "(80,)  ", end), "embeddings have two dimensions"),
        (changed("<f4", "<i4", end), "it has numbers of the type <i4"),
        (changed("False", "True ", end), "numpy.ascontiguousarray"),
        (changed("(5, 16)", "(5, x16)", end), "its header is unknown"),
        (place.file("a.npy", "PK"), "its header is cut or damaged"),
        (place.path("missing.npy").display().to_string(), "No such file"),
    ] {
        let found = error(&[&path]);
        assert!(found.contains(problem), "{problem}: {found}");
    }
    // Numbers of 16 bits, as other programs write them.
    let half = place.path("half.npy").display().to_string();
    let numbers =
        bytes[1024..].as_chunks::<4>().0.iter().map(|&number| half::f16::from_f32(f32::from_le_bytes(number)));
    let header = [&bytes[..10], String::from_utf8_lossy(&bytes[10..1024]).replace("<f4", "<f2").as_bytes()].concat();
    fs::write(&half, [header, numbers.flat_map(half::f16::to_le_bytes).collect()].concat()).unwrap();
    let rows = |path: &str| matches(&[&run, "x", "--in", path])[0].iter().map(|(row, _)| *row).collect::<Vec<_>>();
    assert_eq!(rows(&half), rows(&out));

    place.shard("other.tar", &[(7, &[("txt", "a dog")])]);
    let found = error(&[&out, "--images", &other]);
    assert!(found.contains("is not among --images"), "{found}");
    let found = error(&[&shard, "--images", &shard]);
    assert!(found.contains("--images belongs to --in with a file of embeddings"), "{found}");
    assert!(error(&[&out, &shard]).contains("has embeddings: search it alone"));
    fs::write(format!("{out}.keys"), "000\n").unwrap();
    assert!(error(&[&out]).contains("has fewer lines than there are rows"));
    fs::write(format!("{out}.keys"), "000\n001\n002\n003\n004\n005\n").unwrap();
    assert!(error(&[&out]).contains("has more lines than there are rows"));
    // Rows without a direction are counted.
    fs::remove_file(format!("{out}.keys")).unwrap();
    let nan = [&bytes[..1024], &f32::NAN.to_le_bytes(), &bytes[1028..]].concat();
    fs::write(&out, nan).unwrap();
    let found = flipk(&["search", &run, "x", "--in", &out]).expect(0);
    assert!(found.stderr.contains("left out: 1 x embedding without a direction"), "{}", found.stderr);
    assert_eq!(found.stdout.matches("row ").count(), 4, "{}", found.stdout);
    let found = flipk(&["search", &run, "--image", &shard, "--in", &out]).expect(1).stderr;
    assert!(found.contains("a.tar: it is not a JPEG"), "{found}");
    let found = flipk(&["search", &run, "--in", &out]).expect(2).stderr;
    assert!(found.contains("<TEXT>"), "{found}");
}

/// Image files by name, by pattern and in a list, each with its name as its key, and with the caption next to it.
#[test]
fn image_files_are_embedded_by_name() {
    let (place, run, _) = images();
    fs::create_dir(place.path("photos")).unwrap();
    for number in [0, 1, 2] {
        fs::write(place.path(&format!("photos/{number}.png")), png(number)).unwrap();
    }
    fs::write(place.path("photos/1.txt"), "a dog").unwrap();
    fs::write(place.path("photos/1.JPG"), png(3)).unwrap();
    let path = |name: &str| place.path(name).display().to_string();
    let embedded = |images: &[&str], out: &str| {
        let images: Vec<String> = images.iter().map(|name| path(name)).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        flipk(&[&["embed", &run, "--out", &path(out), "--images"], &images[..]].concat()).expect(0);
        let keys = fs::read_to_string(path(&format!("{out}.keys"))).unwrap();
        (keys.lines().map(str::to_owned).collect::<Vec<_>>(), fs::read(path(out)).unwrap()[1024..].to_vec())
    };
    let (keys, all) = embedded(&["photos/*"], "all.npy");
    assert_eq!(keys, ["0.png", "1.JPG", "1.png", "2.png"]);
    let row = all.len() / 4;
    assert_eq!(embedded(&["photos/2.png"], "one.npy"), (vec!["2.png".to_owned()], all[3 * row..].to_vec()));
    let (keys, list) = embedded(&["photos/2.png", "photos/0.png", "a.tar"], "list.npy");
    assert_eq!((&keys[..3], keys.len()), (&["2.png", "0.png", "000"].map(str::to_owned)[..], 7));
    assert!(list[..row] == all[3 * row..] && list[row..2 * row] == all[..row]);
    let table = flipk(&["search", &run, "x", "--in", &path("photos/*.png")]).expect(0).stdout;
    assert!(table.contains("photos:1.png  a dog") && table.contains("photos:0.png"), "{table}");
    let table = flipk(&["search", &run, "x", "--in", &path("all.npy"), "--images", &path("photos/*")]).expect(0).stdout;
    assert!(table.contains("photos:1.JPG"), "{table}");
}

/// A text that was embedded is shown as what was found.
#[test]
fn texts_are_found_by_their_text() {
    let (place, run, _) = images();
    let texts = place.file("texts.txt", "a cat\n\na dog\n");
    let out = place.path("texts.parquet").display().to_string();
    flipk(&["embed", &run, "--texts", &texts, "--out", &out]).expect(0);
    let table = flipk(&["search", &run, "a dog", "--in", &out]).expect(0).stdout;
    let first = table.lines().nth(1).unwrap();
    assert!(first.ends_with("1.0000  a dog") && table.contains("  row 1\n"), "{table}");
}

/// In Parquet, shards tell equal keys apart, also if a broken image was left out.
#[test]
fn equal_keys_of_two_shards_are_told_apart() {
    let (place, run, first) = images();
    let second = place.shard("b.tar", &[0, 1].map(|image| (image + 5, [("txt", "a dog")].as_slice())));
    // The image of the first sample of the first shard.
    let mut bytes = fs::read(&first).unwrap();
    bytes[512..520].fill(0);
    fs::write(&first, bytes).unwrap();
    let out = place.path("out.parquet").display().to_string();
    let ran = flipk(&["embed", &run, "--images", &first, &second, "--out", &out]).expect(0);
    assert!(ran.stdout.contains("6 images"), "{}", ran.stdout);
    let query = place.path("query.png").display().to_string();
    fs::write(&query, png(5)).unwrap();
    let args = ["search", &run, "--image", &query, "--top=1", "--in", &out];
    let best = |more: &[&str]| flipk(&[&args, more].concat()).expect(0).stdout;
    assert!(best(&[]).contains("b.tar:000"), "{}", best(&[]));
    let found = best(&["--images", &first, &second]);
    assert!(found.contains("b.tar:000  a dog"), "{found}");
}
