//! Reads a text per line and prints its token numbers, as in training and evaluation. With `--json`, texts are a list
//! in
//! JSON, and rows have the length and the special tokens of CLIP's; `--save` writes the tokenizer to a file.
//!
//! ```sh
//! cargo run --release --example tokens -- vocab.txt < captions.txt
//! cargo run --release --example tokens -- clip --json --save tokenizer.json < captions.json
//! ```

use std::io::{BufRead, Write, stdin};
use std::path::Path;

use flipk::data::{Texts, Tokenizer, TokenizerOptions};

/// More tokens than any caption has, so that none is cut.
const CONTEXT: usize = 512;
/// CLIP's.
const CLIP_CONTEXT: usize = 77;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which tokenizer? give a tokenizer.json or a vocab.txt")?;
    let arguments: Vec<String> = arguments.collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let texts = if json { Texts::OpenClip { strip_sep: false } } else { Texts::Flip };
    let tokenizer = Tokenizer::open(Path::new(&path), &TokenizerOptions { texts, ..TokenizerOptions::default() })?;
    eprintln!("{}", tokenizer.describe());
    if let Some(at) = arguments.iter().position(|argument| argument == "--save") {
        std::fs::write(arguments.get(at + 1).ok_or("save it to which file?")?, tokenizer.to_json()?)?;
    }
    if json {
        let texts: Vec<String> = serde_json::from_reader(stdin())?;
        let mut rows = vec![[0; CLIP_CONTEXT]; texts.len()];
        let began = std::time::Instant::now();
        for (text, row) in texts.iter().zip(&mut rows) {
            tokenizer.encode(text, row)?;
        }
        eprintln!("{:?} for {} texts", began.elapsed(), texts.len());
        let rows: Vec<&[i32]> = rows.iter().map(|row| &row[..]).collect();
        serde_json::to_writer(std::io::stdout().lock(), &rows)?;
        return Ok(());
    }
    let mut tokens = vec![0; CONTEXT];
    let mut out = std::io::stdout().lock();
    for line in stdin().lock().lines() {
        tokenizer.encode(&line?, &mut tokens)?;
        let used = tokens.iter().rposition(|&token| token != tokenizer.pad()).map_or(0, |last| last + 1);
        let numbers: Vec<String> = tokens[..used].iter().map(i32::to_string).collect();
        writeln!(out, "{}", numbers.join(" "))?;
    }
    Ok(())
}
