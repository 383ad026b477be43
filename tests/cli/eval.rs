//! `flipk eval` on a checkpoint.

use crate::harness::{checkpoint, data_flags, flipk, json, train};
use crate::pack;

#[test]
fn a_checkpoint_is_evaluated_as_at_the_end_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=240", "--save-every=60", "--color-jitter=0", "--lr=4e-3"]).expect(0);
    let summary = json(&run.join("summary.json"));
    let eval = |more: &[&str]| {
        let run = run.display().to_string();
        let args: Vec<&str> = [&more[..1], &[&run, "--data=embedded:twemoji"], &more[1..]].concat();
        flipk(&["eval"].iter().copied().chain(args).collect::<Vec<_>>()).expect(0).stdout
    };
    let found: serde_json::Value = serde_json::from_str(&eval(&["zero-shot", "--json"])).unwrap();
    assert_eq!(found["top1"], summary["zero_shot_top1"]);
    assert_eq!(found["top5"], summary["zero_shot_top5"]);
    assert_eq!(found["classes"], 1852);
    // The same classes from a file, a template of the name alone, or another batch size change nothing.
    let names = folder.path().join("names.txt");
    let data = flipk::data::Dataset::open(&["embedded:twemoji"], flipk::data::CaptionKeys::default()).unwrap();
    let classes = flipk::eval::Classes::from_dataset(&data, None, flipk::eval::Labels::default()).unwrap();
    std::fs::write(&names, classes.names().join("\n")).unwrap();
    let templates = folder.path().join("templates.txt");
    std::fs::write(&templates, "{}\n\n{}\n").unwrap();
    let (names, templates) = (format!("--classes={}", names.display()), format!("--templates={}", templates.display()));
    let again: serde_json::Value =
        serde_json::from_str(&eval(&["zero-shot", "--json", "--batch=100", &names, &templates])).unwrap();
    assert_eq!(again, found);
    // Equal drawings are one image.
    let mut archive = Vec::new();
    let mut drawings = std::collections::HashSet::new();
    for sample in 0..data.len() as u64 {
        let image = data.image(sample).unwrap().into_owned();
        if drawings.insert(image.clone()) {
            pack::append(&mut archive, format!("{sample}.webp"), &image);
            pack::append(&mut archive, format!("{sample}.txt"), data.caption(sample).unwrap().first().as_bytes());
        }
    }
    pack::finish(&mut archive);
    let table = eval(&["retrieval"]);
    assert!(table.contains("R@10") && table.contains(&format!("image to text     {}", drawings.len())), "{table}");
    let found: serde_json::Value = serde_json::from_str(&eval(&["retrieval", "--json"])).unwrap();
    assert_eq!(found["texts"], 1852);
    assert!(found["text_to_image"]["r10"].as_f64().unwrap() > 10.0 / 1852.0, "{found}");
    // If all images and all captions are distinct, retrieval of texts is classification by captions.
    let distinct = folder.path().join("distinct.tar");
    std::fs::write(&distinct, archive).unwrap();
    let own = |task: &str| -> serde_json::Value {
        let (run, distinct) = (run.display().to_string(), distinct.display().to_string());
        serde_json::from_str(&flipk(&["eval", task, &run, "--json", "--data", &distinct]).expect(0).stdout).unwrap()
    };
    let (found, classified) = (own("retrieval"), own("zero-shot"));
    assert_eq!((&found["images"], &found["texts"]), (&classified["images"], &classified["classes"]));
    assert_eq!(found["image_to_text"]["r1"], classified["top1"]);
    assert_eq!(found["image_to_text"]["r5"], classified["top5"]);
    let file = checkpoint(&run, 180).display().to_string();
    flipk(&["eval", "retrieval", &file]).expect(0);
}

#[test]
fn a_caption_that_is_not_a_class_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=1"]).expect(0);
    let names = folder.path().join("names.txt");
    std::fs::write(&names, "cat\ndog\n").unwrap();
    let args =
        ["eval", "zero-shot", &run.display().to_string(), "--classes", &names.display().to_string()].map(str::to_owned);
    let ran = flipk(&args).expect(1);
    assert!(ran.stderr.contains("none of the 2 class names"), "{}", ran.stderr);
}

/// A run may come from others.
#[test]
fn a_command_of_the_run_is_not_run_unless_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let [data, tokenizer] = data_flags(folder.path(), &["a cat", "a dog", "a bird"], "a cat dog bird");
    let (run, ran) = (folder.path().join("run"), folder.path().join("ran"));
    let command = format!("pipe:touch {}; cat {}", ran.display(), folder.path().join("a.tar").display());
    let held_out = format!("--eval-data={command}");
    train(&run, &[&data, &tokenizer, &held_out, "--batch=2", "--steps=1"]).expect(0);
    std::fs::remove_file(&ran).unwrap();
    let run = run.display().to_string();
    let refused = flipk(&["eval", "retrieval", &run, "--device=cpu"]).expect(1);
    assert!(refused.stderr.contains("is the output of a command") && !ran.exists(), "{}", refused.stderr);
    flipk(&["eval", "retrieval", &run, "--device=cpu", &format!("--data={command}")]).expect(0);
    assert!(ran.exists());
}
