//! Reads a text per line and prints its token numbers, as in training and evaluation.
//!
//! ```sh
//! cargo run --release --example tokens -- vocab.txt < captions.txt
//! ```

use std::io::{BufRead, Write};
use std::path::Path;

use flipk::data::{Tokenizer, TokenizerOptions};

/// More tokens than any caption has, so that none is cut.
const CONTEXT: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which tokenizer? give a tokenizer.json or a vocab.txt")?;
    let tokenizer = Tokenizer::open(Path::new(&path), &TokenizerOptions::default())?;
    eprintln!("{}", tokenizer.describe());
    let mut tokens = vec![0; CONTEXT];
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        tokenizer.encode(&line?, &mut tokens)?;
        let used = tokens.iter().rposition(|&token| token != tokenizer.pad()).map_or(0, |last| last + 1);
        let numbers: Vec<String> = tokens[..used].iter().map(i32::to_string).collect();
        writeln!(out, "{}", numbers.join(" "))?;
    }
    Ok(())
}
