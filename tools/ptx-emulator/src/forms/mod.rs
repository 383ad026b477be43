//! The instruction forms that are supported: opcodes with their modifiers and types.
//!
//! The decoder rejects every other form, so no type or modifier reaches code that was not written for it.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// A place for one modifier.
#[derive(Debug)]
struct Slot {
    names: Vec<&'static str>,
    optional: bool,
    effect: Effect,
}

/// What a modifier changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// What is executed.
    Form,
    /// Only which operands there are.
    Operands,
    Nothing,
}

#[derive(Debug)]
struct Row {
    text: &'static str,
    slots: Vec<Slot>,
}

static ROWS: LazyLock<BTreeMap<&'static str, Vec<Row>>> = LazyLock::new(|| {
    let mut rows: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    for text in table::FORMS {
        let (opcodes, modifiers) = text.split_at(text.find(OPEN).unwrap_or(text.len()));
        for opcode in opcodes.split('|') {
            rows.entry(opcode).or_default().push(Row { text: modifiers, slots: slots(modifiers) });
        }
    }
    rows
});

const OPEN: [char; 5] = ['.', '{', '[', '(', '<'];
const CLOSE: [char; 4] = ['}', ']', ')', '>'];

/// Parses a row behind its opcode.
fn slots(mut text: &'static str) -> Vec<Slot> {
    let mut slots = Vec::new();
    while let Some(first) = text.chars().next() {
        let (inner, rest) = match first {
            '.' => text.split_at(text[1..].find(OPEN).map_or(text.len(), |end| end + 1)),
            _ => text.split_at(text.find(CLOSE).map_or(text.len(), |end| end + 1)),
        };
        let names = inner.trim_start_matches(OPEN).trim_end_matches(CLOSE).split('|').flat_map(expand).collect();
        let effect = match first {
            '.' | '{' => Effect::Form,
            '<' => Effect::Operands,
            _ => Effect::Nothing,
        };
        slots.push(Slot { names, optional: matches!(first, '{' | '[' | '<'), effect });
        text = rest;
    }
    slots
}

/// The modifiers that an abbreviation stands for, or the modifier itself.
fn expand(name: &'static str) -> Vec<&'static str> {
    match table::ABBREVIATIONS.iter().find(|(abbreviation, _)| *abbreviation == name) {
        Some((_, names)) => names.split('|').flat_map(expand).collect(),
        None => vec![name],
    }
}

/// One name for each state space.
fn alias(name: &str) -> &str {
    match name {
        "shared::cta" => "shared",
        "param::entry" | "param::func" => "param",
        name => name,
    }
}

/// Matches `modifiers` with `slots`, in order, and collects those that have an effect.
fn fits<'a>(slots: &[Slot], modifiers: &[&'a str], kept: &mut Vec<(&'a str, Effect)>) -> bool {
    let Some((slot, slots)) = slots.split_first() else { return modifiers.is_empty() };
    if let Some((first, rest)) = modifiers.split_first()
        && slot.names.contains(first)
    {
        let before = kept.len();
        kept.push((alias(first), slot.effect));
        if fits(slots, rest, kept) {
            return true;
        }
        kept.truncate(before);
    }
    slot.optional && fits(slots, modifiers, kept)
}

/// Splits an opcode into its name and its modifiers with their effects; `None` if it is not executed.
fn split(opcode: &str) -> Option<(&str, Vec<(&str, Effect)>)> {
    let mut parts = opcode.split('.');
    let (name, modifiers) = (parts.next()?, parts.collect::<Vec<_>>());
    let mut kept = Vec::new();
    let found = ROWS.get(name)?.iter().any(|row| fits(&row.slots, &modifiers, &mut kept));
    found.then_some((name, kept))
}

/// Splits an opcode into its name and the modifiers that have an effect.
///
/// # Errors
/// The form is not executed; the message lists the others of its name if they are few.
pub(crate) fn find(opcode: &str) -> Result<(&str, Vec<&str>), String> {
    let with_effect = |(name, effect)| (effect != Effect::Nothing).then_some(name);
    let kept = split(opcode).map(|(name, kept)| (name, kept.into_iter().filter_map(with_effect).collect()));
    kept.ok_or_else(|| {
        let name = opcode.split('.').next().unwrap_or_default();
        let Some(rows) = ROWS.get(name) else { return format!("the instruction `{opcode}` is not supported") };
        let known: Vec<String> = rows.iter().map(|row| format!("{name}{}", row.text)).collect();
        match known.join(", ") {
            known if known.len() < 500 => format!("the form `{opcode}` is not supported; supported are {known}"),
            // Those of loads and conversions would fill a page.
            _ => format!("the form `{opcode}` of `{name}` is not supported"),
        }
    })
}

/// The form of an opcode without modifiers that have no effect here: `ld.shared.f32` for `ld.volatile.shared::cta.f32`;
/// `None` if it is not executed.
pub fn canonical(opcode: &str) -> Option<String> {
    let (name, modifiers) = split(opcode)?;
    let modifiers = modifiers.into_iter().filter(|(_, effect)| *effect == Effect::Form).map(|(name, _)| name);
    Some(std::iter::once(name).chain(modifiers).collect::<Vec<_>>().join("."))
}

/// Every form that is executed, without the modifiers that have no effect.
pub fn all() -> BTreeSet<String> {
    spelled(|slot| slot.effect == Effect::Form, alias)
}

/// Every form, with the modifiers of the slots that are `wanted`, each under the name that `rename` gives it.
fn spelled(wanted: impl Fn(&Slot) -> bool, rename: fn(&str) -> &str) -> BTreeSet<String> {
    let forms = |(name, row): (&&str, &Row)| {
        let slots = row.slots.iter().filter(|slot| wanted(slot));
        slots.fold(vec![(*name).to_owned()], |heads, slot| {
            let with =
                heads.iter().flat_map(|head| slot.names.iter().map(move |name| format!("{head}.{}", rename(name))));
            let with: Vec<String> = with.collect();
            if slot.optional { [heads, with].concat() } else { with }
        })
    };
    ROWS.iter().flat_map(|(name, rows)| rows.iter().map(move |row| (name, row))).flat_map(forms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modifiers of the table, and some of instructions that are not executed.
    fn vocabulary() -> BTreeSet<&'static str> {
        let names = ROWS.values().flatten().flat_map(|row| &row.slots).flat_map(|slot| slot.names.iter().copied());
        names.chain(["u33", "f8", "e4m3x2", "b128", "u16x2", "s16x2", "xorsign", "bulk", "frob", ""]).collect()
    }

    /// Whether the table has a form, found by spelling out what the rows make of its modifiers.
    fn listed(parts: &[&str]) -> bool {
        ROWS.get(parts[0]).is_some_and(|rows| {
            rows.iter().any(|row| {
                let mut heads = vec![parts[..1].to_vec()];
                for slot in &row.slots {
                    let names = slot.names.iter().filter(|name| parts.contains(name));
                    let with = names.flat_map(|name| heads.iter().map(|head| [head.as_slice(), &[*name]].concat()));
                    let with: Vec<_> = with.collect();
                    heads = if slot.optional { [heads, with].concat() } else { with };
                }
                heads.iter().any(|head| head == parts)
            })
        })
    }

    #[test]
    fn exactly_the_listed_forms_are_accepted() {
        let vocabulary = vocabulary();
        let (mut accepted, mut refused) = (0, 0);
        let mut check = |parts: &[&str]| {
            let (form, listed) = (parts.join("."), listed(parts));
            assert_eq!(split(&form).is_some(), listed, "{form}");
            *if listed { &mut accepted } else { &mut refused } += 1;
        };
        let forms = spelled(|slot| slot.effect == Effect::Form || !slot.optional, |name| name);
        for (i, form) in forms.iter().enumerate() {
            let parts: Vec<&str> = form.split('.').collect();
            check(&parts);
            for at in 1..parts.len() {
                check(&[&parts[..at], &parts[at + 1..]].concat());
                let mut swapped = parts.clone();
                swapped.swap(at, (at + 1).min(parts.len() - 1));
                check(&swapped);
            }
            // Many forms differ only in their types: a part of them will do.
            if i % 64 == 0 {
                for (at, name) in (1..=parts.len()).flat_map(|at| vocabulary.iter().map(move |name| (at, *name))) {
                    check(&[&parts[..at], &[name], &parts[at..]].concat());
                    check(&[&parts[..at], &[name], &parts[(at + 1).min(parts.len())..]].concat());
                }
            }
        }
        assert!(accepted > forms.len() && refused > 50_000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn modifiers_without_effect_are_dropped() {
        let cases = [
            ("ld.volatile.shared.u32", Some("ld.shared.u32")),
            ("ld.global.nc.L1::no_allocate.L2::128B.v4.f32", Some("ld.global.v4.f32")),
            ("atom.acq_rel.sys.global.cas.b32", Some("atom.global.cas.b32")),
            ("barrier.cta.red.and.aligned.pred", Some("barrier.red.and.pred")),
            ("fence.acq_rel.gpu", Some("fence")),
            ("ld.shared.v8.u32", None),
            ("add", None),
            ("", None),
        ];
        for (opcode, form) in cases {
            assert_eq!(canonical(opcode).as_deref(), form, "{opcode}");
        }
    }

    #[test]
    fn errors_name_the_form_and_those_that_exist() {
        let error = find("mul.u32").expect_err("no .lo");
        assert_eq!(
            error.split_once(", mul.wide").map(|(start, _)| start),
            Some("the form `mul.u32` is not supported; supported are mul.lo|hi.INT")
        );
        assert_eq!(find("wgmma.fence"), Err("the instruction `wgmma.fence` is not supported".to_owned()));
    }
}
