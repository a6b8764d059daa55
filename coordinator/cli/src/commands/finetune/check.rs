//! What a table allows, said before anything is computed: the parts that would be trained, and the findings of which there is too
//! little to learn.

use radialog_schemas::{Finding, Label, counted};
use radialog_training::finetune::{FEW, FinetuneRow, FinetuneTable, Plan, TrainedPart};

use crate::exit::UsageError;

/// What would become of each part: what it learns from, or why it would not be trained.
pub(super) struct Planned {
    parts: Vec<(TrainedPart, Result<String, String>)>,
    /// What the classifier has too little of.
    too_little: Vec<String>,
}

impl Planned {
    /// A line of each part, and of what there is too little of.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let parts = self.parts.iter().map(|(part, allowed)| match allowed {
            Ok(words) => format!("{}: {words}", part.name()),
            Err(reason) => format!("{}: would not be trained: {reason}", part.name()),
        });
        let few = self.too_little.iter();
        parts.chain(few.map(|words| format!("{}: {words}", TrainedPart::Findings.name())))
    }

    /// Something can be trained.
    ///
    /// # Errors
    /// Why nothing can be.
    pub(super) fn require_one(&self) -> Result<(), UsageError> {
        if self.parts.iter().any(|(_, allowed)| allowed.is_ok()) {
            return Ok(());
        }
        let lines: Vec<String> = self.lines().collect();
        Err(UsageError(format!(
            "the table allows no training: {}",
            lines.join("; ")
        )))
    }
}

/// What a table allows of these parts.
pub(super) fn planned(table: &FinetuneTable, parts: &[TrainedPart]) -> Planned {
    let allowed = |part: &TrainedPart| {
        let allowed = match part {
            TrainedPart::Findings => findings(table),
            TrainedPart::Labeler => texts(table, "reports with labels of the table", true),
            TrainedPart::Language => texts(table, "images with reports", false),
        };
        (*part, allowed)
    };
    let is_labelled = table.count("train", false, true) > 0;
    let too_little = parts.contains(&TrainedPart::Findings) && is_labelled;
    Planned {
        parts: parts.iter().map(allowed).collect(),
        too_little: match too_little {
            true => too_few(table).collect(),
            false => Vec::new(),
        },
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

fn findings(table: &FinetuneTable) -> Result<String, String> {
    let by_report = |row: &&FinetuneRow| !row.is_labelled() && !row.report.is_empty();
    let of_side = |side: &'static str| {
        let rows = table.rows.iter().filter(move |row| row.side == Some(side));
        rows.filter(|row| row.is_labelled()).map(|row| row.labels)
    };
    let (train, validate): (Vec<_>, Vec<_>) =
        (of_side("train").collect(), of_side("validate").collect());
    let reports = table.rows.iter().filter(by_report).count();
    let labelled = format!(
        "{} to train on, {} to choose the best by",
        counted(train.len(), "labelled image", "labelled images"),
        validate.len()
    );
    if reports == 0 {
        return Plan::labels_allow(&train, &validate).map(|()| labelled);
    }
    Ok(format!(
        "{labelled}, and {} CheXbert would label (it reads English): what it says is not known yet",
        counted(reports, "image whose report", "images whose reports")
    ))
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
