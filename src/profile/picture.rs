//! A step as a picture: a bar for the time of each kind of op and direction; the dark part is the minimum that the
//! limit allows.

use plotters::prelude::*;

use super::{Group, Line, Profile, group};

const WIDTH: u32 = 960;
const ROW: u32 = 26;
const LEFT: i32 = 250;
const RIGHT: i32 = 240;
const TOP: i32 = 64;

fn color(direction: &str) -> RGBColor {
    match direction {
        "forward" => RGBColor(31, 119, 180),
        "backward" => RGBColor(214, 106, 40),
        "recompute" => RGBColor(120, 80, 160),
        _ => RGBColor(110, 110, 110),
    }
}

/// The picture as the text of an SVG file.
pub fn svg(profile: &Profile) -> String {
    let mut lines = group(profile, Group::Op);
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let height = TOP as u32 + ROW * lines.len() as u32 + 40;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        // Drawing into a string cannot fail.
        let _ = draw(&root, profile, &lines);
        let _ = root.present();
    }
    text
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(root: &Area, profile: &Profile, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let write = |text: String, x: i32, y: i32, size: i32| root.draw(&Text::new(text, (x, y), ("sans-serif", size)));
    let Profile { model, mask_ratio, batch, device, step_seconds, samples_per_second, .. } = profile;
    write(format!("{model}, mask ratio {mask_ratio}, batch {batch} on {device}"), 12, 12, 18)?;
    let utilisation = 100.0 * profile.model_flop_utilisation;
    let about = format!(
        "{:.1} ms a step, {samples_per_second:.1} samples/s, {utilisation:.0} % of the matrix product ceiling; \
         dark: the minimum that the limit allows",
        1e3 * step_seconds
    );
    write(about, 12, 38, 14)?;
    let longest = lines.iter().map(|line| line.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest;
    for (index, line) in lines.iter().enumerate() {
        let top = TOP + (ROW as usize * index) as i32;
        let bar = |seconds: f64| [(LEFT, top + 4), (LEFT + (seconds * scale) as i32, top + ROW as i32 - 4)];
        write(format!("{} {}", line.name, line.direction), 12, top + 6, 14)?;
        root.draw(&Rectangle::new(bar(line.seconds), color(&line.direction).mix(0.4).filled()))?;
        root.draw(&Rectangle::new(bar(line.limit_seconds.min(line.seconds)), color(&line.direction).filled()))?;
        let near =
            line.fraction().map_or_else(String::new, |share| format!(", {:.0} % of {}", 100.0 * share, line.bound));
        let share = 100.0 * line.seconds / step_seconds;
        let at = LEFT + (line.seconds * scale) as i32 + 8;
        write(format!("{:.2} ms, {share:.0} %{near}", 1e3 * line.seconds), at, top + 6, 13)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_op_has_its_bar() {
        let text = super::svg(&crate::profile::report::tests::sample());
        assert!(text.contains("</svg>"));
        assert!(["linear forward", "linear backward", "adamw update"].iter().all(|bar| text.contains(bar)));
        assert_eq!(text.matches("<rect").count(), 1 + 2 * 4, "the ground and two bars each");
    }
}
