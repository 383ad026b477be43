//! Decimals, and floats of two bytes.

use half::f16;

use super::cell::Cell;

/// `unscaled` units of ten to the minus `scale`. Whole numbers stay exact: 64-bit identifiers without a sign are often
/// written as `decimal(20, 0)`.
pub(super) fn decimal(unscaled: i128, scale: u32) -> Cell {
    match (i64::try_from(unscaled), u64::try_from(unscaled)) {
        (Ok(whole), _) if scale == 0 => Cell::Int(whole),
        (_, Ok(whole)) if scale == 0 => Cell::Unsigned(whole),
        // Rounded once, as the decimal that a user writes is.
        _ => Cell::Float(format!("{unscaled}e-{scale}").parse().unwrap_or(f64::NAN)),
    }
}

/// The same of a big-endian integer in two's complement.
pub(super) fn decimal_of_bytes(bytes: &[u8], scale: u32) -> Cell {
    let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let (fill, start) = if is_negative { (0xFF, -1.0) } else { (0, 0.0) };
    let (more, last) = bytes.split_at(bytes.len().saturating_sub(size_of::<i128>()));
    let mut sixteen = [fill; size_of::<i128>()];
    sixteen[size_of::<i128>() - last.len()..].copy_from_slice(last);
    let unscaled = i128::from_be_bytes(sixteen);
    if more.iter().all(|byte| *byte == fill) && (unscaled < 0) == is_negative {
        return decimal(unscaled, scale);
    }
    let about = bytes.iter().fold(start, |sum: f64, byte| sum * 256.0 + f64::from(*byte));
    Cell::Float(about / 10_f64.powi(i32::try_from(scale).unwrap_or(i32::MAX)))
}

/// The shortest decimal that is this float, so that 0.3 is the same as in a filter; null if it is not of two bytes.
pub(super) fn half(bytes: &[u8]) -> Cell {
    let Ok(bytes) = bytes.try_into() else { return Cell::Null };
    let value = f16::from_le_bytes(bytes);
    let short = (0..5).map(|digits| format!("{:.digits$e}", value.to_f64()));
    let same = |text: &String| text.parse().is_ok_and(|number: f64| f16::from_f64(number) == value);
    let shortest = short.into_iter().find(same).and_then(|text| text.parse().ok());
    Cell::Float(shortest.unwrap_or(value.to_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cell: &Cell) -> String {
        format!("{cell:?}")
    }

    #[test]
    fn decimals_are_as_they_are_written() {
        for (unscaled, scale, expected) in [
            (1, 1, "Float(0.1)"),
            (-30, 2, "Float(-0.3)"),
            (125, 2, "Float(1.25)"),
            (9_007_199_254_740_993, 0, "Int(9007199254740993)"),
            (u64::MAX.into(), 0, "Unsigned(18446744073709551615)"),
            (i128::from(u64::MAX) + 1, 0, "Float(1.8446744073709552e19)"),
            (1, 4_000_000_000, "Float(0.0)"),
        ] {
            assert_eq!(shown(&decimal(unscaled, scale)), expected);
            // In as many bytes as it takes, or more.
            let bytes = unscaled.to_be_bytes();
            for width in [9, 16] {
                assert_eq!(shown(&decimal_of_bytes(&bytes[16 - width..], scale)), expected);
            }
            let wide = [vec![if unscaled < 0 { 0xFF } else { 0 }; 16], bytes.to_vec()].concat();
            assert_eq!(shown(&decimal_of_bytes(&wide, scale)), expected);
        }
        assert_eq!(shown(&decimal_of_bytes(&[0xFF], 0)), "Int(-1)");
        assert_eq!(shown(&decimal_of_bytes(&[], 3)), "Float(0.0)");
        // Two to the 128, and minus that.
        let large = [vec![0, 1], vec![0; 16]].concat();
        assert_eq!(shown(&decimal_of_bytes(&large, 0)), format!("Float({:?})", 2_f64.powi(128)));
        let negative = [vec![0xFF], vec![0; 16]].concat();
        assert_eq!(shown(&decimal_of_bytes(&negative, 0)), format!("Float({:?})", -2_f64.powi(128)));
        // Its highest bit is not its sign.
        let positive = [vec![0, 0x80], vec![0; 15]].concat();
        assert_eq!(shown(&decimal_of_bytes(&positive, 0)), format!("Float({:?})", 2_f64.powi(127)));
    }

    #[test]
    fn floats_of_two_bytes_are_as_they_are_written() {
        for value in ["0.3", "-0.28", "1.0", "65500.0", "0.001", "inf", "6e-8"] {
            let expected: f64 = value.parse().unwrap();
            assert_eq!(shown(&half(&f16::from_f64(expected).to_le_bytes())), format!("Float({expected:?})"));
        }
        assert_eq!(shown(&half(&f16::NAN.to_le_bytes())), "Float(NaN)");
        assert_eq!(shown(&half(&[1])), "Null");
    }
}
