//! A training loop of your own: a few steps of a small model on the embedded emoji, on the CPU.
//!
//! ```sh
//! cargo run --release --example train_loop
//! ```

use std::error::Error;
use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::data::{CaptionKeys, Dataset, Loader, LoaderConfig, Position, Tokenizer, TokenizerOptions};
use flipk::device::Cpu;
use flipk::model::{Flip, ModelConfig, Preset};
use flipk::optim::{AdamWConfig, Schedule};
use flipk::train::Trainer;

const STEPS: u64 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let dataset = Arc::new(Dataset::open(&["embedded:noto", "embedded:twemoji"], CaptionKeys::default())?);
    let tokenizer = Tokenizer::embedded(&TokenizerOptions::default())?;
    let model = ModelConfig { vocab: tokenizer.vocab_size(), ..Preset::Tiny.config() };
    let config = LoaderConfig {
        batch: 32,
        image_size: model.image_size,
        patch_size: model.patch_size,
        context: model.context,
        ..LoaderConfig::default()
    };

    let flip = Flip::new(&model, true);
    let values = flip.layout().initial_values(config.seed);
    let (device, adamw) = (Arc::new(Cpu::default()), AdamWConfig::default());
    let mut trainer = Trainer::new(device, flip, &values, adamw, config.batch, config.kept(), Recompute::None)?;

    let schedule = Schedule { peak: 5e-4, warmup: 4, total: STEPS };
    let mut loader = Loader::new(dataset, tokenizer, config, Position::default())?;
    for done in 0..STEPS {
        let batch = loader.next_batch()?;
        let outcome = trainer.step(&batch, schedule.at(done))?;
        println!("step {:2}  loss {:.4}  gradients' norm {:.3}", done + 1, outcome.loss, outcome.grad_norm);
        loader.recycle(batch);
    }
    Ok(())
}
