//! Sizes as users read them.

use std::fmt;

/// A number of bytes, shown in the largest binary unit that it fills: `41.2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.into_iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / size as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A number of bytes as users write it: `100GiB`, `1.5 TB`, `500m` (decimal, as `500MB`), `4096`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("", 0), ("k", 1), ("m", 2), ("g", 3), ("t", 4)];
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim().to_ascii_lowercase());
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (unit, base) = unit.strip_suffix('i').map_or((unit, 1000_f64), |unit| (unit, 1024.0));
    let power = UNITS.iter().find(|(name, power)| *name == unit && (*power > 0 || base == 1000.0));
    let value = number.parse::<f64>().ok().zip(power).map(|(number, (_, power))| number * base.powi(*power as i32));
    match value.filter(|value| *value < u64::MAX as f64) {
        Some(bytes) => Ok(bytes as u64),
        None => Err("sizes are written as 100GiB, 500MB or 2TB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, parse_bytes};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text: &str| parse_bytes(text).ok();
        for (text, bytes) in [
            ("100GiB", 100 << 30),
            ("1.5 TB", 1_500_000_000_000),
            ("500m", 500_000_000),
            ("2kib", 2048),
            ("4096", 4096),
            (" 7 B ", 7),
        ] {
            assert_eq!(read(text), Some(bytes), "{text}");
        }
        for text in ["", "GiB", "1 XB", "-1GB", "1.2.3GB", "5ib", "99999999999TB"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_the_unit_that_they_fill() {
        let shown = [0, 1023, 1024, 3 << 19, 44_238_000_000].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "41.2 GiB"]);
    }
}
