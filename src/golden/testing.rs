//! A golden state of a model with a few hundred weights, all zero: no implementation's numbers, but every tensor in
//! place.

use std::collections::HashMap;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::interop::flip::pieces;
use crate::{fuzzing::seeds::micro_model, model::Flip};

/// The bytes of the file.
pub(crate) fn micro() -> Vec<u8> {
    let (model, batch, kept, steps) = (micro_model(), 2, 2, 2);
    let mut tensors: Vec<(String, Dtype, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, dtype, shape: &[usize]| tensors.push((name.to_owned(), dtype, shape.to_vec()));
    add("inputs/images_u8", Dtype::U8, &[batch, model.image_size, model.image_size, 3]);
    add("inputs/tokens", Dtype::I32, &[batch, model.context]);
    add("mask50/ids_keep", Dtype::I32, &[batch, kept]);
    add("mask50/z_img", Dtype::F32, &[batch, model.embed_dim]);
    add("mask50/z_txt", Dtype::F32, &[batch, model.embed_dim]);
    add("train/ids_keep", Dtype::I32, &[steps, batch, kept]);
    for name in ["train/learning_rates", "train/losses"] {
        add(name, Dtype::F32, &[steps]);
    }
    for name in ["mask50/loss", "mask50/grad_norm"] {
        add(name, Dtype::F32, &[1]);
    }
    add("params/img_encoder/posembed_encoder/pos_embedding", Dtype::F32, &[model.patches() + 1, model.vision.width]);
    for piece in Flip::new(&model, false).layout().specs().iter().flat_map(pieces) {
        for place in ["params", "mask50/grads"] {
            add(&format!("{place}/{}", piece.name), Dtype::F32, &[piece.count()]);
        }
        add(&format!("train/final_param_norms/{}", piece.name), Dtype::F32, &[1]);
    }
    let config = json!({
        "image_size": model.image_size, "patch_size": model.patch_size,
        "vision_width": model.vision.width, "vision_heads": model.vision.heads, "vision_layers": model.vision.layers,
        "text_width": model.text.width, "text_heads": model.text.heads, "text_layers": model.text.layers,
        "vocab_size": model.vocab, "context_length": model.context, "embed_dim": model.embed_dim, "batch": batch,
        "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.2, "layernorm_eps": 1e-6
    });
    let zeros = [0; 4096];
    let view = |(name, dtype, shape): (String, Dtype, Vec<usize>)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(dtype, shape, &zeros[..bytes]).unwrap())
    };
    let header = HashMap::from([("config".to_owned(), config.to_string())]);
    safetensors::serialize(tensors.into_iter().map(view), Some(header)).unwrap()
}
