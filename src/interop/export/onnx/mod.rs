//! An image encoder and a text encoder in ONNX, for onnxruntime and what loads its models.

mod blocks;
mod graph;
mod proto;
#[cfg(test)]
mod tests;
mod towers;
mod weights;

use std::fs;

use prost::Message;
use serde_json::{Value, json};

use super::super::{InteropError, NewFolder};
use super::values::shortest;
use super::{Export, Numbers, cannot, tokenizer};
use crate::model::Loss;
use graph::{Graph, batch};
use proto::DataType;
use weights::External;

/// The first opset with `LayerNormalization`.
const OPSET: i64 = 17;
/// The version of the format that came with it.
const IR_VERSION: i64 = 8;
/// Weights of more bytes are in a file of their own: a protobuf message ends at 2 GiB, and readers hold it in memory.
const LARGE: usize = 1 << 30;

/// The inputs and outputs of an encoder's graph.
struct Encoder {
    /// Its file is `{name}.onnx`.
    name: &'static str,
    input: (&'static str, DataType),
    /// After the batch.
    shape: Vec<usize>,
    output: &'static str,
}

/// Writes `image.onnx`, `text.onnx`, `onnx_config.json`, which describes both, and the tokenizer. Images are
/// `pixels [batch, 3, side, side]`, f32 in 0..1, texts `input_ids [batch, context]`, int64; the results `image_embeds`
/// and `text_embeds` are f32 `[batch, embed_dim]`, of length 1. Weights above 1 GiB are in `image.onnx.data` or
/// `text.onnx.data`.
///
/// # Errors
/// bf16, a number that f16 does not have, or a file that cannot be written.
pub fn onnx(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    write(export, folder, LARGE)
}

/// As [`onnx`]; weights of more than `large` bytes are in a file of their own.
fn write(export: &Export<'_>, folder: &NewFolder, large: usize) -> Result<(), InteropError> {
    if export.numbers == Numbers::Bf16 {
        return Err(cannot("onnx", "bf16, which onnxruntime cannot compute on a CPU", "--dtype f16 or f32"));
    }
    let model = export.model;
    let image = Encoder {
        name: "image",
        input: ("pixels", DataType::Float),
        shape: vec![3, model.image_size, model.image_size],
        output: "image_embeds",
    };
    let text = Encoder {
        name: "text",
        input: ("input_ids", DataType::Int64),
        shape: vec![model.context],
        output: "text_embeds",
    };
    let description = description(export, &image, &text)?;
    for encoder in [&image, &text] {
        encode(export, folder, encoder, &description, large)?;
    }
    folder.write("onnx_config.json", &(serde_json::to_string_pretty(&description)? + "\n"))?;
    tokenizer::write(export, folder)
}

/// Writes one encoder.
fn encode(
    export: &Export<'_>,
    folder: &NewFolder,
    encoder: &Encoder,
    description: &Value,
    large: usize,
) -> Result<(), InteropError> {
    let is_image = encoder.name == "image";
    let specs = export.layout.specs().iter().filter(|spec| spec.name.starts_with("visual.") == is_image);
    let bytes = specs.map(|spec| spec.len).sum::<usize>() * if export.numbers == Numbers::F16 { 2 } else { 4 };
    let file = format!("{}.onnx", encoder.name);
    let external = (bytes > large).then(|| {
        let location = format!("{file}.data");
        External::create(folder, location.clone()).map_err(|why| folder.failed(&location, why))
    });
    let mut graph = Graph::new(export, folder, external.transpose()?);
    let (input, data_type) = encoder.input;
    let result = match is_image {
        true => towers::image(&mut graph, export, input)?,
        false => towers::text(&mut graph, export, input)?,
    };
    let output = batch(encoder.output, DataType::Float, &[export.model.embed_dim]);
    let graph = graph.finish(encoder.name, batch(input, data_type, &encoder.shape), output, &result)?;
    // Strings as they are, anything else as JSON.
    let entry = |(key, value): (&String, &Value)| proto::Entry {
        key: key.clone(),
        value: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let model = proto::Model {
        ir_version: IR_VERSION,
        opset_import: vec![proto::Opset { domain: String::new(), version: OPSET }],
        producer_name: "flipk".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: format!("The {} encoder of a CLIP model", encoder.name),
        graph: Some(graph),
        metadata_props: description.as_object().into_iter().flatten().map(entry).collect(),
    };
    fs::write(folder.file(&file), model.encode_to_vec()).map_err(|why| folder.failed(&file, why))
}

/// What a user must know to feed both encoders, and to compute probabilities from their embeddings.
fn description(export: &Export<'_>, image: &Encoder, text: &Encoder) -> Result<Value, InteropError> {
    let model = export.model;
    let shape = |rest: &[usize]| {
        let rest = rest.iter().map(|&extent| json!(extent));
        std::iter::once(json!("batch")).chain(rest).collect::<Vec<_>>()
    };
    let side = |encoder: &Encoder, dtype: &str| {
        json!({
            "file": format!("{}.onnx", encoder.name),
            "input": {"name": encoder.input.0, "dtype": dtype, "shape": shape(&encoder.shape)},
            "output": {"name": encoder.output, "dtype": "float32", "shape": shape(&[model.embed_dim])},
        })
    };
    let [mut image, mut text] = [side(image, "float32"), side(text, "int64")];
    image["input"]["values"] = json!("RGB divided by 255, not normalised: mean and std are in the graph");
    image["input"]["resize"] = json!({"size": model.image_size, "mode": model.resize_mode, "interpolation": "bicubic"});
    if let Some(json) = export.tokenizer {
        text["input"]["pad_id"] = pad(json)?;
    }
    let scalar = |name: &str| export.value(name).and_then(|value| value.first().copied());
    let mut description = json!({
        "format": "flipk-onnx",
        "image": image,
        "text": text,
        "image_size": model.image_size,
        "context": model.context,
        "mean": model.normalisation.mean.map(shortest),
        "std": model.normalisation.std.map(shortest),
        "loss": if export.loss == Loss::Sigmoid { "sigmoid" } else { "infonce" },
        "logit_scale": shortest(scalar("logit_scale").unwrap_or_default()),
    });
    if let Some(bias) = scalar("logit_bias") {
        description["logit_bias"] = json!(shortest(bias));
    }
    description["logits"] = json!(match export.loss {
        Loss::Infonce => "exp(logit_scale) * image_embeds @ text_embeds.T",
        Loss::Sigmoid => "exp(logit_scale) * image_embeds @ text_embeds.T + logit_bias",
    });
    description["model"] = serde_json::to_value(model)?;
    Ok(description)
}

/// The number that fills a row of tokens; 0 where a `tokenizer.json` does not say, as in OpenCLIP.
fn pad(tokenizer: &str) -> Result<Value, InteropError> {
    let file: Value = serde_json::from_str(tokenizer)?;
    Ok(file["padding"].get("pad_id").cloned().unwrap_or_else(|| json!(0)))
}
