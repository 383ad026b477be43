//! Finds mistakes that affect a whole source before training: a wrong caption key, archives of something else.

use std::collections::BTreeSet;

use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, Result};
use crate::data::format::{Entry, Naming, Report, Shard, printable};
use crate::data::sample::{CaptionKeys, ClassNumbers, Record};
use crate::data::store::{Location, table_in};
use crate::data::text::list_some;

/// Maximum number of samples, evenly spread over the source, to look at until one is good.
const PROBE_SAMPLES: usize = 100_000;
/// Samples whose records are searched for names of fields.
const PROBE_RECORDS: usize = 32;

/// Looks for one sample with an image and a caption.
///
/// # Errors
/// Says what is missing, if there is none.
pub(super) fn source(spec: &str, shards: &[Shard], reports: &[Report], keys: &CaptionKeys) -> Result<()> {
    let total: usize = shards.iter().map(|shard| shard.samples.len()).sum();
    let samples = shards.iter().flat_map(|shard| shard.samples.iter().map(move |entry| (shard, entry)));
    let read = |shard: &Shard, entry: &Entry| {
        keys.read_all(&shard.txts(entry)?, shard.part(entry.json)?.as_deref(), shard.naming)
    };
    let mut looked = Looked::default();
    for (shard, entry) in samples.step_by(total.div_ceil(PROBE_SAMPLES).max(1)) {
        let caption = match (keys.class_numbers, entry.cls) {
            (ClassNumbers::Unused, _) => Ok(()),
            (ClassNumbers::Ignore, _) | (_, None) => read(shard, entry).map(drop),
            (_, Some(_)) => Ok(()),
        };
        if let Err(Broken { kind: Kind::Unreadable, detail }) = caption {
            return Err(DataError::Unreadable { shard: shard.location.to_string(), problem: detail });
        }
        let usable = entry.flaw.is_none();
        if usable && entry.image.is_some() && caption.is_ok() {
            return Ok(());
        }
        looked.note(shard, entry, caption.err());
    }
    let source_of = match shards {
        [shard] => shard.location.to_string(),
        _ => spec.to_owned(),
    };
    let samples = looked.samples;
    let extensions: BTreeSet<&String> = reports.iter().flat_map(|report| &report.extensions).collect();
    // Those of the first shard: sources of several kinds are rare.
    let naming = shards.first().map(|shard| shard.naming).unwrap_or_default();
    let mut found = naming.found(extensions.into_iter());
    // Why existing members cannot be used.
    let flaw = looked.flaw.map_or(String::new(), |flaw| format!("; {flaw}"));
    if looked.images == 0 {
        found += &flaw;
        return Err(DataError::NoImages { source_of, samples, looked_for: naming.images(), found });
    }
    if looked.captions == 0 {
        if !looked.fields.is_empty() && naming != Naming::Columns {
            found += &format!(
                "; JSON fields {}",
                list_some(looked.fields.iter().map(|field| if field.trim() == field {
                    field.clone()
                } else {
                    format!("{field:?}")
                }))
            );
        }
        // Why existing members cannot be used as captions.
        if let Some((sample, why)) = looked.refused {
            found += &format!("; {sample}: {why}");
        }
        found += &flaw;
        if let (Naming::Files, Some(Location::Folder(folder))) = (naming, shards.first().map(|shard| &shard.location))
            && let Some(table) = table_in(folder)
        {
            found += &format!("; to use the captions in a table, name it instead of the folder: {}", table.display());
        }
        return Err(DataError::NoCaptions { source_of, samples, looked_for: keys.looked_for(naming), found });
    }
    let mut reasons = format!("{} have an image, {} have a caption", looked.images, looked.captions);
    if let (Some(image), Some(caption)) = (&looked.image_only, &looked.caption_only) {
        // Debug format: escapes show letters that look like others.
        reasons += &format!(", such as {image:?} an image and {caption:?} a caption");
    }
    reasons += &flaw;
    reasons += naming.rule();
    Err(DataError::NoPairs { source_of, samples, reasons })
}

/// What the samples have that were looked at.
#[derive(Default)]
struct Looked {
    samples: u64,
    images: u64,
    captions: u64,
    /// The first sample with an image alone, and with a caption alone.
    image_only: Option<String>,
    caption_only: Option<String>,
    /// Names of JSON fields.
    fields: BTreeSet<String>,
    records: usize,
    /// The first sample with a caption that cannot be used.
    refused: Option<(String, Broken)>,
    /// The first sample that cannot be used because of its archive.
    flaw: Option<String>,
}

impl Looked {
    fn note(&mut self, shard: &Shard, entry: &Entry, refused: Option<Broken>) {
        self.samples += 1;
        self.images += u64::from(entry.image.is_some());
        self.captions += u64::from(refused.is_none());
        match (entry.image.is_some(), refused.is_none()) {
            (true, false) => drop(self.image_only.get_or_insert_with(|| printable(&entry.key))),
            (false, true) => drop(self.caption_only.get_or_insert_with(|| printable(&entry.key))),
            _ => {}
        }
        if self.records < PROBE_RECORDS
            && let Ok(Some(json)) = shard.part(entry.json)
        {
            self.records += 1;
            self.fields.extend(Record::read(&json, &[]).names);
        }
        if let (None, Some(why)) = (&self.refused, refused.filter(|why| why.kind != Kind::MissingCaption)) {
            self.refused = Some((printable(&entry.key), why));
        }
        if let (None, Some(flaw)) = (&self.flaw, &entry.flaw) {
            self.flaw = Some(format!("{}: {flaw}", printable(&entry.key)));
        }
    }
}
