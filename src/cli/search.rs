//! `flipk search`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::device::{DeviceArgs, Job};
use super::encode::EncodeArgs;
use super::put;
use crate::autograd::Parameters;
use crate::data::tools::{Section, SheetFormat, Thumbnail, contact_sheet};
use crate::data::{Dataset, Tokenizer, text};
use crate::eval::{Best, Encoder, Match, MatrixReader};
use crate::ops::AllOps;
use crate::train::Weights;

/// Find the images that are nearest to a text or an image
///
/// Searches images, or embeddings that `flipk embed` or another program wrote. The score is the cosine of both
/// embeddings.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk search runs/b16-001 'a red car' --in photos/ --picture cars.png
  flipk search runs/b16-001 'a red car' 'a dog' --in photos.npy --images photos/ --picture found.png
  flipk search runs/b16-001 --image query.jpg --in photos.parquet --top 5 --json")]
pub(super) struct Search {
    /// Run folder (its newest checkpoint), checkpoint file, or folder of an OpenCLIP or Hugging Face model
    model: PathBuf,
    /// Texts to search for
    #[arg(value_name = "TEXT", required_unless_present = "image")]
    texts: Vec<String>,
    /// Image files to search for
    #[arg(long, num_args = 1.., value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Images, as for `flipk train --data` (shards, folders, tables or image files); or their embeddings in one .npy,
    /// .safetensors or .parquet file
    #[arg(long = "in", num_args = 1.., value_name = "SHARDS|FILE", required = true)]
    among: Vec<String>,
    /// The images whose embeddings are searched, for captions and --picture
    #[arg(long, num_args = 1.., value_name = "SHARDS")]
    images: Option<Vec<String>>,
    /// Matches per text or image
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// PNG or JPEG file to write, with the images that were found
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Images side by side in the picture [default: as many as make it about 1,600 pixels wide]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    columns: Option<u32>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    encode: EncodeArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// A row that was found: its number, its shard and name, and its number in the data set.
struct Row {
    number: u64,
    shard: Option<String>,
    name: Option<String>,
    sample: Option<u64>,
}

struct Work<'a> {
    flags: &'a Search,
    model: Weights,
    tokenizer: Option<Tokenizer>,
    embeddings: Option<MatrixReader>,
    dataset: Option<Arc<Dataset>>,
}

/// A query, and what was found for it.
#[derive(Serialize)]
struct Answer {
    query: String,
    matches: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    score: f32,
    /// In the file of embeddings, or in the data set, from 0.
    row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<String>,
    #[serde(skip)]
    sample: Option<u64>,
}

impl Search {
    pub(super) fn run(self) -> Result<ExitCode> {
        let files: Vec<_> = self.among.iter().filter(|name| MatrixReader::accepts(Path::new(name))).collect();
        let embeddings = match (files.as_slice(), self.among.len()) {
            ([], _) => None,
            ([file], 1) => Some(MatrixReader::open(Path::new(file))?),
            ([file, ..], _) => bail!("{file} has embeddings: search it alone"),
        };
        let specs = match (&embeddings, &self.images) {
            (None, Some(_)) => bail!("--images belongs to --in with a file of embeddings; here --in has the images"),
            (None, None) => Some(&self.among),
            (Some(_), images) => images.as_ref(),
        };
        if self.picture.is_some() && specs.is_none() {
            bail!("a picture needs the images, not only their embeddings: add --images with what was embedded");
        }
        let format = self.picture.as_deref().map(SheetFormat::from_path).transpose()?;
        let model = Weights::open(&self.model)?;
        let dataset = specs.map(|specs| self.encode.open(specs)).transpose()?;
        let tokenizer = (!self.texts.is_empty()).then(|| self.encode.tokenizer(&model)).transpose()?;
        let (found, without) =
            self.device.run(Work { flags: &self, model, tokenizer, embeddings, dataset: dataset.clone() })?;
        if without > 0 {
            tracing::warn!(
                "left out: {without} x embedding without a direction (zeros, or numbers that are not finite)"
            );
        }
        let images = self.image.iter().map(|path| path.display().to_string());
        let queries = self.texts.iter().cloned().chain(images);
        let describe = |row: Match<Row>| describe(row, dataset.as_deref());
        let answers: Vec<Answer> = queries
            .zip(found)
            .map(|(query, rows)| Answer { query, matches: rows.into_iter().map(describe).collect() })
            .collect();
        if let (Some(path), Some(format), Some(dataset)) = (&self.picture, format, &dataset) {
            self.draw(path, format, &answers, dataset)?;
        }
        match self.json {
            true => put(format_args!("{}\n", serde_json::to_string_pretty(&answers)?))?,
            false => put(format_args!("{}", answers.iter().map(lines).collect::<Vec<_>>().join("\n")))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn draw(&self, path: &Path, format: SheetFormat, answers: &[Answer], dataset: &Dataset) -> Result<()> {
        let thumbnail = |found: &Found| {
            let image = found.sample.map(|sample| dataset.decoded(sample).map_err(|broken| broken.to_string()));
            let image = image.unwrap_or_else(|| Err("it is not among the images".to_owned()));
            let label = format!("{:.3} {}", found.score, found.key.as_deref().unwrap_or_default());
            Thumbnail::new(image.as_deref().map_err(Clone::clone), label, found.caption.clone().unwrap_or_default())
        };
        let section = |answer: &Answer| Section {
            heading: answer.query.clone(),
            images: answer.matches.iter().map(thumbnail).collect(),
        };
        let sections: Vec<Section> = answers.iter().map(section).collect();
        let sheet = contact_sheet(&sections, self.columns.map(|columns| columns as usize))?;
        let encoded = format.encode(&sheet)?;
        fs::write(path, encoded).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Job for Work<'_> {
    /// For each query what was found, and how many embeddings were left out.
    type Output = (Vec<Vec<Match<Row>>>, u64);

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output> {
        let Self { flags, model, tokenizer, embeddings, dataset } = self;
        let (flip, values) = model.values()?;
        let params = Parameters::new(&*device, flip.layout().clone(), &values)?;
        drop(values);
        let mut encoder = Encoder::new(&device, &flip, flags.encode.batch())?;
        let mut queries = match &tokenizer {
            Some(tokenizer) => encoder.texts(&params, tokenizer, &flags.texts)?,
            None => Vec::new(),
        };
        queries.extend(encoder.image_files(&params, &flags.image)?);
        let width = encoder.width();
        let mut best = Best::new(queries, width, flags.top as usize);
        if let Some(query) = best.bad_query() {
            bail!("the embedding of query {} is not finite: the model is damaged", query + 1);
        }
        match (embeddings, dataset) {
            (Some(matrix), dataset) => in_matrix(matrix, dataset.as_deref(), width, &mut best)?,
            (None, Some(dataset)) => {
                flags.encode.each_image(&mut encoder, &params, &dataset, |batch, rows| {
                    let row = |row: usize| {
                        let number = batch.samples[row];
                        Row { number, shard: None, name: None, sample: Some(number) }
                    };
                    best.add(rows, row);
                    Ok(())
                })?;
            }
            (None, None) => {}
        }
        let without = best.without_direction();
        Ok((best.finish(), without))
    }
}

/// Searches a file. The images that it was made of are in the same order, except that it lacks broken ones.
fn in_matrix(mut matrix: MatrixReader, dataset: Option<&Dataset>, width: usize, best: &mut Best<Row>) -> Result<()> {
    const ROWS: usize = 4096;
    if matrix.width() != width && !matrix.is_empty() {
        let of = matrix.width();
        bail!("the embeddings have {of} numbers each, and the model's have {width}: they are of another model");
    }
    let (mut first, mut next) = (0, 0);
    while let Some(rows) = matrix.next(ROWS)? {
        let count = rows.names.len() as u64;
        let samples = match dataset {
            Some(dataset) => {
                let of = |(row, (name, shard)): (u64, (&Option<String>, &Option<String>))| {
                    // Where the shards are may have changed; what they are called tells equal keys apart.
                    let is_in = |sample: u64| {
                        shard.as_ref().is_none_or(|shard| {
                            Path::new(shard).file_name() == Path::new(&dataset.shard(sample)).file_name()
                        })
                    };
                    let sample = match name {
                        Some(name) => {
                            (next..dataset.len() as u64).find(|&sample| dataset.key(sample) == *name && is_in(sample))
                        }
                        None => Some(row).filter(|_| matrix.len() == dataset.len() as u64),
                    };
                    next = sample.map_or(next, |sample| sample + 1);
                    let named = || name.as_ref().map_or_else(|| format!("row {row}"), Clone::clone);
                    sample.with_context(|| {
                        format!("{} is not among --images, or not in the order in which they were embedded", named())
                    })
                };
                (first..)
                    .zip(rows.names.iter().zip(&rows.shards))
                    .map(of)
                    .map(|sample| sample.map(Some))
                    .collect::<Result<_>>()?
            }
            None => vec![None; rows.names.len()],
        };
        best.add(&rows.values, |row| Row {
            number: first + row as u64,
            shard: rows.shards[row].clone(),
            name: rows.names[row].clone(),
            sample: samples[row],
        });
        first += count;
    }
    Ok(())
}

fn describe(found: Match<Row>, dataset: Option<&Dataset>) -> Found {
    let Row { number, shard, name, sample } = found.of;
    let in_data = dataset.zip(sample);
    let caption = in_data.and_then(|(dataset, sample)| dataset.caption(sample).ok());
    Found {
        score: found.score,
        row: number,
        shard: in_data.map(|(dataset, sample)| dataset.shard(sample)).or(shard),
        key: name.or_else(|| in_data.map(|(dataset, sample)| dataset.key(sample).into_owned())),
        caption: caption.map(|caption| caption.first().to_owned()),
        sample,
    }
}

/// The table of one query.
fn lines(answer: &Answer) -> String {
    // A blank line that was embedded has an empty name.
    let key = |found: &Found| found.key.clone().filter(|key| !key.trim().is_empty());
    let name = |found: &Found| match (&found.shard, key(found)) {
        (Some(shard), Some(key)) => format!("{shard}:{key}"),
        (None, Some(key)) => text::shorten(&key).into_owned(),
        _ => format!("row {}", found.row),
    };
    let names: Vec<String> = answer.matches.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut all = format!("{}\n", answer.query);
    for (found, name) in answer.matches.iter().zip(names) {
        let words: Vec<&str> = found.caption.iter().flat_map(|caption| caption.split_whitespace()).collect();
        all += format!("{:7.4}  {name:width$}  {}", found.score, text::shorten(&words.join(" "))).trim_end();
        all.push('\n');
    }
    all
}
