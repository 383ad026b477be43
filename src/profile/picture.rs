//! A step as a picture: a bar for the time of each kind of op and direction; the dark part is the minimum that the
//! limit allows.

use plotters::style::{Color, RGBColor};

use super::{Group, Line, Profile, group};
use crate::plot::{self, Area, BACKWARD, Drawn, FORWARD, HEADER, OTHER};

const WIDTH: u32 = 960;
const ROW: i32 = 26;
const LEFT: i32 = 250;
const RIGHT: i32 = 240;

fn color(direction: &str) -> RGBColor {
    match direction {
        "forward" => FORWARD,
        "backward" => BACKWARD,
        "recompute" => RGBColor(120, 80, 160),
        _ => OTHER,
    }
}

/// The picture as the text of an SVG file.
pub fn svg(profile: &Profile) -> String {
    let mut lines = group(profile, Group::Op);
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let height = HEADER as u32 + ROW as u32 * lines.len() as u32 + 40;
    plot::svg((WIDTH, height), |area| draw(area, profile, &lines))
}

fn draw(area: &Area, profile: &Profile, lines: &[Line]) -> Drawn {
    let Profile { model, mask_ratio, batch, device, step_seconds, samples_per_second, .. } = profile;
    let title = format!("{model}, mask ratio {mask_ratio}, batch {batch} on {device}");
    let utilisation = 100.0 * profile.model_flop_utilisation;
    let legend = format!(
        "{:.1} ms a step, {samples_per_second:.1} samples/s, {utilisation:.0} % of the matrix product ceiling; \
         dark: the minimum that the limit allows",
        1e3 * step_seconds
    );
    plot::header(area, &title, &legend)?;
    let longest = lines.iter().map(|line| line.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest;
    for (line, row) in lines.iter().zip(0..) {
        let top = HEADER + ROW * row;
        let bar = |seconds: f64| [(LEFT, top + 4), (LEFT + (seconds * scale) as i32, top + ROW - 4)];
        plot::write(area, format!("{} {}", line.name, line.direction), (12, top + 6), 14)?;
        plot::bar(area, bar(line.seconds), color(&line.direction).mix(0.4))?;
        plot::bar(area, bar(line.limit_seconds.min(line.seconds)), color(&line.direction))?;
        let near =
            line.fraction().map_or_else(String::new, |share| format!(", {:.0} % of {}", 100.0 * share, line.bound));
        let share = 100.0 * line.seconds / step_seconds;
        let at = LEFT + (line.seconds * scale) as i32 + 8;
        plot::write(area, format!("{:.2} ms, {share:.0} %{near}", 1e3 * line.seconds), (at, top + 6), 13)?;
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
