//! What came of a fine-tuning: the bundle, its figures on the test rows beside those of the start, and a model card.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use radialog_files::durable;
use radialog_models::bundle::components::FindingsComponent;
use radialog_models::bundle::{Bundle, BundleAssembly, HashCache};
use radialog_models::findings::{Calibration, ThresholdRule};
use radialog_schemas::{Stage, counted};
use radialog_training::evaluation::quality::score_table::ScoreCell;
use radialog_training::evaluation::quality::{
    FittedCalibration, QualityEvaluation, QualityPart, QualityReport,
};
use radialog_training::finetune::{FEW, FinetuneRow, Labelled, TrainedPart};
use radialog_training::recipe::ImageTable;
use serde::{Deserialize, Serialize};

use super::super::bundle::calibrate::{RELIABILITY_FILE, reliability};
use super::super::evaluate::written;
use super::parts::{Parts, Trained, Training};
use super::{bar, show};

/// The place of each figure: the part, the number of the table in it, how the name of its row ends, the column, what it is called.
const FIGURES: [(QualityPart, usize, &str, &str, &str); 8] = [
    (
        QualityPart::Findings,
        0,
        ": classifier",
        "macro AUC",
        "findings: macro AUC",
    ),
    (
        QualityPart::Findings,
        0,
        ": classifier",
        "macro F1",
        "findings: macro F1",
    ),
    (
        QualityPart::Findings,
        0,
        ": classifier",
        "Brier",
        "findings: Brier score (lower is better)",
    ),
    (
        QualityPart::Findings,
        0,
        ": prior",
        "Brier",
        "findings: the same, of a constant",
    ),
    (
        QualityPart::Pairs,
        0,
        "bundle",
        "BLEU-1",
        "reports of images: BLEU-1",
    ),
    (
        QualityPart::Pairs,
        0,
        "bundle",
        "BLEU-4",
        "reports of images: BLEU-4",
    ),
    (
        QualityPart::Pairs,
        0,
        "bundle",
        "ROUGE-L",
        "reports of images: ROUGE-L",
    ),
    (
        QualityPart::Pairs,
        1,
        "bundle",
        "macro F1 text",
        "reports of images: macro F1 of labels",
    ),
];

/// The file with what was fitted on the validation rows.
const CALIBRATION_FILE: &str = "calibration.json";

/// A calibration as it is kept.
#[derive(Serialize, Deserialize)]
struct StoredCalibration {
    /// What it is worth, or why there is none.
    words: String,
    calibration: Option<Calibration>,
}

/// A figure before and after.
struct Compared {
    name: &'static str,
    before: String,
    after: String,
}

/// Assembles the bundle, measures it and the start on the test rows, and writes the model card. None where it was interrupted.
pub(super) fn finish(training: &Training<'_>, parts: &Parts) -> anyhow::Result<Option<PathBuf>> {
    let out = &training.args.out;
    let bundle = out.join("bundle");
    outln!("\nthe bundle:");
    let calibrated = calibrated(training, parts)?;
    outln!("  calibration: {calibrated}");
    if !bundle.is_dir() {
        assemble(training, parts, &bundle)?;
    }
    if training.stop.is_cancelled() {
        return Ok(None);
    }
    outln!("\nthe start on the test rows:");
    let before = measured(training, training.bundle, &out.join("before.json"))?;
    if training.stop.is_cancelled() {
        return Ok(None);
    }
    outln!("\nthe bundle on the test rows:");
    let opened = Bundle::open_with(&bundle, &Stage::ALL, &HashCache::user())?;
    let after = measured(training, &opened, &out.join("after.json"))?;
    let compared = compared(&before, &after);
    if compared.is_empty() {
        outln!("\nno test row can be scored");
    } else {
        outln!("\non the test rows, with 95 % intervals over patients:");
        let width = compared
            .iter()
            .map(|row| row.before.len())
            .max()
            .unwrap_or_default();
        outln!("  {:<40} {:<width$}  after", "", "before");
        for row in &compared {
            outln!("  {:<40} {:<width$}  {}", row.name, row.before, row.after);
        }
    }
    let cautions = cautions(training, parts, &before, &after);
    cautions.iter().for_each(|caution| outln!("  {caution}"));
    let card = card(training, parts, &compared, [&before, &after], &calibrated);
    for folder in [out.as_path(), &bundle] {
        let path = folder.join("MODEL_CARD.md");
        durable::replace(&path, card.as_bytes())
            .with_context(|| format!("cannot write '{}'", path.display()))?;
    }
    Ok(Some(bundle))
}

/// What a reader must know of the figures: what there is too little of, and by whom the labels are.
fn cautions(
    training: &Training<'_>,
    parts: &Parts,
    before: &QualityReport,
    after: &QualityReport,
) -> Vec<String> {
    let test = training
        .table
        .rows
        .iter()
        .filter(|row| row.side == Some("test"));
    let patients = test.clone().map(|row| &row.patient);
    let patients = patients.collect::<BTreeSet<_>>().len();
    let mut cautions = Vec::new();
    if patients < FEW {
        cautions.push(format!(
            "only {} held out: no figure of so few says much, whatever its interval",
            counted(patients, "patient is", "patients are")
        ));
    }
    cautions.extend(of_truth(test));
    let has_texts = after.parts.contains_key(&QualityPart::Pairs);
    cautions.extend(of_labelers(parts).filter(|_| has_texts));
    cautions.extend(of_figures(before, after));
    cautions
}

/// Says of which test images the truth was read by a program.
fn of_truth<'a>(test: impl Iterator<Item = &'a FinetuneRow>) -> Option<String> {
    let Labelled {
        given, by_chexbert, ..
    } = Labelled::of(test);
    (by_chexbert > 0).then(|| {
        format!(
            "{by_chexbert} of {} labelled test images have the labels that the start's CheXbert read from their reports: figures of \
             findings are beside these",
            given + by_chexbert
        )
    })
}

/// Says that texts were labelled by two labelers, since the new bundle has one of its own.
fn of_labelers(parts: &Parts) -> Option<String> {
    let labeler = parts.get(TrainedPart::Labeler.name())?.as_ref().ok()?;
    labeler.is_taken.then(|| {
        "labels of reports are by the start's labeler before, and by the one that was trained here after: their F1 changes with \
         the labeler, too"
            .to_owned()
    })
}

/// The cautions of two evaluations: those of one of them say of which.
fn of_figures(before: &QualityReport, after: &QualityReport) -> Vec<String> {
    let of = |report: &QualityReport| -> Vec<String> {
        let sections = report.parts.values();
        sections
            .flat_map(|section| section.cautions.clone())
            .collect()
    };
    let (before, after) = (of(before), of(after));
    let both = before.iter().filter(|caution| after.contains(caution));
    let alone = |when: &str, these: &[String], others: &[String]| -> Vec<String> {
        let alone = these.iter().filter(|caution| !others.contains(caution));
        alone.map(|caution| format!("{when}: {caution}")).collect()
    };
    let both = both.cloned();
    both.chain(alone("before", &before, &after))
        .chain(alone("after", &after, &before))
        .collect()
}

/// The folder of the bundle that a stage's component is taken from: what was trained where that is better, else the start.
fn source(training: &Training<'_>, parts: &Parts, stage: Stage) -> PathBuf {
    let part = match stage {
        Stage::Findings => Some(TrainedPart::Findings),
        Stage::Scoring => Some(TrainedPart::Labeler),
        Stage::Language => Some(TrainedPart::Language),
        Stage::Embedding => None,
    };
    let is_taken = |part: &TrainedPart| {
        let trained = parts.get(part.name());
        trained.is_some_and(|trained| trained.as_ref().is_ok_and(|trained| trained.is_taken))
    };
    match part.filter(is_taken) {
        Some(part) => training.args.out.join(part.name()).join("best"),
        None => training.bundle.dir().to_owned(),
    }
}

/// The rule of the start's thresholds, by which those of a trained classifier are chosen, too: its checkpoint has no calibration.
fn thresholds(start: &Bundle) -> anyhow::Result<Option<ThresholdRule>> {
    let config = start.config::<FindingsComponent>(Stage::Findings)?;
    let calibration = config.calibration;
    Ok(calibration.and_then(|calibration| calibration.thresholds))
}

/// What a calibration on the validation rows has come to, in words; it is written to a file, so that it is fitted once.
fn calibrated(training: &Training<'_>, parts: &Parts) -> anyhow::Result<String> {
    let path = training.args.out.join(CALIBRATION_FILE);
    if path.is_file() {
        return Ok(stored(&path)?.words);
    }
    let table = training.images()?;
    let validate = training.table.count("validate", false, false);
    let opened = Bundle::open_with(
        &source(training, parts, Stage::Findings),
        &[Stage::Findings],
        &HashCache::user(),
    )?;
    let fitted = match validate {
        0 => None,
        _ => {
            let bar = bar()?;
            let fitted = FittedCalibration::fit(
                &opened,
                &[table],
                "validate",
                thresholds(training.bundle)?,
                training.device,
                &|what, done, total| {
                    show(&bar, what, done, total);
                },
            );
            bar.finish_and_clear();
            fitted?
        }
    };
    let words = match &fitted {
        None => "not fitted: too few labelled validation rows, or the classifier's order has nothing to do with them".to_owned(),
        Some(fitted) => {
            let page = training.args.out.join(RELIABILITY_FILE);
            durable::replace(&page, reliability(fitted, "validate").as_bytes())
                .with_context(|| format!("cannot write '{}'", page.display()))?;
            format!("{}; {RELIABILITY_FILE} draws it. {}", fitted.words(), fitted.calibration.rule)
        }
    };
    let stored = StoredCalibration {
        words: words.clone(),
        calibration: fitted.map(|fitted| fitted.calibration),
    };
    let text = serde_json::to_string_pretty(&stored)? + "\n";
    durable::replace(&path, text.as_bytes())
        .with_context(|| format!("cannot write '{}'", path.display()))?;
    Ok(words)
}

fn stored(path: &Path) -> anyhow::Result<StoredCalibration> {
    let text = fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("'{}' is damaged: remove it", path.display()))
}

fn assemble(training: &Training<'_>, parts: &Parts, bundle: &Path) -> anyhow::Result<()> {
    let folder = |stage| source(training, parts, stage);
    BundleAssembly {
        calibration: stored(&training.args.out.join(CALIBRATION_FILE))?.calibration,
        name: training.args.name.clone(),
        version: "1".to_owned(),
        license: None,
        half: false,
        parts: Stage::ALL
            .into_iter()
            .map(|stage| (stage, folder(stage)))
            .collect(),
    }
    .write(bundle)?;
    Ok(())
}

/// The figures of a bundle on the test rows, which are computed once.
fn measured(
    training: &Training<'_>,
    bundle: &Bundle,
    path: &Path,
) -> anyhow::Result<QualityReport> {
    if path.is_file() {
        let text = fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
        return serde_json::from_slice(&text)
            .with_context(|| format!("'{}' is damaged: remove it", path.display()));
    }
    let images = training.images()?;
    let test = training
        .table
        .rows
        .iter()
        .filter(|row| row.side == Some("test"));
    let has_reports = test.clone().any(|row| !row.report.is_empty());
    let mut parts = Vec::new();
    parts.extend((test.count() > 0).then_some(QualityPart::Findings));
    parts.extend(has_reports.then_some(QualityPart::Pairs));
    let quality = QualityEvaluation {
        reports: None,
        pairs: Some(ImageTable {
            labels: training.data.pairs(),
            images: images.images.clone(),
            ..ImageTable::default()
        }),
        images: vec![images],
        parts,
        split: "test".to_owned(),
        seed: training.args.seed,
        limit: None,
        lower_case_names: false,
        device: training.device.clone(),
    };
    let bar = bar()?;
    let measured = quality.measure(bundle, &|what, done, total| show(&bar, what, done, total));
    bar.finish_and_clear();
    let (report, _) = measured?;
    let text = serde_json::to_string_pretty(&report)? + "\n";
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("cannot write '{}'", path.display()))?;
    Ok(report)
}

/// The figures of the parts that were measured. One that is not where it should be is named all the same.
fn compared(before: &QualityReport, after: &QualityReport) -> Vec<Compared> {
    let mut compared = Vec::new();
    for (part, table, row, column, name) in FIGURES {
        let cell = |report: &QualityReport| -> Option<ScoreCell> {
            let rows = &report.parts.get(&part)?.tables.get(table)?.rows;
            let row = rows.iter().find(|found| found.name.ends_with(row))?;
            row.scores.get(column).copied()
        };
        if before.parts.contains_key(&part) || after.parts.contains_key(&part) {
            let shown = |report| {
                cell(report).map_or_else(|| "not measured".to_owned(), |cell| written(&cell))
            };
            compared.push(Compared {
                name,
                before: shown(before),
                after: shown(after),
            });
        }
    }
    compared
}

/// The new bundle's figures of each sex, age, view and source, where the table has them.
fn subgroups(after: &QualityReport) -> String {
    let section = after.parts.get(&QualityPart::Findings);
    let mut tables = section.into_iter().flat_map(|section| &section.tables);
    let Some(table) = tables.find(|table| table.title.ends_with(": subgroups")) else {
        return String::new();
    };
    let columns = ["images", "patients", "macro AUC", "macro F1", "Brier"];
    let mut words = format!(
        "\n| findings after, of | {} |\n|{}\n",
        columns.join(" | "),
        " --- |".repeat(columns.len() + 1)
    );
    for row in &table.rows {
        let cell = |column: &&str| row.scores.get(*column).map_or("-".to_owned(), written);
        let cells: Vec<String> = columns.iter().map(cell).collect();
        words += &format!("| {} | {} |\n", row.name, cells.join(" | "));
    }
    words
}

fn card(
    training: &Training<'_>,
    parts: &Parts,
    compared: &[Compared],
    [before, after]: [&QualityReport; 2],
    calibrated: &str,
) -> String {
    let manifest = training.bundle.manifest();
    let mut sides: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for row in &training.table.rows {
        let (images, patients) = sides.entry(row.side.unwrap_or_default()).or_default();
        *images += 1;
        patients.insert(&row.patient);
    }
    // Writing to a String cannot fail.
    let mut card = format!(
        "# {}\n\nResearch software, not a medical device.\n\nMade by `radialog finetune` from the bundle '{}' ({}) and the table \
         `{}` (SHA-256 {}).\n\n## Data\n\n| split | images | patients |\n| --- | --- | --- |\n",
        training.args.name,
        manifest.name,
        manifest.hash().short(),
        training
            .table
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
        training.table.hash.short()
    );
    for (side, (images, patients)) in &sides {
        let _ = writeln!(card, "| {side} | {images} | {} |", patients.len());
    }
    let _ = writeln!(card, "\nColumns: {}.", training.table.columns);
    let labelled = Labelled::of(&training.table.rows).words();
    for note in training.table.notes.iter().chain(&labelled) {
        let _ = writeln!(card, "- {note}");
    }
    let _ = writeln!(
        card,
        "\n## Training\n\nRecipes are in `recipes/`, curves in each part's folder.\n"
    );
    for (part, trained) in parts {
        let words = match trained {
            Ok(trained) => Trained::words(trained),
            Err(reason) => format!("not trained: {reason}"),
        };
        let _ = writeln!(card, "- {part}: {words}");
    }
    let _ = writeln!(
        card,
        "- all else is that of the start\n- calibration: {calibrated}\n\n## On the test rows\n"
    );
    match compared.is_empty() {
        true => card.push_str("No test row can be scored.\n"),
        false => {
            card.push_str(
                "95 % intervals over patients; checkpoints were chosen on the validation rows.\n\n",
            );
            card.push_str("| score | before | after |\n| --- | --- | --- |\n");
            for row in compared {
                let _ = writeln!(card, "| {} | {} | {} |", row.name, row.before, row.after);
            }
        }
    }
    card.push_str(&subgroups(after));
    card.push_str("\nHow to read them:\n\n");
    for caution in cautions(training, parts, before, after) {
        let _ = writeln!(card, "- {caution}");
    }
    for part in [QualityPart::Findings, QualityPart::Pairs] {
        let section = after.parts.get(&part);
        for note in section.into_iter().flat_map(|section| &section.notes) {
            let _ = writeln!(card, "- {note}");
        }
    }
    let _ = writeln!(
        card,
        "\n## Terms\n\n{} The terms of the table's data apply, too.",
        manifest.license
    );
    card
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Label;
    use serde_json::json;

    use super::*;
    use crate::demo_bundle;

    fn report(findings: &serde_json::Value) -> QualityReport {
        let report = json!({
            "bundle": "b", "hash": "0".repeat(64), "random_weights": false, "split": "test", "seed": 1, "limit": null,
            "parts": {"findings": findings},
        });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn thresholds_are_chosen_by_the_rule_of_the_start() {
        let cache = tempfile::tempdir().unwrap();
        let dir = demo_bundle::unpack(cache.path()).unwrap();
        let hashes = HashCache::at(cache.path().join("hashes"));
        let demo = Bundle::open_with(&dir, &[], &hashes).unwrap();
        assert_eq!(thresholds(&demo).unwrap(), Some(ThresholdRule::AsMany));
    }

    #[test]
    fn a_figure_that_is_missing_is_named_and_a_caution_of_one_side_says_of_which() {
        let area = json!({"value": 0.75, "low": 0.5, "high": null});
        let scores = json!({"macro AUC": area, "macro F1": 0.25, "Brier": null});
        let row = json!({"name": "mine: classifier", "scores": scores});
        let columns = ["macro AUC", "macro F1", "Brier"];
        let table = json!({"title": "all findings", "columns": columns, "rows": [row]});
        let section = |cautions: &[&str]| json!({"title": "Findings", "notes": [], "cautions": cautions, "tables": [table]});
        let before = report(&section(&["few", "not assessed: Edema"]));
        let after = report(&section(&["few"]));
        assert_eq!(
            of_figures(&before, &after),
            ["few", "before: not assessed: Edema"]
        );
        let shown: Vec<(&str, String)> = compared(&before, &after)
            .into_iter()
            .map(|row| (row.name, row.after))
            .collect();
        let shown: Vec<(&str, &str)> = shown.iter().map(|(n, cell)| (*n, cell.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("findings: macro AUC", "0.750 [-]"),
                ("findings: macro F1", "0.250"),
                ("findings: Brier score (lower is better)", "-"),
                ("findings: the same, of a constant", "not measured"),
            ]
        );
    }

    #[test]
    fn labels_that_a_program_read_and_labels_by_two_labelers_are_told() {
        let row = |report: &str, label: Label| FinetuneRow {
            line: 2,
            name: String::new(),
            image: PathBuf::new(),
            patient: String::new(),
            side: Some("test"),
            report: report.to_owned(),
            labels: [label; 14],
            groups: Default::default(),
        };
        let mut rows = vec![
            row("Clear.", Label::Negative),
            row("", Label::Positive),
            row("", Label::Blank),
        ];
        assert_eq!(of_truth(rows.iter()), None);
        rows.push(row("Edema.", Label::Blank));
        let said = of_truth(rows.iter()).unwrap();
        assert!(said.starts_with("1 of 3 labelled test images"), "{said}");
        let labeler = |is_taken| {
            let trained = Trained {
                score: "macro_f1".to_owned(),
                before: None,
                after: None,
                epochs: 1,
                is_taken,
            };
            Parts::from([(TrainedPart::Labeler.name(), Ok(trained))])
        };
        assert!(of_labelers(&labeler(true)).is_some());
        assert_eq!(of_labelers(&labeler(false)), None);
        assert_eq!(of_labelers(&Parts::new()), None);
    }
}
