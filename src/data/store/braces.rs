//! Brace expansion.

use crate::data::error::Result;

/// A pattern with more shards than this is assumed to be a typo.
pub(crate) const MAX_SHARDS: usize = 1_000_000;

/// Braces that are nested deeper are assumed to be one too.
const MAX_NESTED: usize = 64;

/// All names of a pattern, with the parts that they are put together from, take no more memory than this.
const MAX_BYTES: usize = 512 << 20;

/// Brace expansion as in bash: `{a,b}` and `{08..11}` (padded to equal width if a bound starts with 0), nested and
/// repeated. Other braces stay as they are.
pub(crate) fn expand_braces(spec: &str) -> Result<Vec<String>, String> {
    expand(spec, 0, &mut { MAX_BYTES })
}

/// Takes names of `bytes` together from what is left of [`MAX_BYTES`].
fn spend(left: &mut usize, names: usize, bytes: usize) -> Result<(), String> {
    let all = names.saturating_mul(size_of::<String>()).saturating_add(bytes);
    let rest = left.checked_sub(all);
    *left = rest.ok_or_else(|| format!("its names take more than {} MiB", MAX_BYTES >> 20))?;
    Ok(())
}

/// The lengths of all names together.
fn total(names: &[String]) -> usize {
    names.iter().map(String::len).sum()
}

/// `depth`: the braces around `spec`. `left`: what is left of [`MAX_BYTES`].
fn expand(spec: &str, depth: usize, left: &mut usize) -> Result<Vec<String>, String> {
    if depth > MAX_NESTED {
        return Err(format!("its braces are nested more than {MAX_NESTED} deep"));
    }
    let too_many = || format!("it stands for more than {MAX_SHARDS} shards");
    let (mut found, mut rest) = (vec![String::new()], spec);
    while let Some((open, close)) = outer_braces(rest) {
        let (prefix, inner) = (&rest[..open], &rest[open + 1..close]);
        let mut alternatives = Vec::new();
        match (range(inner, left)?, split_alternatives(inner)) {
            (Some(numbers), _) => alternatives = numbers,
            (None, parts) if parts.len() == 1 => {
                let names = expand(inner, depth + 1, left)?;
                spend(left, names.len(), total(&names))?;
                alternatives.extend(names.iter().map(|inner| format!("{{{inner}}}")));
            }
            (None, parts) => {
                for part in parts {
                    alternatives.extend(expand(part, depth + 1, left)?);
                    if alternatives.len() > MAX_SHARDS {
                        return Err(too_many());
                    }
                }
            }
        }
        if found.len().saturating_mul(alternatives.len()) > MAX_SHARDS {
            return Err(too_many());
        }
        match &alternatives[..] {
            // In place, so that many single ones take linear time.
            [only] => {
                spend(left, 0, found.len().saturating_mul(prefix.len() + only.len()))?;
                found.iter_mut().for_each(|start| *start += &format!("{prefix}{only}"));
            }
            _ => {
                let starts = (total(&found) + found.len() * prefix.len()).saturating_mul(alternatives.len());
                let ends = total(&alternatives).saturating_mul(found.len());
                spend(left, found.len() * alternatives.len(), starts.saturating_add(ends))?;
                let join =
                    |start: &String| alternatives.iter().map(|end| format!("{start}{prefix}{end}")).collect::<Vec<_>>();
                found = found.iter().flat_map(join).collect();
            }
        }
        rest = &rest[close + 1..];
    }
    spend(left, 0, found.len().saturating_mul(rest.len()))?;
    found.iter_mut().for_each(|start| start.push_str(rest));
    Ok(found)
}

/// The first `{` that is closed, and its `}`.
fn outer_braces(spec: &str) -> Option<(usize, usize)> {
    let (mut open, mut first) = (Vec::new(), None::<(usize, usize)>);
    for (at, byte) in spec.bytes().enumerate() {
        match byte {
            b'{' => open.push(at),
            b'}' => {
                let Some(start) = open.pop() else { continue };
                if first.is_none_or(|(found, _)| start < found) {
                    first = Some((start, at));
                }
                if open.is_empty() {
                    return first;
                }
            }
            _ => {}
        }
    }
    first
}

fn split_alternatives(inner: &str) -> Vec<&str> {
    let mut depth = 0;
    inner
        .split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        })
        .collect()
}

fn range(inner: &str, left: &mut usize) -> Result<Option<Vec<String>>, String> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let Some((low, high)) = inner.split_once("..").filter(|(low, high)| digits(low) && digits(high)) else {
        return Ok(None);
    };
    let padded = [low, high].iter().any(|bound| bound.len() > 1 && bound.starts_with('0'));
    let width = if padded { low.len().max(high.len()) } else { 0 };
    let number = |s: &str| s.parse::<u64>().map_err(|error| format!("`{s}`: {error}"));
    let (first, last) = (number(low)?, number(high)?);
    if first.abs_diff(last) >= MAX_SHARDS as u64 {
        return Err(format!("`{{{inner}}}` stands for more than {MAX_SHARDS} shards"));
    }
    let count = first.abs_diff(last) as usize + 1;
    spend(left, count, count.saturating_mul(width.max(high.len())))?;
    // The formatter's own padding ends at 65,535.
    let padded = |number: u64| {
        let digits = number.to_string();
        "0".repeat(width.saturating_sub(digits.len())) + &digits
    };
    let mut numbers: Vec<String> = (first.min(last)..=first.max(last)).map(padded).collect();
    if first > last {
        numbers.reverse();
    }
    Ok(Some(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(spec: &str) -> Vec<String> {
        expand_braces(spec).unwrap()
    }

    #[test]
    fn braces_expand_as_in_bash() {
        assert_eq!(expand("plain.tar"), ["plain.tar"]);
        assert_eq!(expand("{008..011}.tar"), ["008.tar", "009.tar", "010.tar", "011.tar"]);
        assert_eq!(expand("{8..11}"), ["8", "9", "10", "11"]);
        assert_eq!(expand("{3..1}"), ["3", "2", "1"]);
        assert_eq!(expand("a{x,y}b{1..2}"), ["axb1", "axb2", "ayb1", "ayb2"]);
        assert_eq!(expand("{a,b{1..2},}z"), ["az", "b1z", "b2z", "z"]);
        assert_eq!(expand("{alone}/{1..2}"), ["{alone}/1", "{alone}/2"]);
        assert_eq!(expand("open{1..2"), ["open{1..2"]);
        assert_eq!(expand("{open{1..2}"), ["{open1", "{open2"]);
        assert_eq!(expand("é{ä,ö}"), ["éä", "éö"]);
        assert_eq!(expand("{a{1..2}}"), ["{a1}", "{a2}"]);
    }

    #[test]
    fn absurd_ranges_are_errors() {
        assert!(expand_braces("{0..99999999}").unwrap_err().contains("more than"));
        assert!(expand_braces("{0..9999}{0..9999}").unwrap_err().contains("more than"));
        assert!(expand_braces("{0..99999999999999999999}").is_err());
        assert!(expand_braces("{{0..999999},{0..999999}}").unwrap_err().contains("more than"));
    }

    #[test]
    fn names_are_of_any_length_and_bounded_together() {
        let zeros = "0".repeat(70_000);
        let ten = format!("{}10", &zeros[1..]);
        assert_eq!(expand(&format!("{{{zeros}8..10}}")), [format!("{zeros}8"), format!("{zeros}9"), ten]);
        assert_eq!(expand(&format!("{{0..999999}}{}", "x".repeat(60))).len(), 1_000_000);
        for spec in
            [format!("{{{zeros}0..99999}}"), format!("{{0..99999}}{zeros}"), format!("{zeros}{{0..99999}}{{a}}")]
        {
            assert!(expand_braces(&spec).unwrap_err().contains("take more than 512 MiB"));
        }
    }

    /// Neither a long row of braces nor deeply nested ones overflow the stack.
    #[test]
    fn any_number_of_braces_is_read() {
        let many = "{a}".repeat(20_000);
        assert_eq!(expand(&many), [&*many]);
        let open = "{".repeat(100_000);
        assert_eq!(expand(&open), [&*open]);
        let nested = format!("{}b{}", "{a,".repeat(100_000), "}".repeat(100_000));
        assert!(expand_braces(&nested).unwrap_err().contains("nested more than 64 deep"));
    }
}
