//! Letters in a picture: Latin ones from a bitmap font, a box for any other.

use ::image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::data::text::compose;

const HEIGHT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;
/// Pixels from one letter to the next.
pub(in crate::data::tools) const WIDTH: u32 = get_raster_width(WEIGHT, HEIGHT) as u32;
/// Pixels from one line to the next.
pub(in crate::data::tools) const LINE: u32 = HEIGHT.val() as u32 + 2;

/// Where a text continues, or was cut.
const ELLIPSIS: &str = "...";

/// Draws a line of text from its upper left corner. What is beyond the picture is left out.
pub(in crate::data::tools) fn draw(picture: &mut RgbImage, (left, top): (u32, u32), text: &str, colour: Rgb<u8>) {
    for (column, c) in (0..).zip(compose(text).chars().map(plain)) {
        let raster = get_raster(c, WEIGHT, HEIGHT);
        for (x, y) in (0..HEIGHT.val() as u32).flat_map(|y| (0..WIDTH).map(move |x| (x, y))) {
            let ink = raster.map_or_else(|| boxed(x, y), |raster| raster.pixel(x as usize, y as usize).unwrap_or(0));
            if let Some(pixel) = picture.get_pixel_mut_checked(left + column * WIDTH + x, top + y) {
                let mixed = |paper: u8, colour: u8| {
                    ((u32::from(paper) * (255 - u32::from(ink)) + u32::from(colour) * u32::from(ink)) / 255) as u8
                };
                *pixel = Rgb([0, 1, 2].map(|c| mixed(pixel[c], colour[c])));
            }
        }
    }
}

/// The edge of a box as high as a capital, for a letter that the font lacks.
fn boxed(x: u32, y: u32) -> u8 {
    let (right, top, bottom) = (WIDTH - 2, 3, LINE - 6);
    let edge = x == 0 || x == right || y == top || y == bottom;
    if x <= right && (top..=bottom).contains(&y) && edge { 255 } else { 0 }
}

/// A similar letter that the font has.
fn plain(c: char) -> char {
    match c {
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201C}'..='\u{201E}' => '"',
        '\u{2010}'..='\u{2015}' => '-',
        c => c,
    }
}

/// The words of `text` in at most `max` lines of `columns` letters. A text that does not fit ends in an ellipsis.
pub(in crate::data::tools) fn wrap(text: &str, columns: usize, max: usize) -> Vec<String> {
    // The font lacks it.
    let text = compose(text).replace('\u{2026}', ELLIPSIS);
    let mut lines: Vec<Vec<char>> = Vec::new();
    for word in text.split_whitespace().map(|word| word.chars().collect::<Vec<char>>()) {
        match lines.last_mut().filter(|line| line.len() + 1 + word.len() <= columns) {
            Some(line) => {
                line.push(' ');
                line.extend(word);
            }
            // A word that is longer than a line has several.
            None => lines.extend(word.chunks(columns.max(1)).map(<[char]>::to_vec)),
        }
        if lines.len() > max {
            lines.truncate(max);
            if let Some(last) = lines.last_mut() {
                last.truncate(columns.saturating_sub(ELLIPSIS.len()));
                last.extend(ELLIPSIS.chars());
            }
            break;
        }
    }
    lines.into_iter().map(String::from_iter).collect()
}

/// The end of `text`, after an ellipsis if it is longer than `columns` letters.
pub(in crate::data::tools) fn end(text: &str, columns: usize) -> String {
    let text = compose(text);
    match text.chars().count().saturating_sub(columns) {
        0 => text.into_owned(),
        over => ELLIPSIS.chars().chain(text.chars().skip(over + ELLIPSIS.len())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_wrapped_between_words_and_cut_with_an_ellipsis() {
        assert_eq!(wrap("a red\n square ", 8, 3), ["a red", "square"]);
        assert_eq!(wrap("a red square", 12, 1), ["a red square"]);
        assert_eq!(wrap("a red square", 11, 1), ["a red..."]);
        assert_eq!(wrap("one two ontology four", 7, 2), ["one two", "onto..."]);
        assert_eq!(wrap("abcdefghij", 4, 3), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("abcdefghij k", 4, 2), ["abcd", "e..."]);
        // Composed: one letter, not two.
        assert_eq!(wrap("cafe\u{301} bar", 4, 2), ["caf\u{E9}", "bar"]);
        assert_eq!(wrap("cat\u{2026} dog", 6, 2), ["cat...", "dog"]);
        assert!(wrap(" \n", 4, 2).is_empty());
        assert_eq!((end("in/00.tar:7", 11), end("in/00.tar:7", 8)), ("in/00.tar:7".to_owned(), "...tar:7".to_owned()));
    }

    #[test]
    fn latin_letters_are_drawn_and_others_are_boxes() {
        let drawn = |text: &str| {
            let mut picture = RgbImage::from_pixel(WIDTH * 2, LINE, Rgb([255; 3]));
            draw(&mut picture, (0, 0), text, Rgb([0, 0, 200]));
            assert!(picture.pixels().all(|pixel| pixel[0] == pixel[1] && pixel[2] >= 200));
            picture
        };
        let letters = ["a", "b", "\u{E9}", "\u{142}", "'", "-", "\u{732B}"].map(drawn);
        for (number, letter) in letters.iter().enumerate() {
            assert!(letter.pixels().any(|pixel| pixel[0] < 128) && !letters[number + 1..].contains(letter), "{number}");
        }
        assert_eq!(drawn("\u{732B}"), drawn("\u{AC00}"));
        assert_eq!((drawn("e\u{301}"), drawn("\u{2019}")), (drawn("\u{E9}"), drawn("'")));
        // Three letters where there is room for two.
        assert_eq!(drawn("abc"), drawn("ab"));
        assert_eq!(drawn(" "), drawn(""));
    }
}
