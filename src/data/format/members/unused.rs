//! Members that are not part of a sample, and the notes about them.

use std::collections::BTreeMap;

use super::name::{key_and_extension, printable};
use super::slot::Slot;
use crate::data::format::notes::NoteKind;
use crate::data::store::IMAGES;
use crate::data::text::{count, list_some};

/// Members that are not part of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unused {
    /// How many keys are repeated, and one of them.
    pub(super) repeated: Option<(u64, String)>,
    /// Members with a compound extension (`left.jpg`) that are not used although their sample has no plain one: how
    /// many for each slot, and one of them.
    pub(super) compound: BTreeMap<Slot, (u64, String)>,
    /// Members whose sample has a preferred one (`1.png` if there is `1.jpg`): how many for each slot, and one of them.
    pub(super) second: BTreeMap<Slot, (u64, String)>,
    /// Members whose key is not that of a sample: how many, by extension.
    pub(super) strangers: BTreeMap<String, u64>,
}

impl Unused {
    /// Notes for the user, at most one of each kind; `what` a part of a sample is, a member or a file.
    pub(crate) fn notes(&self, what: &str) -> Vec<(NoteKind, String)> {
        let mut notes = Vec::new();
        if let Some((number, example)) = &self.repeated {
            let occur = if *number == 1 { "occurs" } else { "occur" };
            let text = format!(
                "duplicate names: {number} {occur} more than once in it, such as `{example}`; each time starts another \
                 sample"
            );
            notes.push((NoteKind::Repeated, text));
        }
        if !self.compound.is_empty() {
            let counts = counts(&self.compound, what);
            let example = self.compound.values().next().map_or("", |(_, example)| example);
            let (key, extension) = key_and_extension(example.as_bytes()).unwrap_or_default();
            let text = format!(
                "{counts} not used: the part of a file's name before the first dot is the sample's key, and the rest \
                 is the extension, so `{example}` is `{}` of the sample `{}`. If these are samples of their own, rename \
                 them without dots",
                printable(extension),
                printable(key)
            );
            notes.push((NoteKind::Compound, text));
        }
        if !self.second.is_empty() {
            let example = self.second.values().next().map_or("", |(_, example)| example);
            let text = format!(
                "{} not used, such as `{example}`: the same sample has another one, and the first of {} is used",
                counts(&self.second, what),
                IMAGES[..4].join(", ")
            );
            notes.push((NoteKind::NotPreferred, text));
        }
        if !self.strangers.is_empty() {
            let number: u64 = self.strangers.values().sum();
            let kinds = self.strangers.iter().map(|(extension, number)| count(*number, &format!(".{extension} file")));
            let belong = if number == 1 { "belongs" } else { "belong" };
            let text = format!("{} {belong} to no sample: {}", count(number, what), list_some(kinds));
            notes.push((NoteKind::NoSample, text));
        }
        notes
    }
}

/// How many there are, with a verb.
fn counts(of: &BTreeMap<Slot, (u64, String)>, what: &str) -> String {
    let counts = of.iter().map(|(slot, (number, _))| count(*number, &format!("{} {what}", slot.word())));
    let is_one = of.values().map(|(number, _)| number).sum::<u64>() == 1;
    format!("{} {}", counts.collect::<Vec<_>>().join(" and "), if is_one { "is" } else { "are" })
}
