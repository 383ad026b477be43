use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::autograd::Activation;
use crate::model::{Flip, ImagePool, ModelConfig, Positions, Preset, TextPool};

/// A small model with choices of its own.
fn small(change: impl FnOnce(&mut ModelConfig)) -> ModelConfig {
    let mut model = ModelConfig { vocab: 512, ..Preset::Tiny.config() };
    model.vision.layers = 2;
    model.text.layers = 2;
    change(&mut model);
    model.check().unwrap();
    model
}

/// CLIP's choices.
fn clip(model: &mut ModelConfig) {
    (model.patch_bias, model.ln_pre, model.causal) = (false, true, true);
    (model.positions, model.image_pool, model.text_pool) = (Positions::Learned, ImagePool::Class, TextPool::Argmax);
    (model.vision.activation, model.text.activation) = (Activation::QuickGelu, Activation::GeluExact);
}

/// CLIPA's choices, and layer scale.
fn clipa(model: &mut ModelConfig) {
    (model.image_pool, model.ln_after_pool, model.text_pool) = (ImagePool::Patches, true, TextPool::Id(7));
    (model.vision.layer_scale, model.text.layer_scale) = (Some(0.1), Some(0.1));
}

/// Both encoders of a model, as they are read again; and the folder.
fn written(
    model: &ModelConfig,
    loss: Loss,
    numbers: Numbers,
    large: usize,
) -> (tempfile::TempDir, Vec<f32>, [proto::Model; 2]) {
    let flip = Flip::with_loss(model, loss, true);
    let values = flip.layout().initial_values(1);
    let export = Export { model, loss, layout: flip.layout(), values: &values, tokenizer: None, numbers };
    let place = tempfile::tempdir().unwrap();
    let folder = NewFolder::create(&place.path().join("out")).unwrap();
    write(&export, &folder, large).unwrap();
    folder.finish().unwrap();
    let read = |name: &str| {
        let bytes = fs::read(place.path().join("out").join(name)).unwrap();
        proto::Model::decode(bytes.as_slice()).unwrap()
    };
    let models = [read("image.onnx"), read("text.onnx")];
    (place, values, models)
}

/// A tensor's numbers as bytes, wherever they are.
fn bytes(tensor: &proto::Tensor, folder: &Path) -> Vec<u8> {
    if tensor.external_data.is_empty() {
        return tensor.raw_data.clone();
    }
    assert!(tensor.raw_data.is_empty());
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).unwrap().value.clone();
    let [offset, length] = ["offset", "length"].map(|key| entry(key).parse::<usize>().unwrap());
    assert!(offset.is_multiple_of(65536), "{}", tensor.name);
    fs::read(folder.join(entry("location"))).unwrap()[offset..][..length].to_vec()
}

/// Each node reads what is there already, every name is given once and used, and numbers fill their shapes.
fn check(model: &proto::Model, folder: &Path) {
    let graph = model.graph.as_ref().unwrap();
    let mut known: BTreeSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    let mut used = BTreeSet::new();
    for tensor in &graph.initializer {
        assert!(known.insert(&tensor.name), "{} twice", tensor.name);
        let size = match DataType::try_from(tensor.data_type).unwrap() {
            DataType::Float16 => 2,
            DataType::Int64 => 8,
            _ => 4,
        };
        let numbers: i64 = tensor.dims.iter().product();
        assert_eq!(bytes(tensor, folder).len() as i64, numbers * size, "{}", tensor.name);
    }
    for node in &graph.node {
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{} reads {input}, which is not there yet", node.name);
            used.insert(input.as_str());
        }
        assert_eq!(node.output.len(), 1);
        assert!(known.insert(&node.output[0]), "{} twice", node.output[0]);
    }
    used.extend(graph.output.iter().map(|output| output.name.as_str()));
    assert!(used == known, "unused: {:?}", known.difference(&used).collect::<Vec<_>>());
    assert_eq!(graph.node.iter().map(|node| &node.name).collect::<BTreeSet<_>>().len(), graph.node.len());
}

#[test]
fn graphs_are_sound_and_have_every_parameter_once() {
    for (change, loss) in [
        ((|_| ()) as fn(&mut ModelConfig), Loss::Infonce),
        (clip, Loss::Infonce),
        (clipa, Loss::Sigmoid),
        (|model| model.text_pool = TextPool::Last, Loss::Infonce),
    ] {
        let model = small(change);
        for numbers in [Numbers::F32, Numbers::F16] {
            let (place, values, models) = written(&model, loss, numbers, LARGE);
            let folder = place.path().join("out");
            models.iter().for_each(|model| check(model, &folder));
            let graphs = models.map(|model| model.graph.unwrap());
            let flip = Flip::with_loss(&model, loss, true);
            // In no graph: the CLS token is a part of the position table, the loss's scalars are metadata.
            let elsewhere = ["visual.class_embedding", "visual.positional_embedding", "logit_scale", "logit_bias"];
            for spec in flip.layout().specs().iter().filter(|spec| !elsewhere.contains(&spec.name.as_str())) {
                let tensors = graphs.iter().flat_map(|graph| &graph.initializer);
                let tensors: Vec<_> = tensors.filter(|tensor| tensor.name == spec.name).collect();
                assert_eq!(tensors.len(), 1, "{}", spec.name);
                assert_eq!(tensors[0].dims.iter().product::<i64>(), spec.len as i64, "{}", spec.name);
                let readers = graphs.iter().flat_map(|graph| &graph.node);
                assert_eq!(readers.filter(|node| node.input.contains(&spec.name)).count(), 1, "{}", spec.name);
                let mut sums = [values[spec.range()].to_vec(), decoded(tensors[0], &folder)];
                sums.iter_mut().for_each(|numbers| numbers.sort_by(f32::total_cmp));
                let error = sums[0].iter().zip(&sums[1]).map(|(ours, theirs)| (ours - theirs).abs());
                assert!(error.fold(0.0, f32::max) <= if numbers == Numbers::F32 { 0.0 } else { 1e-3 }, "{}", spec.name);
            }
        }
    }
}

/// A tensor's numbers.
fn decoded(tensor: &proto::Tensor, folder: &Path) -> Vec<f32> {
    let bytes = bytes(tensor, folder);
    if tensor.data_type == DataType::Float16 as i32 {
        return bytes.chunks_exact(2).map(|pair| half::f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect();
    }
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// Kernels have PyTorch's order, linear layers that of `MatMul`, and the CLS token is in row 0 of the positions.
#[test]
fn numbers_are_where_onnx_wants_them() {
    let model = small(clip);
    let (place, values, [image, _]) = written(&model, Loss::Infonce, Numbers::F32, LARGE);
    let folder = place.path().join("out");
    let flip = Flip::new(&model, true);
    let ours = |name: &str| {
        let spec = flip.layout().specs().iter().find(|spec| spec.name == name).unwrap();
        values[spec.range()].to_vec()
    };
    let graph = image.graph.unwrap();
    let theirs = |name: &str| {
        let tensor = graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
        (tensor.dims.clone(), decoded(tensor, &folder))
    };
    let (dims, kernel) = theirs("visual.conv1.weight");
    assert_eq!(dims, [128, 3, 8, 8]);
    // Output 5, channel 2, row 3, column 4.
    assert_eq!(kernel[((5 * 3 + 2) * 8 + 3) * 8 + 4], ours("visual.conv1.weight")[((5 * 8 + 3) * 8 + 4) * 3 + 2]);
    let name = "visual.transformer.resblocks.1.mlp.c_fc.weight";
    let (dims, matrix) = theirs(name);
    assert_eq!(dims, [128, 512]);
    assert_eq!(matrix[7 * 512 + 300], ours(name)[300 * 128 + 7]);
    let (dims, table) = theirs("visual.positional_embedding");
    let [cls, positions] = ["visual.class_embedding", "visual.positional_embedding"].map(ours);
    assert_eq!(dims, [37, 128]);
    assert_eq!((table[9], table[128 + 9]), (positions[9] + cls[9], positions[128 + 9]));
}

#[test]
fn large_weights_are_in_a_file_of_their_own() {
    let model = small(clip);
    let (inside_place, _, inside) = written(&model, Loss::Infonce, Numbers::F32, LARGE);
    let (beside_place, _, beside) = written(&model, Loss::Infonce, Numbers::F32, 0);
    let folders = [&inside_place, &beside_place].map(|place| place.path().join("out"));
    for (name, (inside, beside)) in ["image", "text"].iter().zip(inside.iter().zip(&beside)) {
        check(beside, &folders[1]);
        let [tensors, moved] = [inside, beside].map(|model| &model.graph.as_ref().unwrap().initializer);
        assert_eq!(tensors.len(), moved.len());
        for (tensor, moved) in tensors.iter().zip(moved) {
            assert_eq!(moved.external_data.is_empty(), tensor.raw_data.len() < 65536, "{}", tensor.name);
            assert!(bytes(tensor, &folders[0]) == bytes(moved, &folders[1]), "{}", tensor.name);
        }
        let files = folders.each_ref().map(|folder| folder.join(format!("{name}.onnx.data")).is_file());
        assert_eq!(files, [false, true]);
    }
}

#[test]
fn what_f16_does_not_have_is_an_error() {
    let model = small(|_| ());
    let flip = Flip::new(&model, true);
    let mut values = flip.layout().initial_values(1);
    let spec = flip.layout().specs().iter().find(|spec| spec.name == "transformer.resblocks.1.mlp.c_fc.bias").unwrap();
    values[spec.offset + 3] = 70_000.0;
    let place = tempfile::tempdir().unwrap();
    let folder = NewFolder::create(&place.path().join("out")).unwrap();
    let mut export = Export {
        model: &model,
        loss: Loss::Infonce,
        layout: flip.layout(),
        values: &values,
        tokenizer: None,
        numbers: Numbers::F16,
    };
    let error = onnx(&export, &folder).unwrap_err().to_string();
    assert!(error.contains("c_fc.bias` has the value 70000, beyond"), "{error}");
    export.numbers = Numbers::Bf16;
    let error = onnx(&export, &folder).unwrap_err().to_string();
    assert!(error.ends_with("export to --dtype f16 or f32"), "{error}");
    export.numbers = Numbers::F32;
    onnx(&export, &folder).unwrap();
}

/// The nodes of both encoders, with what they read and their attributes.
#[test]
fn nodes_are_as_recorded() {
    let mut model = small(clip);
    (model.vision.layers, model.text.layers) = (1, 1);
    let (_place, _, models) = written(&model, Loss::Infonce, Numbers::F16, LARGE);
    let attribute = |attribute: &proto::Attribute| {
        let proto::Attribute { name, f, i, ints, .. } = attribute;
        let value = f.map(|f| f.to_string()).or_else(|| i.map(|i| i.to_string()));
        format!(" {name}={}", value.unwrap_or_else(|| format!("{ints:?}")))
    };
    let line = |node: &proto::Node| {
        let attributes: String = node.attribute.iter().map(attribute).collect();
        format!("{} = {}({}){attributes}\n", node.output[0], node.op_type, node.input.join(", "))
    };
    let nodes = models.iter().flat_map(|model| &model.graph.as_ref().unwrap().node);
    insta::assert_snapshot!(nodes.map(line).collect::<String>());
}

/// What tells a user how to feed the encoders is in both files, and beside them.
#[test]
fn metadata_says_how_to_use_the_encoders() {
    let (place, _, models) = written(&small(clipa), Loss::Sigmoid, Numbers::F32, LARGE);
    let file = fs::read_to_string(place.path().join("out/onnx_config.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["image"]["input"]["shape"], json!(["batch", 3, 48, 48]));
    assert_eq!(file["text"]["input"]["shape"], json!(["batch", 16]));
    assert_eq!(file["mean"], json!([0.485, 0.456, 0.406]));
    assert_eq!((&file["loss"], &file["logit_bias"]), (&json!("sigmoid"), &json!(-10.0)));
    for model in &models {
        let props: BTreeMap<_, _> = model.metadata_props.iter().map(|prop| (prop.key.as_str(), &prop.value)).collect();
        assert_eq!((props["context"].as_str(), props["mean"].as_str()), ("16", "[0.485,0.456,0.406]"));
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    }
}
