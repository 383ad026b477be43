//! Embeds the images and captions of a data set with the model of a run. Prints a JSON object per sample:
//! `{"key": ..., "caption": ..., "image": [...], "text": [...]}`.
//!
//! ```sh
//! cargo run --release --example embed -- runs/RUN embedded:fluent > embeddings.jsonl
//! ```

use std::error::Error;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use flipk::autograd::Parameters;
use flipk::data::{CaptionKeys, Dataset, Tokenizer};
use flipk::device::Cpu;
use flipk::eval::{Encoder, Inputs};
use flipk::model::Flip;
use flipk::train::checkpoint::Checkpoint;
use serde::Serialize;

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    caption: &'a str,
    /// `[embed_dim]`, of length 1.
    image: &'a [f32],
    /// `[embed_dim]`, of length 1.
    text: &'a [f32],
}

/// Images or texts that are embedded at once; results do not depend on it.
const BATCH: usize = 32;

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, data @ ..] = arguments.as_slice() else {
        return Err("which model? give a run folder or checkpoint, then data".into());
    };
    let checkpoint = Checkpoint::open(Path::new(run))?;
    let tokenizer = checkpoint.sibling("tokenizer.json").ok_or("there is no tokenizer.json next to the checkpoint")?;
    let tokenizer = Tokenizer::from_file(&tokenizer)?;

    let device = Arc::new(Cpu::default());
    let flip = Flip::new(&checkpoint.state.model, true);
    let params = Parameters::new(&*device, flip.layout().clone(), &checkpoint.weights(flip.layout())?)?;
    let mut encoder = Encoder::new(&device, &flip, BATCH)?;

    let dataset = Arc::new(Dataset::open(data, CaptionKeys::default())?);
    dataset.warnings().iter().for_each(|warning| eprintln!("{warning}"));
    let inputs =
        Inputs { dataset: &dataset, tokenizer: &tokenizer, max_bad: 0.1, progress: &|_| ControlFlow::Continue(()) };
    let images = encoder.images(&params, &inputs)?;
    encoder.take_warnings().iter().for_each(|warning| eprintln!("{warning}"));
    let caption = |sample: &u64| dataset.caption(*sample).map(|caption| caption.first().to_owned());
    let captions: Vec<String> = images.samples.iter().map(caption).collect::<Result<_, _>>()?;
    let texts = encoder.texts(&params, &tokenizer, &captions)?;

    let mut out = BufWriter::new(std::io::stdout().lock());
    let rows = images.rows.chunks_exact(encoder.width()).zip(texts.chunks_exact(encoder.width()));
    for ((sample, caption), (image, text)) in images.samples.iter().zip(&captions).zip(rows) {
        let line = Line { key: &dataset.key(*sample), caption, image, text };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(out.flush()?)
}
