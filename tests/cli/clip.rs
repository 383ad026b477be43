//! OpenCLIP's models with CLIP's own tokenizer.

use serde_json::{Value, json};

use crate::harness::flipk;
use crate::place::Place;

fn model(place: &Place) -> String {
    let model = json!({
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 4, "layers": 1, "width": 32, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49_408, "layers": 1, "width": 32, "heads": 2},
    });
    format!("--model={}", place.file("small.json", model.to_string()))
}

fn shard(place: &Place) -> String {
    let captions =
        ["a DOG &amp; a cat", "l’humanitÃ©", "two birds 🐦", "a long caption that does not fit into the context"];
    let members: Vec<Vec<(&str, &str)>> = captions.iter().map(|caption| vec![("txt", *caption)]).collect();
    let samples: Vec<(u8, &[(&str, &str)])> = (0..).zip(members.iter().map(Vec::as_slice)).collect();
    format!("--data={}", place.shard("a.tar", &samples))
}

#[test]
fn clips_tokenizer_is_the_default_and_stays_with_the_run() {
    let place = Place::new();
    let (model, data) = (model(&place), shard(&place));
    let ran = place.train("run", &[&model, &data, "--batch=4", "--steps=2", "--recompute=none"]).expect(0);
    let said = "tokenizer: 49408 tokens; cleaned as by OpenCLIP, lower-cased, accents kept; between <|startoftext|> (49406) \
                and <|endoftext|> (49407); ! (0) pads";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let run = place.path("run").display().to_string();
    let file: Value = serde_json::from_slice(&std::fs::read(place.path("run/tokenizer.json")).unwrap()).unwrap();
    assert_eq!(file["padding"]["flipk"]["special_tokens"], true);
    let config = std::fs::read_to_string(place.path("run/config.toml")).unwrap();
    assert!(config.contains("special_tokens = true"), "{config}");

    let refused = flipk(&["train", "--resume", &run, "--steps=4", "--special-tokens=no"]).expect(1);
    assert!(refused.stderr.contains("--special-tokens is not what the run"), "{}", refused.stderr);
    let resumed = flipk(&["train", "--resume", &run, "--steps=4", "--tokenizer=clip"]).expect(0);
    assert!(resumed.stderr.contains(said), "{}", resumed.stderr);
    flipk(&["eval", "retrieval", &run, &data]).expect(0);
    // Without its file, the run's model does not say which tokenizer it had.
    std::fs::remove_file(place.path("run/tokenizer.json")).unwrap();
    let ran = flipk(&["eval", "retrieval", &run, &data]).expect(1);
    assert!(ran.stderr.contains("no tokenizer.json beside the model"), "{}", ran.stderr);
    flipk(&["eval", "retrieval", &run, &data, "--tokenizer=clip"]).expect(0);
}

#[test]
fn special_tokens_are_an_option() {
    let place = Place::new();
    let (model, data) = (model(&place), shard(&place));
    let ran = place.train("plain", &[&model, &data, "--batch=4", "--steps=1", "--special-tokens=no"]).expect(0);
    let special_tokens = "; between ";
    assert!(!ran.stderr.contains(special_tokens), "{}", ran.stderr);
    // FLIP's models have none, whatever the tokenizer.
    let ran = place.train("flip", &[&data, "--tokenizer=clip", "--batch=4", "--steps=1"]).expect(0);
    assert!(ran.stderr.contains("cleaned as by OpenCLIP") && !ran.stderr.contains(special_tokens), "{}", ran.stderr);
    let vocab = format!("--tokenizer={}", place.file("vocab.txt", "[PAD]\n[UNK]\na\ndog\n"));
    let ran = place.train("none", &[&data, &vocab, "--batch=4", "--steps=1", "--special-tokens=yes"]).expect(1);
    assert!(ran.stderr.contains("no start and end tokens"), "{}", ran.stderr);
    let vocab = format!("--tokenizer={}", place.file("bert.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ndog\n"));
    let ran = place.train("bert", &[&data, &vocab, "--batch=4", "--steps=1", "--special-tokens=yes"]).expect(0);
    assert!(ran.stderr.contains("; between [CLS] (2) and [SEP] (3); "), "{}", ran.stderr);
}

#[test]
fn a_tokenizer_of_hugging_face_is_named() {
    let place = Place::new();
    let ran = flipk(&["train", "--model=ViT-L-14-CLIPA", &shard(&place)]).expect(1);
    assert!(ran.stderr.contains("from_pretrained('bert-base-uncased').save_pretrained"), "{}", ran.stderr);
}

/// An export and an import of it prepare texts as the run did: start and end tokens, and an end token that becomes 0.
#[test]
fn exports_and_imports_prepare_texts_alike() {
    let place = Place::new();
    let data = shard(&place);
    let texts = place.file("texts.txt", "a dog\ntwo birds\na DOG\n");
    let bert = place.file("bert.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ndog\ntwo\nbirds\n");
    let embed = |model: &str, flags: &[&str]| {
        let [model, out] = [model, "rows.npy"].map(|name| place.path(name).display().to_string());
        flipk(&[&["embed", &model, "--texts", &texts, "--out", &out], flags].concat()).expect(0);
        std::fs::read(out).unwrap()
    };
    let tokenizer = format!("--tokenizer={bert}");
    for (pool, more, tokenizer) in [
        ("first", json!({}), "--tokenizer=clip"),
        (
            "last",
            json!({"hf_tokenizer_name": "bert", "tokenizer_kwargs": {"strip_sep_token": true}}),
            tokenizer.as_str(),
        ),
    ] {
        let mut text = json!({"context_length": 8, "vocab_size": 49_408, "layers": 1, "width": 32, "heads": 2});
        text["pool_type"] = json!(pool);
        text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vision = json!({"image_size": 16, "patch_size": 4, "layers": 1, "width": 32, "head_width": 16});
        let model = json!({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text});
        let model = format!("--model={}", place.file("small.json", model.to_string()));
        let [run, out, back, bare] = ["run", "out", "back", "bare"].map(|name| format!("{pool}-{name}"));
        place.train(&run, &[&model, &data, tokenizer, "--batch=4", "--steps=1"]).expect(0);
        let convert = |command: &str, from: &str, to: &str, flags: &[&str]| {
            let [from, to] = [from, to].map(|name| place.path(name).display().to_string());
            flipk(&[&[command, &from, "--out", &to], flags].concat()).expect(0)
        };
        convert("export", &run, &out, &["--format=open_clip"]);
        let config = std::fs::read_to_string(place.path(&out).join("open_clip_config.json")).unwrap();
        assert_eq!(config.contains(r#""strip_sep_token": true"#), pool == "last", "{config}");
        convert("import", &out, &back, &[]);
        let rows = embed(&run, &[]);
        assert!(embed(&out, &[]) == rows && embed(&back, &[]) == rows, "{pool}");
        // Without its tokenizer, the folder says how texts are prepared, and the import keeps that.
        std::fs::remove_file(place.path(&out).join("tokenizer.json")).unwrap();
        convert("import", &out, &bare, &[tokenizer]);
        assert!(embed(&out, &[tokenizer]) == rows && embed(&bare, &[]) == rows, "{pool}");
    }
    let refused = flipk(&["export", &place.path("last-out").display().to_string(), "--format=open_clip", "--out", "x"]);
    assert!(refused.expect(1).stderr.contains("pass --tokenizer"));
}
