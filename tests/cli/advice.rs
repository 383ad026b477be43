//! Warnings about runs that cannot learn, or do not.

use std::path::Path;

use crate::harness::{self, Ran, data_flags};

/// Trains on images with these captions.
fn train(folder: &Path, captions: &[String], flags: &[&str]) -> Ran {
    let [data, tokenizer] = data_flags(folder, captions, "a photo red blue 0 1 2 3 4 5 6 7 8 9");
    let out = tempfile::tempdir_in(folder).unwrap();
    harness::train(&out.path().join("run"), &[&[data.as_str(), &tokenizer], flags].concat())
}

#[test]
fn settings_that_cannot_work_are_warned_about_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let own: Vec<String> = (0..10).map(|number| format!("a photo {number}")).collect();
    let run = |captions: &[String], flags: &[&str]| {
        let ran = train(folder.path(), captions, flags).expect(0);
        ran.stderr
            .lines()
            .filter(|line| line.starts_with("warning"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    assert_eq!(run(&own, &["--batch=8", "--steps=2"]), "");
    let large = run(&own, &["--batch=64", "--steps=2"]);
    assert!(large.contains("a batch of 64 is larger than the data (10 samples)"), "{large}");
    assert!(run(&own, &["--batch=1", "--steps=2"]).contains("a batch of 1 has no negative pairs"));
    let warmup = run(&own, &["--batch=8", "--steps=2", "--warmup-samples=100000"]);
    assert!(warmup.contains("the warm-up takes 12500 steps and the run has 2"), "{warmup}");
    let alike = run(&vec!["a photo".to_owned(); 10], &["--batch=4", "--steps=2"]);
    assert!(alike.contains("\"a photo\": they cannot tell images apart"), "{alike}");
    let classes: Vec<String> = (0..40).map(|number| ["red", "blue"][number % 2].to_owned()).collect();
    let classes = run(&classes, &["--batch=8", "--steps=2"]);
    assert!(classes.contains("% of a batch's captions") && classes.contains("2 distinct captions"), "{classes}");
    let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert!(run(&numbers, &["--batch=8", "--steps=2"]).contains("the captions are numbers, such as \"0\""));
}

/// With far too high a learning rate all embeddings become alike; texts without a known word are alike from the first
/// step on.
#[test]
fn a_collapsed_model_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let own: Vec<String> = (0..10).flat_map(|a| (0..8).map(move |b| format!("a {a} photo {b}"))).collect();
    let steps = ["--batch=16", "--steps=100", "--log-every=10"];
    let warning = |ran: Ran| {
        assert_eq!(ran.stderr.matches("the model has collapsed").count(), 1, "{}", ran.stderr);
        ran.stderr
    };
    let fast = warning(train(folder.path(), &own, &[&steps[..], &["--lr=1"]].concat()).expect(0));
    assert!(fast.contains("lower --lr"), "{fast}");
    let unknown: Vec<String> = ('\u{3b1}'..='\u{3c9}').map(|letter| letter.to_string().repeat(3)).collect();
    let texts = warning(train(folder.path(), &unknown, &steps).expect(0));
    assert!(texts.contains("all texts are alike") && texts.contains("tokenizer"), "{texts}");
    let sigmoid = warning(train(folder.path(), &unknown, &[&steps[..], &["--loss=sigmoid"]].concat()).expect(0));
    assert!(sigmoid.contains("tokenizer"), "{sigmoid}");
}
