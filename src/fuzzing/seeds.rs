//! Small whole files that mutations start from, and corrections of checksums.

use std::{fs, io::Write, path::Path};

use flate2::{Compression, Crc, write::GzEncoder};
use serde_json::{Value, json};

use super::with_file;
use crate::{
    data::{Position, StreamPosition, Tokenizer, masked_crc},
    golden,
    model::{Flip, Loss, ModelConfig, Preset, TowerConfig},
    optim::Moments,
    train::{
        Metrics, Options, Settings,
        checkpoint::{self, State},
    },
};

/// The files of a folder of `tests/fixtures`, by name, that are not larger than this.
fn fixtures(folder: &str, max: u64) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.metadata().unwrap().len() <= max);
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

pub(super) fn images() -> Vec<Vec<u8>> {
    let is_image = |bytes: &Vec<u8>| !bytes.is_empty() && !bytes.starts_with(b"{") && !bytes.starts_with(b"#");
    fixtures("images", 16 << 10).into_iter().filter(is_image).collect()
}

/// Raw pixels of a pack, of two sizes.
pub(super) fn raws() -> Vec<Vec<u8>> {
    [(3, 2), (17, 9)].map(|(width, height)| crate::data::testing::raw(width, height)).to_vec()
}

/// Indexes in front of packed shards.
pub(super) fn fronts() -> Vec<Vec<u8>> {
    [1, 9].map(|samples| crate::data::testing::indexed(samples).1).to_vec()
}

/// An archive of these members: name, type, target of a link, data.
fn archive(members: &[(&str, tar::EntryType, &str, &[u8])], pax: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, target, data) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(data.len() as u64);
        builder.append_pax_extensions(pax.iter().copied()).unwrap();
        match target.is_empty() {
            true => builder.append_data(&mut header, name, *data).unwrap(),
            false => builder.append_link(&mut header, name, target).unwrap(),
        }
    }
    builder.into_inner().unwrap()
}

pub(super) fn shards() -> Vec<Vec<u8>> {
    use tar::EntryType::{Link, Regular, Symlink};
    let long = format!("{}/1.jpg", "folder".repeat(20));
    let plain = archive(
        &[
            ("1.jpg", Regular, "", &[7; 600]),
            ("1.txt", Regular, "", b"a cat"),
            ("2.left.png", Regular, "", b"image"),
            ("2.json", Regular, "", br#"{"caption": "two", "tags": ["a"]}"#),
            ("2.cls", Regular, "", b"2\n"),
        ],
        &[],
    );
    let linked = archive(
        &[
            (&long, Regular, "", b"image"),
            ("2.jpg", Link, &long, b""),
            ("x/3.jpg", Symlink, "../2.jpg", b""),
            ("2.jpg", Regular, "", b"again"),
            ("2.jpg", Symlink, "2.jpg", b""),
        ],
        &[],
    );
    let pax = archive(&[("cut", Regular, "", b"words")], &[("path", b"1.txt"), ("size", b"5"), ("comment", b"x")]);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&plain).unwrap();
    let joined = [&pax[..], &plain].concat();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let records = fixtures("tfrecord", 16 << 10).into_iter().filter(|file| !file.starts_with(b"#"));
    let table = b"filepath\ttitle\ta\na.png\t\"a \"\"red\"\" cat\"\t1\nb.png\ta dog\n";
    let indexed = crate::data::testing::indexed(2).0;
    let archives = [plain, linked, pax, gzip.finish().unwrap(), zstd, joined, indexed, table.to_vec()];
    archives.into_iter().chain(records).collect()
}

/// Arrow's files, and one whose pages have no checksums.
#[cfg(feature = "parquet")]
pub(super) fn parquets() -> Vec<Vec<u8>> {
    use crate::data::testing::parquet::{Values, file};
    let columns = "optional binary jpg; optional binary caption (UTF8); optional int64 width;";
    let group = |first: u8| {
        let images = (first..first + 5).map(|number| Some(vec![number; 9]));
        let widths = (0..5).map(|number| (number != 3).then_some(number));
        vec![Values::Bytes(images.collect()), Values::texts(&["a cat"; 5]), Values::Ints(widths.collect())]
    };
    let compressions = [::parquet::basic::Compression::UNCOMPRESSED, ::parquet::basic::Compression::SNAPPY];
    let plain = compressions.map(|compression| file(columns, compression, vec![group(0), group(5)]));
    let others = fixtures("parquet", 64 << 10).into_iter().filter(|file| !file.starts_with(b"#"));
    plain.into_iter().chain(others).collect()
}

/// Corrects the checksums of a shard, tar or TFRecord.
pub(super) fn repair_shard(bytes: &mut [u8]) {
    repair_tar(bytes);
    repair_records(bytes);
}

/// Corrects the checksums of TFRecord's records, as far as their lengths lead.
fn repair_records(mut bytes: &mut [u8]) {
    while let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() {
        let Ok(data) = usize::try_from(u64::from_le_bytes(*length)) else { return };
        if data.checked_add(8).is_none_or(|end| end > rest.len()) {
            return;
        }
        rest[..4].copy_from_slice(&masked_crc(&*length).to_le_bytes());
        let (record, next) = rest[4..].split_at_mut(data + 4);
        let (data, checksum) = record.split_at_mut(data);
        checksum.copy_from_slice(&masked_crc(data).to_le_bytes());
        bytes = next;
    }
}

/// Corrects the checksums of headers.
fn repair_tar(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Corrects the checksums of chunks.
pub(super) fn repair_png(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89PNG") {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let end = (at + 8).saturating_add(u32::from_be_bytes(*length) as usize);
        let Some(content) = bytes.get(at + 4..end) else { return };
        let mut crc = Crc::new();
        crc.update(content);
        if let Some(stated) = bytes.get_mut(end..end + 4) {
            stated.copy_from_slice(&crc.sum().to_be_bytes());
        }
        at = end + 4;
    }
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let records = [
        r#"{"caption": "a red square", "tags": ["one", "two"], "url": "http://x", "width": 12, "score": 1.5e-3}"#,
        r#"{"alt": ["a \"b\" \\ \/ \n \u00e9 \ud83d\ude00", 2, null, ["three"]], "deep": {"a": [1, {"b": "]"}]}}"#,
        "\u{FEFF}{\"caption\": null,\n \"tags\": [], \"n\": NaN, \"caption\": \"\u{e9}\",}",
        r#"{"exif": "{\"a\": [1, 2}", "low": -Infinity, "caption": {"en": "x"}, "ok": true}"#,
    ];
    records.map(|record| record.as_bytes().to_vec()).to_vec()
}

pub(super) fn texts() -> Vec<Vec<u8>> {
    let texts = [
        "a red square\na square that is red\r\n\r\nthird\r",
        "\u{FEFF}cafe\u{301}\n \u{200B}\u{2028}\n\n",
        "a photo of a {}.\na picture of the {c}.\n{classname} {0}\n",
        "0 red\n1 green\n2 blue\n",
        "n01440764 tench\nn01443537 goldfish\n",
        "12\n",
        "lambda c: f'a photo of a {c}.',\n'red',\n",
    ];
    let utf16: Vec<u8> = "red\nblue".encode_utf16().flat_map(u16::to_le_bytes).collect();
    texts.iter().map(|text| text.as_bytes().to_vec()).chain([utf16, vec![0; 80]]).collect()
}

/// Every kind of model, and many of the steps before it.
pub(crate) fn tokenizers() -> Vec<Vec<u8>> {
    let file = |normalizer: Value, pre: Value, model: Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [
                {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true}
            ],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": null, "decoder": null, "model": model
        })
    };
    let vocab = "[PAD]\n[UNK]\n[CLS]\na\nphoto\n##graph\ncafe\n,\nof\n##s\n\u{732b}\n";
    let bert = Tokenizer::from_bytes(vocab.as_bytes(), "vocab.txt").unwrap().to_json().unwrap();
    let words = json!({"[PAD]": 0, "[UNK]": 1, "a": 2, "photo": 3, "of": 4, "af": 5, "f": 6, "\u{120}a": 7});
    let files = [
        file(
            json!({"type": "Sequence", "normalizers": [
                {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}
            ]}),
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            json!({"type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": words, "merges": ["a f"]}),
        ),
        file(
            json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Strip", "strip_left": true, "strip_right": true}
            ]}),
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
            json!({"type": "Unigram", "unk_id": 1, "byte_fallback": false,
                   "vocab": [["[PAD]", 0.0], ["[UNK]", -1.0], ["\u{2581}a", -2.5], ["photo", -3.0]]}),
        ),
        file(
            json!({"type": "NFKC"}),
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
                {"type": "Digits", "individual_digits": true}, {"type": "Punctuation", "behavior": "Isolated"}
            ]}),
            json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": words}),
        ),
    ];
    let files = files.map(|file| file.to_string().into_bytes());
    files.into_iter().chain([bert.into_bytes(), vocab.as_bytes().to_vec()]).collect()
}

/// A model of a few hundred weights.
pub(crate) fn micro_model() -> ModelConfig {
    let tower = TowerConfig::new(1, 4, 1);
    ModelConfig {
        image_size: 4,
        patch_size: 2,
        vision: tower,
        text: tower,
        context: 2,
        vocab: 4,
        embed_dim: 4,
        ..Preset::Tiny.config()
    }
}

pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let save = |loss, arithmetic: Option<&str>| {
        let position = Position { streams: vec![StreamPosition { epoch: 1, group: 0, index: 3 }] };
        let arithmetic = arithmetic.map(str::to_owned);
        let state = State {
            model: micro_model(),
            loss,
            step: 7,
            samples: 70,
            position,
            seed: 1,
            fingerprint: 5,
            seconds: 1.5,
            arithmetic,
            micro_batches: None,
            found: crate::data::Found::default(),
        };
        let layout = Flip::with_loss(&state.model, loss, true).layout().clone();
        let path = checkpoint::path_of(folder.path(), state.step);
        let moments = Moments { m: layout.initial_values(2), v: layout.initial_values(3), step: state.step };
        checkpoint::save(&path, &state, &layout, &layout.initial_values(1), &moments).unwrap();
        fs::read(path).unwrap()
    };
    let (whole, sigmoid) = (save(Loss::Infonce, Some("cpu, f32")), save(Loss::Sigmoid, None));
    // As earlier versions wrote it, so that what is changed is not damage.
    let unchecked =
        edit_header(&whole, |header| drop(header["__metadata__"].as_object_mut().unwrap().remove("crc32c")));
    vec![whole, sigmoid, unchecked]
}

pub(super) fn golden_states() -> Vec<Vec<u8>> {
    vec![golden::testing::micro()]
}

/// A safetensors file with another header.
pub(crate) fn edit_header(file: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, body) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header = serde_json::from_slice(header).unwrap();
    edit(&mut header);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), body].concat()
}

/// Corrects the length of a safetensors header.
pub(super) fn repair_header(bytes: &mut [u8]) {
    let Some(rest) = bytes.get(8..) else { return };
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    if let Some(Ok(Value::Object(_))) = values.next() {
        let length = values.byte_offset() as u64;
        bytes[..8].copy_from_slice(&length.to_le_bytes());
    }
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    let resolved =
        Settings::resolve(Options::default(), Preset::Tiny.config(), 4096).unwrap().options.to_toml().unwrap();
    let own = "model = \"b16\"\ndata = [\"a/{000..127}.tar\"]\nlower_case = \"yes\"\ntime = \"1h30m\"\nbase_lr = 4e-6\n\
               warmup_samples = 512\nimage_size = 224\npatch_size = 16\nprecision = \"bf16\"\n";
    vec![resolved.into_bytes(), own.as_bytes().to_vec()]
}

pub(super) fn metrics() -> Vec<Vec<u8>> {
    let line = |step: u64| {
        let top1 = step.is_multiple_of(2).then_some(0.25);
        let at =
            Metrics { step, samples: step * 32, loss: 1.0 / step as f64, zero_shot_top1: top1, ..Metrics::default() };
        serde_json::to_string(&at).unwrap() + "\n"
    };
    let four: String = (1..5).map(line).collect();
    let largest = line(1)
        .replace("\"loss\":1.0", &format!("\"loss\":{:e}", f64::MAX))
        .replace(":32,", &format!(":{},", u64::MAX));
    vec![four.into_bytes(), line(1).into_bytes(), largest.into_bytes()]
}

pub(super) fn patterns() -> Vec<Vec<u8>> {
    let patterns = [
        "data/{000..127}.tar",
        "a{x,y}b{1..2}/{a,b{1..2},}z*.tar",
        "{alone}/{9..1}",
        "open{1..2",
        "https://example.org/{000..127}.tar",
        "pipe:aws s3 cp s3://b/a.tar -",
        "file:///a::b",
        "{000-010}[!ab]?.tar",
    ];
    patterns.map(|pattern| pattern.as_bytes().to_vec()).to_vec()
}

pub(super) fn filters() -> Vec<Vec<u8>> {
    let filters = [
        "width >= 200 and similarity > 0.3\n{\"width\": 300, \"similarity\": 0.4}",
        "not (lang in ('en', \"fr\") or a.`b c` is null)\n{\"lang\": \"de\", \"a\": {\"b c\": [1]}}",
        "nsfw = false and width <> height or x is not null\n{\"nsfw\": false, \"width\": \"20\", \"height\": \"100\"}",
    ];
    filters.map(|filter| filter.as_bytes().to_vec()).to_vec()
}

/// Every seed is what it is meant to be, so that mutations begin inside of each parser.
#[test]
fn seeds_are_whole() {
    with_file(&checkpoints()[2], |path| {
        let opened = checkpoint::Checkpoint::open(path).unwrap();
        assert!(opened.weights(Flip::new(&micro_model(), true).layout()).is_ok());
    });
    for (number, bytes) in tokenizers().iter().enumerate() {
        Tokenizer::from_bytes(bytes, "file").unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    with_file(&golden_states()[0], |path| {
        let device = std::sync::Arc::new(crate::device::Cpu::default());
        let checks = golden::verify(path, device, golden::Tolerances::F32).unwrap();
        assert!(checks.iter().any(|check| check.quantity.starts_with("train final norm")));
    });
    assert!(images().len() > 100);
}
