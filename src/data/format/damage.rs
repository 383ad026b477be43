//! Damage in an archive: which samples are hit, about how many are lost, and the messages about it.

use super::members::{Entry, Samples, printable};
use super::notes::NoteKind;
use super::tar::{Content, Fault, Index};
use crate::data::broken::{Broken, Kind};

/// A compressed stream that ends in an error.
pub(crate) struct Inflation {
    pub(crate) problem: String,
    /// Whether the stream is whole, and only the bytes after it are wrong.
    pub(crate) is_trailing: bool,
    /// Share of the packed bytes that could not be unpacked.
    pub(crate) left: f64,
}

/// Assesses the faults of an archive of `bytes` bytes. Marks incomplete samples next to damage as broken. Returns an
/// estimate of the number of samples that are lost as a whole, by the mean size of a sample, and a note for each fault.
pub(crate) fn assess(
    index: &Index,
    samples: &mut Samples,
    bytes: u64,
    inflation: Option<&Inflation>,
) -> (u64, Vec<(NoteKind, String)>) {
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
                // A sample of which a part is left is counted as broken.
                let about = if half { about as u64 } else { (about.round() as u64).max(1) };
                lost += about;
                let place = match at + gone >= bytes {
                    true => format!("the rest of the archive, {gone} bytes from byte {at} on, is lost"),
                    false => format!("{gone} bytes from byte {at} on are lost"),
                };
                notes.push((NoteKind::Lost, format!("{place} ({problem}){}", samples_lost(about))));
            }
            Fault::Zeros { bytes: gone } => {
                let about = (*gone as f64 / size) as u64;
                lost += about;
                let text =
                    format!("its last {gone} bytes are zeros: a download that did not finish?{}", samples_lost(about));
                notes.push((NoteKind::Lost, text));
            }
            // The error of the compressed stream, below, says so already.
            Fault::NoEnd if inflation.is_some() => {}
            Fault::NoEnd => {
                let last = index.members.last().map_or_else(String::new, |member| printable(&member.name));
                let text = format!(
                    "it has no end mark (blocks of zeros): it may have been cut, and then what came after `{last}` is \
                     missing"
                );
                notes.push((NoteKind::NoEnd, text));
            }
            Fault::Trailing { bytes } => {
                let text = format!("{bytes} bytes after the end of the archive are not an archive and are not read");
                notes.push((NoteKind::Trailing, text));
            }
        }
    }
    if let Some(Inflation { problem, is_trailing, left }) = inflation {
        let is_cut = index.members.iter().any(|member| matches!(member.content, Content::Cut(_)));
        let is_whole = !is_cut && !index.faults.iter().any(|fault| matches!(fault, Fault::NoEnd | Fault::Lost { .. }));
        if is_whole && *is_trailing {
            notes.push((NoteKind::Trailing, format!("bytes after the end of the archive are not read ({problem})")));
        } else if is_whole {
            let text = format!(
                "it has its end mark, but the compressed data is damaged, so any of its samples may be damaged ({problem}); \
                 fetch it again"
            );
            notes.push((NoteKind::Packed, text));
        } else {
            let about = (samples.entries.len() as f64 * left / (1.0 - left).max(1e-3)).round() as u64;
            let about = about.max(u64::from(!is_cut));
            lost += about;
            // How much is missing from an interrupted download is unknown.
            let count = if *left > 0.0 { samples_lost(about) } else { "; the number of samples is unknown".to_owned() };
            notes.push((NoteKind::Lost, format!("the rest of the archive is lost ({problem}){count}")));
        }
    }
    (lost, notes)
}

pub(super) fn samples_lost(about: u64) -> String {
    match about {
        0 => String::new(),
        1 => ": about 1 sample".to_owned(),
        about => format!(": about {about} samples"),
    }
}

/// Marks the samples on both sides of a damaged place that are incomplete. Returns whether there are any.
fn mark_neighbours(samples: &mut Samples, members_before: usize, at: u64) -> bool {
    let (before, after) = samples.of_member.split_at(members_before.min(samples.of_member.len()));
    let neighbours = [before.iter().rev().flatten().next(), after.iter().flatten().next()];
    let mut marked = false;
    for entry in neighbours.into_iter().flatten() {
        let entry = &mut samples.entries[*entry as usize];
        if lacks_a_part(entry) {
            marked = true;
            let detail = format!("the archive is damaged next to it, at byte {at}");
            entry.flaw.get_or_insert_with(|| Box::new(Broken { kind: Kind::TruncatedMember, detail }));
        }
    }
    marked
}

fn lacks_a_part(entry: &Entry) -> bool {
    entry.image.is_none() || [entry.txt, entry.json, entry.cls].iter().all(Option::is_none)
}
