//! The evaluation as one HTML page that needs nothing else: no script, no address, images and style within.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use radialog_schemas::{Finding, counted};

use super::EvaluatedReports;
use super::published::{self, Ours};
use crate::error::TrainingError;
use crate::evaluation::report_scores::{CALIBRATION_ERROR, Comparison, MetricGroup, StoredScores};
use crate::evaluation::stored_rows::temporary;

mod charts;
mod comparisons;
mod examples;
mod follow_up;
mod reliability;
mod review;
mod scores;

pub use follow_up::FollowUpPage;
pub use reliability::{ReliabilityPlot, reliability_page};

/// So many faults are listed; all of them are in the table beside the page.
const LISTED: u64 = 20;
/// The end of every page.
const END: &str =
    "<p class=\"muted\">Research software, not a medical device.</p>\n</body>\n</html>\n";

/// Makes the page.
///
/// # Errors
/// A text cannot be read.
pub(super) fn page(evaluated: &EvaluatedReports<'_>) -> Result<String, TrainingError> {
    let mut page = begin(&format!("Evaluation of {}", evaluated.name));
    head(&mut page, evaluated)?;
    for group in MetricGroup::ALL {
        scores::write(&mut page, evaluated, group);
    }
    comparisons::write(&mut page, evaluated)?;
    let counts = StudyCounts::of(&evaluated.scores.studies).map_err(temporary)?;
    lengths(&mut page, &counts);
    calibration(&mut page, evaluated);
    disagreement(&mut page, &counts);
    if let Some(set_asides) = &evaluated.scores.set_asides {
        review::write(&mut page, set_asides);
    }
    if let Some(comparison) = evaluated.comparison {
        compared(&mut page, comparison);
    }
    beside_published(&mut page, evaluated);
    examples::write(&mut page, evaluated)?;
    Ok(page + END)
}

/// A page of this title, up to its heading.
fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        title = escaped(title),
        style = include_str!("page/style.css"),
    )
}

/// A text as it may stand in HTML, between tags and in quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

// Writing to a String cannot fail, so that what `write!` returns is dropped below.

fn head(page: &mut String, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let (corpus, totals) = (evaluated.corpus, &evaluated.scores.totals);
    let _ = write!(
        page,
        "<p>{}, {} scored: {}, {}, {}.",
        counted(corpus.predictions, "prediction", "predictions"),
        counted(corpus.studies.len(), "study", "studies"),
        counted(totals.text.texts, "text", "texts"),
        counted(totals.labelled, "labelled report", "labelled reports"),
        counted(totals.classified, "classified image", "classified images")
    );
    for (count, what) in [
        (corpus.other_splits, "of other splits"),
        (corpus.not_selected, "not selected"),
    ] {
        if count > 0 {
            let _ = write!(page, " {count} {what}.");
        }
    }
    *page += "</p>\n<ul class=\"muted\">\n";
    for note in corpus
        .notes
        .iter()
        .chain(&evaluated.notes())
        .chain([&evaluated.resampled()])
    {
        let _ = writeln!(page, "<li>{}</li>", escaped(note));
    }
    *page += "</ul>\n";
    if corpus.faults.is_empty() {
        return Ok(());
    }
    *page += "<h2>What is wrong with the files</h2>\n<ul>\n";
    for (kind, faults) in corpus.faults.kinds() {
        let _ = writeln!(page, "<li>{}</li>", kind.counted(faults.count));
    }
    let _ = write!(
        page,
        "</ul>\n<details><summary class=\"muted\">The first {}</summary>\n<ul class=\"muted\">\n",
        corpus.faults.len().min(LISTED)
    );
    for fault in corpus.faults.iter().take(LISTED as usize) {
        let fault = fault.map_err(temporary)?;
        let _ = writeln!(
            page,
            "<li>{}: {}</li>",
            escaped(fault.kind.words()),
            escaped(&fault.to_string())
        );
    }
    *page += "</ul></details>\n";
    Ok(())
}

/// What the page counts of the studies' scores.
#[derive(Default)]
struct StudyCounts {
    /// How many generated reports have so many words, and how many references.
    lengths: [BTreeMap<u64, u64>; 2],
    /// Studies whose classifier and report can be compared, and those in which they differ.
    compared: u64,
    differing: u64,
    /// Studies in which the classifier sees a finding that the report does not state, and the other way round.
    seen: [u64; Finding::ALL.len()],
    stated: [u64; Finding::ALL.len()],
}

impl StudyCounts {
    fn of(studies: &StoredScores) -> io::Result<Self> {
        let mut counts = Self::default();
        for study in studies.iter() {
            let study = study?;
            if let Some(text) = &study.text {
                let (words, reference_words) = text.bleu.lengths();
                for (lengths, words) in counts.lengths.iter_mut().zip([words, reference_words]) {
                    *lengths.entry(words).or_default() += 1;
                }
            }
            let Some((seen, stated)) = &study.disagreement else {
                continue;
            };
            counts.compared += 1;
            counts.differing += u64::from(seen.iter().chain(stated).any(|flag| *flag));
            for (flags, counts) in [(seen, &mut counts.seen), (stated, &mut counts.stated)] {
                for (flag, count) in flags.iter().zip(counts) {
                    *count += u64::from(*flag);
                }
            }
        }
        Ok(counts)
    }
}

fn lengths(page: &mut String, counts: &StudyCounts) {
    let [generated, references] = &counts.lengths;
    if generated.is_empty() {
        return;
    }
    let mean = |lengths: &BTreeMap<u64, u64>| {
        let words: u64 = lengths.iter().map(|(length, texts)| length * texts).sum();
        words as f64 / lengths.values().sum::<u64>() as f64
    };
    let _ = write!(
        page,
        "<h2>Lengths</h2>\n<figure><figcaption>{} {}</figcaption>\n{}</figure>\n",
        scores::key(
            "first",
            &format!(
                "generated reports ({:.1} words on average)",
                mean(generated)
            )
        ),
        scores::key("second", &format!("references ({:.1})", mean(references))),
        charts::histogram(
            "Lengths of reports and references in words",
            generated,
            references
        )
    );
}

fn calibration(page: &mut String, evaluated: &EvaluatedReports<'_>) {
    let calibration = &evaluated.scores.calibration;
    if calibration.is_empty() {
        return;
    }
    let mut metrics = evaluated.scores.metrics.iter();
    let error = metrics.find(|metric| metric.name == CALIBRATION_ERROR);
    let (error, interval) = error.map(scores::cells).unwrap_or_default();
    let _ = write!(
        page,
        "<h2>Calibration of the findings</h2>\n<figure><figcaption>All findings together: how often what is stated with a probability is \
         there; on the dashed line both are equal. Expected calibration error {error} (95 % interval {interval}; lower is \
         better).</figcaption>\n{}</figure>\n",
        charts::reliability("Reliability of the classifier's probabilities", calibration)
    );
}

fn disagreement(page: &mut String, counts: &StudyCounts) {
    if counts.compared == 0 {
        return;
    }
    let _ = write!(
        page,
        "<h2>Classifier and report</h2>\n<p>In {} of {} they disagree: the classifier sees a finding that the report does not \
         state, or the other way round.</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>finding</th><th class=\"number\">seen, not stated</th><th \
         class=\"number\">stated, not seen</th></tr>\n",
        counts.differing,
        counted(counts.compared, "study", "studies")
    );
    for finding in Finding::ALL {
        let class = finding as usize;
        let (seen, stated) = (counts.seen[class], counts.stated[class]);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{seen}</td><td class=\"number\">{stated}</td></tr>",
            finding.name()
        );
    }
    *page += "</table></div>\n";
}

fn compared(page: &mut String, comparison: &Comparison) {
    let _ = write!(
        page,
        "<h2>Beside {}</h2>\n<p>On {} that both have ({} only here, {} only there). p: paired randomisation test, \
         {} exchanges, two-sided{}.</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>score</th><th class=\"number\">here</th><th \
         class=\"number\">there</th><th class=\"number\">p</th></tr>\n",
        escaped(&comparison.name),
        counted(comparison.studies, "study", "studies"),
        comparison.only.0,
        comparison.only.1,
        comparison.exchanges,
        comparison
            .unpaired_words()
            .map_or_else(String::new, |words| format!("; {words}"))
    );
    let (mut group, mut protocol) = (None, None);
    for compared in comparison
        .metrics
        .iter()
        .filter(|compared| compared.metric.finding.is_none())
    {
        let metric = &compared.metric;
        if group.replace(metric.group) != Some(metric.group) {
            let title = metric.group.title();
            let _ = writeln!(page, "<tr><th colspan=\"4\">{title}</th></tr>");
        }
        scores::protocol_row(page, metric, &mut protocol, 4);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{:.4}</td><td class=\"number\">{:.4}</td><td class=\"number\">{:.4}</td></tr>",
            scores::name(metric),
            compared.ours,
            compared.other,
            compared.p
        );
    }
    *page += "</table></div>\n";
}

fn beside_published(page: &mut String, evaluated: &EvaluatedReports<'_>) {
    let Some(ours) = Ours::of(evaluated) else {
        return;
    };
    let _ = write!(
        page,
        "<h2>Beside published figures</h2>\n<p>{}</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>system</th>",
        escaped(&published::caution(evaluated))
    );
    for column in published::COLUMNS {
        let _ = write!(page, "<th class=\"number\">{column}</th>");
    }
    *page += "</tr>\n";
    for (name, cells) in published::rows(&ours) {
        let _ = write!(page, "<tr><td>{}</td>", escaped(&name));
        for cell in cells {
            let _ = write!(page, "<td class=\"number\">{}</td>", escaped(&cell));
        }
        *page += "</tr>\n";
    }
    *page += "</table></div>\n<ul class=\"muted\">\n";
    for source in published::SOURCES.into_iter().chain(published::OTHERS) {
        let _ = writeln!(page, "<li>{}</li>", escaped(source));
    }
    *page += "</ul>\n";
}
