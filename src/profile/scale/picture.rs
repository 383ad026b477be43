//! Simulated steps as a picture: for each what the device computes, and below it what the ranks exchange meanwhile.

use plotters::style::{Color, RGBColor};

use super::{Lane, Simulated, Span};
use crate::plot::{self, Area, BACKWARD, Drawn, FORWARD, HEADER, OTHER};

const WIDTH: u32 = 960;
const LEFT: i32 = 110;
const RIGHT: i32 = 130;
const LANE: i32 = 18;
const ROW: i32 = 2 * LANE + 12;

fn color(span: &Span) -> RGBColor {
    match (span.lane, span.what.as_str()) {
        (Lane::Communication, _) => RGBColor(190, 50, 60),
        (_, what) if what.ends_with("forward") => FORWARD,
        (_, what) if what.ends_with("backward") => BACKWARD,
        _ => OTHER,
    }
}

/// The picture as the text of an SVG file; `title` says what is simulated.
pub fn svg(steps: &[Simulated], title: &str) -> String {
    let height = HEADER as u32 + ROW as u32 * steps.len() as u32 + 24;
    plot::svg((WIDTH, height), |area| draw(area, steps, title))
}

fn draw(area: &Area, steps: &[Simulated], title: &str) -> Drawn {
    let legend =
        "simulated, not measured; above: forward (blue), backward (orange), other work (grey); below: exchanges";
    plot::header(area, title, legend)?;
    let longest = steps.iter().map(|step| step.step_seconds).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest;
    let place = |seconds: f64| LEFT + (seconds * scale) as i32;
    for (step, row) in steps.iter().zip(0..) {
        let top = HEADER + ROW * row;
        plot::write(area, format!("{} ranks", step.ranks), (12, top + 10), 14)?;
        for span in &step.spans {
            let top = top + if span.lane == Lane::Compute { 0 } else { LANE };
            let corners = [(place(span.start), top), (place(span.end), top + LANE - 2)];
            plot::bar(area, corners, color(span).mix(0.7))?;
        }
        let at = (place(step.step_seconds) + 8, top + 10);
        plot::write(area, format!("{:.1} ms, {:.3}", 1e3 * step.step_seconds, step.efficiency), at, 13)?;
    }
    Ok(())
}
