//! Models of OpenCLIP whose vision tower is timm's: those that flipk writes, and those that it reads or refuses.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::flipk;
use crate::place::Place;
use crate::robust::png;

/// A small model and its export to OpenCLIP, whose tower is timm's.
fn exported(flags: &[&str]) -> Place {
    let place = Place::new();
    place.train("run", &[&["--steps=2"], flags].concat()).expect(0);
    convert(&place, "export", "run", "theirs", &["--format=open_clip"]);
    place
}

fn convert(place: &Place, command: &str, from: &str, to: &str, flags: &[&str]) {
    let [from, to] = [from, to].map(|name| place.path(name).display().to_string());
    flipk(&[&[command, &from, "--out", &to], flags].concat()).expect(0);
}

/// The bytes of the embeddings of two images and three texts.
fn embeddings(place: &Place, model: &str) -> Vec<u8> {
    let shard = place.shard("images.tar", &[1, 2].map(|image| (image, [("json", "{}")].as_slice())));
    let texts = place.file("texts.txt", "a cat\na dog\nthe moon\n");
    let [model, out] = [model, "out.safetensors"].map(|name| place.path(name).display().to_string());
    flipk(&["embed", &model, "--images", &shard, "--texts", &texts, "--out", &out]).expect(0);
    fs::read(out).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// As the training run has it.
fn description(place: &Place, folder: &str) -> Value {
    read(&place.path(folder).join("model.json"))
}

#[test]
fn the_papers_own_model_comes_back_as_it_went() {
    let place = exported(&[]);
    assert!(place.path("theirs/timm/config.json").is_file());
    let before = embeddings(&place, "run");
    assert!(before.len() > png(1).len() && before == embeddings(&place, "theirs"), "embeddings of the export differ");
    convert(&place, "import", "theirs", "ours", &[]);
    assert!(before == embeddings(&place, "ours"), "embeddings of the import differ");
    assert_eq!(description(&place, "run"), description(&place, "ours"));

    // OpenCLIP finds the tower by its path, flipk also beside the description; and that one counts if another model has
    // taken the place.
    fs::rename(place.path("theirs"), place.path("moved")).unwrap();
    assert!(before == embeddings(&place, "moved"), "embeddings after a move differ");
    place.train("other", &["--steps=1", "--pool=patches"]).expect(0);
    fs::create_dir_all(place.path("theirs/timm")).unwrap();
    let mut tower = read(&place.path("moved/timm/config.json"));
    tower["model_args"]["pool_include_prefix"] = json!(false);
    fs::write(place.path("theirs/timm/config.json"), tower.to_string()).unwrap();
    assert!(before == embeddings(&place, "moved"), "the tower of another model was taken");
    convert(&place, "import", "moved", "ours-again", &[]);
    assert_eq!(description(&place, "run"), description(&place, "ours-again"));

    // Training starts from it, and it is exported once more.
    let init = format!("--init-from={}", place.path("moved").display());
    place.train("next", &["--steps=1", &init]).expect(0);
    convert(&place, "export", "ours", "flip", &["--format=flip"]);
    assert!(before == embeddings(&place, "flip"), "embeddings of FLIP's form differ");
}

/// OpenCLIP's choices with the paper's pooling: a norm in front, learned positions, quick GELU in both towers.
#[test]
fn other_choices_come_back_as_they_went() {
    for name in ["ViT-B-16", "ViT-B-16-quickgelu"] {
        let model = format!("--model={name}");
        let place = exported(&[&model, "--pool=all", "--tokenizer=clip"]);
        let tower = read(&place.path("theirs/timm/config.json"));
        assert_eq!(tower["architecture"], "vit_base_patch16_clip_224", "the epsilon is 1e-5");
        convert(&place, "import", "theirs", "ours", &[]);
        assert_eq!(description(&place, "run"), description(&place, "ours"));
        assert!(embeddings(&place, "run") == embeddings(&place, "ours"), "{name}: embeddings differ");
    }
}

/// Each change of the description or of the tower's, and the error.
#[test]
fn what_flipk_does_not_have_is_named() {
    let place = exported(&[]);
    let [config, tower] = ["open_clip_config.json", "timm/config.json"].map(|name| place.path("theirs").join(name));
    let out = place.path("out").display().to_string();
    let theirs = place.path("theirs").display().to_string();
    let error = |file: &Path, at: &str, value: Value| {
        let before = fs::read(file).unwrap();
        let mut changed = read(file);
        let (object, key) = at.rsplit_once('/').unwrap();
        changed.pointer_mut(object).unwrap()[key] = value;
        fs::write(file, changed.to_string()).unwrap();
        let error = flipk(&["import", &theirs, "--out", &out]).expect(1).stderr;
        fs::write(file, before).unwrap();
        error
    };
    for (key, value, words) in [
        ("timm_model_name", json!("convnext_base"), "is `convnext_base`; of timm's towers, flipk has plain ViTs"),
        ("timm_model_name", json!("vit_base_patch16_siglip_224"), "is `vit_base_patch16_siglip_224`; of timm's"),
        ("timm_model_name", json!("vit_medium_patch16_gap_256"), "is `vit_medium_patch16_gap_256`; of timm's"),
        ("timm_model_name", json!("vit_relpos_medium_patch16_cls_224"), "of timm's towers, flipk has plain ViTs"),
        ("timm_model_name", json!("vit_base_patch14_reg4_dinov2"), "of timm's towers, flipk has plain ViTs"),
        ("timm_model_name", json!("hf-hub:timm/vit_base_patch16_224"), "which flipk does not download"),
        ("timm_pool", json!("map"), "is `map`; flipk has avg and token"),
        ("timm_pool", json!("abs_attn"), "is `abs_attn`; flipk has avg and token"),
        ("timm_pool", json!("rot_attn"), "is `rot_attn`; flipk has avg and token"),
        ("timm_proj", json!("mlp"), "is `mlp`; flipk has linear"),
        ("timm_proj", json!(""), "is ``; flipk has linear"),
        ("timm_proj", Value::Null, "is ``; flipk has linear"),
        ("timm_proj", json!("none"), "is `none`; flipk has linear"),
        ("timm_proj_bias", json!(true), "is true, which flipk's models do not have"),
        ("image_size", json!(32), "is 32, but the tower of timm takes images of 16 pixels"),
        ("unheard_of", json!(1), "is 1, which flipk's models do not have"),
    ] {
        let error = error(&config, &format!("/model_cfg/vision_cfg/{key}"), value);
        assert!(
            error.contains(&format!("open_clip_config.json: `vision_cfg.{key}` ")) && error.contains(words),
            "{error}"
        );
    }
    for (key, value, words) in [
        ("class_token", json!(false), "is false"),
        ("qkv_bias", json!(false), "is false"),
        ("proj_bias", json!(false), "is false"),
        ("final_norm", json!(false), "is false"),
        ("qk_norm", json!(true), "is true"),
        ("reg_tokens", json!(4), "is 4; flipk has 0"),
        ("in_chans", json!(1), "is 1; flipk has 3"),
        ("norm_layer", json!("rmsnorm"), "is `rmsnorm`; flipk has layernorm"),
        ("act_layer", json!("silu"), "is `silu`; flipk has gelu, gelu_tanh, quick_gelu"),
        ("global_pool", json!("map"), "is `map`; flipk has token, avg"),
        ("pos_embed", json!("none"), "is `none`; flipk has learn"),
        ("mlp_layer", json!("SwiGLUPacked"), "is \"SwiGLUPacked\", which flipk's models do not have"),
        ("img_size", json!([16, 32]), "is not square"),
    ] {
        let error = error(&tower, &format!("/model_args/{key}"), value);
        assert!(error.contains(&format!("config.json: `model_args.{key}` ")) && error.contains(words), "{error}");
    }
    let other = error(&tower, "/architecture", json!("eva02_base_patch16_clip_224"));
    assert!(other.contains("`architecture` is `eva02_base_patch16_clip_224`; of timm's towers"), "{other}");
    let bias = error(&tower, "/model_args/pre_norm", json!(true));
    assert!(bias.contains("missing: visual.trunk.norm_pre.weight") && bias.contains("patch_embed.proj.bias"), "{bias}");
    fs::remove_dir_all(place.path("theirs/timm")).unwrap();
    let gone = flipk(&["import", &theirs, "--out", &out]).expect(1).stderr;
    assert!(gone.contains("`vision_cfg.timm_model_name` is `local-dir:") && gone.contains("no config.json"), "{gone}");
    assert!(!place.path("out").exists());
}
