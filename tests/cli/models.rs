//! `flipk import` and `flipk export`: models of other programs, there and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::harness::flipk;

/// Shape and bytes of each tensor.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> (Tensors, Value) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let config = header.metadata().as_ref().and_then(|fields| fields.get("config"));
    let config = config.map_or(Value::Null, |config| serde_json::from_str(config).unwrap());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    (tensors.map(|(name, tensor)| (name, (tensor.shape().to_vec(), tensor.data().to_vec()))).collect(), config)
}

fn write(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let view = |(name, (shape, bytes)): (&String, &(Vec<usize>, Vec<u8>))| {
        (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap().data().to_vec(), shape.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views =
        owned.iter().map(|(name, bytes, shape)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Models on disk.
struct Models(tempfile::TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The folder of the OpenCLIP model in a golden state, as OpenCLIP writes it; and its tensors.
    fn open_clip(&self, name: &str) -> Tensors {
        let state = format!("tests/fixtures/golden/open_clip_{name}.safetensors");
        let (all, mut config) = read(Path::new(&state));
        let keys = config.as_object_mut().unwrap();
        let pixels = json!({"mean": keys.remove("mean"), "std": keys.remove("std")});
        let _ = ["batch", "open_clip"].map(|key| keys.remove(key));
        let tensors: Tensors = all
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("state_dict/")?.to_owned(), tensor)))
            .collect();
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        let config = json!({"model_cfg": config, "preprocess_cfg": pixels});
        fs::write(folder.join("open_clip_config.json"), config.to_string()).unwrap();
        write(&folder.join("open_clip_model.safetensors"), &tensors, Dtype::F32);
        tensors
    }

    /// Runs `flipk COMMAND FROM --out TO` with more flags.
    fn convert(&self, command: &str, from: &str, to: &str, flags: &[&str]) -> crate::harness::Ran {
        let [from, to] = [from, to].map(|name| self.path(name).display().to_string());
        flipk(&[&[command, &from, "--out", &to], flags].concat())
    }
}

/// Tensors with one row of zeros dropped, so that shapes `[]` and `[1]` are the same.
fn same(found: &Tensors, expected: &Tensors) {
    assert!(found.keys().eq(expected.keys()), "{:?}\n{:?}", found.keys(), expected.keys());
    for (name, (_, bytes)) in expected {
        assert!(found[name].1 == *bytes, "{name} differs");
    }
}

#[test]
fn open_clips_models_come_back_as_they_went() {
    let models = Models::new();
    for name in ["tiny", "quick", "clipa", "scaled"] {
        let tensors = models.open_clip(name);
        let imported = format!("{name}-imported");
        models.convert("import", name, &imported, &[]).expect(0);
        models.convert("export", &imported, &format!("{name}-out"), &["--format=open_clip"]).expect(0);
        let (found, _) = read(&models.path(&format!("{name}-out/open_clip_model.safetensors")));
        same(&found, &tensors);
        // The description says the same, whichever keys it has.
        let again = format!("{name}-again");
        models.convert("import", &format!("{name}-out"), &again, &[]).expect(0);
        let model = |folder: &str| fs::read_to_string(models.path(folder).join("model.json")).unwrap();
        assert_eq!(model(&imported), model(&again));
    }
}

#[test]
fn hugging_faces_models_come_back_as_they_went() {
    let models = Models::new();
    for name in ["tiny", "quick"] {
        let tensors = models.open_clip(name);
        models.convert("export", name, &format!("{name}-hf"), &["--format=hf"]).expect(0);
        models.convert("export", &format!("{name}-hf"), &format!("{name}-out"), &["--format=open_clip"]).expect(0);
        let (found, _) = read(&models.path(&format!("{name}-out/open_clip_model.safetensors")));
        same(&found, &tensors);
    }
    // Several files, and an index that says which tensor is in which.
    let (tensors, _) = read(&models.path("tiny-hf/model.safetensors"));
    fs::remove_file(models.path("tiny-hf/model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (number, half) in [0, 1].into_iter().zip(["a.safetensors", "b.safetensors"]) {
        let part: Tensors = tensors
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == number)
            .map(|(_, (k, v))| (k.clone(), v.clone()))
            .collect();
        map.extend(part.keys().map(|name| (name.clone(), half)));
        write(&models.path("tiny-hf").join(half), &part, Dtype::F32);
    }
    let index = json!({"weight_map": map}).to_string();
    fs::write(models.path("tiny-hf/model.safetensors.index.json"), index).unwrap();
    models.convert("import", "tiny-hf", "sharded", &[]).expect(0);
    models.convert("export", "sharded", "sharded-hf", &["--format=hf"]).expect(0);
    same(&read(&models.path("sharded-hf/model.safetensors")).0, &tensors);
}

/// Half precision goes out, and comes in as the nearest f32.
#[test]
fn half_precision_is_read_and_written() {
    let models = Models::new();
    let tensors = models.open_clip("quick");
    for dtype in ["f16", "bf16"] {
        let [half, back] = [dtype.to_owned(), format!("{dtype}-back")];
        models.convert("export", "quick", &half, &["--format=open_clip", &format!("--dtype={dtype}")]).expect(0);
        models.convert("export", &half, &back, &["--format=open_clip"]).expect(0);
        let (found, _) = read(&models.path(&back).join("open_clip_model.safetensors"));
        for (name, (_, bytes)) in &tensors {
            let numbers = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
            };
            for (found, exact) in numbers(&found[name].1).iter().zip(numbers(bytes)) {
                assert!((found - exact).abs() <= 0.004 * exact.abs() + 1e-7, "{name}: {found} for {exact}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_or_written_says_why() {
    let models = Models::new();
    let tensors = models.open_clip("clipa");
    let error = |ran: crate::harness::Ran| ran.expect(1).stderr;
    let hf = error(models.convert("export", "clipa", "hf", &["--format=hf"]));
    assert!(hf.contains("--format hf cannot express an image embedding") && hf.contains("export to open_clip"), "{hf}");
    assert!(!models.path("hf").exists());
    let taken = error(models.convert("import", "clipa", "clipa", &[]));
    assert!(taken.contains("clipa already exists: choose another --out"), "{taken}");

    let weights = models.path("clipa/open_clip_model.safetensors");
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut changed = tensors.clone();
        change(&mut changed);
        write(&weights, &changed, Dtype::F32);
        error(models.convert("import", "clipa", "out", &[]))
    };
    let missing = with(&|tensors| drop(tensors.remove("ln_final.bias")));
    assert!(missing.contains("does not fit its configuration: 1 missing: ln_final.bias [24]"), "{missing}");
    let unused = with(&|tensors| drop(tensors.insert("visual.attn_pool.query".to_owned(), (vec![1], vec![0; 4]))));
    assert!(unused.contains("1 not of this model: visual.attn_pool.query [1]"), "{unused}");
    let shape = with(&|tensors| drop(tensors.insert("ln_final.bias".to_owned(), (vec![2], vec![0; 8]))));
    assert!(shape.contains("1 of another shape: ln_final.bias is [2], expected [24]"), "{shape}");
    let nan =
        with(&|tensors| tensors.get_mut("ln_final.bias").unwrap().1[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(nan.contains("has a tensor `ln_final.bias` that holds NaN at 0"), "{nan}");
    fs::write(&weights, b"PK\x03\x04pickle").unwrap();
    let pickle = error(models.convert("import", "clipa", "out", &[]));
    assert!(pickle.contains("is a PyTorch pickle") && pickle.contains("python -c"), "{pickle}");
    // The line's file is found in the folder.
    for (name, made) in [("open_clip_pytorch_model.bin", "model.safetensors"), ("epoch_9.pt", "epoch_9.safetensors")] {
        let path = models.path("clipa").join(name);
        fs::rename(&weights, &path).unwrap();
        let line = error(models.convert("import", &format!("clipa/{name}"), "out", &[]));
        let made = models.path("clipa").join(made);
        assert!(line.contains(&format!("'{}')\"", made.display())), "{line}");
        write(&made, &tensors, Dtype::F32);
        models.convert("import", "clipa", &format!("of-{name}"), &[]).expect(0);
        fs::remove_file(made).unwrap();
        fs::rename(path, &weights).unwrap();
    }
    fs::write(&weights, &fs::read("tests/fixtures/golden/open_clip_clipa.safetensors").unwrap()[..5000]).unwrap();
    let cut = error(models.convert("import", "clipa", "out", &[]));
    assert!(cut.contains("is not a safetensors file, or is cut"), "{cut}");
    fs::remove_file(&weights).unwrap();
    let none = error(models.convert("import", "clipa", "out", &[]));
    assert!(none.contains("has no weights: open_clip_model.safetensors"), "{none}");
    let config = models.path("clipa/open_clip_config.json");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("\"last\"", "\"none\"")).unwrap();
    let choice = error(models.convert("import", "clipa", "out", &[]));
    assert!(choice.contains("`text_cfg.pool_type` is `none`; flipk has argmax, first, last, eos"), "{choice}");
    fs::create_dir(models.path("empty")).unwrap();
    let empty = error(models.convert("import", "empty", "out", &[]));
    assert!(empty.contains("there is no model in") && empty.contains("open_clip_config.json"), "{empty}");
    assert!(!models.path("out").exists());
}

/// Both encoders, what describes them, and the tokenizer; or nothing.
#[test]
fn onnx_is_written_whole_or_not_at_all() {
    let place = crate::place::Place::new();
    place.train("run", &["--steps=2"]).expect(0);
    let run = place.path("run").display().to_string();
    let export = |out: &str, flags: &[&str]| {
        let out = place.path(out).display().to_string();
        flipk(&[&["export", &run, "--format=onnx", "--out", &out], flags].concat())
    };
    let size = |file: &str| fs::metadata(place.path(file)).unwrap().len();
    export("f32", &[]).expect(0);
    export("f16", &["--dtype=f16"]).expect(0);
    let names = fs::read_dir(place.path("f32")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: std::collections::BTreeSet<String> = names.collect();
    let expected = ["image.onnx", "onnx_config.json", "text.onnx", "tokenizer.json", "tokenizer_config.json"];
    assert!(names.iter().eq(expected), "{names:?}");
    assert!(size("f16/text.onnx") * 10 < size("f32/text.onnx") * 8, "f16 is not smaller");
    let about: Value = serde_json::from_slice(&fs::read(place.path("f32/onnx_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&about["image"]["output"]["shape"][1], &about["text"]["input"]["name"]),
        (&json!(16), &json!("input_ids"))
    );
    assert!(about["text"]["input"]["pad_id"].is_u64(), "{about}");

    let before = fs::read(place.path("f32/image.onnx")).unwrap();
    let taken = export("f32", &["--dtype=f16"]).expect(1).stderr;
    assert!(taken.contains("already exists: choose another --out") && !taken.contains("partial"), "{taken}");
    assert!(fs::read(place.path("f32/image.onnx")).unwrap() == before, "an existing file has changed");
    let bf16 = export("bf16", &["--dtype=bf16"]).expect(1).stderr;
    assert!(bf16.contains("--format onnx cannot express bf16") && bf16.contains("--dtype f16"), "{bf16}");
    let left = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.contains("bf16")), "something is left");
}

/// A copy of a checkpoint beside the files of its run is still flipk's own.
#[test]
fn a_renamed_checkpoint_is_recognised() {
    let place = crate::place::Place::new();
    place.train("run", &["--steps=2"]).expect(0);
    let copy = place.path("run/best.safetensors");
    fs::copy(place.path("run/checkpoints/step-00000002.safetensors"), &copy).unwrap();
    let out = place.path("out").display().to_string();
    flipk(&["export", &copy.display().to_string(), "--format=flip", "--out", &out]).expect(0);
    let (tensors, _) = read(&place.path("out/flip.safetensors"));
    assert_eq!(tensors["img_encoder/cls"].0, [1, 1, 32]);
}

/// The beginning of a safetensors file may be that of a pickle: the header is 640 bytes long.
#[test]
fn a_header_that_begins_as_a_pickle_is_a_header() {
    let models = Models::new();
    let tensors = models.open_clip("tiny");
    let path = models.path("tiny/open_clip_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let longer = (length - 0x280).next_multiple_of(1 << 16) + 0x280;
    let mut header = bytes[8..8 + length].to_vec();
    header.resize(longer, b' ');
    let changed = [&(longer as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat();
    assert_eq!(changed[..2], [0x80, 0x02]);
    fs::write(&path, changed).unwrap();
    models.convert("export", "tiny", "out", &["--format=open_clip"]).expect(0);
    same(&read(&models.path("out/open_clip_model.safetensors")).0, &tensors);
}

/// LAION's folders describe a model twice, and may have the weights of Hugging Face alone.
#[test]
fn of_two_descriptions_the_one_of_the_weights_is_used() {
    let models = Models::new();
    let tensors = models.open_clip("quick");
    models.convert("export", "quick", "hf", &["--format=hf"]).expect(0);
    fs::copy(models.path("quick/open_clip_config.json"), models.path("hf/open_clip_config.json")).unwrap();
    models.convert("export", "hf", "out", &["--format=open_clip"]).expect(0);
    same(&read(&models.path("out/open_clip_model.safetensors")).0, &tensors);
    // A tensor that is in two files.
    fs::copy(models.path("hf/model.safetensors"), models.path("hf/b.safetensors")).unwrap();
    fs::rename(models.path("hf/model.safetensors"), models.path("hf/a.safetensors")).unwrap();
    let index = json!({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}).to_string();
    fs::write(models.path("hf/model.safetensors.index.json"), index).unwrap();
    let error = models.convert("export", "hf", "again", &["--format=open_clip"]).expect(1).stderr;
    assert!(error.contains("b.safetensors has the tensor `") && error.contains("a.safetensors has too"), "{error}");
}

/// Images are squashed if the model's description says so, and each form of export says it, too.
#[test]
fn the_resize_of_a_model_goes_with_it() {
    let models = Models::new();
    models.open_clip("tiny");
    let config = models.path("tiny/open_clip_config.json");
    let mut text: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    let image = models.path("wide.png");
    image::RgbImage::from_fn(64, 32, |x, _| image::Rgb([4 * x as u8; 3])).save(&image).unwrap();
    let image = image.display().to_string();
    let embedded = |model: &str| {
        let [from, out] = [model, "rows.npy"].map(|name| models.path(name).display().to_string());
        flipk(&["embed", &from, "--images", &image, "--out", &out]).expect(0);
        fs::read(out).unwrap()[1024..].to_vec()
    };
    let middle = embedded("tiny");
    text["preprocess_cfg"]["resize_mode"] = json!("squash");
    fs::write(&config, text.to_string()).unwrap();
    let squashed = embedded("tiny");
    assert!(squashed != middle, "the middle alone");
    models.convert("import", "tiny", "own", &[]).expect(0);
    assert!(embedded("own") == squashed, "after an import");
    for form in ["open_clip", "hf"] {
        models.convert("export", "own", form, &[&format!("--format={form}")]).expect(0);
        assert!(embedded(form) == squashed, "after an export to {form}");
    }
    models.convert("export", "own", "onnx", &["--format=onnx"]).expect(0);
    let about: Value = serde_json::from_slice(&fs::read(models.path("onnx/onnx_config.json")).unwrap()).unwrap();
    assert_eq!(about["image"]["input"]["resize"]["mode"], "squash");
}

#[test]
fn a_run_without_its_configuration_is_still_a_run() {
    let place = crate::place::Place::new();
    place.train("run", &["--steps=2"]).expect(0);
    let [run, out] = ["run", "out"].map(|name| place.path(name).display().to_string());
    fs::remove_file(place.path("run/config.toml")).unwrap();
    fs::remove_file(place.path("run/tokenizer.json")).unwrap();
    let export = |form: &str, out: &str| flipk(&["export", &run, "--format", form, "--out", out]);
    let found = export("open_clip", &out).expect(0).stderr;
    assert!(found.contains("there is no tokenizer.json beside the model, so the export has none"), "{found}");
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    let found = export("flip", &place.path("other").display().to_string()).expect(1).stderr;
    assert!(found.contains("there is no model in") && found.contains("looked for a run"), "{found}");
}

/// What a form cannot hold is an error that says which choice that is; a table that was trained is not replaced.
#[test]
fn nothing_is_left_out_of_the_authors_form() {
    let place = crate::place::Place::new();
    place.train("run", &["--steps=2"]).expect(0);
    place.train("sigmoid", &["--steps=2", "--loss=sigmoid"]).expect(0);
    place.train("patches", &["--steps=2", "--pool=patches"]).expect(0);
    let path = |name: &str| place.path(name).display().to_string();
    let export = |run: &str, out: &str| flipk(&["export", &path(run), "--format=flip", "--out", &path(out)]);
    for (run, choice) in [("sigmoid", "the bias of the sigmoid loss"), ("patches", "not the mean over all tokens")] {
        let found = export(run, "none").expect(1).stderr;
        assert!(found.contains("--format flip cannot express") && found.contains(choice), "{found}");
    }
    export("run", "flip").expect(0);
    let table = "img_encoder/posembed_encoder/pos_embedding";
    let file = place.path("flip/flip.safetensors");
    let (mut tensors, _) = read(&file);
    let import = |out: &str| {
        flipk(&["import", &path("flip"), "--out", &path(out)]).expect(0);
        serde_json::from_slice::<Value>(&fs::read(place.path(out).join("model.json")).unwrap()).unwrap()
    };
    assert_eq!(import("fixed").get("positions"), None);
    tensors.get_mut(table).unwrap().1[..4].copy_from_slice(&0.5f32.to_le_bytes());
    write(&file, &tensors, Dtype::F32);
    assert_eq!(import("trained")["positions"], "learned");
    export("trained", "back").expect(0);
    assert!(read(&place.path("back/flip.safetensors")).0[table] == tensors[table]);

    // Numbers that f16 does not have are not infinite.
    let (_, bytes) = tensors.get_mut("txt_mlp1/kernel").unwrap();
    bytes[..4].copy_from_slice(&1e6f32.to_le_bytes());
    write(&file, &tensors, Dtype::F32);
    let half = ["export", &path("flip"), "--format=flip", "--dtype=f16", "--out", &path("half")];
    let found = flipk(&half).expect(1).stderr;
    assert!(found.contains("`txt_mlp1/kernel` has the value 1000000, beyond the largest of f16"), "{found}");
}
