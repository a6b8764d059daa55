//! What a table allows, said before anything is computed: the parts that would be trained, and the findings of which there is too
//! little to learn.

use radialog_schemas::{Finding, Label};
use radialog_training::finetune::{FEW, FinetuneRow, FinetuneTable, Plan, TrainedPart};

/// What would become of each part, a line each.
pub(super) fn planned(table: &FinetuneTable, parts: &[TrainedPart]) -> Vec<String> {
    let said = |part: &TrainedPart| {
        let allowed = match part {
            TrainedPart::Findings => return findings(table),
            TrainedPart::Labeler => texts(table, "reports with labels of the table", true),
            TrainedPart::Language => texts(table, "images with reports", false),
        };
        vec![line(*part, allowed)]
    };
    parts.iter().flat_map(said).collect()
}

fn line(part: TrainedPart, allowed: Result<String, String>) -> String {
    match allowed {
        Ok(words) => format!("{}: {words}", part.name()),
        Err(reason) => format!("{}: would not be trained: {reason}", part.name()),
    }
}

fn texts(table: &FinetuneTable, what: &str, with_labels: bool) -> Result<String, String> {
    let count = |side| table.count(side, true, with_labels);
    let (train, validate) = (count("train"), count("validate"));
    Plan::texts_allow(what, train, validate)?;
    Ok(format!(
        "{train} {what} to train on, {validate} to choose the best by"
    ))
}

fn findings(table: &FinetuneTable) -> Vec<String> {
    let part = TrainedPart::Findings;
    let by_report = |row: &&FinetuneRow| !row.is_labelled() && !row.report.is_empty();
    let of_side = |side: &'static str| {
        let rows = table.rows.iter().filter(move |row| row.side == Some(side));
        rows.filter(|row| row.is_labelled()).map(|row| row.labels)
    };
    let (train, validate): (Vec<_>, Vec<_>) =
        (of_side("train").collect(), of_side("validate").collect());
    let reports = table.rows.iter().filter(by_report).count();
    let mut lines = Vec::new();
    let labelled = format!(
        "{} labelled images to train on, {} to choose the best by",
        train.len(),
        validate.len()
    );
    if reports == 0 {
        let allowed = Plan::labels_allow(&train, &validate).map(|()| labelled);
        lines.push(line(part, allowed));
    } else {
        let words = format!(
            "{labelled}, and {reports} images whose reports CheXbert would label: what they say is not known yet"
        );
        lines.push(line(part, Ok(words)));
    }
    if !train.is_empty() {
        lines.extend(too_few(table).map(|words| format!("{}: {words}", part.name())));
    }
    lines
}

/// The findings of which the labels of the table give a classifier too little.
fn too_few(table: &FinetuneTable) -> impl Iterator<Item = String> {
    let counts = Finding::ALL.into_iter().zip(table.label_counts());
    let (mut never, mut always, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for (finding, (with, without)) in counts {
        match (with, without) {
            (0, 0) => {}
            (0, _) => never.push(finding.name().to_owned()),
            (_, 0) => always.push(finding.name().to_owned()),
            _ if with.min(without) < FEW => {
                few.push(format!("{} ({})", finding.name(), with.min(without)))
            }
            _ => {}
        }
    }
    let said = [
        (never, "no training image has".to_owned()),
        (always, "every labelled training image has".to_owned()),
        (
            few,
            format!("fewer than {FEW} training images with, or without,"),
        ),
    ];
    said.into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, what)| format!("{what} {}", names.join(", ")))
}

/// What the table has to learn from, in words.
pub(super) fn contents(table: &FinetuneTable) -> String {
    let labels = table.rows.iter().flat_map(|row| row.labels);
    let uncertain = labels.filter(|label| *label == Label::Uncertain).count();
    let mut has = Vec::new();
    has.extend(table.has_labels().then(|| match uncertain {
        0 => "labels".to_owned(),
        count => format!("labels, {count} of them -1, which are left out"),
    }));
    has.extend(table.has_reports().then(|| "reports".to_owned()));
    has.join(" and ")
}
