//! Simulated steps as a picture: for each what the device computes, and below it what the ranks exchange meanwhile.

use plotters::prelude::*;

use super::{Lane, Simulated, Span};

const WIDTH: u32 = 960;
const LEFT: i32 = 110;
const RIGHT: i32 = 130;
const TOP: i32 = 64;
const LANE: i32 = 18;
const ROW: i32 = 2 * LANE + 12;

fn color(span: &Span) -> RGBColor {
    match (span.lane, span.what.as_str()) {
        (Lane::Communication, _) => RGBColor(190, 50, 60),
        (_, what) if what.ends_with("forward") => RGBColor(31, 119, 180),
        (_, what) if what.ends_with("backward") => RGBColor(214, 106, 40),
        _ => RGBColor(110, 110, 110),
    }
}

/// The picture as the text of an SVG file; `title` says what is simulated.
pub fn svg(steps: &[Simulated], title: &str) -> String {
    let height = TOP as u32 + ROW as u32 * steps.len() as u32 + 24;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        // Drawing into a string cannot fail.
        let _ = draw(&root, steps, title);
        let _ = root.present();
    }
    text
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(root: &Area, steps: &[Simulated], title: &str) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let write = |text: String, x: i32, y: i32, size: i32| root.draw(&Text::new(text, (x, y), ("sans-serif", size)));
    write(title.to_owned(), 12, 12, 18)?;
    let about =
        "simulated, not measured; above: forward (blue), backward (orange), other work (grey); below: exchanges";
    write(about.to_owned(), 12, 38, 14)?;
    let longest = steps.iter().map(|step| step.step_seconds).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest;
    for (index, step) in steps.iter().enumerate() {
        let top = TOP + ROW * index as i32;
        write(format!("{} ranks", step.ranks), 12, top + 10, 14)?;
        for span in &step.spans {
            let top = top + if span.lane == Lane::Compute { 0 } else { LANE };
            let place = |seconds: f64| LEFT + (seconds * scale) as i32;
            let corners = [(place(span.start), top), (place(span.end), top + LANE - 2)];
            root.draw(&Rectangle::new(corners, color(span).mix(0.7).filled()))?;
        }
        let at = LEFT + (step.step_seconds * scale) as i32 + 8;
        write(format!("{:.1} ms, {:.3}", 1e3 * step.step_seconds, step.efficiency), at, top + 10, 13)?;
    }
    Ok(())
}
