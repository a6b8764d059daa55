//! What `radialog evaluate report` prints.

use radialog_schemas::{Finding, counted};
use radialog_training::evaluation::corpus::Corpus;
use radialog_training::evaluation::report_files::EvaluatedReports;
use radialog_training::evaluation::report_scores::{Comparison, Metric, MetricGroup, SetAsides};

use crate::commands::evaluate::estimates::written;

pub(super) fn print(evaluated: &EvaluatedReports<'_>) {
    let corpus = evaluated.corpus;
    let totals = &evaluated.scores.totals;
    outln!(
        "{}, {} scored: {}, {}, {}",
        counted(corpus.predictions, "prediction", "predictions"),
        counted(corpus.studies.len(), "study", "studies"),
        counted(totals.text.texts, "text", "texts"),
        counted(totals.labelled, "labelled report", "labelled reports"),
        counted(totals.classified, "classified image", "classified images")
    );
    outln!("{}", evaluated.resampled());
    for (count, what) in [
        (corpus.other_splits, "of other splits"),
        (corpus.not_selected, "not selected"),
    ] {
        if count > 0 {
            outln!("  {count} {what}");
        }
    }
    print_faults(corpus);
    for note in corpus.notes.iter().chain(&evaluated.notes()) {
        outln!("  {note}");
    }
    for group in MetricGroup::ALL {
        print_group(evaluated, group);
    }
    if let Some(set_asides) = &evaluated.scores.set_asides {
        print_set_asides(set_asides);
    }
    if let Some(comparison) = evaluated.comparison {
        print_comparison(comparison);
    }
}

/// Prints what is wrong with the files, kind by kind.
pub(super) fn print_faults(corpus: &Corpus) {
    for (kind, faults) in corpus.faults.kinds() {
        outln!("  {}", kind.counted(faults.count));
        for fault in &faults.first {
            outln!("    {fault}");
        }
        if faults.count > faults.first.len() as u64 {
            outln!("    … (all in faults.csv)");
        }
    }
}

fn print_group(evaluated: &EvaluatedReports<'_>, group: MetricGroup) {
    let of_group = |metric: &&Metric| metric.group == group;
    let metrics: Vec<&Metric> = evaluated.scores.metrics.iter().filter(of_group).collect();
    let Some(first) = metrics.first() else {
        return;
    };
    outln!("\n{}: {}", group.title(), first.protocol);
    let whole = metrics.iter().filter(|metric| metric.finding.is_none());
    for metric in whole {
        let other = match metric.protocol == first.protocol {
            true => String::new(),
            false => format!("; {}", metric.protocol),
        };
        outln!(
            "  {:<40} {:<24}  {} is better{other}",
            metric.name,
            written(metric.estimate),
            metric.better.word()
        );
    }
    if !group.has_findings() {
        return;
    }
    print_findings(evaluated, group, &metrics);
}

/// Prints the scores of each finding, a row a finding and a column a score.
fn print_findings(evaluated: &EvaluatedReports<'_>, group: MetricGroup, metrics: &[&Metric]) {
    let mut names: Vec<&str> = Vec::new();
    for metric in metrics.iter().filter(|metric| metric.finding.is_some()) {
        if !names.contains(&metric.name.as_str()) {
            names.push(&metric.name);
        }
    }
    let columns = names.iter().map(|name| format!("  {name:<24}"));
    outln!(
        "  {:<28} {:>8}{}  (higher is better)",
        "each finding",
        "positive",
        columns.collect::<String>().trim_end()
    );
    let counts = evaluated.counts(group);
    for finding in Finding::ALL {
        let cell = |name: &&str| {
            let of = |metric: &&&Metric| metric.finding == Some(finding) && metric.name == **name;
            let found = metrics.iter().find(of);
            format!(
                "  {:<24}",
                found
                    .map(|metric| written(metric.estimate))
                    .unwrap_or_default()
            )
        };
        let line = match (counts.known(finding), counts.positives(finding)) {
            (0, _) => "  not scored: no label".to_owned(),
            (_, 0) => "  -: no scored study has it".to_owned(),
            _ => names.iter().map(cell).collect::<String>(),
        };
        outln!(
            "  {:<28} {:>8}{}",
            finding.name(),
            counts.positives(finding),
            line.trim_end()
        );
    }
}

fn print_set_asides(set_asides: &SetAsides) {
    outln!(
        "\nWithout the least consistent of {} with sampled reports: share set aside",
        counted(set_asides.sampled, "study", "studies")
    );
    let shares = set_asides.rows.iter();
    let shares = shares.map(|row| format!("{:<24}", format!("{:.0} %", row.share * 100.0)));
    outln!("  {:<40} {}", "", shares.collect::<String>().trim_end());
    for (place, metric) in set_asides.metrics.iter().enumerate() {
        let values = set_asides.rows.iter();
        let values = values.map(|row| format!("{:<24}", written(row.estimate(place))));
        outln!(
            "  {:<40} {} {} is better",
            metric.name,
            values.collect::<String>(),
            metric.better.word()
        );
    }
}

fn print_comparison(comparison: &Comparison) {
    outln!(
        "\nCompared with {} on {} that both have ({} only here, {} only there); p: paired randomisation test, {} exchanges, two-sided",
        comparison.name,
        counted(comparison.studies, "study", "studies"),
        comparison.only.0,
        comparison.only.1,
        comparison.exchanges
    );
    if let Some(words) = comparison.unpaired_words() {
        outln!("  {words}");
    }
    outln!("  {:<40} {:>8} {:>8} {:>8}", "", "here", "there", "p");
    let mut before = None;
    for compared in &comparison.metrics {
        if compared.metric.finding.is_none() {
            let (metric, p) = (&compared.metric, compared.p);
            let of = (metric.group, &metric.protocol);
            if before.replace(of) != Some(of) {
                outln!("  {}: {}", metric.group.title(), metric.protocol);
            }
            outln!(
                "  {:<40} {:>8.4} {:>8.4} {p:>8.4}  {} is better",
                metric.name,
                compared.ours,
                compared.other,
                metric.better.word()
            );
        }
    }
}
