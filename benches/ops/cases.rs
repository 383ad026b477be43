//! Which ops are measured, at which shapes.

use flipk::autograd::{Activation, ParamId, Var};
use flipk::data::kept_patches;
use flipk::model::{Flip, ModelConfig, Preset, TowerConfig};
use flipk::ops::assemble::Positions;
use flipk::ops::layernorm::Norm;
use flipk::ops::linear::Weights;
use flipk::ops::select_token::Place;
use flipk::random::{Purpose, Random};

use crate::measure::{Bench, Done, normals, random};
use crate::parts::Parts;

/// What one device is to run.
pub struct Plan {
    /// Models and the samples in a batch of each.
    pub models: Vec<(Preset, usize)>,
    /// Batches of the losses.
    pub losses: Vec<usize>,
    /// AdamW's name in the table and its parameters.
    pub optimizers: Vec<(String, usize)>,
    /// What is left out, and why.
    pub left_out: Vec<(String, String)>,
}

pub fn parameters(preset: Preset) -> usize {
    Flip::new(&preset.config(), true).layout().arena_len()
}

/// Ascending numbers of `kept` patches, as masks have them, for each sample.
fn visible(batch: usize, patches: usize, kept: usize) -> Vec<u32> {
    let mut random = Random::new(2, Purpose::Test, 0, 0);
    let sample = |_| {
        let mut ids = random.permutation(patches);
        ids.truncate(kept);
        ids.sort_unstable();
        ids
    };
    (0..batch).flat_map(sample).collect()
}

/// A third of a caption's places are words, the others padding.
fn captions(batch: usize, context: usize, vocab: usize) -> Vec<i32> {
    let mut random = Random::new(3, Purpose::Test, 0, 0);
    let token = |place| if place % context > context / 3 { 0 } else { random.below(vocab as u32) as i32 };
    (0..batch * context).map(token).collect()
}

impl<D: Parts> Bench<D> {
    pub fn all(&mut self, plan: Plan) -> Done {
        self.left_out = plan.left_out;
        for (preset, batch) in plan.models {
            let (config, model) = (preset.config(), preset);
            for ratio in [0.0, 0.5, 0.75] {
                let kept = kept_patches(config.patches(), ratio);
                self.image_side(&format!("{model} {ratio}"), &config, batch, kept)?;
                self.block(&format!("{model} {ratio}"), &config.vision, [batch, kept + 1])?;
            }
            for context in [32, 77] {
                self.text_side(&format!("{model} text {context}"), &config, [batch, context])?;
                self.block(&format!("{model} text {context}"), &config.text, [batch, context])?;
            }
            let tokens = kept_patches(config.patches(), 0.5) + 1;
            self.head(&format!("{model} 0.5"), &config, [batch, tokens])?;
            self.parts(&format!("{model} 0.5"), batch * tokens, 4 * config.vision.width)?;
        }
        for (name, len) in plan.optimizers {
            self.optimizer(&name, len)?;
            self.sum_rows(&name.replace("adamw", "sum_rows"), 8, len / 8)?;
        }
        plan.losses.into_iter().try_for_each(|batch| self.losses(batch, 512))
    }

    fn image_side(&mut self, name: &str, config: &ModelConfig, batch: usize, kept: usize) -> Done {
        let (width, patches) = (config.vision.width, config.patches());
        let shape = [batch, kept, config.patch_len()];
        self.tape(&[], |on, _| {
            let bytes = shape.iter().product();
            let pixels = on.input(bytes, move || random(bytes, |random| random.below(256) as u8));
            on.name(format!("gather_patches {name}"), &shape);
            Some(on.tape.gather_patches(pixels, shape, config.normalisation))
        })?;
        self.tape(&[&[width]], |on, params| {
            let rows = on.var::<D::Act>(&[batch, kept, width], 1.0);
            let ids = on.input(batch * kept, move || visible(batch, patches, kept));
            let table = on.tape.constant(normals((patches + 1) * width, 1.0));
            on.name(format!("assemble {name}"), &[batch, kept, width]);
            Some(on.tape.assemble(rows, ids, params[0], Positions::Fixed(table)))
        })
    }

    /// The ops of a transformer's block.
    fn block(&mut self, name: &str, tower: &TowerConfig, [batch, tokens]: [usize; 2]) -> Done {
        let &TowerConfig { width, heads, .. } = tower;
        let (rows, up) = ([batch, tokens, width], 4 * width);
        self.tape(&[], |on, _| {
            let qkv = on.var::<D::Act>(&[batch, tokens, 3 * width], 1.0);
            on.name(format!("attention {name}"), &[batch, tokens, 3 * width]);
            Some(on.tape.attention(qkv, heads, false))
        })?;
        let norm = |params: &[ParamId]| Norm { gamma: params[0], beta: params[1], eps: 1e-6 };
        self.tape(&[&[width], &[width]], |on, params| {
            let x = on.var::<D::Act>(&rows, 1.0);
            on.name(format!("layernorm {name}"), &rows);
            Some(on.tape.layernorm(x, norm(params)))
        })?;
        self.tape(&[&[width], &[width]], |on, params| {
            let (x, added) = (on.var::<D::Act>(&rows, 1.0), on.var::<D::Act>(&rows, 1.0));
            on.name(format!("residual layernorm {name}"), &rows);
            Some(on.tape.residual_layernorm(x, Some(added), norm(params)).1)
        })?;
        let weights = |params: &[ParamId]| Weights { weight: params[0], bias: Some(params[1]) };
        self.tape(&[&[3 * width, width], &[3 * width]], |on, params| {
            let x = on.var::<D::Act>(&rows, 1.0);
            on.name(format!("linear qkv {name}"), &[batch, tokens, width, 3 * width]);
            Some(on.tape.linear(x, weights(params), None))
        })?;
        // Together, since backwards the GELU belongs to the second.
        self.tape(&[&[up, width], &[up], &[width, up], &[width]], |on, params| {
            let x = on.var::<D::Act>(&rows, 1.0);
            on.name(format!("linear up {name}"), &[batch, tokens, width, up]);
            let hidden = on.tape.linear(x, weights(params), Some(Activation::GeluTanh));
            on.name(format!("linear down {name}"), &[batch, tokens, up, width]);
            Some(on.tape.linear(hidden, weights(&params[2..]), None))
        })
    }

    fn text_side(&mut self, name: &str, config: &ModelConfig, [batch, context]: [usize; 2]) -> Done {
        let (width, vocab) = (config.text.width, config.vocab);
        self.tape(&[&[vocab, width], &[context, width]], |on, params| {
            let tokens = on.input(batch * context, move || captions(batch, context, vocab));
            on.name(format!("embedding {name}"), &[batch, context, width]);
            Some(on.tape.embedding(tokens, batch, params[0], params[1]))
        })?;
        self.tape(&[], |on, _| {
            let x = on.var::<D::Act>(&[batch, context, width], 1.0);
            on.name(format!("select_token {name}"), &[batch, context, width]);
            Some(on.tape.select_token(x, Place::At(0)))
        })
    }

    /// From a tower's last tokens to the joint space.
    fn head(&mut self, name: &str, config: &ModelConfig, [batch, tokens]: [usize; 2]) -> Done {
        let (width, joint) = (config.vision.width, config.embed_dim);
        self.tape(&[&[width, joint]], |on, params| {
            let x = on.var::<D::Act>(&[batch, tokens, width], 1.0);
            on.name(format!("pool {name}"), &[batch, tokens, width]);
            let pooled = on.tape.pool(x, 0);
            on.name(format!("projection {name}"), &[batch, width, joint]);
            let projected = on.tape.projection(pooled, params[0]);
            on.name(format!("l2norm {name}"), &[batch, joint]);
            Some(on.tape.l2norm(projected))
        })
    }

    fn losses(&mut self, batch: usize, width: usize) -> Done {
        // Rows of a length near 1.
        let std = 1.0 / (width as f32).sqrt();
        self.tape(&[&[1]], |on, params| {
            let (images, texts) = (on.var(&[batch, width], std), on.var(&[batch, width], std));
            on.name(format!("contrastive {batch}"), &[batch, width]);
            on.tape.contrastive(images, texts, params[0]);
            None::<Var<f32>>
        })?;
        self.tape(&[&[1], &[1]], |on, params| {
            let (images, texts) = (on.var(&[batch, width], std), on.var(&[batch, width], std));
            on.name(format!("sigmoid {batch}"), &[batch, width]);
            on.tape.sigmoid(images, texts, params[0], params[1]);
            None::<Var<f32>>
        })
    }
}
