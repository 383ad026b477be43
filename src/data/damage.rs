//! What damage to an archive costs: which samples, about how many, and what to tell.

use super::{
    Broken, Kind,
    members::{Entry, Samples, shown},
    notes::Matter,
    tar::{Content, Fault, Index},
};

/// A gzip stream that does not come to its end.
pub(super) struct Inflation {
    pub problem: String,
    /// Share of the packed bytes that could not be unpacked.
    pub left: f64,
}

/// Judges the faults of an archive of `bytes` bytes. Marks the samples beside damage that lack a part, and gives the
/// number of the samples that are gone without a trace (by the mean size of a sample), with a note for each fault.
pub(super) fn assess(
    index: &Index,
    samples: &mut Samples,
    bytes: u64,
    inflation: Option<&Inflation>,
) -> (u64, Vec<(Matter, String)>) {
    let gone = |fault: &Fault| match fault {
        Fault::Lost { bytes, .. } | Fault::Zeros { bytes } => *bytes,
        _ => 0,
    };
    let whole = bytes.saturating_sub(index.faults.iter().map(gone).sum());
    let size = (whole as f64 / samples.entries.len() as f64).max(1.0);
    let (mut lost, mut notes) = (0, Vec::new());
    for fault in &index.faults {
        match fault {
            Fault::Lost { at, bytes: gone, problem, members_before } => {
                let half = mark_neighbours(samples, *members_before, *at);
                let about = *gone as f64 / size;
                // A sample of which a part is left is counted by itself.
                let about = if half { about as u64 } else { (about.round() as u64).max(1) };
                lost += about;
                let place = match at + gone >= bytes {
                    true => format!("the rest of the archive, {gone} bytes from byte {at} on, is lost"),
                    false => format!("{gone} bytes from byte {at} on are lost"),
                };
                notes.push((Matter::Lost, format!("{place} ({problem}){}", samples_lost(about))));
            }
            Fault::Zeros { bytes: gone } => {
                let about = (*gone as f64 / size) as u64;
                lost += about;
                let text =
                    format!("its last {gone} bytes are zeros: a download that did not finish?{}", samples_lost(about));
                notes.push((Matter::Lost, text));
            }
            // The end of the gzip stream tells it.
            Fault::NoEnd if inflation.is_some() => {}
            Fault::NoEnd => {
                let last = index.members.last().map_or_else(String::new, |member| shown(&member.name));
                let text = format!(
                    "it has no end mark (blocks of zeros): it may have been cut, and what came behind `{last}` is \
                     missing then"
                );
                notes.push((Matter::NoEnd, text));
            }
            Fault::Behind { bytes } => {
                let text = format!("{bytes} bytes behind the end of the archive are no archive and are not read");
                notes.push((Matter::Behind, text));
            }
        }
    }
    if let Some(Inflation { problem, left }) = inflation {
        let is_cut = index.members.iter().any(|member| matches!(member.content, Content::Cut(_)));
        let is_whole = !is_cut && !index.faults.iter().any(|fault| matches!(fault, Fault::NoEnd | Fault::Lost { .. }));
        if is_whole {
            notes.push((Matter::Behind, format!("bytes behind the end of the archive are not read ({problem})")));
        } else {
            let about = (samples.entries.len() as f64 * left / (1.0 - left).max(1e-3)).round() as u64;
            let about = about.max(u64::from(!is_cut));
            lost += about;
            notes.push((Matter::Lost, format!("the rest of the archive is lost ({problem}){}", samples_lost(about))));
        }
    }
    (lost, notes)
}

fn samples_lost(about: u64) -> String {
    match about {
        0 => String::new(),
        1 => ": about 1 sample".to_owned(),
        about => format!(": about {about} samples"),
    }
}

/// Marks the samples on both sides of a damaged place that lack a part; whether there are any.
fn mark_neighbours(samples: &mut Samples, members_before: usize, at: u64) -> bool {
    let (before, after) = samples.of_member.split_at(members_before.min(samples.of_member.len()));
    let neighbours = [before.iter().rev().flatten().next(), after.iter().flatten().next()];
    let mut marked = false;
    for entry in neighbours.into_iter().flatten() {
        let entry = &mut samples.entries[*entry as usize];
        if lacks_a_part(entry) {
            marked = true;
            let detail = format!("the archive is damaged beside it, at byte {at}");
            entry.flaw.get_or_insert_with(|| Box::new(Broken { kind: Kind::TruncatedMember, detail }));
        }
    }
    marked
}

fn lacks_a_part(entry: &Entry) -> bool {
    entry.image.is_none() || [entry.txt, entry.json, entry.cls].iter().all(Option::is_none)
}
