//! `results.csv`: the records as one table with a row a study, for spreadsheets and data frames.
//!
//! Columns: `study_id`, `file`, `split`, `status`, `error`, `error_message`, then for each of the 14 findings in the
//! published order `probability_*` (0 to 1, empty where the bundle does not assess the finding), `present_*` (1 over the finding's threshold, which is one half where the bundle has none, else 0),
//! `report_*` and `reference_*` (CheXbert's `1.0`, `0.0`, `-1.0` or empty), then `disagreement` (names), `findings` (as
//! in the prompt), `report` (without white space around it), `warnings` (about the image), `looks_like` (a
//! frontal chest X-ray or something else, as the input gate says), where reports were sampled `agreement` (0 to 1) and
//! `sentence_agreement` (of each sentence), `comparisons`: words of the report that compare with an earlier
//! image, and `bundle`, its hash. What is in a list is joined by `;`. Cells that a spreadsheet would run are escaped where they are
//! written, by `radialog_schemas::table::escaped`.

use radialog_schemas::{Finding, Labels, StudyRecord, StudyStatus};

/// Makes the header.
pub(super) fn header() -> Vec<String> {
    let mut columns: Vec<String> = [
        "study_id",
        "file",
        "split",
        "status",
        "error",
        "error_message",
    ]
    .map(str::to_owned)
    .into();
    for group in ["probability", "present", "report", "reference"] {
        let name = |finding: Finding| finding.name().to_lowercase().replace(' ', "_");
        columns.extend(Finding::ALL.map(|finding| format!("{group}_{}", name(finding))));
    }
    columns.extend(
        [
            "disagreement",
            "findings",
            "report",
            "warnings",
            "looks_like",
        ]
        .map(str::to_owned),
    );
    columns.extend(["agreement", "sentence_agreement", "comparisons", "bundle"].map(str::to_owned));
    columns
}

/// Makes the row of a record.
pub(super) fn row(record: &StudyRecord) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let status = match record.status {
        StudyStatus::Done => "done",
        StudyStatus::Failed => "failed",
    };
    let (code, message) = record
        .error
        .as_ref()
        .map_or_else(Default::default, |error| {
            (error.code.as_str(), error.message.clone())
        });
    let mut cells = vec![
        record.study.0.clone(),
        record.file.clone(),
        text(&record.split),
        status.to_owned(),
        code,
        message,
    ];
    let assessed = |finding| {
        let mut findings = record.findings.iter().flatten();
        let found = findings.find(|predicted| predicted.finding == finding)?;
        Some((found.probability?, found.present))
    };
    cells.extend(Finding::ALL.map(|finding| {
        assessed(finding).map_or_else(String::new, |(probability, _)| probability.to_string())
    }));
    cells.extend(Finding::ALL.map(|finding| {
        assessed(finding).map_or_else(String::new, |(_, present)| u8::from(present).to_string())
    }));
    cells.extend(labels(record.report_labels.as_ref()));
    cells.extend(labels(record.reference_labels.as_ref()));
    let disputed: Vec<_> = record
        .disagreement
        .iter()
        .flatten()
        .map(|finding| finding.name())
        .collect();
    cells.push(disputed.join(";"));
    let report = text(&record.report).trim().to_owned();
    cells.extend([text(&record.findings_text).replace(", ", ";"), report]);
    cells.push(record.warnings.join(";"));
    let verdict = record.input_gate.as_ref();
    cells.push(
        verdict
            .map_or("", |verdict| verdict.looks_like.name())
            .to_owned(),
    );
    let consistency = record.consistency.as_ref();
    cells.push(consistency.map_or_else(String::new, |of| of.agreement.to_string()));
    let sentences = consistency.map_or(&[][..], |of| &of.sentences);
    let sentences: Vec<String> = sentences
        .iter()
        .map(|sentence| sentence.agreement.to_string())
        .collect();
    cells.push(sentences.join(";"));
    let marks = record.comparisons.iter().flatten();
    let words: Vec<&str> = marks.map(|mark| mark.words.as_str()).collect();
    cells.push(words.join(";"));
    cells.push(record.bundle.to_string());
    cells
}

fn labels(labels: Option<&Labels>) -> [String; 14] {
    let cell = |finding| {
        labels
            .and_then(|labels| labels.get(&finding))
            .map_or("", |label| label.csv_value())
    };
    Finding::ALL.map(|finding| cell(finding).to_owned())
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{
        ComparisonMark, Consistency, ContentHash, ErrorCode, Failure, GateVerdict, ImageKind,
        Label, PredictedFinding, SentenceAgreement,
    };

    use super::*;
    use crate::archive::StudyEntry;
    use crate::run::study_record;

    #[test]
    fn every_row_has_a_cell_under_every_column() {
        let failure = Failure::new(ErrorCode::ImageEmpty, "no bytes");
        let entry = StudyEntry::new("s1", "s1.png", Err(failure.clone()));
        let mut record = study_record::failed(entry, failure, &ContentHash::of(b"bundle"));
        record.report_labels = Some(Labels::from([(Finding::Edema, Label::Uncertain)]));
        record.warnings = vec!["no chest".into(), "no end marker".into()];
        record.input_gate = Some(GateVerdict {
            passed: false,
            looks_like: ImageKind::Other,
            frontal: 0.0,
        });
        record.report = Some(" No edema.".into());
        record.consistency = Some(Consistency {
            agreement: 0.75,
            sentences: [("A.", 1.0), ("B.", 0.5)]
                .map(|(text, agreement)| SentenceAgreement {
                    text: text.into(),
                    agreement,
                })
                .into(),
            samples: vec!["A.".into()],
        });
        let mark = |words: &str| ComparisonMark {
            sentence: 0,
            range: [0, 9],
            words: words.into(),
            words_range: [0, 9],
        };
        record.comparisons = Some(["Stable", "no change"].map(mark).into());
        record.findings_text = Some("edema, pneumonia".into());
        let predicted = |finding, probability| PredictedFinding {
            finding,
            probability,
            present: probability > Some(0.5),
            threshold: None,
        };
        record.findings = Some(vec![
            predicted(Finding::Edema, Some(0.75)),
            predicted(Finding::Fracture, None),
            predicted(Finding::Pneumonia, Some(0.25)),
        ]);
        let (header, row) = (header(), row(&record));
        assert_eq!(header.len(), row.len());
        let cell =
            |name: &str| row[header.iter().position(|column| column == name).unwrap()].as_str();
        assert_eq!(cell("error"), "image_empty");
        assert_eq!(cell("report_edema"), "-1.0");
        assert_eq!(cell("warnings"), "no chest;no end marker");
        assert_eq!(cell("looks_like"), "other");
        assert_eq!(cell("report"), "No edema.");
        assert_eq!(
            (cell("agreement"), cell("sentence_agreement")),
            ("0.75", "1;0.5")
        );
        assert_eq!(cell("comparisons"), "Stable;no change");
        let predicted = |name: &str| {
            let cells = ["probability", "present"].map(|group| cell(&format!("{group}_{name}")));
            cells.join(" ")
        };
        assert_eq!(predicted("edema"), "0.75 1");
        assert_eq!(predicted("pneumonia"), "0.25 0");
        assert_eq!(predicted("fracture"), " ", "not assessed");
        assert_eq!(predicted("pleural_effusion"), " ");
        assert_eq!(cell("findings"), "edema;pneumonia");
        assert_eq!(cell("bundle"), ContentHash::of(b"bundle").to_string());
    }
}
