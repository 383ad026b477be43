//! Numbers of records and filters, compared exactly.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A number as it is written. Integers stay integers: identifiers and hashes of 64 bits are beyond what an f64 tells
/// apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i128),
    Float(f64),
}

impl FromStr for Number {
    type Err = std::num::ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Int).or_else(|_| text.parse().map(Self::Float))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}

impl PartialOrd for Number {
    /// `None` for NaN.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (*self, *other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => int_with_float(a, b),
            (Self::Float(a), Self::Int(b)) => int_with_float(b, a).map(Ordering::reverse),
        }
    }
}

fn int_with_float(int: i128, float: f64) -> Option<Ordering> {
    let whole = float.trunc();
    match whole {
        _ if whole.is_nan() => None,
        _ if whole >= i128::MAX as f64 => Some(Ordering::Less),
        _ if whole < i128::MIN as f64 => Some(Ordering::Greater),
        // Exact in this range.
        _ => int.cmp(&(whole as i128)).then(0.0.partial_cmp(&(float - whole))?).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_compared_exactly() {
        let order = |a: &str, b: &str| {
            let [a, b]: [Number; 2] = [a, b].map(|text| text.parse().unwrap());
            let found = a.partial_cmp(&b);
            assert_eq!(found, b.partial_cmp(&a).map(Ordering::reverse));
            found
        };
        for (less, more) in [
            ("9007199254740992", "9007199254740993"),
            ("18446744073709551614", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775807"),
            ("3", "3.5"),
            ("-3.5", "-3"),
            ("-3", "-2.5"),
            ("9007199254740993", "9007199254740994.0"),
            ("9007199254740992.0", "9007199254740993"),
            ("170141183460469231731687303715884105727", "1e39"),
            ("-1e39", "-170141183460469231731687303715884105728"),
            ("5", "inf"),
        ] {
            assert_eq!(order(less, more), Some(Ordering::Less), "{less} {more}");
        }
        assert_eq!(order("300", "3e2"), Some(Ordering::Equal));
        assert_eq!((order("1", "NaN"), order("0.0", "-0")), (None, Some(Ordering::Equal)));
        assert!("1x".parse::<Number>().is_err());
    }
}
