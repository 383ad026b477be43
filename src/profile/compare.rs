//! Comparing two profiles.

use super::{Group, Line, Profile, group};

/// Lines of the two that have the same name and direction, in the order of the second; `None` where one has no such
/// line.
pub fn compare(before: &Profile, after: &Profile, by: Group) -> Vec<(Option<Line>, Option<Line>)> {
    let (mut before, after) = (group(before, by), group(after, by));
    let mut pairs = Vec::new();
    for line in after {
        let found = before.iter().position(|old| old.name == line.name && old.direction == line.direction);
        pairs.push((found.map(|at| before.remove(at)), Some(line)));
    }
    pairs.extend(before.into_iter().map(|line| (Some(line), None)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_paired_by_name_and_direction() {
        let before = crate::profile::report::tests::sample();
        let mut after = before.clone();
        after.scopes[1].seconds = 1.0;
        after.scopes.pop();
        let pairs = compare(&before, &after, Group::Op);
        assert_eq!(pairs.len(), 4);
        let (Some(old), Some(new)) = &pairs[1] else { panic!("{:?}", pairs[1]) };
        assert_eq!((old.name.as_str(), old.seconds, new.seconds), ("linear", 2.0, 1.0));
        assert!(pairs[3].1.is_none());
    }
}
