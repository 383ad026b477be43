//! Pictures, as the text of SVG files.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;

/// A part of a picture.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) type Drawn = Result<(), Box<dyn Error>>;

pub(crate) const FORWARD: RGBColor = RGBColor(31, 119, 180);
pub(crate) const BACKWARD: RGBColor = RGBColor(214, 106, 40);
pub(crate) const OTHER: RGBColor = RGBColor(110, 110, 110);

/// Pixels that [`header`] takes.
pub(crate) const HEADER: i32 = 64;

/// A picture of this width and height, in pixels, on white.
pub(crate) fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> Drawn) -> String {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        // Drawing into a string cannot fail.
        let _ = root.fill(&WHITE);
        let _ = draw(&root);
        let _ = root.present();
    }
    text
}

/// Writes `text` with its upper left corner at `at`.
pub(crate) fn write(area: &Area, text: impl Into<String>, at: (i32, i32), size: i32) -> Drawn {
    Ok(area.draw(&Text::new(text.into(), at, ("sans-serif", size)))?)
}

/// Writes what a picture is of and, below, how to read it.
pub(crate) fn header(area: &Area, title: &str, legend: &str) -> Drawn {
    write(area, title, (12, 12), 18)?;
    write(area, legend, (12, 38), 14)
}

/// Fills a rectangle, given by two corners.
pub(crate) fn bar(area: &Area, corners: [(i32, i32); 2], color: impl Color) -> Drawn {
    Ok(area.draw(&Rectangle::new(corners, color.filled()))?)
}
