//! Opens shards and leaves out the samples that the user's filter leaves out.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, Result};
use crate::data::format::{Common, Naming, Report, Shard};
use crate::data::sample::Filter;
use crate::data::store::Location;
use crate::data::text::list_some;

/// What a filter let pass.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Samples whose record could be read.
    looked: u64,
    passed: u64,
    /// Whether any record has each of the filter's fields.
    has: Vec<bool>,
    /// Names of all fields.
    names: BTreeSet<String>,
    /// Whether any shard is a table.
    has_columns: bool,
}

/// Opens a shard, as [`Shard::open_unless`]; its samples are those that pass. A sample whose record cannot be read
/// stays, and is broken.
///
/// # Errors
/// As [`Shard::open_unless`]; also a shard that can no longer be read.
pub(crate) fn open(
    number: u32,
    location: &Location,
    common: &Common,
    filter: Option<&Filter>,
    stop: &AtomicBool,
) -> Result<(Shard, Report, Passed)> {
    let (mut shard, mut report) = Shard::open_unless(number, location, common, stop)?;
    let mut found = Passed { has_columns: shard.naming == Naming::Columns, ..Passed::default() };
    let Some(filter) = filter else { return Ok((shard, report, found)) };
    let entries = std::mem::take(&mut shard.samples);
    let mut fields = std::mem::take(&mut report.fields).into_iter();
    let mut kept = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let fields = fields.next().flatten();
        // A row without an image has its fields.
        if entry.flaw.as_ref().is_none_or(|flaw| flaw.kind == Kind::MissingImage) {
            let json = shard.part(entry.json);
            let verdict = json.and_then(|json| filter.judge(json.as_deref().or(fields.as_ref().map(String::as_bytes))));
            match verdict {
                Ok(verdict) => {
                    found.looked += 1;
                    found.passed += u64::from(verdict.passes);
                    found.has.resize(verdict.has.len(), false);
                    found.has.iter_mut().zip(verdict.has).for_each(|(any, has)| *any |= has);
                    found.names.extend(verdict.names);
                    if !verdict.passes {
                        continue;
                    }
                }
                Err(Broken { kind: Kind::Unreadable, detail }) => {
                    return Err(DataError::Unreadable { shard: location.to_string(), problem: detail });
                }
                Err(broken) => entry.flaw = Some(Box::new(broken)),
            }
        }
        kept.push(entry);
    }
    shard.samples = kept;
    Ok((shard, report, found))
}

impl Passed {
    /// Whether any sample was looked at.
    pub(crate) fn has_looked(&self) -> bool {
        self.looked > 0
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.looked += other.looked;
        self.passed += other.passed;
        self.has.resize(self.has.len().max(other.has.len()), false);
        self.has.iter_mut().zip(&other.has).for_each(|(any, has)| *any |= has);
        self.names.extend(other.names.iter().cloned());
        self.has_columns |= other.has_columns;
    }
}

/// Checks what passed in the shards of each source (its name, and where it ends in `shards`), and says how much.
///
/// # Errors
/// A field that no record has, and a source of which nothing passes.
pub(crate) fn check<'a>(
    filter: &Filter,
    sources: impl Iterator<Item = (&'a str, usize)>,
    shards: &[Passed],
) -> Result<String> {
    let sum = |shards: &[Passed]| {
        let mut all = Passed::default();
        shards.iter().for_each(|shard| all.add(shard));
        all
    };
    let all = sum(shards);
    let wrong = |problem: String| DataError::Where { filter: filter.to_string(), problem };
    let missing: Vec<String> = filter
        .fields()
        .enumerate()
        .filter(|(at, _)| !all.has.get(*at).is_some_and(|has| *has))
        .map(|(_, f)| f)
        .collect();
    if !missing.is_empty() && all.looked > 0 {
        let missing = list_some(missing.iter().map(|field| format!("`{field}`")));
        let there = match all.names.is_empty() {
            true => "there are no records (.json members, columns of a table or features)".to_owned(),
            false => format!("the fields there are: {}", list_some(all.names.iter().cloned())),
        };
        let types = "; columns of Parquet are fields if they have numbers, texts or lists of texts";
        let types = if all.names.is_empty() || !all.has_columns { "" } else { types };
        return Err(wrong(format!("none of {} samples has {missing}; {there}{types}", all.looked)));
    }
    let mut first = 0;
    for (source, end) in sources {
        let of_source = sum(&shards[first..end]);
        if of_source.passed == 0 && of_source.looked > 0 {
            return Err(wrong(format!(
                "none of the {} samples of {source} that were looked at pass",
                of_source.looked
            )));
        }
        first = end;
    }
    Ok(format!("{} of {} samples looked at pass --where {filter}", all.passed, all.looked))
}
