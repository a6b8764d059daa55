//! The scores of the page: tables, and of each finding a drawing.

use std::fmt::Write as _;

use radialog_schemas::Finding;

use super::charts::{self, Mark, MarkRow};
use super::{EvaluatedReports, escaped};
use crate::evaluation::report_scores::{Metric, MetricGroup};
use crate::evaluation::severity::WEIGHTS;
use crate::evaluation::text_scores::protocol::Better;

pub(super) fn write(page: &mut String, evaluated: &EvaluatedReports<'_>, group: MetricGroup) {
    let metrics: Vec<&Metric> = evaluated
        .scores
        .metrics
        .iter()
        .filter(|metric| metric.group == group)
        .collect();
    if metrics.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<h2>{}</h2>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>score</th><th class=\"number\">value</th><th class=\"number\">95 % \
         interval</th></tr>\n",
        group.title()
    );
    let mut protocol = None;
    for metric in metrics.iter().filter(|metric| metric.finding.is_none()) {
        protocol_row(page, metric, &mut protocol, 3);
        let (value, interval) = cells(metric);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{value}</td><td class=\"number\">{interval}</td></tr>",
            name(metric)
        );
    }
    *page += "</table></div>\n";
    match group {
        MetricGroup::Text => {}
        MetricGroup::Labels => {
            findings(page, evaluated, group, &metrics);
            weights(page);
        }
        MetricGroup::Findings => findings(page, evaluated, group, &metrics),
        MetricGroup::Comparisons => {
            *page += "<p class=\"muted\">Words as \"unchanged\" and \"since the prior study\" have no support where a report was written \
                 from one image, without an earlier one, as all reports of RaDialog are.</p>\n";
        }
    }
}

/// A row above the scores that a protocol is of, where it is another than that of the score before.
pub(super) fn protocol_row<'a>(
    page: &mut String,
    metric: &'a Metric,
    before: &mut Option<&'a str>,
    columns: usize,
) {
    if before.replace(&metric.protocol) != Some(&metric.protocol) {
        let _ = writeln!(
            page,
            "<tr><th class=\"protocol\" colspan=\"{columns}\">protocol: {}</th></tr>",
            escaped(&metric.protocol)
        );
    }
}

/// A score's name, and which of its values are good.
pub(super) fn name(metric: &Metric) -> String {
    format!("{} {}", escaped(&metric.name), way(metric.better))
}

/// Which values are good, as an arrow and in words.
pub(super) fn way(better: Better) -> String {
    let arrow = match better {
        Better::Higher => '↑',
        Better::Lower => '↓',
    };
    format!(
        "<span class=\"way\">{arrow} {} is better</span>",
        better.word()
    )
}

/// What a colour of a drawing is of.
pub(super) fn key(colour: &str, name: &str) -> String {
    format!(
        "<span class=\"entry\"><span class=\"key {colour}\"></span>{}</span>",
        escaped(name)
    )
}

/// The value and its interval.
pub(super) fn cells(metric: &Metric) -> (String, String) {
    match metric.estimate {
        Some(estimate) => (format!("{:.4}", estimate.value), estimate.interval_words()),
        None => ("-".to_owned(), "-".to_owned()),
    }
}

fn findings(
    page: &mut String,
    evaluated: &EvaluatedReports<'_>,
    group: MetricGroup,
    metrics: &[&Metric],
) {
    let counts = evaluated.counts(group);
    let colours = [
        ("F1", "first"),
        ("precision", "second"),
        ("recall", "third"),
    ];
    let mut rows = Vec::new();
    let mut unknown = Vec::new();
    let absent: Vec<Finding> = evaluated.absent(group).collect();
    for finding in Finding::ALL {
        if counts.known(finding) == 0 {
            unknown.push(finding.name());
        }
        if counts.positives(finding) == 0 {
            continue;
        }
        let mark = |(name, colour): (&str, &'static str)| {
            let metric = metrics
                .iter()
                .find(|metric| metric.finding == Some(finding) && metric.name == name)?;
            Some(Mark {
                colour,
                estimate: metric.estimate?,
            })
        };
        rows.push(MarkRow {
            name: format!("{} ({})", finding.name(), counts.positives(finding)),
            marks: colours.into_iter().filter_map(mark).collect(),
        });
    }
    let title = format!(
        "{}: F1, precision and recall of each finding",
        group.title()
    );
    let _ = write!(
        page,
        "<figure><figcaption>Each finding (studies that have it); higher is better; lines: 95 % interval. {}</figcaption>\n{}\n",
        colours.map(|(name, colour)| key(colour, name)).join(" "),
        charts::rows(&title, &rows)
    );
    if !unknown.is_empty() {
        let _ = write!(
            page,
            "<figcaption>Not scored, since no study has a label: {}</figcaption>",
            unknown.join(", ")
        );
    }
    if !absent.is_empty() {
        let names: Vec<&str> = absent.iter().map(|finding| finding.name()).collect();
        let _ = write!(
            page,
            "<figcaption>Without scores, since no scored study has it: {}</figcaption>",
            names.join(", ")
        );
    }
    let higher = way(Better::Higher);
    let _ = writeln!(
        page,
        "</figure>\n<details><summary class=\"muted\">The same as a table</summary>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>finding</th><th \
         class=\"number\">positive</th><th class=\"number\">precision {higher}</th><th class=\"number\">recall {higher}</th><th \
         class=\"number\">F1 {higher}</th></tr>"
    );
    for finding in Finding::ALL
        .into_iter()
        .filter(|finding| counts.known(*finding) > 0)
    {
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td>",
            finding.name(),
            counts.positives(finding)
        );
        for name in ["precision", "recall", "F1"] {
            let metric = metrics
                .iter()
                .find(|metric| metric.finding == Some(finding) && metric.name == name);
            let (value, interval) = metric.map(|metric| cells(metric)).unwrap_or_default();
            let cell = match metric.and_then(|metric| metric.estimate) {
                Some(_) => format!("{value} ({interval})"),
                None => "-".to_owned(),
            };
            let _ = write!(page, "<td class=\"number\">{cell}</td>");
        }
        *page += "</tr>\n";
    }
    *page += "</table></div></details>\n";
}

/// What the errors of labels weigh.
fn weights(page: &mut String) {
    *page += "<details><summary class=\"muted\">What errors weigh in the severity-weighted errors</summary>\n<p class=\"muted\">4 where help is \
         a matter of minutes to hours, 3 where treatment or a further examination depends on it, 2 where it changes the assessment, 1 where it \
         rarely changes what is done. A convention of this project, not validated by readers.</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>finding</th><th \
         class=\"number\">missed</th><th class=\"number\">false alarm</th></tr>\n";
    for weight in WEIGHTS {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            weight.finding.name(),
            weight.missed,
            weight.false_alarm
        );
    }
    *page += "</table></div></details>\n";
}
