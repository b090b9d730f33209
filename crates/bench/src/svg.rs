//! A plot of a run: throughput above, latency below, over time.

use std::fmt::{self, Write as _};

use crate::{report::Report, tracker::Sample};

/// Width of a panel's plot, in the units of the drawing, as all lengths here.
const PLOT_WIDTH: f64 = 860.0;
/// Height of a panel's plot.
const PLOT_HEIGHT: f64 = 250.0;
/// Space to the left of a plot, for the scale.
const LEFT_MARGIN: f64 = 70.0;
/// Space above a plot, for the title.
const TOP_MARGIN: f64 = 34.0;
/// Distance from the top of one panel to the top of the next.
const PANEL_HEIGHT: f64 = TOP_MARGIN + PLOT_HEIGHT + 46.0;

/// A line of a panel: its name, its colour, and the figure of a sample that it shows.
type Line = (&'static str, &'static str, fn(&Sample) -> f64);

const THROUGHPUT: &[Line] =
    &[("accepted", "#9a6700", |s| s.accepted), ("settled", "#0a7d4f", |s| s.settled)];
const LATENCY: &[Line] = &[
    ("201, median", "#d4a72c", |s| s.accept_p50),
    ("201, 99th percentile", "#9a6700", |s| s.accept_p99),
    ("settled, median", "#4ac28d", |s| s.settle_p50),
    ("settled, 99th percentile", "#0a7d4f", |s| s.settle_p99),
];

/// The plot as an SVG document.
pub(crate) fn plot(report: &Report) -> String {
    let mut svg = String::new();
    draw(&mut svg, &report.over_time).expect("writing to a String does not fail");
    svg
}

fn draw(svg: &mut String, samples: &[Sample]) -> fmt::Result {
    let (width, height) = (LEFT_MARGIN + PLOT_WIDTH + 20.0, 2.0 * PANEL_HEIGHT);
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#444"><rect width="100%" height="100%" fill="white"/>"##
    )?;
    panel(svg, 0.0, "orders per second", THROUGHPUT, samples)?;
    panel(svg, PANEL_HEIGHT, "latency in ms", LATENCY, samples)?;
    writeln!(svg, "</svg>")
}

fn panel(
    svg: &mut String,
    offset: f64,
    title: &str,
    lines: &[Line],
    samples: &[Sample],
) -> fmt::Result {
    let values = lines.iter().flat_map(|(.., value)| samples.iter().map(value));
    let top = round_up(values.fold(0.0, f64::max));
    let last = samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    let x = |at: f64| LEFT_MARGIN + at / last * PLOT_WIDTH;
    let y = |value: f64| offset + TOP_MARGIN + PLOT_HEIGHT - value / top * PLOT_HEIGHT;

    writeln!(
        svg,
        r#"<text x="{LEFT_MARGIN}" y="{:.0}" font-weight="bold">{title}</text>"#,
        y(top) - 14.0
    )?;
    for step in 0..=5 {
        let value = top * f64::from(step) / 5.0;
        writeln!(
            svg,
            r##"<path d="M{LEFT_MARGIN} {y:.1}H{right:.1}" stroke="#ddd"/><text x="{label:.1}" y="{y:.1}" text-anchor="end" dominant-baseline="middle">{value}</text>"##,
            y = y(value),
            right = LEFT_MARGIN + PLOT_WIDTH,
            label = LEFT_MARGIN - 8.0
        )?;
        let at = last * f64::from(step) / 5.0;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{at:.0} s</text>"#,
            x(at),
            y(0.0) + 20.0
        )?;
    }
    let mut legend = LEFT_MARGIN + 180.0;
    for (name, colour, value) in lines {
        let points: Vec<_> =
            samples.iter().map(|s| format!("{:.1},{:.1}", x(s.at), y(value(s)))).collect();
        writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/><text x="{legend}" y="{:.0}" fill="{colour}">{name}</text>"#,
            points.join(" "),
            y(top) - 14.0
        )?;
        legend += 160.0;
    }
    Ok(())
}

/// The next of 1, 2, 5, 10, 20, 50, …
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|&top| top >= value)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_figures() {
        let tops = [0.0, 1.0, 3.0, 51.0, 4999.0].map(|value| round_up(value).to_string());
        assert_eq!(tops, ["1", "1", "5", "100", "5000"]);
    }

    #[test]
    fn a_run_is_drawn_with_a_line_for_each_figure() {
        let sample = |at| Sample {
            at,
            accepted: 900.0,
            settled: 800.0,
            accept_p50: 1.0,
            accept_p99: 2.0,
            settle_p50: 3.0,
            settle_p99: 4.0,
        };
        let mut svg = String::new();
        draw(&mut svg, &[sample(1.0), sample(2.0)]).unwrap();
        assert_eq!(svg.matches("<polyline").count(), THROUGHPUT.len() + LATENCY.len());
        assert!(svg.contains("500.0,84.0") && svg.ends_with("</svg>\n"));
    }
}
