//! The results of the op benches as a table, for `cargo bench --bench ops` and `flipk profile --compare`.

use super::table::table;
use crate::profile::{BenchRow, Benches, Verdict};

/// The rows of `found`, each next to the same row of `before`, if given.
pub fn render(found: &Benches, before: Option<&Benches>) -> String {
    let commit =
        |of: &Benches| of.commit.as_ref().map_or_else(|| "no commit".to_owned(), |commit| format!("commit {commit}"));
    let batches: Vec<_> = found.batch.iter().map(|(model, batch)| format!("{batch} ({model})")).collect();
    let mut text = format!(
        "{}, {}, {}\nbatch {}; ceilings {:.2} TFLOP/s, {:.1} GB/s\n{}\n\n",
        found.device,
        commit(found),
        found.date,
        batches.join(", "),
        found.ceilings.flops_per_second / 1e12,
        found.ceilings.bytes_per_second / 1e9,
        found.inputs,
    );
    let header = ["", "shape", "us", "GB/s", "TFLOP/s", "bound by", "of limit"];
    let cells = |row: &BenchRow| {
        let flops = if row.teraflops > 0.0 { format!("{:.2}", row.teraflops) } else { "-".to_owned() };
        let (rate, share) = (format!("{:.1}", row.gigabytes_per_second), format!("{:.0} %", 100.0 * row.of_limit));
        [row.name.clone(), row.shape.clone(), microseconds(row), rate, flops, row.bound.clone(), share]
    };
    match before {
        None => text += &table(header, &found.rows.iter().map(cells).collect::<Vec<_>>()),
        Some(before) => {
            let compared = |row: &BenchRow| {
                let old = before.find(row);
                let factor = old.map(|old| format!("{:.2}", old.seconds / row.seconds));
                let [name, shape, us, rate, flops, bound, share] = cells(row);
                let dash = || "-".to_owned();
                [
                    name,
                    shape,
                    us,
                    rate,
                    flops,
                    bound,
                    share,
                    old.map_or_else(dash, microseconds),
                    factor.unwrap_or_else(dash),
                ]
            };
            let [name, shape, us, rate, flops, bound, share] = header;
            let header = [name, shape, us, rate, flops, bound, share, "before, us", "times faster"];
            text += &table(header, &found.rows.iter().map(compared).collect::<Vec<_>>());
        }
    }
    for (name, reason) in &found.left_out {
        text += &format!("not run: {name}: {reason}\n");
    }
    if let Some(before) = before {
        text += &format!("\ncompared with {}, {}: {}", commit(before), before.date, verdict(found.verdict(before)));
    }
    text
}

fn microseconds(row: &BenchRow) -> String {
    format!("{:.1}", 1e6 * row.seconds)
}

fn verdict(verdict: Option<Verdict>) -> String {
    let Some(Verdict { compared, times_faster, slower }) = verdict else {
        return "no row has a counterpart of the same name and shape\n".to_owned();
    };
    let threshold = 100.0 * Verdict::THRESHOLD;
    let mut text = format!("{compared} rows compared, {times_faster:.3} times faster in the geometric mean; ");
    text += &match slower.len() {
        0 => format!("none is more than {threshold} % slower\n"),
        count => format!("{count} more than {threshold} % slower:\n"),
    };
    for (name, longer) in slower {
        text += &format!("  {name}: {:.0} % longer\n", 100.0 * longer);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::profile::benches::tests::sample;

    #[test]
    fn slower_rows_are_listed() {
        let before = sample(&[("gather_patches", "8x98", 1e-6), ("add", "8x98", 1e-6)]);
        let after = sample(&[("gather_patches", "8x98", 4e-6), ("add", "8x98", 1e-6), ("gelu", "8x98", 1e-6)]);
        let text = render(&after, Some(&before));
        assert!(
            text.contains("2 rows compared, 0.500 times faster in the geometric mean; 1 more than 5 % slower:"),
            "{text}"
        );
        assert!(text.ends_with("gather_patches 8x98: 300 % longer\n"), "{text}");
        let gelu = text.lines().find(|line| line.starts_with("gelu")).unwrap();
        assert!(gelu.ends_with("-             -"), "{text}");
        assert!(!render(&after, None).contains("before"));
    }
}
