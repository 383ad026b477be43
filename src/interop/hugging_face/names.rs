//! Our parameters in terms of a `CLIPModel`'s tensors.

use super::super::open_clip;
use super::super::piece::{Order, Piece};
use crate::autograd::ParamSpec;

/// The tensors that make up one of our parameters; empty for one that a `CLIPModel` does not have.
pub fn pieces(spec: &ParamSpec) -> Vec<Piece> {
    let Piece { shape, order, .. } = open_clip::piece(spec);
    let whole = |name: String| vec![Piece { name, shape: shape.clone(), offset: 0, order }];
    // Theirs is `Linear`'s weight, ours a matrix to multiply with from the right.
    let projection = |name: &str| {
        let transposed = vec![spec.shape[1], spec.shape[0]];
        vec![Piece { name: format!("{name}.weight"), shape: transposed, offset: 0, order: Order::Transposed }]
    };
    let (tower, name) = match spec.name.strip_prefix("visual.") {
        Some(name) => ("vision_model", name),
        None => ("text_model", spec.name.as_str()),
    };
    match name {
        "logit_scale" => whole(name.to_owned()),
        "proj" => projection("visual_projection"),
        "text_projection" => projection("text_projection"),
        "class_embedding" => whole(format!("{tower}.embeddings.class_embedding")),
        "conv1.weight" => whole(format!("{tower}.embeddings.patch_embedding.weight")),
        "token_embedding.weight" => whole(format!("{tower}.embeddings.token_embedding.weight")),
        "positional_embedding" => whole(format!("{tower}.embeddings.position_embedding.weight")),
        _ => match name.split('.').collect::<Vec<_>>()[..] {
            // As they spell it.
            ["ln_pre", part] => whole(format!("{tower}.pre_layrnorm.{part}")),
            ["ln_post", part] => whole(format!("{tower}.post_layernorm.{part}")),
            ["ln_final", part] => whole(format!("{tower}.final_layer_norm.{part}")),
            ["transformer", "resblocks", index, ref rest @ ..] => {
                let block = format!("{tower}.encoder.layers.{index}");
                match *rest {
                    ["ln_1", part] => whole(format!("{block}.layer_norm1.{part}")),
                    ["ln_2", part] => whole(format!("{block}.layer_norm2.{part}")),
                    ["attn", "out_proj", part] => whole(format!("{block}.self_attn.out_proj.{part}")),
                    ["attn", packed] => thirds(spec, &block, packed.trim_start_matches("in_proj_")),
                    ["mlp", "c_fc", part] => whole(format!("{block}.mlp.fc1.{part}")),
                    ["mlp", "c_proj", part] => whole(format!("{block}.mlp.fc2.{part}")),
                    _ => vec![],
                }
            }
            _ => vec![],
        },
    }
}

/// Queries, keys and values, which are one parameter here.
fn thirds(spec: &ParamSpec, block: &str, part: &str) -> Vec<Piece> {
    let mut shape = spec.shape.clone();
    shape[0] /= 3;
    let piece = |(index, name): (usize, &str)| Piece {
        name: format!("{block}.self_attn.{name}_proj.{part}"),
        shape: shape.clone(),
        offset: index * spec.len / 3,
        order: Order::Same,
    };
    ["q", "k", "v"].into_iter().enumerate().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::open_clip::named;
    use crate::model::Flip;

    #[test]
    fn every_parameter_has_its_counterparts() {
        let flip = Flip::new(&named("ViT-B-32").unwrap().model, true);
        for spec in flip.layout().specs() {
            let covered: usize = pieces(spec).iter().map(Piece::count).sum();
            assert_eq!(covered, spec.len, "{}", spec.name);
        }
    }
}
