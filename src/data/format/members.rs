//! Which members of an archive make which sample.
//!
//! WebDataset's rule: the key of a member is its path up to the first dot of the base name, its extension what follows
//! that dot; members of one key are a sample. OpenCLIP's rules where that leaves a choice: a member whose whole
//! extension is `jpg`, `txt` and so on wins over `left.jpg` wherever it is in the archive, and a repeated name begins
//! another sample.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::notes::Matter;
use super::tar::{Content, Member};
use crate::data::broken::{Broken, Kind};
use crate::data::store::Span;
use crate::data::text::list_some;

/// Extensions of images, in order of preference if a sample has several (the first four as in OpenCLIP). The format is
/// detected from a file's content.
const IMAGES: [&str; 11] = ["jpg", "png", "jpeg", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif"];

/// Where images are looked for, for an error message.
pub(crate) fn image_members() -> String {
    format!("members ending in .{}", IMAGES.join(", ."))
}

/// The parts of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Slot {
    Image,
    Txt,
    Json,
    Cls,
}

const SLOTS: usize = 4;

/// A member is read as a whole, by each of some threads: one that is larger than any picture would take all memory.
const MAX_MEMBER: u64 = 1 << 30;

impl Slot {
    fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Txt => ".txt",
            Self::Json => ".json",
            Self::Cls => ".cls",
        }
    }

    /// The slot for an extension in lower case, and its place among those of the slot.
    fn of(extension: &[u8]) -> Option<(Self, u8)> {
        match extension {
            b"txt" => Some((Self::Txt, 0)),
            b"json" => Some((Self::Json, 0)),
            b"cls" => Some((Self::Cls, 0)),
            _ => {
                let place = IMAGES.iter().position(|image| image.as_bytes() == extension)?;
                Some((Self::Image, place as u8))
            }
        }
    }
}

/// One sample: parts of the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As in the archive; need not be UTF-8.
    pub key: Box<[u8]>,
    pub image: Option<Span>,
    pub txt: Option<Span>,
    pub json: Option<Span>,
    /// The number of a class, in archives for evaluation.
    pub cls: Option<Span>,
    /// Why the sample cannot be used, if that is known from the archive's index alone.
    pub flaw: Option<Box<Broken>>,
}

/// Members that are not part of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unused {
    /// The number of keys that occur more than once, and one of them.
    pub repeated: Option<(u64, String)>,
    /// Members with a compound extension (`left.jpg`) that are not used although their sample has no plain one: the
    /// number for each slot, and one of them.
    pub compound: BTreeMap<Slot, (u64, String)>,
    /// Members that lost to another one of the same sample (`1.png` to `1.jpg`): the number, and one of them.
    pub second: BTreeMap<Slot, (u64, String)>,
    /// Members with keys of no sample, by extension.
    pub strangers: BTreeMap<String, u64>,
}

/// The samples of an archive, in order of their first members.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub entries: Vec<Entry>,
    pub unused: Unused,
    /// The sample that each member belongs to.
    pub of_member: Vec<Option<u32>>,
    /// Every extension in the archive, for error messages.
    pub extensions: Vec<String>,
}

/// A member that may be a part of a sample.
struct Part<'a> {
    member: usize,
    key: &'a [u8],
    /// In lower case.
    extension: Vec<u8>,
    slot: Slot,
    /// Smaller is preferred.
    rank: u8,
}

/// The rank of compound extensions.
const COMPOUND: u8 = u8::MAX;

/// A sample in the making: for each slot the number of the part that fills it.
#[derive(Clone, Default)]
struct Draft {
    first: usize,
    parts: [Option<usize>; SLOTS],
}

/// Groups the members of one archive.
pub(crate) fn group(members: &[Member]) -> Samples {
    let mut parts = Vec::with_capacity(members.len());
    let mut extensions = HashSet::new();
    let mut others: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut has_plain = [false; SLOTS];
    for (member, Member { name, .. }) in members.iter().enumerate() {
        let Some((key, extension)) = key_and_extension(name) else { continue };
        let extension = extension.to_ascii_lowercase();
        let last = extension.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
        if !extensions.contains(last) {
            extensions.insert(last.to_owned());
        }
        match (Slot::of(&extension), Slot::of(last)) {
            (Some((slot, rank)), _) => {
                has_plain[slot as usize] = true;
                parts.push(Part { member, key, extension, slot, rank });
            }
            (None, Some((slot, _))) => parts.push(Part { member, key, extension, slot, rank: COMPOUND }),
            (None, None) => others.push((key, last.to_owned())),
        }
    }
    let mut unused = Unused::default();
    let drafts = draft(&parts, has_plain, &mut unused);

    let mut entries = Vec::with_capacity(drafts.len());
    let mut of_member = vec![None; members.len()];
    for (number, draft) in drafts.iter().enumerate() {
        let mut entry = Entry { key: parts[draft.first].key.into(), ..Entry::default() };
        for part in draft.parts.iter().flatten().map(|&part| &parts[part]) {
            of_member[part.member] = Some(number as u32);
            fill(&mut entry, part, &members[part.member]);
        }
        entries.push(entry);
    }
    if !others.is_empty() {
        let keys: HashSet<&[u8]> = parts.iter().map(|part| part.key).collect();
        for (_, extension) in others.into_iter().filter(|(key, _)| !keys.contains(key)) {
            *unused.strangers.entry(shown(&extension)).or_default() += 1;
        }
    }
    let mut extensions: Vec<String> = extensions.iter().map(|extension| shown(extension)).collect();
    extensions.sort_unstable();
    Samples { entries, unused, of_member, extensions }
}

/// Puts a member into its slot, or notes why it cannot be used.
fn fill(entry: &mut Entry, part: &Part, member: &Member) {
    let place = match part.slot {
        Slot::Image => &mut entry.image,
        Slot::Txt => &mut entry.txt,
        Slot::Json => &mut entry.json,
        Slot::Cls => &mut entry.cls,
    };
    let name = || shown(&member.name);
    let (kind, detail) = match &member.content {
        Content::Data(span) if span.len > MAX_MEMBER => {
            (Kind::UnreadMember, format!("{} has {} bytes; more than {MAX_MEMBER} are not read", name(), span.len))
        }
        Content::Data(span) => return *place = Some(*span),
        Content::Cut(problem) => (Kind::TruncatedMember, format!("{}: {problem}", name())),
        Content::DanglingLink(target) => {
            (Kind::UnreadMember, format!("{} is a link to {}, which is not in the archive", name(), shown(target)))
        }
        Content::Unread(why) => (Kind::UnreadMember, format!("{}: {why}, which is not read", name())),
    };
    entry.flaw.get_or_insert_with(|| Box::new(Broken { kind, detail }));
}

/// Chooses the parts of each sample.
fn draft(parts: &[Part], has_plain: [bool; SLOTS], unused: &mut Unused) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut repeated: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut left_out: Vec<usize> = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let place = *places.entry(part.key).or_insert_with(|| {
            drafts.push(Draft { first: number, ..Draft::default() });
            drafts.len() - 1
        });
        // In an archive with plain names, `7.depth.png` does not replace a missing `7.png`.
        if part.rank == COMPOUND && has_plain[part.slot as usize] {
            left_out.push(number);
            continue;
        }
        let holder = &mut drafts[place].parts[part.slot as usize];
        match holder.map(|held| &parts[held]) {
            None => *holder = Some(number),
            Some(held) if held.extension == part.extension => drop(repeated.insert(part.key, Vec::new())),
            Some(held) => {
                let loser = if part.rank < held.rank { holder.replace(number) } else { Some(number) };
                note(&mut unused.second, parts, loser);
            }
        }
    }
    for number in left_out {
        let part = &parts[number];
        let sample = places.get(part.key).map(|&place| &drafts[place]);
        if sample.is_some_and(|sample| sample.parts[part.slot as usize].is_none()) {
            note(&mut unused.compound, parts, Some(number));
        }
    }
    if !repeated.is_empty() {
        split_repeated(parts, has_plain, repeated, &mut drafts, unused);
    }
    // In a slot without plain names, those that lost are compound ones.
    for (slot, (count, example)) in std::mem::take(&mut unused.second) {
        let to = if has_plain[slot as usize] { &mut unused.second } else { &mut unused.compound };
        to.insert(slot, (count, example));
    }
    drafts
}

fn note(counts: &mut BTreeMap<Slot, (u64, String)>, parts: &[Part], part: Option<usize>) {
    let Some(part) = part.map(|part| &parts[part]) else { return };
    let name = || format!("{}.{}", shown(part.key), shown(&part.extension));
    counts.entry(part.slot).or_insert_with(|| (0, name())).0 += 1;
}

/// Splits repeated keys into samples. If every name of a key occurs equally often, the first ones belong together, the
/// second ones, and so on. Otherwise members belong together if they are adjacent, up to a name that is repeated. What is
/// left over is an incomplete sample, and is counted as one; no image gets the caption of another.
fn split_repeated(
    parts: &[Part],
    has_plain: [bool; SLOTS],
    mut repeated: HashMap<&[u8], Vec<usize>>,
    drafts: &mut Vec<Draft>,
    unused: &mut Unused,
) {
    for (number, part) in parts.iter().enumerate() {
        let is_used = part.rank != COMPOUND || !has_plain[part.slot as usize];
        if let Some(of_key) = repeated.get_mut(part.key).filter(|_| is_used) {
            of_key.push(number);
        }
    }
    drafts.retain(|draft| !repeated.contains_key(parts[draft.first].key));
    let count = repeated.len() as u64;
    let example = repeated.keys().min().map_or_else(String::new, |key| shown(key));
    let mut repeated: Vec<Vec<usize>> = repeated.into_values().collect();
    repeated.sort_unstable();
    for of_key in repeated {
        let mut times: BTreeMap<(Slot, &[u8]), usize> = BTreeMap::new();
        let nth: Vec<usize> = of_key
            .iter()
            .map(|&number| {
                let time = times.entry((parts[number].slot, &parts[number].extension)).or_default();
                *time += 1;
                *time - 1
            })
            .collect();
        let most = times.values().copied().max().unwrap_or_default();
        let even = times.values().all(|&times| times == most);
        let mut of_key_drafts: Vec<Draft> = Vec::new();
        let mut last = None;
        for (&number, nth) in of_key.iter().zip(nth) {
            let part = &parts[number];
            let slot = part.slot as usize;
            // The first ones come first, then the second ones, and so on.
            let place = (even && nth < of_key_drafts.len()).then_some(nth);
            let goes_on = last.is_some_and(|last: usize| parts[last..number].iter().all(|other| other.key == part.key));
            let fits = |draft: &Draft| draft.parts[slot].is_none_or(|held| parts[held].extension != part.extension);
            let place = place.or_else(|| (!even && goes_on).then(|| of_key_drafts.len() - 1));
            let place = place.filter(|&place| even || fits(&of_key_drafts[place])).unwrap_or_else(|| {
                of_key_drafts.push(Draft { first: number, ..Draft::default() });
                of_key_drafts.len() - 1
            });
            let holder = &mut of_key_drafts[place].parts[slot];
            let loser = match *holder {
                Some(held) if parts[held].rank <= part.rank => Some(number),
                _ => holder.replace(number),
            };
            note(&mut unused.second, parts, loser);
            last = Some(number);
        }
        drafts.extend(of_key_drafts);
    }
    drafts.sort_by_key(|draft| draft.first);
    unused.repeated = Some((count, example));
}

/// The key and the extension of a member. Hidden files, `__meta__` files and those without a dot belong to no sample.
pub(crate) fn key_and_extension(member: &[u8]) -> Option<(&[u8], &[u8])> {
    let member = member.strip_prefix(b"./").unwrap_or(member);
    let base = member.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let dot = base + member[base..].iter().position(|&byte| byte == b'.')?;
    let stem = &member[base..dot];
    let private = stem.starts_with(b"__") && stem.ends_with(b"__");
    (!stem.is_empty() && !private).then(|| (&member[..dot], &member[dot + 1..]))
}

/// A name for messages, with bytes that are not UTF-8 as `\xE9`.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}

impl Unused {
    /// What to tell the user, at most one line for each matter.
    pub fn notes(&self) -> Vec<(Matter, String)> {
        let mut notes = Vec::new();
        if let Some((count, example)) = &self.repeated {
            let text = format!(
                "duplicate names: {count} occur more than once in it, such as `{example}`; each time begins another \
                 sample"
            );
            notes.push((Matter::Repeated, text));
        }
        if !self.compound.is_empty() {
            let counts = counts(&self.compound);
            let example = self.compound.values().next().map_or("", |(_, example)| example);
            let (key, extension) = key_and_extension(example.as_bytes()).unwrap_or_default();
            let text = format!(
                "{counts} are not used: the part of a file's name before the first dot is the sample's key, and the rest is \
                 the extension, so `{example}` is `{}` of the sample `{}`. If these are samples of their own, rename \
                 them without dots",
                shown(extension),
                shown(key)
            );
            notes.push((Matter::Dots, text));
        }
        if !self.second.is_empty() {
            let example = self.second.values().next().map_or("", |(_, example)| example);
            let text = format!(
                "{} are not used, such as `{example}`: their samples have another one, and the first of {} is used",
                counts(&self.second),
                IMAGES[..4].join(", ")
            );
            notes.push((Matter::Second, text));
        }
        if !self.strangers.is_empty() {
            let count: u64 = self.strangers.values().sum();
            let kinds = self.strangers.iter().map(|(extension, count)| format!("{count} x .{extension}"));
            let text = format!("{count} members belong to no sample: {}", list_some(kinds));
            notes.push((Matter::Strangers, text));
        }
        notes
    }
}

fn counts(of: &BTreeMap<Slot, (u64, String)>) -> String {
    let counts = of.iter().map(|(slot, (count, _))| format!("{count} {} members", slot.word()));
    counts.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    /// Members with these names, the bytes of each at a place of its own.
    fn members(names: &[&[u8]]) -> Vec<Member> {
        let data = |number: usize| Content::Data(Span { start: NonZeroU64::new(number as u64 + 1).unwrap(), len: 1 });
        names.iter().enumerate().map(|(number, name)| Member { name: name.to_vec(), content: data(number) }).collect()
    }

    /// Key, image, caption and record of each sample, by the numbers of the members.
    fn samples(names: &[&str]) -> (Vec<(String, [Option<u64>; 3])>, Unused) {
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let Samples { entries, unused, .. } = group(&members(&names));
        let number = |span: Option<Span>| span.map(|span| span.start.get() - 1);
        let entry = |e: Entry| (shown(&e.key), [e.image, e.txt, e.json].map(number));
        (entries.into_iter().map(entry).collect(), unused)
    }

    #[test]
    fn keys_follow_the_webdataset_rule() {
        assert_eq!(key_and_extension(b"a/b.c/001.left.jpg"), Some((&b"a/b.c/001"[..], &b"left.jpg"[..])));
        assert_eq!(key_and_extension(b"./001.txt"), Some((&b"001"[..], &b"txt"[..])));
        for none in ["README", "a.b/README", ".hidden.jpg", "x/._1.jpg", "__meta__.json"] {
            assert_eq!(key_and_extension(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_member_that_is_too_large_to_be_read_is_a_flaw() {
        let mut huge = members(&[b"1.jpg", b"1.txt"]);
        huge[0].content = Content::Data(Span { start: NonZeroU64::new(512).unwrap(), len: 9 << 30 });
        let entry = group(&huge).entries.remove(0);
        let flaw = entry.flaw.unwrap();
        assert!(entry.image.is_none() && flaw.kind == Kind::UnreadMember, "{flaw}");
        assert!(flaw.detail.contains("1.jpg has 9663676416 bytes"), "{flaw}");
    }

    /// A key and the numbers of the members for image, caption and record.
    type Expected = (&'static str, Option<u64>, Option<u64>, Option<u64>);

    #[track_caller]
    fn check(names: &[&str], expected: &[Expected]) -> Unused {
        let (found, unused) = samples(names);
        let expected: Vec<_> = expected.iter().map(|&(key, a, b, c)| (key.to_owned(), [a, b, c])).collect();
        assert_eq!(found, expected);
        unused
    }

    #[test]
    fn plain_extensions_win_wherever_they_are() {
        let names = ["7.depth.png", "7.JPG", "7.orig.txt", "7.txt", "7.boxes.json", "7.json", "8.jpg", "8.x.png"];
        let unused = check(&names, &[("7", Some(1), Some(3), Some(5)), ("8", Some(6), None, None)]);
        assert_eq!(unused, Unused::default(), "other views beside the plain one are not worth a warning");
        // They do not replace a missing one.
        let unused = check(
            &["1.jpg", "1.txt", "2.depth.png", "2.txt"],
            &[("1", Some(0), Some(1), None), ("2", None, Some(3), None)],
        );
        assert_eq!(unused.compound[&Slot::Image], (1, "2.depth.png".to_owned()));
        // Without plain names in the archive, the first one is used.
        let unused = check(&["1.left.jpg", "1.right.jpg", "1.txt"], &[("1", Some(0), Some(2), None)]);
        assert_eq!(unused.compound[&Slot::Image], (1, "1.right.jpg".to_owned()));
        // Of several images OpenCLIP's first.
        let unused = check(&["1.webp", "1.png", "1.jpg", "1.gif"], &[("1", Some(2), None, None)]);
        assert_eq!(unused.second[&Slot::Image].0, 3);
    }

    #[test]
    fn images_have_many_extensions() {
        for extension in ["jpg", "JPEG", "jpe", "JFIF", "png", "WebP", "gif", "bmp", "tif", "tiff", "avif"] {
            assert_eq!(check(&[&format!("1.{extension}")], &[("1", Some(0), None, None)]), Unused::default());
        }
        let [entry] = &group(&members(&[b"1.png", b"1.cls"])).entries[..] else { panic!() };
        assert!(entry.cls.is_some_and(|cls| cls.start.get() == 2));
    }

    #[test]
    fn dots_in_names_are_mentioned() {
        let names: Vec<String> =
            (0..20).flat_map(|n| [format!("shot 2.{n} left.png"), format!("shot 2.{n} left.txt")]).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let unused = check(&names, &[("shot 2", Some(0), Some(1), None)]);
        let [(_, note)] = &unused.notes()[..] else { panic!("{unused:?}") };
        assert!(note.contains("19 image members and 19 .txt members are not used"), "{note}");
        assert!(note.contains("`1 left.png` of the sample `shot 2`"), "{note}");
    }

    #[test]
    fn repeated_names_begin_another_sample() {
        let twice = |first: &'static [&'static str]| [first, first].concat();
        let two = [("0", Some(0), Some(1), None), ("0", Some(2), Some(3), None)];
        assert_eq!(check(&twice(&["0.png", "0.txt"]), &two).repeated, Some((1, "0".to_owned())));
        // All of one data set, then all of the other.
        let four = [
            ("0", Some(0), Some(1), None),
            ("1", Some(2), Some(3), None),
            ("0", Some(4), Some(5), None),
            ("1", Some(6), Some(7), None),
        ];
        assert_eq!(check(&twice(&["0.png", "0.txt", "1.png", "1.txt"]), &four).repeated, Some((2, "0".to_owned())));
        // Sorted by name.
        check(&["0.png", "0.png", "0.txt", "0.txt"], &[("0", Some(0), Some(2), None), ("0", Some(1), Some(3), None)]);
        // The first has no caption; it does not get the second one's.
        let names = ["0.png", "1.png", "1.txt", "0.png", "0.txt"];
        check(&names, &[("0", Some(0), None, None), ("1", Some(1), Some(2), None), ("0", Some(3), Some(4), None)]);
        let names = ["0.png", "0.png", "0.txt"];
        check(&names, &[("0", Some(0), None, None), ("0", Some(1), Some(2), None)]);
        // Nor where its members are not adjacent.
        let names = ["0.png", "1.png", "0.png", "1.txt", "0.txt"];
        check(
            &names,
            &[
                ("0", Some(0), None, None),
                ("1", Some(1), Some(3), None),
                ("0", Some(2), None, None),
                ("0", None, Some(4), None),
            ],
        );
    }

    /// In time that is proportional to their number.
    #[test]
    fn a_name_may_be_repeated_any_number_of_times() {
        let many = vec!["1.txt"; 200_000];
        let (found, _) = samples(&many);
        assert_eq!(found.len(), many.len());
    }

    #[test]
    fn keys_are_bytes() {
        let names: [&[u8]; 4] = [b"caf\xE9.jpg", b"caf\xE8.jpg", b"caf\xE9.txt", "caf\u{e9}.jpg".as_bytes()];
        let entries = group(&members(&names)).entries;
        let shown: Vec<String> = entries.iter().map(|entry| shown(&entry.key)).collect();
        assert_eq!(shown, ["caf\\xE9", "caf\\xE8", "café"]);
        assert!(entries[0].txt.is_some() && entries[1].txt.is_none());
    }

    #[test]
    fn members_that_belong_to_no_sample_are_counted() {
        let unused = check(&["1.jpg", "1.npy", "2.mp4", "3.mp4", "README", ".x.jpg"], &[("1", Some(0), None, None)]);
        assert_eq!(unused.strangers, BTreeMap::from([("mp4".to_owned(), 2)]));
        let (_, note) = &unused.notes()[0];
        assert_eq!(note, "2 members belong to no sample: 2 x .mp4");
    }
}
