//! Writes shards with smaller images: a data set that is read many times needs large ones only once.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

use super::Input;
use super::archive::{Archive, Written};
use super::journal::{Journal, Line};
use super::pack::{Form, Pack, PackError, Packed, ShardLimit};
use super::shrink::shrink;
use crate::data::broken::{Broken, Kind, confined};
use crate::data::dataset::{Held, View};
use crate::data::error::DataError;
use crate::data::format::{Report, Shard};
use crate::data::loader::Skipped;
use crate::data::sample::image::raw;
use crate::random::{Permutation, Purpose};

/// Samples per thread that are packed before they are written.
const CHUNK: usize = 16;
/// Samples to read before `--max-bad` counts.
const MIN_VISITS: u64 = 1000;

impl Pack {
    /// Packs `input` into `folder`, or continues after the last whole shard of an earlier call with the same options.
    /// The bits do not depend on the number of threads. Samples without a usable image, caption or class number are
    /// left out, and so are shards that are not archives. If `stop` is set, it ends after the samples that are being
    /// packed. `progress` is called with the samples read so far, and with their number if it is known; `warn` with
    /// warnings.
    ///
    /// With `shuffle`, all shards are open at the same time.
    ///
    /// # Errors
    /// Shards that are missing or cannot be read, a folder that has something else, a full disk, too many broken
    /// samples.
    pub fn run(
        &self,
        input: &Input,
        folder: &Path,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64, Option<u64>),
        warn: &mut dyn FnMut(String),
    ) -> Result<Packed, PackError> {
        if !(0.0..=1.0).contains(&self.max_bad) {
            let (value, problem) = (self.max_bad.to_string(), "it must be 0 <= share <= 1".to_owned());
            return Err(DataError::Config { field: "max_bad", value, problem }.into());
        }
        let mut journal = Journal::open(folder, self, input.fingerprint()?)?;
        let resumed = journal.lines.len() as u64;
        if journal.is_complete() {
            return Ok(packed(&journal, resumed, true));
        }
        let last = journal.lines.last();
        let (start, visited) = last.map_or(((0, 0), 0), |last| (last.next, last.visited));
        let (skipped, unusable, lost) =
            last.map_or_else(Default::default, |last| (last.skipped.clone(), last.unusable_shards, last.lost));
        let writer = Writer { pack: self, folder, journal: &mut journal, open: None, visited, skipped, unusable, lost };
        let complete = match self.shuffle {
            None => self.in_order(input, start, writer, stop, progress, warn)?,
            Some(seed) => self.shuffled(input, seed, start.1, writer, stop, progress, warn)?,
        };
        if complete {
            journal.complete()?;
        }
        Ok(packed(&journal, resumed, complete))
    }

    fn in_order(
        &self,
        input: &Input,
        start: (u64, u64),
        mut writer: Writer<'_>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64, Option<u64>),
        warn: &mut dyn FnMut(String),
    ) -> Result<bool, PackError> {
        let mut next = start;
        for first in (start.0 as usize..input.shards()).step_by(Input::group()) {
            let numbers = first..(first + Input::group()).min(input.shards());
            for (number, opened) in numbers.clone().zip(input.open_all(numbers)) {
                let Some(shard) = writer.usable(opened, warn)? else {
                    next = (number as u64 + 1, 0);
                    continue;
                };
                let begin = if number as u64 == start.0 { start.1 } else { 0 };
                let samples: Vec<u64> = (begin..shard.samples.len() as u64).collect();
                for chunk in samples.chunks(CHUNK * rayon::current_num_threads()) {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(false);
                    }
                    let held = |&sample: &u64| input.held(&shard, (number as u32, sample as u32));
                    let places = chunk.iter().map(|&sample| (number as u64, sample));
                    writer.take(&chunk.par_iter().map(held).collect::<Vec<_>>(), places)?;
                    next = (number as u64, chunk.last().map_or(0, |last| last + 1));
                    progress(writer.visited, None);
                }
                // Not before: a pack that is continued opens its last shard again.
                writer.lost += shard.lost;
            }
        }
        writer.end(next)
    }

    #[allow(clippy::too_many_arguments, reason = "what `run` has, and the start")]
    fn shuffled(
        &self,
        input: &Input,
        seed: u64,
        start: u64,
        mut writer: Writer<'_>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64, Option<u64>),
        warn: &mut dyn FnMut(String),
    ) -> Result<bool, PackError> {
        let mut shards: Vec<Arc<Shard>> = Vec::with_capacity(input.shards());
        // The number of the first sample of each shard.
        let mut firsts = vec![0];
        // All are opened, also after an earlier call.
        (writer.unusable, writer.lost) = (0, 0);
        for opened in input.open_all(0..input.shards()) {
            let Some(shard) = writer.usable(opened, warn)? else { continue };
            writer.lost += shard.lost;
            firsts.push(firsts[shards.len()] + shard.samples.len() as u64);
            shards.push(shard);
        }
        let total = firsts[shards.len()];
        let order = Permutation::new(seed, Purpose::Shuffle, 0, total);
        let visits: Vec<u64> = (start..total).collect();
        for chunk in visits.chunks(CHUNK * rayon::current_num_threads()) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let held = |&visit: &u64| {
                let sample = order.at(visit);
                let shard = firsts.partition_point(|&first| first <= sample) - 1;
                input.held(&shards[shard], (shard as u32, (sample - firsts[shard]) as u32))
            };
            writer.take(&chunk.par_iter().map(held).collect::<Vec<_>>(), chunk.iter().map(|&visit| (0, visit)))?;
            progress(writer.visited, Some(total));
        }
        writer.end((0, total))
    }

    /// The members of a sample, but for their key.
    fn members(&self, view: View<'_>) -> Result<Vec<(&'static str, Vec<u8>)>, Broken> {
        let (image, scale) = view.with_scaled(self.jpeg_scaling.then_some(self.size), |part| {
            let scale = (part.scale, [part.crop.width, part.crop.height]);
            part.into_image().map(|image| (image, scale))
        })?;
        let texts = view.texts()?;
        let caption = view.caption();
        let tokenizer = self.tokens.as_ref().and_then(|tokens| tokens.tokenizer.as_ref());
        let tokens = match &caption {
            Ok(caption) => tokenizer.and_then(|tokenizer| tokenizer.store(&caption.texts)),
            Err(_) => None,
        };
        if let (Err(why), None) = (caption, &texts[2]) {
            return Err(why);
        }
        let smaller = shrink(&image, scale, self.size, self.filter);
        let as_it_is = if smaller.is_none() { view.jpeg()? } else { None };
        let image: &RgbImage = smaller.as_ref().unwrap_or(&image);
        let (extension, data) = match (self.form, as_it_is) {
            (Form::Raw, _) => ("rgb", raw::encode(image)),
            // Encoding it once more would only lose detail.
            (Form::Jpeg(_), Some(bytes)) => ("jpg", bytes.into_owned()),
            (Form::Jpeg(quality), None) => ("jpg", jpeg(image, quality)?),
        };
        let texts = ["txt", "json", "cls"].into_iter().zip(texts);
        let texts = texts.filter_map(|(extension, text)| Some((extension, text?.into_owned())));
        let tokens = tokens.map(|tokens| ("tokens", tokens));
        Ok([(extension, data)].into_iter().chain(texts).chain(tokens).collect())
    }
}

fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, Broken> {
    let refused = |detail: String| Broken { kind: Kind::BadImage, detail };
    let side = |side: u32| u16::try_from(side).map_err(|_| refused(format!("no JPEG has a side of {side} pixels")));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    let encoded = encoder.encode(image.as_raw(), side(image.width())?, side(image.height())?, ColorType::Rgb);
    encoded.map_err(|error| refused(error.to_string()))?;
    Ok(bytes)
}

fn packed(journal: &Journal, resumed_shards: u64, complete: bool) -> Packed {
    let sum = |of: fn(&Line) -> u64| journal.lines.iter().map(of).sum();
    Packed {
        shards: journal.lines.len() as u64,
        samples: sum(|line| line.samples),
        bytes: sum(|line| line.bytes),
        skipped: journal.lines.last().map_or_else(BTreeMap::new, |line| line.skipped.clone()),
        unusable_shards: journal.lines.last().map_or(0, |line| line.unusable_shards),
        lost: journal.lines.last().map_or(0, |line| line.lost),
        resumed_shards,
        complete,
    }
}

struct Writer<'a> {
    pack: &'a Pack,
    folder: &'a Path,
    journal: &'a mut Journal,
    open: Option<(String, Archive)>,
    visited: u64,
    skipped: Skipped,
    unusable: u64,
    lost: u64,
}

impl Writer<'_> {
    /// A shard that was opened; `None` for one that cannot be used, which is counted.
    fn usable(
        &mut self,
        opened: Result<(Arc<Shard>, Report), DataError>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Option<Arc<Shard>>, PackError> {
        match opened {
            Ok((shard, report)) => {
                report.notes.into_iter().for_each(|(_, text)| warn(format!("warning: {text}")));
                Ok(Some(shard))
            }
            Err(error) if error.is_of_shard() => {
                warn(format!("warning: skipped a shard: {error}"));
                self.unusable += 1;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Packs samples in parallel and writes them in order. `places` says where each is, for the journal.
    fn take(&mut self, samples: &[Held], places: impl Iterator<Item = (u64, u64)>) -> Result<(), PackError> {
        let pack = self.pack;
        let make = |held: &Held| confined(|| pack.members(held.view()));
        let made: Vec<_> = samples.par_iter().map(make).collect();
        for ((held, made), place) in samples.iter().zip(made).zip(places) {
            match made {
                Ok(members) => {
                    let is_full = |archive: &Archive| match pack.limit {
                        ShardLimit::Samples(max) => archive.samples() >= max,
                        ShardLimit::Bytes(max) => archive.bytes_with(held.view().raw_key(), &members) > max,
                    };
                    if self.open.as_ref().is_some_and(|(_, archive)| is_full(archive)) {
                        self.close(place)?;
                    }
                    self.add(held.view().raw_key(), &members)?;
                }
                Err(Broken { kind: Kind::Unreadable, detail }) => {
                    return Err(DataError::Unreadable { shard: held.view().shard(), problem: detail }.into());
                }
                Err(why) => *self.skipped.entry(why.kind).or_default() += 1,
            }
            self.visited += 1;
            // After each, so that the number of threads has no say.
            self.check(MIN_VISITS)?;
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], members: &[(&str, Vec<u8>)]) -> Result<(), PackError> {
        let name = || format!("{:06}.tar", self.journal.lines.len());
        let (name, mut archive) = match self.open.take() {
            Some(open) => open,
            None => {
                (name(), Archive::create(self.folder, &name()).map_err(|source| self.write_error(&name(), source))?)
            }
        };
        archive.add(key, members).map_err(|source| self.write_error(&name, source))?;
        self.open = Some((name, archive));
        Ok(())
    }

    /// Ends the open shard; `next` is where the next one begins.
    fn close(&mut self, next: (u64, u64)) -> Result<(), PackError> {
        let Some((shard, archive)) = self.open.take() else { return Ok(()) };
        let Written { samples, bytes, crc32c } = archive.finish().map_err(|source| self.write_error(&shard, source))?;
        let (visited, skipped, unusable_shards, lost) = (self.visited, self.skipped.clone(), self.unusable, self.lost);
        self.journal.add(Line { shard, samples, bytes, crc32c, next, visited, skipped, unusable_shards, lost })
    }

    /// After the last sample.
    fn end(mut self, next: (u64, u64)) -> Result<bool, PackError> {
        self.check(0)?;
        self.close(next)?;
        match self.journal.lines.is_empty() {
            true => Err(PackError::Nothing { visited: self.visited }),
            false => Ok(true),
        }
    }

    fn check(&self, min_visits: u64) -> Result<(), PackError> {
        let (bad, visited, max_bad) = (self.skipped.values().sum::<u64>(), self.visited, self.pack.max_bad);
        if visited >= min_visits && bad as f64 > f64::from(max_bad) * visited as f64 {
            let reasons = self.skipped.iter().map(|(kind, count)| format!("{count} x {kind}")).collect::<Vec<_>>();
            return Err(PackError::TooManyBroken { bad, visited, max_bad, reasons: reasons.join(", ") });
        }
        Ok(())
    }

    fn write_error(&self, name: &str, source: io::Error) -> PackError {
        PackError::Write { path: self.folder.join(name), source }
    }
}
