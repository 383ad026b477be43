//! Links from one member of an archive to another.

use std::collections::HashMap;

use super::{Content, Member};
use crate::data::store::Span;

/// Links to links are followed for this many steps.
const MAX_STEPS: usize = 8;

/// Gives links the bytes of their target, if it is in the archive. If several members have the target's name, it is the
/// last one before the link, as when the archive is unpacked, or else the first one after it.
pub(super) fn resolve(members: &mut [Member]) {
    if !members.iter().any(|member| matches!(member.content, Content::DanglingLink(_))) {
        return;
    }
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (place, member) in members.iter().enumerate() {
        places.entry(plain(&member.name)).or_default().push(place);
    }
    let target = |mut place: usize| {
        for _ in 0..MAX_STEPS {
            match &members[place].content {
                Content::Data(span) => return Some(*span),
                Content::DanglingLink(target) => {
                    let named = places.get(plain(target))?;
                    let before = named.partition_point(|&other| other < place);
                    let after = named[before..].iter().find(|&&other| other > place);
                    place = *named[..before].last().or(after)?;
                }
                _ => return None,
            }
        }
        None
    };
    let found: Vec<Option<Span>> = (0..members.len()).map(target).collect();
    for (member, found) in members.iter_mut().zip(found) {
        if let Some(span) = found {
            member.content = Content::Data(span);
        }
    }
}

/// The name without the leading `./` that some programs write.
fn plain(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"./").unwrap_or(name)
}

/// The path from the archive's root to the `target` of the symbolic link `name`.
pub(super) fn target_path(name: &[u8], target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") {
        return target.to_owned();
    }
    let folder = name.iter().rposition(|&byte| byte == b'/').map_or(&[][..], |slash| &name[..slash]);
    let mut path: Vec<&[u8]> = Vec::new();
    for part in folder.split(|&byte| byte == b'/').chain(target.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            // At the root, `..` leaves the archive, and stays in the path.
            b".." if path.last().is_some_and(|last| *last != b"..") => drop(path.pop()),
            part => path.push(part),
        }
    }
    path.join(&b'/')
}
