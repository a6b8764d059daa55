//! What a training has measured: a row an epoch, as `metrics.csv` and as one HTML file with the curves in it.

use std::fmt::Write as _;
use std::path::Path;

use radialog_files::durable;
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;

/// Width and height of one chart, in pixels.
const CHART: (f64, f64) = (420.0, 240.0);
/// Space around its curves.
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 4] = ["#1f6feb", "#d1242f", "#1a7f37", "#8250df"];

/// What was measured after an epoch: the name and the value of each measurement, none where it is not defined. All epochs of a
/// training have the same names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics(pub Vec<(String, Option<f64>)>);

/// A chart: its title and the names of its curves.
pub type Chart = (&'static str, &'static [&'static str]);

impl EpochMetrics {
    /// Returns the measurement of this name, where it is defined.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .and_then(|(_, value)| *value)
    }
}

/// Writes all rows as CSV, over what was there. A cell of what is not defined is empty.
///
/// # Errors
/// The file cannot be written.
pub fn write_csv(path: &Path, rows: &[EpochMetrics]) -> Result<(), TrainingError> {
    let mut text = String::new();
    if let Some(first) = rows.first() {
        let names: Vec<&str> = first.0.iter().map(|(name, _)| name.as_str()).collect();
        text = names.join(",") + "\n";
    }
    for row in rows {
        let values: Vec<String> = row
            .0
            .iter()
            .map(|(_, value)| value.map_or_else(String::new, |value| value.to_string()))
            .collect();
        text += &(values.join(",") + "\n");
    }
    durable::replace(path, text.as_bytes()).map_err(TrainingError::io("write", path))
}

/// Writes the charts over `axis` as one HTML file that needs nothing else.
///
/// # Errors
/// The file cannot be written.
pub fn write_html(
    path: &Path,
    title: &str,
    rows: &[EpochMetrics],
    axis: &str,
    charts: &[Chart],
) -> Result<(), TrainingError> {
    let drawn: String = charts
        .iter()
        .map(|chart| draw(rows, axis, *chart))
        .collect();
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<style>body{{font:14px \
         sans-serif;margin:24px}}figure{{display:inline-block;margin:12px}}svg{{background:#fff;border:1px solid \
         #ccc}}</style>\n<h1>{title}</h1>\n{drawn}\n<p>Research software, not a medical device.</p></html>\n"
    );
    durable::replace(path, html.as_bytes()).map_err(TrainingError::io("write", path))
}

fn draw(rows: &[EpochMetrics], axis: &str, (title, names): Chart) -> String {
    let points = |name: &str| -> Vec<(f64, f64)> {
        let pairs = rows
            .iter()
            .filter_map(|row| Some((row.get(axis)?, row.get(name)?)));
        pairs.filter(|(_, value)| value.is_finite()).collect()
    };
    let curves: Vec<_> = names.iter().map(|name| (*name, points(name))).collect();
    let all: Vec<(f64, f64)> = curves
        .iter()
        .flat_map(|(_, points)| points.iter().copied())
        .collect();
    let (x0, x1) = bounds(all.iter().map(|point| point.0));
    let (y0, y1) = bounds(all.iter().map(|point| point.1));
    let (width, height) = CHART;
    let place = |(x, y): (f64, f64)| {
        let across = MARGIN + (x - x0) / (x1 - x0) * (width - 2.0 * MARGIN);
        let down = height - MARGIN - (y - y0) / (y1 - y0) * (height - 2.0 * MARGIN);
        (across, down)
    };
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption><svg width=\"{width}\" height=\"{height}\">"
    );
    let (left, bottom, right) = (MARGIN, height - MARGIN, width - MARGIN);
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<path d=\"M{left} {MARGIN}V{bottom}H{right}\" stroke=\"#888\" fill=\"none\"/>"
    );
    let (middle, text) = (bottom + 16.0, "font-size=\"11\" fill=\"#555\"");
    let _ = write!(
        svg,
        "<text x=\"4\" y=\"{bottom}\" {text}>{y0:.3}</text><text x=\"4\" y=\"{MARGIN}\" {text}>{y1:.3}</text>"
    );
    let _ = write!(
        svg,
        "<text x=\"{left}\" y=\"{middle}\" {text}>{axis} {x0}</text>"
    );
    let _ = write!(
        svg,
        "<text x=\"{right}\" y=\"{middle}\" text-anchor=\"end\" {text}>{x1}</text>"
    );
    for (index, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<String> = points
            .iter()
            .map(|&point| {
                let (x, y) = place(point);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
            line.join(" ")
        );
        for &point in points {
            let (x, y) = place(point);
            let _ = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
            );
        }
        let y = 14.0 + 13.0 * index as f64;
        let _ = write!(
            svg,
            "<text x=\"{right}\" y=\"{y}\" text-anchor=\"end\" font-size=\"12\" fill=\"{colour}\">{name}</text>"
        );
    }
    svg + "</svg></figure>\n"
}

/// The least and the largest value, never the same.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match (low, high) {
        _ if low > high => (0.0, 1.0),
        _ if low == high => (low - 0.5, high + 0.5),
        bounds => bounds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_one_point_and_of_none_has_no_broken_numbers() {
        let row = EpochMetrics(vec![
            ("epoch".to_owned(), Some(1.0)),
            ("loss".to_owned(), Some(0.5)),
            ("auc".to_owned(), None),
        ]);
        for rows in [vec![], vec![row]] {
            let svg = draw(&rows, "epoch", ("Loss", &["loss", "auc", "missing"]));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
