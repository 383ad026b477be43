//! Our parameters in terms of the tensors of an OpenCLIP model whose vision tower is timm's.

use super::super::Trunk;
use super::super::piece::{Order, Piece, open_clip_piece};
use crate::autograd::ParamSpec;

/// The position table of the vision tower.
pub(in crate::interop) const POSITIONS: &str = "visual.trunk.pos_embed";

/// Our names of what blocks and norms consist of, and theirs.
const NAMES: [(&str, &str); 10] = [
    ("transformer.resblocks.", "blocks."),
    ("ln_pre", "norm_pre"),
    ("ln_1", "norm1"),
    ("ln_2", "norm2"),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj", "attn.proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("ls_1", "ls1"),
    ("ls_2", "ls2"),
];

/// The tensor that holds this parameter. Without a row of positions for the CLS token, ours starts with zeros.
pub(in crate::interop) fn piece(spec: &ParamSpec, trunk: Trunk) -> Piece {
    let same = open_clip_piece(spec);
    let Some(name) = spec.name.strip_prefix("visual.") else { return same };
    let trunk_of = |name: &str| format!("visual.trunk.{name}");
    let shaped = |name: &str, shape: Vec<usize>| Piece { name: trunk_of(name), shape, ..same.clone() };
    match (name, spec.shape.as_slice()) {
        ("conv1.weight", _) => Piece { name: trunk_of("patch_embed.proj.weight"), ..same },
        ("conv1.bias", _) => Piece { name: trunk_of("patch_embed.proj.bias"), ..same },
        ("class_embedding", &[width]) => shaped("cls_token", vec![1, 1, width]),
        ("positional_embedding", &[rows, width]) => {
            let skipped = usize::from(trunk.no_embed_class);
            Piece { offset: skipped * width, ..shaped("pos_embed", vec![1, rows - skipped, width]) }
        }
        ("proj", &[width, embed_dim]) => Piece {
            name: "visual.head.proj.weight".to_owned(),
            shape: vec![embed_dim, width],
            order: Order::Transposed,
            ..same
        },
        _ => {
            let last = if trunk.fc_norm { "fc_norm" } else { "norm" };
            let name = name.replace("ln_post", last);
            Piece {
                name: trunk_of(&NAMES.iter().fold(name, |name, (ours, theirs)| name.replace(ours, theirs))),
                ..same
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flip, ModelConfig, Positions, Preset};

    #[test]
    fn every_parameter_of_the_tower_has_its_name() {
        let model = ModelConfig { positions: Positions::Learned, ln_pre: true, ..Preset::Tiny.config() };
        let flip = Flip::new(&model, true);
        let names = |trunk: Trunk| -> Vec<(String, Vec<usize>, usize)> {
            let pieces = flip.layout().specs().iter().map(|spec| piece(spec, trunk));
            pieces.map(|piece| (piece.name, piece.shape, piece.offset)).collect()
        };
        let found = names(Trunk { fc_norm: false, no_embed_class: false });
        for name in ["norm_pre.weight", "blocks.3.attn.qkv.bias", "blocks.0.mlp.fc2.weight", "norm.bias", "cls_token"] {
            assert!(found.iter().any(|(found, ..)| *found == format!("visual.trunk.{name}")), "{name}: {found:?}");
        }
        assert!(found.contains(&(POSITIONS.to_owned(), vec![1, 37, 128], 0)), "{found:?}");
        let found = names(Trunk { fc_norm: true, no_embed_class: true });
        assert!(found.contains(&(POSITIONS.to_owned(), vec![1, 36, 128], 128)), "{found:?}");
        assert!(found.iter().any(|(name, ..)| name == "visual.trunk.fc_norm.bias"), "{found:?}");
        assert!(found.iter().any(|(name, ..)| name == "ln_final.bias"), "{found:?}");
    }
}
