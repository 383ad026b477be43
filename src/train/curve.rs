//! The picture of a run: loss and accuracies over the samples seen, as an SVG.

use plotters::prelude::*;

use super::metrics::Metrics;
use crate::plot::{self, Area, Drawn};

const SIZE: (u32, u32) = (960, 720);
/// Larger values are left out, as are those that are not numbers: the axes cannot show them.
const MAX: f64 = 1e15;
const LOSS: RGBColor = RGBColor(31, 119, 180);
const ACCURACY: RGBColor = RGBColor(44, 140, 60);
const TOP1: RGBColor = RGBColor(214, 39, 40);
const TOP5: RGBColor = RGBColor(255, 152, 20);

/// A named line of one colour.
struct Line {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

fn line(name: &'static str, color: RGBColor, history: &[Metrics], of: impl Fn(&Metrics) -> Option<f64>) -> Line {
    let points = history.iter().filter_map(|at| Some((at.samples as f64, of(at)?)));
    Line { name, color, points: points.filter(|&(samples, value)| samples < MAX && value.abs() < MAX).collect() }
}

/// The curves of `history` as the text of an SVG file.
pub(super) fn svg(title: &str, history: &[Metrics]) -> String {
    let loss = [line("loss", LOSS, history, |at| Some(at.loss))];
    let accuracies = [
        line("in-batch accuracy", ACCURACY, history, |at| Some(100.0 * at.accuracy)),
        line("zero-shot top-1", TOP1, history, |at| at.zero_shot_top1.map(|share| 100.0 * share)),
        line("zero-shot top-5", TOP5, history, |at| at.zero_shot_top5.map(|share| 100.0 * share)),
    ];
    plot::svg(SIZE, |area| {
        let (upper, lower) = area.split_vertically(SIZE.1 / 2);
        panel(&upper, title, "loss (nats)", &loss)?;
        panel(&lower, "", "accuracy (%)", &accuracies)
    })
}

fn panel(area: &Area, title: &str, unit: &str, lines: &[Line]) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let mut builder = ChartBuilder::on(area);
    builder.margin(12).x_label_area_size(36).y_label_area_size(52);
    if !title.is_empty() {
        builder.caption(title, ("sans-serif", 20));
    }
    let mut chart = builder.build_cartesian_2d(0.0..right, 0.0..top * 1.05)?;
    let short = |samples: &f64| match *samples {
        s if s >= 1e9 => format!("{} G", s / 1e9),
        s if s >= 1e6 => format!("{} M", s / 1e6),
        s if s >= 1e3 => format!("{} k", s / 1e3),
        s => s.to_string(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("samples").y_desc(unit).x_label_formatter(&short).light_line_style(WHITE.mix(0.0)).draw()?;
    for Line { name, color, points } in lines.iter().filter(|line| !line.points.is_empty()) {
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        if points.len() < 20 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        }
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_quantity_has_its_line_and_legend() {
        let at = |step: u64, top1| Metrics {
            step,
            samples: step * 256,
            loss: 5.0 / step as f64,
            accuracy: 0.5,
            zero_shot_top1: top1,
            ..Metrics::default()
        };
        let mut history: Vec<Metrics> = (1..40).map(|step| at(step, None)).collect();
        assert!(svg("a run", &history).matches("<polyline").count() > 2);
        assert!(!svg("a run", &history).contains("top-1"));
        history.push(at(40, Some(0.25)));
        let text = svg("a run", &history);
        assert!(["a run", "loss (nats)", "top-1", "samples"].iter().all(|words| text.contains(words)));
        // No finite axis can show these.
        for loss in [f64::MAX, f64::INFINITY, f64::NAN] {
            let text =
                svg("too large", &[Metrics { samples: u64::MAX, ..at(1, None) }, Metrics { loss, ..at(2, None) }]);
            assert!(text.contains("</svg>"));
        }
        // A run without metrics has an empty curve.
        assert!(svg("empty", &[]).contains("</svg>"));
    }
}
