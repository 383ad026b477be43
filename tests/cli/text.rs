//! Captions, records and vocabularies, whatever program wrote them.

use crate::harness::{Ran, flipk, json};
use crate::place::Place;

/// A vocabulary of lower-case letters and some words.
fn vocab(more: &[&str]) -> String {
    let letters = (b'a'..=b'z').map(|letter| format!("{0}\n##{0}\n", char::from(letter)));
    let words = ["red", "blue", "square", "that", "is", "of", "in", "photo"].iter().chain(more);
    format!(
        "[PAD]\n[UNK]\n{}{}",
        letters.collect::<String>(),
        words.map(|word| format!("{word}\n")).collect::<String>()
    )
}

/// A place and a vocabulary in it.
fn with_vocab() -> (Place, String) {
    let place = Place::new();
    let vocab = place.file("vocab.txt", vocab(&[]));
    (place, vocab)
}

impl Place {
    /// A shard of as many images, each with these members.
    fn images_with(&self, name: &str, samples: &[&[(&str, &[u8])]]) -> String {
        let numbered: Vec<_> = (0..).zip(samples.iter().copied()).collect();
        self.shard(name, &numbered)
    }

    /// A short run with batches of 4.
    fn train_on(&self, run: &str, shard: &str, vocab: &str, more: &[&str]) -> Ran {
        let [data, tokenizer] = [format!("--data={shard}"), format!("--tokenizer={vocab}")];
        self.train(run, &[&["--batch=4", &data, &tokenizer], more].concat())
    }

    fn steps(&self, run: &str, shard: &str, vocab: &str) -> Ran {
        self.train_on(run, shard, vocab, &["--steps=2"])
    }
}

/// Fails if there are warnings, except about captions that are all the same, as in most of these shards.
#[track_caller]
fn no_warnings(ran: &Ran) {
    let expected = |line: &&str| line.contains("samples looked at are the same");
    let warnings = ran.stderr.lines().filter(|line| line.starts_with("warning") && !expected(line));
    assert_eq!(warnings.count(), 0, "{}", ran.stderr);
}

#[test]
fn records_as_python_writes_them_have_captions_and_tags() {
    let (place, vocab) = with_vocab();
    let records: [&[u8]; 5] = [
        br#"{"caption": "a red square", "similarity": NaN, "punsafe": Infinity}"#,
        br#"{"caption": "a red square", "score": 1e999}"#,
        br#"{"caption": "a red square", "alt": "cut \ud83d"}"#,
        br#"{"caption": "a red square \ud83d"}"#,
        b"\xef\xbb\xbf{\"caption\": \"a red square\"}",
    ];
    for (number, record) in records.into_iter().enumerate() {
        let members: &[(&str, &[u8])] = &[("json", record)];
        let shard = place.images_with(&format!("{number}.tar"), &[members; 6]);
        let ran = place.steps(&format!("run{number}"), &shard, &vocab).expect(0);
        assert!(ran.stderr.contains("captions: 6 in 6 of 6 samples"), "{}", ran.stderr);
        let summary = json(&place.path(&format!("run{number}/summary.json")));
        assert_eq!(summary["skipped"], serde_json::json!({}));
    }
    let members: &[(&str, &[u8])] = &[("txt", b"a"), ("json", br#"{"tags": ["red", "in"], "score": NaN}"#)];
    let shard = place.images_with("tags.tar", &[members; 6]);
    let ran = place.steps("tags", &shard, &vocab).expect(0);
    assert!(ran.stderr.contains("6 samples with tags"), "{}", ran.stderr);
    no_warnings(&ran);
    let members: &[(&str, &[u8])] = &[("txt", b"a red square"), ("json", b"{'tags': ['red']}")];
    let shard = place.images_with("lost.tar", &[members; 6]);
    let ran = place.steps("lost", &shard, &vocab).expect(0);
    assert!(ran.stderr.contains("the tags of 6 of 6 samples cannot be read"), "{}", ran.stderr);
    assert!(ran.stderr.contains(":000: .json does not parse: line 1, byte 2"), "{}", ran.stderr);
    // Where tags are not used there is no warning.
    no_warnings(&place.train_on("unused", &shard, &vocab, &["--steps=2", "--tag-chance=0"]).expect(0));
}

#[test]
fn a_caption_that_is_not_text_is_reported_with_its_type() {
    let (place, vocab) = with_vocab();
    for (number, (record, words)) in [
        (r#"{"caption": null}"#, "empty caption: the field `caption` of the .json member is null"),
        (r#"{"caption": 7}"#, "is a number, not text"),
        (r#"{"caption": {"en": "x"}}"#, "is an object, not text"),
        (r#"{"caption": [3]}"#, "is a list without text"),
        (r#"{"caption": "x"#, "does not parse: line 1, byte 14: it ends inside a string"),
        ("\u{FEFF}", "does not parse: line 1, byte 4: it is empty"),
    ]
    .into_iter()
    .enumerate()
    {
        let members: &[(&str, &[u8])] = &[("json", record.as_bytes())];
        let shard = place.images_with(&format!("{number}.tar"), &[members; 6]);
        let ran = place.steps("run", &shard, &vocab).expect(1);
        assert!(ran.stderr.contains("no captions") && ran.stderr.contains(words), "{words}: {}", ran.stderr);
        // Among good samples it is skipped.
        let good: &[(&str, &[u8])] = &[("txt", b"a red square")];
        let mut samples = vec![good; 12];
        samples.push(members);
        let shard = place.images_with(&format!("{number}-mixed.tar"), &samples);
        let ran = place.train_on(&format!("mixed{number}"), &shard, &vocab, &["--epochs=2"]).expect(0);
        assert!(ran.stderr.contains("skipped") && ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let members: &[(&str, &[u8])] = &[("txt", b" \r\n")];
    let ran = place.steps("run", &place.images_with("blank.tar", &[members; 6]), &vocab).expect(1);
    assert!(ran.stderr.contains("empty caption: the .txt member is blank"), "{}", ran.stderr);
}

#[test]
fn lists_and_lines_are_several_captions() {
    let (place, vocab) = with_vocab();
    let list: &[(&str, &[u8])] = &[("json", br#"{"caption": ["a red square", "a square that is red"]}"#)];
    let lines: &[(&str, &[u8])] = &[("txt", b"a red square\r\na square that is red\r\n")];
    let losses = |out: &str, members, more: &[&str]| {
        let shard = place.images_with(&format!("{out}.tar"), &[members; 8]);
        let ran = place.train_on(out, &shard, &vocab, &[&["--steps=6", "--tag-chance=0"], more].concat()).expect(0);
        let metrics = std::fs::read_to_string(place.path(out).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
        (metrics.lines().map(loss).collect::<Vec<_>>(), ran.stderr)
    };
    let (of_list, said) = losses("list", list, &[]);
    assert!(said.contains("captions: 16 in 8 of 8 samples (one at each visit)"), "{said}");
    let (of_lines, _) = losses("lines", lines, &[]);
    assert_eq!(of_list, of_lines, "the same captions, the same choices, the same run");
    let (joined, said) = losses("joined", lines, &["--caption-lines=join"]);
    assert!(joined != of_lines && said.contains("captions: 8 in 8 of 8 samples;"), "{said}");
    // The run's configuration records the choice.
    let config = std::fs::read_to_string(place.path("joined/config.toml")).unwrap();
    assert!(config.contains("caption_lines = \"join\""), "{config}");
}

#[test]
fn the_vocabulary_decides_about_lower_case() {
    let place = Place::new();
    let members: &[(&str, &[u8])] = &[("txt", "A Photo Of A RED Squáre".as_bytes())];
    let shard = place.images_with("capitals.tar", &[members; 6]);
    let lowercase = |run: &str| json(&place.path(run).join("tokenizer.json"))["normalizer"]["lowercase"].clone();
    for (name, more, lower) in [
        ("signs", &["ℝ", "##ℝ", "Ⅱ", "ℂ", "𝐀", "<S>", "</S>", "[ENT]"][..], true),
        ("cased", &["Paris", "London", "##A"], false),
    ] {
        let vocab = place.file(name, vocab(more));
        let ran = place.steps(&format!("{name}-run"), &shard, &vocab).expect(0);
        assert_eq!(lowercase(&format!("{name}-run")), lower, "{name}");
        let told =
            if lower { "lower-cased (none of its tokens has a capital), accents stripped" } else { "case kept (3 of" };
        assert!(ran.stderr.contains(told) && ran.stderr.contains("[PAD] (0) pads"), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("use --lower-case yes"), !lower, "{}", ran.stderr);
    }
    let vocab = place.path("cased").display().to_string();
    let ran = place.train_on("told", &shard, &vocab, &["--steps=2", "--lower-case=yes"]).expect(0);
    assert_eq!(lowercase("told"), true);
    assert!(!ran.stderr.contains("unknown to the tokenizer"), "{}", ran.stderr);
    // A run that is repeated from its configuration, or resumed, does the same.
    let config = format!("--config={}", place.path("told/config.toml").display());
    flipk(&["train", &config, &format!("--out={}", place.path("again").display())]).expect(0);
    assert_eq!(lowercase("again"), true);
    let ran = flipk(&["train", &format!("--resume={}", place.path("told").display()), "--steps=3"]).expect(0);
    assert!(ran.stderr.contains("tokenizer: 65 tokens; lower-cased"), "{}", ran.stderr);
    // Evaluation does as training did, unless a flag says otherwise.
    let [run, data] = [place.path("told").display().to_string(), format!("--data={shard}")];
    let ran = flipk(&["eval", "retrieval", &run, &data]).expect(0);
    assert!(!ran.stderr.contains("unknown"), "{}", ran.stderr);
    let ran = flipk(&["eval", "retrieval", &run, &data, "--lower-case=no"]).expect(0);
    assert!(ran.stderr.contains("unknown to the tokenizer"), "{}", ran.stderr);
}

#[test]
fn captions_longer_than_the_context_are_a_warning() {
    let (place, vocab) = with_vocab();
    let members: &[(&str, &[u8])] = &[("txt", b"a photo of a red square that is in a blue square")];
    let shard = place.images_with("long.tar", &[members; 6]);
    let ran = place.train_on("short", &shard, &vocab, &["--steps=2", "--context=8"]).expect(0);
    let said = "100.0 % of the captions are longer than the context of 8 tokens";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("--context 12"), "{}", ran.stderr);
    no_warnings(&place.train_on("long", &shard, &vocab, &["--steps=2", "--context=12"]).expect(0));
}

#[test]
fn a_tokenizer_that_the_model_has_no_rows_for_is_an_error_everywhere() {
    let place = Place::new();
    let small = place.file("small.txt", vocab(&[]));
    let many: Vec<String> = (0..5000).map(|number| format!("word{number}")).collect();
    let big = place.file("big.txt", vocab(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let members: &[(&str, &[u8])] = &[("txt", b"word4999")];
    let shard = place.images_with("words.tar", &[members; 6]);
    place.steps("run", &shard, &small).expect(0);
    let [run, data] = [place.path("run").display().to_string(), format!("--data={shard}")];
    let tokenizer = format!("--tokenizer={big}");
    for task in ["retrieval", "zero-shot"] {
        for device in ["cpu", "emulator"] {
            let ran = flipk(&["eval", task, &run, &data, &tokenizer, &format!("--device={device}")]).expect(1);
            assert!(ran.stderr.contains("big.txt") && ran.stderr.contains("5062 tokens"), "{}", ran.stderr);
            assert!(ran.stderr.contains("4096 rows") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
        }
    }
    let ran = place.train_on("other", &shard, &big, &["--steps=1", "--vocab=4096"]).expect(1);
    assert!(ran.stderr.contains("--vocab 4096 is invalid") && ran.stderr.contains("5062 tokens"), "{}", ran.stderr);
    let ran = place.train_on("from", &shard, &big, &["--steps=1", &format!("--init-from={run}")]).expect(1);
    assert!(ran.stderr.contains("4096 rows of tokens and this run has 5062"), "{}", ran.stderr);
    // Another tokenizer of a size that fits is used, with a warning.
    let other = place.file("other.txt", vocab(&["zebra"]));
    let ran = flipk(&["eval", "retrieval", &run, &data, &format!("--tokenizer={other}")]).expect(0);
    assert!(ran.stderr.contains("not those that the model was trained with"), "{}", ran.stderr);
    // A run folder in which the tokenizer was replaced.
    std::fs::copy(&big, place.path("run/tokenizer.json")).unwrap();
    let ran = flipk(&["train", &format!("--resume={run}"), "--steps=3"]).expect(1);
    assert!(ran.stderr.contains("5062 tokens"), "{}", ran.stderr);
}

#[test]
fn option_files_are_read_whatever_editor_wrote_them() {
    let place = Place::new();
    let out = format!("--out={}", place.path("run").display());
    let run = |content: &[u8]| {
        let config = format!("--config={}", place.file("options.toml", content));
        flipk(&["train", &config, &out])
    };
    let ran = run(b"\xEF\xBB\xBFmask_ration = 0.5\r\n").expect(1);
    assert!(ran.stderr.contains("did you mean `mask_ratio`"), "{}", ran.stderr);
    let ran = run(b"batch = 4\n# caf\xE9\n").expect(1);
    assert!(ran.stderr.contains("options.toml: line 2 is not UTF-8"), "{}", ran.stderr);
    let ran = run(b"\xFF\xFEb\0a\0").expect(1);
    assert!(ran.stderr.contains("options.toml: it is UTF-16"), "{}", ran.stderr);
}
