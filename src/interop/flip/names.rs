//! Our parameters in terms of the authors' tensors. Dense kernels are `[inputs, outputs]`.

use super::super::piece::{Order, Piece};
use crate::autograd::ParamSpec;

/// The tensors that make up one of our parameters; empty for an unknown name.
pub fn pieces(spec: &ParamSpec) -> Vec<Piece> {
    let (tower, name) = match spec.name.strip_prefix("visual.") {
        Some(name) => ("img_encoder", name),
        None => ("txt_encoder", spec.name.as_str()),
    };
    let shaped = |name: String, shape: Vec<usize>| vec![Piece { name, shape, offset: 0, order: Order::Same }];
    let whole = |name: String| shaped(name, spec.shape.clone());
    let matrix = |name: String| {
        let shape = vec![spec.len / spec.shape[0], spec.shape[0]];
        vec![Piece { name, shape, offset: 0, order: Order::Transposed }]
    };
    let packed = |block: &str, part: &str| {
        let outputs = spec.shape[0] / 3;
        let (shape, order) = match spec.shape.get(1) {
            Some(&inputs) => (vec![inputs, outputs], Order::Transposed),
            None => (vec![outputs], Order::Same),
        };
        let piece = |(index, head): (usize, &str)| Piece {
            name: format!("{block}/MultiHeadDotProductAttention_0/{head}/{part}"),
            shape: shape.clone(),
            offset: index * spec.len / 3,
            order,
        };
        ["query", "key", "value"].into_iter().enumerate().map(piece).collect()
    };
    let norm = |part: &str| if part == "weight" { "scale" } else { "bias" };
    match name {
        "conv1.weight" => {
            let (width, patch) = (spec.shape[0], (spec.shape[1] / 3).isqrt());
            let name = format!("{tower}/embedding/kernel");
            vec![Piece { name, shape: vec![patch, patch, 3, width], offset: 0, order: Order::Transposed }]
        }
        "conv1.bias" => whole(format!("{tower}/embedding/bias")),
        "class_embedding" => shaped(format!("{tower}/cls"), vec![1, 1, spec.len]),
        "proj" => whole("img_mlp1/kernel".to_owned()),
        "text_projection" => whole("txt_mlp1/kernel".to_owned()),
        "token_embedding.weight" => whole(format!("{tower}/token_embedding/embedding")),
        "positional_embedding" => {
            let shape = vec![1, spec.shape[0], spec.shape[1]];
            shaped(format!("{tower}/posembed_encoder/pos_embedding"), shape)
        }
        "logit_scale" => whole("logit_scale".to_owned()),
        _ => {
            let parts: Vec<&str> = name.split('.').collect();
            match parts[..] {
                ["ln_post" | "ln_final", part] => whole(format!("{tower}/Transformer/encoder_norm/{}", norm(part))),
                ["transformer", "resblocks", index, ref rest @ ..] => {
                    let Ok(index) = index.parse::<usize>() else { return vec![] };
                    let block = format!("{tower}/Transformer/encoderblock_{index:02}");
                    match rest {
                        ["ln_1", part] => whole(format!("{block}/LayerNorm_0/{}", norm(part))),
                        ["ln_2", part] => whole(format!("{block}/LayerNorm_1/{}", norm(part))),
                        ["attn", "in_proj_weight"] => packed(&block, "kernel"),
                        ["attn", "in_proj_bias"] => packed(&block, "bias"),
                        ["attn", "out_proj", "weight"] => {
                            matrix(format!("{block}/MultiHeadDotProductAttention_0/out/kernel"))
                        }
                        ["attn", "out_proj", "bias"] => {
                            whole(format!("{block}/MultiHeadDotProductAttention_0/out/bias"))
                        }
                        ["mlp", dense, part] => {
                            let dense = if *dense == "c_fc" { "Dense_0" } else { "Dense_1" };
                            match *part {
                                "weight" => matrix(format!("{block}/MlpBlock_0/{dense}/kernel")),
                                _ => whole(format!("{block}/MlpBlock_0/{dense}/bias")),
                            }
                        }
                        _ => vec![],
                    }
                }
                _ => vec![],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flip, Preset};

    #[test]
    fn every_parameter_has_its_counterparts() {
        for spec in Flip::new(&Preset::Tiny.config(), true).layout().specs() {
            let covered: usize = pieces(spec).iter().map(Piece::count).sum();
            assert_eq!(covered, spec.len, "{}", spec.name);
        }
    }
}
