//! Fuzz targets of this room: each takes the bytes of a file, reads them as flipk does, and checks what must hold of
//! the result whatever the bytes are. See `crate::fuzzing`.

use super::format::front::{self, Front};
use super::format::tar::{self, Content};
use super::format::{Common, Naming, Shard};
use super::sample::image::{self, Decoding, ExifOrientation, JpegDecoder, MAX_PIXELS, Square};
use super::sample::json::{Record, Value};
use super::sample::{
    Augmentation, CaptionKeys, CaptionLines, CaptionVariation, Filter, Texts, Tokenizer, TokenizerOptions, label,
};
use super::store::source::{hint, unread};
use super::store::{Location, MAX_SHARDS, expand_braces};
use super::text::{self, Blank};
use crate::fuzzing::with_file;
use crate::random::{Purpose, Random};

/// A shard, packed or not: its index, its samples, and their captions and class numbers.
pub fn shard(bytes: &[u8]) {
    if let Ok(index) = tar::index(bytes) {
        for member in &index.members {
            if let Content::Data(span) = member.content {
                let end = span.start.get().checked_add(span.len);
                assert!(end.is_some_and(|end| end <= bytes.len() as u64), "{member:?} goes beyond the archive");
            }
        }
    }
    with_file(bytes, |path| {
        let opened = Shard::open(0, &Location::File(path.to_owned()), &Common::default());
        let Ok((shard, _)) = opened else { return };
        for entry in &shard.samples {
            let part = |span| shard.part(span).expect("the index names bytes that are there");
            part(entry.image);
            let txts = shard.txts(entry).expect("the index names bytes that are there");
            let _ = CaptionKeys::default().read_all(&txts, part(entry.json).as_deref(), Naming::Members);
            if let Ok(Some(class)) = shard.part(entry.cls) {
                let _ = label::class(&class);
            }
        }
    });
}

/// The index in front of a packed shard: as it is, and with what is checked first put right, so that the rest is
/// reached.
pub fn front(bytes: &[u8]) {
    const HEAD: &[u8] = b"\x8AflipkI\n\x01\0\0\0";
    let len = 1 << 20;
    let check = |bytes: &[u8]| {
        let Ok(Front { entries, .. }) = front::parse(bytes, len) else { return };
        assert!(!entries.is_empty());
        for entry in entries {
            for span in entry.parts().into_iter().flatten() {
                assert!(span.start.get().checked_add(span.len).is_some_and(|end| end <= len), "{span:?}");
            }
        }
    };
    check(bytes);
    if let Some(body) = bytes.get(HEAD.len() + 12..) {
        let body = [&len.to_le_bytes(), body].concat();
        check(&[HEAD, &crc32c::crc32c(&body).to_le_bytes(), &body].concat());
    }
}

/// A Parquet file, as [`shard`]; its magic is put right, so that the rest is reached.
#[cfg(feature = "parquet")]
pub fn parquet(bytes: &[u8]) {
    const MAGIC: &[u8] = b"PAR1";
    let mut bytes = bytes.to_vec();
    if let Some(middle) = bytes.len().checked_sub(2 * MAGIC.len()) {
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[middle + MAGIC.len()..].copy_from_slice(MAGIC);
    }
    shard(&bytes);
}

/// An image of any format: decoding, and both ways to a square.
pub fn image(bytes: &[u8]) {
    let decodings = [JpegDecoder::Rust, JpegDecoder::default()].into_iter().flat_map(|jpeg| {
        let orientations = [ExifOrientation::Ignore, ExifOrientation::Apply];
        orientations.map(|orientation| Decoding { orientation, jpeg, scale_to: None })
    });
    for decoding in decodings.chain([Decoding { scale_to: Some(4), ..Decoding::default() }]) {
        let Ok(image) = image::decode(bytes, decoding) else { continue };
        let pixels = u64::from(image.width()) * u64::from(image.height());
        assert!((1..=MAX_PIXELS).contains(&pixels));
        let mut square = Square::new(16, 8);
        let mut out = vec![0; square.bytes()];
        let (mut random, augmentation) = (Random::new(0, Purpose::Crop, 0, pixels), Augmentation::default());
        let choose = |width, height| augmentation.crop(width, height, &mut random);
        if let Ok(part) = image::decode_part(bytes, decoding, vec![0x5A; 64], choose) {
            square
                .cropped(&part, &augmentation, &mut random, &[1, 2], &mut out[..2 * 8 * 8 * 3])
                .expect("any part can be resized");
        }
        square.center_crop(&image, &mut out).expect("any image can be cropped");
        square
            .augmented(&image, &augmentation, &mut random, &[1, 2], &mut out[..2 * 8 * 8 * 3])
            .expect("any image can be cropped");
    }
}

/// Raw pixels of a pack: as they are, and with the header's magic, version and checksum put right, so that the rest of
/// the header is reached. What can be read is written again as it was.
pub fn raw(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        let Ok(image) = image::decode(bytes, Decoding::default()) else { return };
        if bytes.starts_with(b"\x8AflipkR\n") {
            assert_eq!(image::raw::encode(&image), bytes);
        }
    };
    check(bytes);
    if let Some((header, pixels)) = bytes.split_at_checked(24) {
        let checksum = crc32c::crc32c(pixels).to_le_bytes();
        check(&[b"\x8AflipkR\n\x01\0\0\0", &header[12..20], &checksum, pixels].concat());
    }
}

/// A sample's record: every field that captions and tags may come from. What serde_json can read must be read alike.
pub fn record(bytes: &[u8]) {
    for caption_key in [None, Some("alt"), Some("txt"), Some("caption:0.7,alt:0.2,txt:0.1")] {
        let keys = CaptionKeys { caption_key: caption_key.map(str::to_owned), ..CaptionKeys::default() };
        for (txt, json) in [(None, Some(bytes)), (Some(&b"a caption"[..]), Some(bytes))] {
            if let Ok(caption) = keys.read(txt, json) {
                assert!(!caption.texts.is_empty());
                caption.vary(&CaptionVariation::default(), &mut Random::new(0, Purpose::Caption, 0, 0));
            }
        }
    }
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(bytes) else { return };
    let record = Record::read(bytes, &["caption"]);
    assert_eq!(record.problem, None);
    match (fields.get("caption"), record.get("caption")) {
        (Some(serde_json::Value::String(theirs)), Some(Value::Text(ours))) => assert_eq!(ours, theirs),
        (Some(theirs), ours) => assert!(!theirs.is_string() && ours.is_some(), "{theirs} is {ours:?}"),
        (None, ours) => assert_eq!(ours, None),
    }
}

/// A filter, and behind the first line end a record: a filter survives being written, and it and its negation do not
/// both hold.
pub fn filter(bytes: &[u8]) {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else { return };
    let filter: Filter = match text.parse() {
        Ok(filter) => filter,
        Err(error) => return assert!(error.column <= text.chars().count() + 1, "{error}"),
    };
    let again: Filter = filter.to_string().parse().expect("what was written can be read");
    assert_eq!(again, filter);
    let record = bytes.get(end + 1..);
    let Ok(verdict) = filter.judge(record) else { return };
    let negated = format!("not ({filter})").parse::<Filter>().map(|negated| negated.judge(record));
    // One that is too deeply nested for another pair of parentheses has no negation.
    if let Ok(Ok(negated)) = negated {
        assert!(!(verdict.passes && negated.passes));
    }
}

/// A text file: captions, a class number, a list.
pub fn text(bytes: &[u8]) {
    let _ = text::beginning(bytes);
    for caption_lines in [CaptionLines::Each, CaptionLines::Join] {
        let keys = CaptionKeys { caption_lines, ..CaptionKeys::default() };
        let _ = keys.read(Some(bytes), None);
    }
    let _ = label::class(bytes);
    if let Ok(text) = text::decode(bytes) {
        clip(text);
        let length: usize = text::lines(text).map(str::len).sum();
        assert!(length <= text.len());
        assert!(text::shorten(text).len() <= text.len() + 3);
    }
    with_file(bytes, |path| {
        for blank in [Blank::Keep, Blank::Drop, Blank::Refuse] {
            if let Ok(lines) = text::read_lines(path, blank) {
                assert!(!lines.is_empty() && (blank == Blank::Keep || !lines.contains(&String::new())));
            }
        }
    });
}

/// A text: CLIP's tokenizer has a token for every part of any.
fn clip(text: &str) {
    let options = TokenizerOptions { texts: Texts::OpenClip { strip_sep: false }, ..TokenizerOptions::default() };
    let tokenizer = Tokenizer::clip(&options).expect("the built-in tokenizer");
    let mut tokens = [-1; 16];
    tokenizer.encode(text, &mut tokens).expect("any text");
    assert!(tokens[0] == 49_406 && tokens.contains(&49_407), "{tokens:?}");
}

/// A `tokenizer.json` or `vocab.txt`: its tokens are below the size of the vocabulary, and its own JSON gives the same.
pub fn tokenizer(bytes: &[u8]) {
    const TEXTS: [&str; 5] =
        ["A photo of a caf\u{e9}, 2019", "", "\u{200d}\u{1f436}\u{fe0f}", "unaffable", "\u{4e1c}\u{ac00}\0"];
    let options = [
        TokenizerOptions::default(),
        TokenizerOptions {
            lower_case: Some(bytes.len().is_multiple_of(2)),
            pad_token: Some("[UNK]".to_owned()),
            texts: Texts::OpenClip { strip_sep: bytes.len().is_multiple_of(3) },
            ..TokenizerOptions::default()
        },
    ];
    for options in options {
        let Ok(tokenizer) = Tokenizer::read(bytes, "file", &options) else { continue };
        tokenizer.describe();
        let again = tokenizer.to_json().and_then(|json| Tokenizer::from_bytes(json.as_bytes(), "again"));
        for text in TEXTS {
            let (mut tokens, mut others) = ([0; 12], [0; 12]);
            let _ = tokenizer.unknown_words(text);
            if tokenizer.encode(text, &mut tokens).is_err() {
                continue;
            }
            let rows = 0..tokenizer.vocab_size() as i32;
            assert!(tokens.iter().all(|token| rows.contains(token)), "{tokens:?} of {rows:?}");
            if let Ok(again) = &again {
                again.encode(text, &mut others).expect("what could be encoded before");
                assert_eq!(tokens, others);
            }
        }
    }
}

/// What a user writes as a source. Folders are not searched.
pub fn pattern(bytes: &[u8]) {
    let Ok(spec) = std::str::from_utf8(bytes) else { return };
    let _ = unread(spec);
    hint(spec);
    let Ok(expanded) = expand_braces(spec) else { return };
    assert!(!expanded.is_empty() && expanded.len() <= MAX_SHARDS);
    for pattern in expanded.iter().take(8) {
        let _ = glob::Pattern::new(pattern);
    }
}
