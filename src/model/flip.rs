//! FLIP: both towers and the loss between them.

use std::sync::Arc;

use super::blocks::{Transformer, linear, norm, projection};
use super::config::{ImagePool, Loss, ModelConfig, Positions, TextPool};
use super::positions::sincos_2d;
use crate::autograd::{Init, Layout, ParamId, Slot, Tape, Var};
use crate::ops::AllOps;
use crate::ops::assemble;
use crate::ops::layernorm::Norm;
use crate::ops::linear::Weights;
use crate::ops::select_token::{Find, Place};

/// The parameters of both towers, laid out in one arena under OpenCLIP's names.
pub struct Flip {
    /// Its sizes.
    pub config: ModelConfig,
    layout: Arc<Layout>,
    patch: Weights,
    cls: ParamId,
    /// Only if they are learned.
    image_positions: Option<ParamId>,
    ln_pre: Option<Norm>,
    vision: Transformer,
    vision_projection: ParamId,
    tokens: ParamId,
    text_positions: ParamId,
    text: Transformer,
    text_projection: ParamId,
    logit_scale: ParamId,
    /// Only with the sigmoid loss.
    logit_bias: Option<ParamId>,
}

/// What the host fills before each step.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// Pixels of the visible patches, in the order of `ids_keep`, `[batch, kept, patch_len]`
    pub images: Slot<u8>,
    /// `[batch, kept]`, indices of the visible patches
    pub ids_keep: Slot<u32>,
    /// `[batch, context]`
    pub tokens: Slot<i32>,
}

/// A recorded pass of both towers: embeddings `[batch, embed_dim]` of length 1, and the loss's result buffer
/// ([`crate::ops::pairwise`]).
#[derive(Clone, Copy)]
pub struct Embedded {
    /// What the host fills.
    pub inputs: Inputs,
    /// `[batch, embed_dim]`
    pub images: Var<f32>,
    /// `[batch, embed_dim]`
    pub texts: Var<f32>,
    /// The loss and the numbers of right answers.
    pub outcome: Slot<f32>,
}

/// The temperature's start: ln(1 / 0.07) (docs/method.md, "Loss").
const LOGIT_SCALE: f32 = 2.659_26;
/// The sigmoid loss's: ln 10 and a bias that makes every pair unlikely (Zhai et al. 2023, section 3.2).
const SIGMOID_LOGIT_SCALE: f32 = std::f32::consts::LN_10;
const SIGMOID_LOGIT_BIAS: f32 = -10.0;

impl Flip {
    /// `decay_cls`: whether weight decay applies to the CLS token, as in the authors' recipe.
    pub fn new(config: &ModelConfig, decay_cls: bool) -> Self {
        Self::with_loss(config, Loss::Infonce, decay_cls)
    }

    /// As [`Self::new`], for any loss. The sigmoid loss has one more parameter, `logit_bias`; the towers are the same.
    pub fn with_loss(config: &ModelConfig, loss: Loss, decay_cls: bool) -> Self {
        let (logit_scale, logit_bias) = match loss {
            Loss::Infonce => (LOGIT_SCALE, None),
            Loss::Sigmoid => (SIGMOID_LOGIT_SCALE, Some(SIGMOID_LOGIT_BIAS)),
        };
        let mut layout = Layout::default();
        let (vision, text) = (&config.vision, &config.text);
        let conv = ["visual.conv1.weight".to_owned(), "visual.conv1.bias".to_owned()];
        let normal = Init::Normal { std: 0.02 };
        let learned = config.positions == Positions::Learned;
        let names = [["visual.transformer", "visual.ln_post"], ["transformer", "ln_final"]];
        let eps = config.ln_eps;
        Self {
            patch: linear(&mut layout, conv, vision.width, config.patch_len(), config.patch_bias),
            cls: layout.add("visual.class_embedding", &[vision.width], normal, decay_cls),
            image_positions: learned.then(|| {
                let rows = config.patches() + 1;
                layout.add("visual.positional_embedding", &[rows, vision.width], normal, false)
            }),
            ln_pre: config
                .ln_pre
                .then(|| norm(&mut layout, "visual.ln_pre", vision.width, vision.ln_eps.unwrap_or(eps))),
            vision: Transformer::new(&mut layout, names[0], vision, eps, false),
            vision_projection: projection(&mut layout, "visual.proj", vision.width, config.embed_dim),
            tokens: layout.add_rounded("token_embedding.weight", &[config.vocab, text.width], normal, true),
            text_positions: layout.add("positional_embedding", &[config.context, text.width], normal, false),
            text: Transformer::new(&mut layout, names[1], text, eps, config.causal),
            text_projection: projection(&mut layout, "text_projection", text.width, config.embed_dim),
            logit_scale: layout.add("logit_scale", &[1], Init::Constant(logit_scale), true),
            logit_bias: logit_bias.map(|bias| layout.add("logit_bias", &[1], Init::Constant(bias), false)),
            config: config.clone(),
            layout: Arc::new(layout),
        }
    }

    /// Where each parameter is in the arena.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The logarithm of the inverse temperature.
    pub fn logit_scale(&self) -> ParamId {
        self.logit_scale
    }

    /// The scalars of the loss: the logarithm of the inverse temperature, and the sigmoid loss's bias.
    pub fn loss_scalars(&self) -> (ParamId, Option<ParamId>) {
        (self.logit_scale, self.logit_bias)
    }

    /// Records the vision tower: `(images, ids_keep, embeddings [batch, embed_dim])`.
    pub fn vision<D: AllOps>(&self, tape: &mut Tape<D>, batch: usize, kept: usize) -> (Slot<u8>, Slot<u32>, Var<f32>) {
        let ModelConfig { image_size: side, patch_size: patch, normalisation, ln_after_pool, .. } = self.config;
        let length = self.config.patch_len();
        tape.scope("vision", |tape| {
            let (images, ids) = (tape.input(batch * kept * length), tape.input(batch * kept));
            let x = tape.scope("embed", |tape| {
                let positions = match self.image_positions {
                    Some(table) => assemble::Positions::Learned(table),
                    None => {
                        assemble::Positions::Fixed(tape.constant(sincos_2d(side / patch, self.config.vision.width)))
                    }
                };
                let rows = tape.gather_patches(images, [batch, kept, length], normalisation);
                let patches = tape.linear(rows, self.patch, None);
                let x = tape.assemble(patches, ids, self.cls, positions);
                self.ln_pre.map_or(x, |norm| tape.layernorm(x, norm))
            });
            let pooled = match self.config.image_pool {
                ImagePool::All => self.vision.mean(tape, x, 0, ln_after_pool),
                ImagePool::Patches => self.vision.mean(tape, x, 1, ln_after_pool),
                // A single token is the same, normalised before or after it is taken.
                ImagePool::Class => self.vision.token(tape, x, Place::At(0)),
            };
            let z = tape.scope("project", |tape| {
                let projected = tape.projection(pooled, self.vision_projection);
                tape.l2norm(projected)
            });
            (images, ids, z)
        })
    }

    /// Records the text tower: `(tokens, embeddings [batch, embed_dim])`.
    pub fn text<D: AllOps>(&self, tape: &mut Tape<D>, batch: usize) -> (Slot<i32>, Var<f32>) {
        tape.scope("text", |tape| {
            let tokens = tape.input(batch * self.config.context);
            let x = tape.scope("embed", |tape| tape.embedding(tokens, batch, self.tokens, self.text_positions));
            let context = self.config.context;
            let place = match self.config.text_pool {
                TextPool::First => Place::At(0),
                TextPool::Last => Place::At(context - 1),
                TextPool::Argmax => Place::Each(tape.find_token(tokens, [batch, context], Find::Largest)),
                TextPool::Id(id) => Place::Each(tape.find_token(tokens, [batch, context], Find::Id(id))),
            };
            let pooled = self.text.token(tape, x, place);
            let z = tape.scope("project", |tape| {
                let projected = tape.projection(pooled, self.text_projection);
                tape.l2norm(projected)
            });
            (tokens, z)
        })
    }

    /// Records both towers and the loss; embeddings and loss are retained for the host.
    pub fn record<D: AllOps>(&self, tape: &mut Tape<D>, batch: usize, kept: usize) -> Embedded {
        let (images, ids_keep, z_images) = self.vision(tape, batch, kept);
        let (tokens, z_texts) = self.text(tape, batch);
        let outcome = tape.scope("loss", |tape| match self.logit_bias {
            None => tape.contrastive(z_images, z_texts, self.logit_scale),
            Some(bias) => tape.sigmoid(z_images, z_texts, self.logit_scale, bias),
        });
        tape.retain(z_images.slot());
        tape.retain(z_texts.slot());
        Embedded { inputs: Inputs { images, ids_keep, tokens }, images: z_images, texts: z_texts, outcome }
    }
}
