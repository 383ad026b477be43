//! Our parameters in terms of the golden state's.

use crate::autograd::ParamSpec;

/// A part of one of our parameters that is one tensor of the golden state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Without `params/`.
    pub name: String,
    /// Elements from the start of our parameter.
    pub offset: usize,
    pub len: usize,
    /// `Some((inputs, outputs))` where theirs is `[inputs, outputs]` and ours `[outputs, inputs]`.
    pub transposed: Option<(usize, usize)>,
}

impl Piece {
    /// Their numbers in our order.
    pub(super) fn to_ours(&self, theirs: &[f32]) -> Vec<f32> {
        let Some((inputs, outputs)) = self.transposed else { return theirs.to_vec() };
        (0..outputs).flat_map(|output| (0..inputs).map(move |input| theirs[input * outputs + output])).collect()
    }

    /// A key bias adds the same to all scores of a row, which a softmax ignores: its gradient is zero in exact
    /// arithmetic.
    pub(super) fn is_key_bias(&self) -> bool {
        self.name.ends_with("/key/bias")
    }
}

/// The tensors that make up one of our parameters; empty for an unknown name.
pub(super) fn pieces(spec: &ParamSpec) -> Vec<Piece> {
    let (tower, name) = match spec.name.strip_prefix("visual.") {
        Some(name) => ("img_encoder", name),
        None => ("txt_encoder", spec.name.as_str()),
    };
    let whole = |name: String| vec![Piece { name, offset: 0, len: spec.len, transposed: None }];
    let matrix = |name: String| {
        let (outputs, inputs) = (spec.shape[0], spec.len / spec.shape[0]);
        vec![Piece { name, offset: 0, len: spec.len, transposed: Some((inputs, outputs)) }]
    };
    let packed = |block: &str, part: &str| {
        let len = spec.len / 3;
        let piece = |(index, head): (usize, &str)| Piece {
            name: format!("{block}/MultiHeadDotProductAttention_0/{head}/{part}"),
            offset: index * len,
            len,
            transposed: (part == "kernel").then(|| (spec.shape[1], spec.shape[0] / 3)),
        };
        ["query", "key", "value"].into_iter().enumerate().map(piece).collect()
    };
    let norm = |part: &str| if part == "weight" { "scale" } else { "bias" };
    match name {
        "conv1.weight" => matrix(format!("{tower}/embedding/kernel")),
        "conv1.bias" => whole(format!("{tower}/embedding/bias")),
        "class_embedding" => whole(format!("{tower}/cls")),
        "proj" => whole("img_mlp1/kernel".to_owned()),
        "text_projection" => whole("txt_mlp1/kernel".to_owned()),
        "token_embedding.weight" => whole(format!("{tower}/token_embedding/embedding")),
        "positional_embedding" => whole(format!("{tower}/posembed_encoder/pos_embedding")),
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
            let covered: usize = pieces(spec).iter().map(|piece| piece.len).sum();
            assert_eq!(covered, spec.len, "{}", spec.name);
        }
    }

    #[test]
    fn a_transposed_piece_swaps_rows_and_columns() {
        let piece = Piece { name: String::new(), offset: 0, len: 6, transposed: Some((2, 3)) };
        assert_eq!(piece.to_ours(&[1., 2., 3., 4., 5., 6.]), [1., 4., 2., 5., 3., 6.]);
    }
}
