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

/// Reads a number of bytes: `1048576`, `500MB` (10^6) or `1.5GiB` (2^30).
///
/// # Errors
/// A text that is not such a number, or less than one byte.
pub fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1000),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let found = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1));
    match number.trim().parse::<f64>().map(|number| number * factor as f64) {
        Ok(bytes) if (1.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err("it must be a size such as 500MB or 1GiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, parse};

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let read = ["17", "500MB", "1.5 GiB", "2kB", "3B"].map(|text| parse(text).unwrap());
        assert_eq!(read, [17, 500_000_000, 3 << 29, 2000, 3]);
        for wrong in ["", "MB", "0", "-1MB", "1e30", "nan", "5 apples"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_the_unit_that_they_fill() {
        let shown = [0, 1023, 1024, 3 << 19, 44_238_000_000].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "41.2 GiB"]);
    }
}
