//! Which members of an archive make which sample.
//!
//! WebDataset's rule: a member's key is its path up to the first dot of the base name, its extension is the rest;
//! members with the same key are a sample. OpenCLIP's rules where that leaves a choice: a member with the plain
//! extension `jpg`, `txt` and so on is preferred to `left.jpg`, wherever it is in the archive, and a repeated name
//! starts another sample.

mod draft;
mod name;
mod slot;
#[cfg(test)]
mod tests;
mod unused;

use std::collections::{HashMap, HashSet};

use self::draft::{COMPOUND, Part, draft};
use self::name::key_and_extension;
pub(crate) use self::name::printable;
pub(crate) use self::slot::{SLOTS, Slot};
use self::unused::Unused;
use super::tar::{Content, Member};
use crate::data::broken::{Broken, Kind};
use crate::data::store::Span;

/// Members are read as a whole, by several threads at once, so huge ones would take all memory.
pub(crate) const MAX_MEMBER: u64 = 1 << 30;
/// Parts of a sample in an index in front.
pub(crate) const PARTS: usize = 5;
/// The extension of stored tokens, which alone are no sample.
const TOKENS: &[u8] = b"tokens";
/// Stored tokens are shorter; others may have anything in members of that name.
pub(crate) const MAX_TOKENS: u64 = 1 << 16;

/// One sample: where its parts are in the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As in the archive; may not be UTF-8.
    pub(crate) key: Box<[u8]>,
    pub(crate) image: Option<Span>,
    pub(crate) txt: Option<Span>,
    /// Further captions, where a format has several.
    pub(crate) more_txt: Box<[Span]>,
    pub(crate) json: Option<Span>,
    /// A class number, for evaluation.
    pub(crate) cls: Option<Span>,
    /// Tokens of its captions, in a pack.
    pub(crate) tokens: Option<Span>,
    /// Why the sample is broken, if the index alone shows that.
    pub(crate) flaw: Option<Box<Broken>>,
}

impl Entry {
    /// The part of this extension, in lower case; `None` if no part has it.
    pub(crate) fn part_of(&mut self, extension: &[u8]) -> Option<&mut Option<Span>> {
        match Slot::of(extension) {
            Some((slot, _)) => Some(self.part_mut(slot)),
            None => (extension == TOKENS).then_some(&mut self.tokens),
        }
    }

    /// Its parts but for further captions, in the order of an index in front.
    pub(crate) fn parts(&self) -> [Option<Span>; PARTS] {
        [self.image, self.txt, self.json, self.cls, self.tokens]
    }

    pub(crate) fn parts_mut(&mut self) -> [&mut Option<Span>; PARTS] {
        [&mut self.image, &mut self.txt, &mut self.json, &mut self.cls, &mut self.tokens]
    }

    pub(crate) fn part_mut(&mut self, slot: Slot) -> &mut Option<Span> {
        match slot {
            Slot::Image => &mut self.image,
            Slot::Txt => &mut self.txt,
            Slot::Json => &mut self.json,
            Slot::Cls => &mut self.cls,
        }
    }
}

/// The samples of an archive, in order of their first members.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) entries: Vec<Entry>,
    pub(crate) unused: Unused,
    /// The sample that each member belongs to.
    pub(crate) of_member: Vec<Option<u32>>,
    /// All extensions in the archive, for error messages.
    pub(crate) extensions: Vec<String>,
}

/// Groups the members of one archive.
pub(crate) fn group(members: &[Member]) -> Samples {
    let mut parts = Vec::with_capacity(members.len());
    let mut extensions = HashSet::new();
    let mut others: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut has_plain = [false; SLOTS];
    let mut tokens: HashMap<&[u8], Span> = HashMap::new();
    for (number, member) in members.iter().enumerate() {
        let Some((key, extension)) = key_and_extension(&member.name) else { continue };
        let extension = extension.to_ascii_lowercase();
        let last = extension.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
        if !extensions.contains(last) {
            extensions.insert(last.to_owned());
        }
        match (Slot::of(&extension), Slot::of(last)) {
            (Some((slot, rank)), _) => {
                has_plain[slot as usize] = true;
                parts.push(Part { member: number, key, extension, slot, rank });
            }
            (None, Some((slot, _))) => parts.push(Part { member: number, key, extension, slot, rank: COMPOUND }),
            (None, None) => {
                match (&*extension, &member.content) {
                    (TOKENS, Content::Data(span)) if span.len <= MAX_TOKENS => drop(tokens.insert(key, *span)),
                    _ => {}
                }
                others.push((key, last.to_owned()));
            }
        }
    }
    let mut unused = Unused::default();
    let drafts = draft(&parts, has_plain, &mut unused);

    let mut entries = Vec::with_capacity(drafts.len());
    let mut of_member = vec![None; members.len()];
    for (number, draft) in drafts.iter().enumerate() {
        let key = parts[draft.first].key;
        let mut entry = Entry { key: key.into(), tokens: tokens.get(key).copied(), ..Entry::default() };
        for part in draft.parts.iter().flatten().map(|&part| &parts[part]) {
            of_member[part.member] = Some(number as u32);
            fill(&mut entry, part, &members[part.member]);
        }
        entries.push(entry);
    }
    if !others.is_empty() {
        let keys: HashSet<&[u8]> = parts.iter().map(|part| part.key).collect();
        for (_, extension) in others.into_iter().filter(|(key, _)| !keys.contains(key)) {
            *unused.strangers.entry(printable(&extension)).or_default() += 1;
        }
    }
    let mut extensions: Vec<String> = extensions.iter().map(|extension| printable(extension)).collect();
    extensions.sort_unstable();
    Samples { entries, unused, of_member, extensions }
}

/// Puts a member into its slot, or records why it cannot be used.
fn fill(entry: &mut Entry, part: &Part, member: &Member) {
    let name = || printable(&member.name);
    let (kind, detail) = match &member.content {
        Content::Data(span) if span.len > MAX_MEMBER => {
            (Kind::UnreadMember, format!("{} has {} bytes; more than {MAX_MEMBER} are not read", name(), span.len))
        }
        Content::Data(span) => return *entry.part_mut(part.slot) = Some(*span),
        Content::Cut(problem) => (Kind::TruncatedMember, format!("{}: {problem}", name())),
        Content::DanglingLink(target) => {
            (Kind::UnreadMember, format!("{} is a link to {}, which is not in the archive", name(), printable(target)))
        }
        Content::Unread(why) => (Kind::UnreadMember, format!("{}: {why}, which is not read", name())),
    };
    entry.flaw.get_or_insert_with(|| Box::new(Broken { kind, detail }));
}
