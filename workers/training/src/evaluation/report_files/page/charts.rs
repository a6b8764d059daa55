//! Drawings of the page, as SVG that takes its colours from the style sheet.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escaped;
use crate::evaluation::bootstrap::Estimate;
use crate::evaluation::report_scores::ReliabilityBins;

/// Width of a drawing, in its own units.
const WIDTH: f64 = 640.0;
/// Room for names at the left.
const NAMES: f64 = 230.0;
/// Bars of a histogram.
const BARS: usize = 24;

/// A value on a line, with its interval: the name of its colour and where it stands.
pub(super) struct Mark {
    pub(super) colour: &'static str,
    pub(super) estimate: Estimate,
}

/// A row of marks between 0 and 1.
pub(super) struct MarkRow {
    pub(super) name: String,
    pub(super) marks: Vec<Mark>,
}

/// Rows of values with their intervals.
pub(super) fn rows(label: &str, rows: &[MarkRow]) -> String {
    let step = 34.0;
    let height = rows.len() as f64 * step + 30.0;
    let place = |value: f64| NAMES + value.clamp(0.0, 1.0) * (WIDTH - NAMES - 20.0);
    let mut svg = open(label, height);
    for tick in 0..=4 {
        let (value, bottom) = (f64::from(tick) / 4.0, height - 24.0);
        let x = place(value);
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{x:.1} 4V{bottom:.1}\"/><text class=\"muted\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            height - 8.0
        );
    }
    for (number, row) in rows.iter().enumerate() {
        let middle = number as f64 * step + 4.0 + step / 2.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 10.0,
            middle + 4.0,
            escaped(&row.name)
        );
        for (place_of, mark) in row.marks.iter().enumerate() {
            let y = middle + (place_of as f64 - (row.marks.len() as f64 - 1.0) / 2.0) * 9.0;
            let value = mark.estimate.value;
            let (interval, [low, high]) = match mark.estimate.interval() {
                Some([low, high]) => (format!("{low:.3}, {high:.3}"), [low, high]),
                None => ("-".to_owned(), [value, value]),
            };
            let (x, from, to) = (place(value), place(low), place(high));
            let colour = mark.colour;
            let _ = write!(
                svg,
                "<g class=\"{colour}\"><path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke-width=\"2\" opacity=\"0.5\"/><circle cx=\"{x:.1}\" \
                 cy=\"{y:.1}\" r=\"3.5\"><title>{value:.3} [{interval}]</title></circle></g>"
            );
        }
    }
    svg + "</svg>"
}

/// Two histograms over the same bars: of generated reports and of references.
/// Each is the number of texts by their length.
pub(super) fn histogram(
    label: &str,
    first: &BTreeMap<u64, u64>,
    second: &BTreeMap<u64, u64>,
) -> String {
    let longest = first.keys().chain(second.keys()).copied();
    let longest = longest.max().unwrap_or_default();
    let width = (longest as usize / BARS + 1).max(1);
    let count = |lengths: &BTreeMap<u64, u64>| {
        let mut bars = [0_u64; BARS];
        for (&length, texts) in lengths {
            bars[(length as usize / width).min(BARS - 1)] += texts;
        }
        bars
    };
    let (first, second) = (count(first), count(second));
    let most = first
        .iter()
        .chain(&second)
        .copied()
        .max()
        .unwrap_or(1)
        .max(1);
    let (height, left, bottom) = (220.0, 44.0, 190.0);
    let bar = (WIDTH - left - 10.0) / BARS as f64;
    let tall = |count: u64| count as f64 / most as f64 * (bottom - 10.0);
    let mut svg = open(label, height);
    let _ = write!(
        svg,
        "<path class=\"axis\" d=\"M{left} 10V{bottom}H{WIDTH}\"/><text class=\"muted\" x=\"{:.1}\" y=\"20\" text-anchor=\"end\">{most}</text>\
         <text class=\"muted\" x=\"{:.1}\" y=\"{bottom}\" text-anchor=\"end\">0</text>",
        left - 6.0,
        left - 6.0
    );
    for at in 0..BARS {
        let x = left + at as f64 * bar;
        for (bars, colour, shift) in [(&first, "first", 1.0), (&second, "second", bar / 2.0)] {
            let tall = tall(bars[at]);
            let _ = write!(
                svg,
                "<rect class=\"{colour}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" stroke=\"none\"><title>{} to {} words: \
                 {}</title></rect>",
                x + shift,
                bottom - tall,
                bar / 2.0 - 1.0,
                at * width,
                (at + 1) * width - 1,
                bars[at]
            );
        }
        if at % 6 == 0 {
            let _ = write!(
                svg,
                "<text class=\"muted\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 18.0,
                at * width
            );
        }
    }
    let _ = write!(
        svg,
        "<text class=\"muted\" x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">words</text>",
        bottom + 18.0
    );
    svg + "</svg>"
}

/// Share of findings that are there over the probability that the classifier states.
pub(super) fn reliability(label: &str, calibration: &ReliabilityBins) -> String {
    let (side, left, top) = (260.0, 80.0, 10.0);
    let bottom = top + side;
    let place = |x: f64, y: f64| (left + x * side, bottom - y * side);
    let mut svg = opened(label, left + side + 20.0, bottom + 40.0, " class=\"small\"");
    let (right, (x0, y0), (x1, y1)) = (left + side, place(0.0, 0.0), place(1.0, 1.0));
    let _ = write!(
        svg,
        "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/><path class=\"axis\" stroke-dasharray=\"4 4\" d=\"M{x0} {y0}L{x1} {y1}\"/>"
    );
    for tick in 0..=4 {
        let value = f64::from(tick) / 4.0;
        let ((x, _), (_, y)) = (place(value, 0.0), place(0.0, value));
        let _ = write!(
            svg,
            "<text class=\"muted\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text><text class=\"muted\" x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{value}</text>",
            bottom + 16.0,
            left - 6.0,
            y + 4.0
        );
    }
    let bins = calibration.bins.iter().filter(|bin| bin.answers > 0);
    let most = calibration
        .bins
        .iter()
        .map(|bin| bin.answers)
        .max()
        .unwrap_or(1);
    let mut line = Vec::new();
    for bin in bins {
        let (x, y) = place(bin.probability, bin.share);
        line.push(format!("{x:.1},{y:.1}"));
        let radius = 3.0 + 7.0 * (bin.answers as f64 / most as f64).sqrt();
        let _ = write!(
            svg,
            "<circle class=\"first\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill-opacity=\"0.6\"><title>{} answers: probability {:.3}, \
             share {:.3}</title></circle>",
            bin.answers, bin.probability, bin.share
        );
    }
    let _ = write!(
        svg,
        "<polyline class=\"first\" style=\"fill:none\" points=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">stated \
         probability (size: number of answers)</text><text transform=\"rotate(-90)\" x=\"{:.1}\" y=\"20\" \
         text-anchor=\"middle\">share that is there</text>",
        line.join(" "),
        left + side / 2.0,
        bottom + 34.0,
        -(top + side / 2.0)
    );
    svg + "</svg>"
}

fn open(label: &str, height: f64) -> String {
    opened(label, WIDTH, height, "")
}

fn opened(label: &str, width: f64, height: f64, more: &str) -> String {
    format!(
        "<svg{more} viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(label)
    )
}
