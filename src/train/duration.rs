//! Times as users write them.

use std::time::Duration;

/// Parses a time such as `90s`, `5m` or `1h30m`; `None` if it has another form or is zero.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text, 0_u64);
    for (unit, scale) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((count, after)) = rest.split_once(unit) {
            if !count.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            seconds = seconds.checked_add(count.parse::<u64>().ok()?.checked_mul(scale)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && seconds > 0).then(|| Duration::from_secs(seconds))
}

/// A time such as `90s`, `5m` or `1h30m`.
///
/// # Errors
/// What form it must have.
pub fn time(text: &str) -> Result<Duration, &'static str> {
    parse(text).ok_or(FORM)
}

/// The rule in errors about a time.
pub(super) const FORM: &str = "it must be a time such as 90s, 5m or 1h30m";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_hours_minutes_and_seconds() {
        let seconds = |text| parse(text).map(|time| time.as_secs());
        let good = [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2h", 7200), ("1h0m5s", 3605), ("1m30s", 90)];
        for (text, expected) in good {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in
            ["", "5", "m", "0s", "5x", "-5m", "+5m", "1.5h", "5m1h", "5m5m", "5 m", "99999999999999999999h", "m5s"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
