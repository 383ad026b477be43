//! Evaluation as in other programs: class numbers, lists of names and prompts, several captions per image.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Ran, flipk, train};
use crate::place::Place;

impl Place {
    /// With a run of two steps, which has learned nothing.
    fn with_run() -> Self {
        let place = Self::new();
        train(&place.path("base"), &["--steps=2", "--eval-data=embedded:twemoji"]).expect(0);
        place
    }

    /// One image per text; `extension` is the texts'.
    fn labelled(&self, name: &str, extension: &str, texts: &[&str]) -> String {
        let members: Vec<[(&str, &str); 1]> = texts.iter().map(|&text| [(extension, text)]).collect();
        let samples: Vec<(u8, &[(&str, &str)])> =
            members.iter().enumerate().map(|(image, members)| (image as u8, &members[..])).collect();
        self.shard(name, &samples)
    }

    fn eval_run(&self, run: &Path, task: &str, more: &[&str]) -> Ran {
        let run = run.display().to_string();
        flipk(&[&["eval", task, &run, "--json", "--device=cpu"], more].concat())
    }

    fn zero_shot(&self, more: &[&str]) -> Ran {
        self.eval_run(&self.path("base"), "zero-shot", more)
    }

    fn retrieval(&self, more: &[&str]) -> Value {
        found(self.eval_run(&self.path("base"), "retrieval", more))
    }
}

fn found(ran: Ran) -> Value {
    serde_json::from_str(&ran.expect(0).stdout).unwrap()
}

#[test]
fn class_numbers_come_from_cls_members() {
    let place = Place::with_run();
    let names = place.file("names.txt", b"red\ngreen\nblue\n");
    let classes = format!("--classes={names}");
    let cls = place.labelled("cls.tar", "cls", &["0\n", "2", "1\r\n", "2"]);
    let txt = place.labelled("txt.tar", "txt", &["red", "blue", "green", "blue"]);
    let by_name = found(place.zero_shot(&["--data", &txt, &classes]));
    assert_eq!((&by_name["images"], &by_name["classes"]), (&json!(4), &json!(3)));
    assert_eq!(found(place.zero_shot(&["--data", &cls, &classes])), by_name);
    assert_eq!(found(place.zero_shot(&["--data", &cls, &classes, "--caption-key=cls"])), by_name);
    let numbers = place.labelled("numbers.tar", "txt", &["0", "2", "1", "2"]);
    assert_eq!(found(place.zero_shot(&["--data", &numbers, &classes])), by_name);
    // A caption next to the number is ignored, unless a flag asks for it.
    let samples: [(u8, &[(&str, &str)]); 2] =
        [(0, &[("txt", "a photo"), ("cls", "0")]), (1, &[("txt", "it"), ("cls", "1")])];
    let both = place.shard("both.tar", &samples);
    found(place.zero_shot(&["--data", &both, &classes]));
    let ran = place.zero_shot(&["--data", &both, &classes, "--caption-key=txt"]).expect(1);
    assert!(ran.stderr.contains("has the caption \"a photo\""), "{}", ran.stderr);
    // Too few names, and none at all.
    let two = place.file("two.txt", b"red\ngreen\n");
    let ran = place.zero_shot(&["--data", &cls, &format!("--classes={two}")]).expect(1);
    assert!(ran.stderr.contains("class number 2") && ran.stderr.contains("2 class names"), "{}", ran.stderr);
    let ran = place.zero_shot(&["--data", &cls]).expect(1);
    assert!(ran.stderr.contains("--classes"), "{}", ran.stderr);
    let ran = place.eval_run(&place.path("base"), "retrieval", &["--data", &cls, "--caption-key=cls"]).expect(1);
    assert!(ran.stderr.contains("zero-shot"), "{}", ran.stderr);
}

#[test]
fn templates_of_other_programs_are_understood() {
    let place = Place::with_run();
    let names = format!("--classes={}", place.file("names.txt", b"red\ngreen\nblue\n"));
    let shard = place.labelled("a.tar", "txt", &["red", "blue", "green", "blue", "red", "red"]);
    let with = |text: &str| {
        let templates = format!("--templates={}", place.file("templates.txt", text.as_bytes()));
        place.zero_shot(&["--data", &shard, &names, &templates])
    };
    let expected = found(with("a photo of a {}.\na picture of the {}.\n"));
    assert_eq!(found(with("\u{FEFF}a photo of a {c}.\r\n\r\na picture of the {c}.\r\n")), expected);
    let stderr = with("a photo of a {}.\na picture\n").expect(1).stderr;
    assert!(stderr.contains("\"a picture\" has no {} or {c}"), "{stderr}");
}

/// Of two equal names, `argmax` predicts the first: all of these images are right, or all wrong.
#[test]
fn of_equal_names_the_first_is_predicted() {
    let place = Place::with_run();
    let twice = format!("--classes={}", place.file("twice.txt", b"red\nred\n"));
    for (labels, top1) in [(["0"; 4], 1.0), (["1"; 4], 0.0), (["red"; 4], 1.0)] {
        let shard = place.labelled("a.tar", "txt", &labels);
        let ran = place.zero_shot(&["--data", &shard, &twice]).expect(0);
        assert!(ran.stderr.contains("\"red\" (lines 1, 2)"), "{}", ran.stderr);
        let found = found(ran);
        assert_eq!((&found["top1"], &found["top5"]), (&json!(top1), &json!(1.0)), "{labels:?}");
    }
}

#[test]
fn lists_of_names_are_read_whatever_editor_wrote_them() {
    let place = Place::with_run();
    let shard = place.labelled("names.tar", "txt", &["caf\u{e9}", "red", "blue"]);
    let classes = |bytes: &[u8]| format!("--classes={}", place.file("names.txt", bytes));
    let plain = found(place.zero_shot(&["--data", &shard, &classes("caf\u{e9}\nred\nblue\n".as_bytes())]));
    for text in ["\u{FEFF}caf\u{e9}\r\nred\r\nblue\r\n", "cafe\u{301}\nred\nblue\n\n"] {
        assert_eq!(found(place.zero_shot(&["--data", &shard, &classes(text.as_bytes())])), plain, "{text:?}");
    }
    let stderr = place.zero_shot(&["--data", &shard, &classes(b"caf\xE9\nred\nblue\n")]).expect(1).stderr;
    assert!(stderr.contains("names.txt") && stderr.contains("line 1 is not UTF-8"), "{stderr}");
    let stderr = place.zero_shot(&["--data", &shard, &classes("Caf\u{e9}\nRed\nBlue\n".as_bytes())]).expect(1).stderr;
    assert!(stderr.contains("none of the 3 class names") && stderr.contains("\"Caf\u{e9}\""), "{stderr}");
    // A blank line counts for the numbers of the names after it.
    let numbers = place.labelled("numbers.tar", "txt", &["2", "2"]);
    let ran = place.zero_shot(&["--data", &numbers, &classes(b"red\n\nblue\n")]).expect(0);
    assert!(ran.stderr.contains("blank lines") && found(ran)["classes"] == 2);
    let digits = place.labelled("digits.tar", "txt", &["0", "1", "2"]);
    let other = classes(b"1\n2\n0\n");
    let stderr = place.zero_shot(&["--data", &digits, &other]).expect(1).stderr;
    assert!(stderr.contains("ambiguous") && stderr.contains("--labels"), "{stderr}");
    for labels in ["--labels=names", "--labels=numbers"] {
        found(place.zero_shot(&["--data", &digits, &other, labels]));
    }
    let ran = place.zero_shot(&["--data", &digits]).expect(0);
    assert!(ran.stderr.contains("digits are taken as class names"), "{}", ran.stderr);
}

#[test]
fn an_image_has_several_captions_however_they_are_written() {
    let place = Place::with_run();
    let texts: Vec<Vec<String>> =
        (0..8).map(|image| (0..5).map(|text| format!("text {text} of image {image}")).collect()).collect();
    let lines: Vec<String> = texts.iter().map(|texts| texts.join("\n")).collect();
    let lines = place.labelled("lines.tar", "txt", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let records: Vec<String> = texts.iter().map(|texts| json!({ "caption": texts }).to_string()).collect();
    let records = place.labelled("records.tar", "json", &records.iter().map(String::as_str).collect::<Vec<_>>());
    let members: Vec<(u8, [(&str, &str); 1])> =
        (0..8).flat_map(|image| texts[image].iter().map(move |text| (image as u8, [("txt", text.as_str())]))).collect();
    let samples: Vec<(u8, &[(&str, &str)])> = members.iter().map(|(image, members)| (*image, &members[..])).collect();
    let repeated = place.shard("repeated.tar", &samples);
    let expected = place.retrieval(&["--data", &lines]);
    assert_eq!((&expected["images"], &expected["texts"]), (&json!(8), &json!(40)));
    assert_eq!(place.retrieval(&["--data", &records]), expected);
    assert_eq!(place.retrieval(&["--data", &repeated]), expected);
    // There are only eight images, so all are among the first ten; with joined captions, so are the texts.
    assert_eq!(expected["text_to_image"]["r10"], 1.0);
    let joined = place.retrieval(&["--data", &lines, "--caption-lines=join"]);
    assert_eq!((&joined["texts"], &joined["image_to_text"]["r10"]), (&json!(8), &json!(1.0)));
}

#[test]
fn evaluation_reads_the_captions_that_the_run_was_trained_on() {
    let place = Place::with_run();
    let records: Vec<String> = (0..16).map(|image| json!({ "alt": format!("image {image}") }).to_string()).collect();
    let members: Vec<[(&str, &str); 2]> =
        records.iter().map(|record| [("txt", "photo 1234"), ("json", record.as_str())]).collect();
    let samples: Vec<(u8, &[(&str, &str)])> = (0..).zip(members.iter().map(|members| &members[..])).collect();
    let shard = place.shard("a.tar", &samples);
    let tokenizer =
        place.file("vocab.txt", b"[PAD]\n[UNK]\nimage\nphoto\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n##0\n##1\n##2\n");
    let numbers = place.labelled("numbers.tar", "txt", &["0", "1", "2", "1"]);
    let names = place.file("names.txt", b"red\ngreen\nblue\n");
    let templates = place.file("templates.txt", b"a photo of a {c}.\n");
    let flags =
        |flags: &[(&str, &str)]| flags.iter().map(|(key, value)| format!("--{key}={value}")).collect::<Vec<_>>();
    let own =
        flags(&[("data", &shard), ("tokenizer", &tokenizer), ("caption-key", "alt"), ("batch", "8"), ("steps", "2")]);
    let run = place.path("run");
    let lists = flags(&[("eval-data", &numbers), ("classes", &names), ("templates", &templates)]);
    let ran = place.train("run", &own.iter().chain(&lists).map(String::as_str).collect::<Vec<_>>()).expect(0);
    assert!(ran.stderr.contains("no captions under the run's key `alt`"), "{}", ran.stderr);
    let summary = crate::harness::json(&run.join("summary.json"));
    assert_eq!(summary["classes"], 3);
    // The same result afterwards, without repeating the flags.
    let again = found(place.eval_run(&run, "zero-shot", &[]));
    assert_eq!((&again["top1"], &again["classes"]), (&summary["zero_shot_top1"], &json!(3)));
    let retrieval = |more: &[&str]| found(place.eval_run(&run, "retrieval", &[&["--data", &shard], more].concat()));
    assert_eq!(retrieval(&[])["texts"], 16);
    assert_eq!(retrieval(&["--caption-key=txt"])["texts"], 1);
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("classes = ") && config.contains("templates = "), "{config}");
}

#[test]
fn mistakes_in_the_evaluation_data_are_found_before_training() {
    let place = Place::with_run();
    let run = place.path("run");
    let shard = place.labelled("a.tar", "txt", &["red", "gren"]);
    let names = place.file("names.txt", b"red\ngreen\n");
    let data = format!("--eval-data={shard}");
    let ran = place.train("run", &[&data, &format!("--classes={names}"), "--steps=1000000"]).expect(1);
    assert!(ran.stderr.contains("\"gren\"") && ran.stderr.contains("the nearest is \"green\""), "{}", ran.stderr);
    assert!(!run.exists(), "a run that cannot be evaluated leaves no folder");
    let numbers = place.labelled("numbers.tar", "txt", &["0", "1"]);
    let data = format!("--eval-data={numbers}");
    let ran = place.train("run", &[&data, "--steps=1"]).expect(0);
    assert!(ran.stderr.contains("digits are taken as class names"), "{}", ran.stderr);
}
