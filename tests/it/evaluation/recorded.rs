//! Scores that the original programs gave, recomputed from files by the command.

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Finding, Label};
use serde_json::Value;

use super::{EvaluationFixture, label_table, line, value};

const TEXTS: &str = include_str!("../../fixtures/golden/08_metrics/text_nltk.json");
const PAIRS: &str = include_str!("../../fixtures/golden/08_metrics/text_ptb.json");
const LABELS: &str = include_str!("../../fixtures/golden/08_metrics/labels.json");

fn close(what: &str, ours: Option<f64>, recorded: &Value, tolerance: f64) -> Result<()> {
    let recorded = recorded.as_f64();
    let close = match (ours, recorded) {
        (Some(ours), Some(recorded)) => (ours - recorded).abs() < tolerance,
        (ours, recorded) => ours.is_none() && recorded.is_none(),
    };
    ensure!(close, "{what}: {ours:?} instead of {recorded:?}");
    Ok(())
}

/// The recorded pairs, as a table of predictions and one of references.
fn write_pairs(folder: &EvaluationFixture) -> Result<()> {
    let recorded: Value = serde_json::from_str(PAIRS)?;
    let pairs = recorded["pairs"].as_array().context("pairs")?;
    let table = |name: &str, column: &str| {
        let mut text = format!("study_id,{column}\n");
        for (place, pair) in pairs.iter().enumerate() {
            let cell = pair[name].as_str().unwrap_or_default().replace('"', "\"\"");
            text += &format!("s{place},\"{cell}\"\n");
        }
        text
    };
    folder.write("predictions.csv", &table("hypothesis", "prediction"))?;
    folder.write("references.csv", &table("reference", "findings"))
}

#[test]
fn text_scores_of_tables_are_those_of_the_original() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    write_pairs(&folder)?;
    let files = ["predictions.csv", "--references", "references.csv"];
    let scores = folder.scores(&files)?;
    let recorded: Value = serde_json::from_str(TEXTS)?;
    let recorded = &recorded["final_scores"];
    for (name, theirs) in [
        ("BLEU-1", "Bleu_1"),
        ("BLEU-2", "Bleu_2"),
        ("BLEU-3", "Bleu_3"),
        ("BLEU-4", "Bleu_4"),
        ("ROUGE-L", "ROUGE_L"),
    ] {
        close(
            name,
            value(&scores, "text", name, None),
            &recorded[theirs],
            1e-6,
        )?;
    }
    let with_ptb = folder.scores(&[&files[..], &["--protocol", "coco-caption"]].concat())?;
    let recorded: Value = serde_json::from_str(PAIRS)?;
    let recorded = &recorded["scores"];
    for (name, theirs) in [
        ("BLEU-4", "bleu4"),
        ("ROUGE-L", "rouge_l"),
        ("CIDEr", "cider"),
    ] {
        let theirs = &recorded[theirs]["corpus"];
        close(name, value(&with_ptb, "text", name, None), theirs, 1e-6)?;
    }
    Ok(())
}

#[test]
fn label_scores_of_a_run_beside_a_table_are_those_of_scikit_learn() -> Result<()> {
    let cases: Vec<Value> = serde_json::from_str(LABELS)?;
    for case in &cases {
        let folder = EvaluationFixture::new()?;
        let rows = |name: &str| case[name].as_array().cloned().unwrap_or_default();
        let (truths, said, probabilities) = (rows("y_true"), rows("y_pred"), rows("y_prob"));
        let ids: Vec<String> = (0..truths.len()).map(|place| format!("s{place}")).collect();
        let table = label_table(ids.iter().zip(&truths).map(|(id, row)| {
            let cell = |class: usize| if row[class] == 1.0 { "1.0" } else { "0.0" };
            (id.as_str(), std::array::from_fn(cell))
        }));
        folder.write("labels.csv", &table)?;
        let mut lines = String::new();
        for (place, row) in said.iter().enumerate() {
            let labels = Finding::ALL.map(|finding| match row[finding as usize] == 1.0 {
                true => Label::Positive,
                false => Label::Negative,
            });
            let probabilities = probabilities.get(place).map(|row| {
                std::array::from_fn(|class| row[class].as_f64().unwrap_or_default() as f32)
            });
            lines += &line(&ids[place], "Clear.", Some(labels), probabilities)?;
        }
        folder.write("results.jsonl", &lines)?;
        let scores = folder.scores(&["results.jsonl", "--references", "labels.csv"])?;
        let close = |name: &str, theirs: &Value| {
            let ours = value(&scores, "labels", name, None);
            close(&format!("{} {name}", case["name"]), ours, theirs, 1e-9)
        };
        close("macro F1", &case["macro"]["f1"])?;
        close("macro precision", &case["macro"]["precision"])?;
        close("macro recall", &case["macro"]["recall"])?;
        close("micro F1", &case["micro"]["f1"])?;
        close("sample F1", &case["samples"]["f1"])?;
        close("accuracy", &case["accuracy_mean_of_columns"])?;
        for (class, finding) in Finding::ALL.into_iter().enumerate() {
            for (name, theirs) in [
                ("F1", "f1"),
                ("precision", "precision"),
                ("recall", "recall"),
            ] {
                let ours = value(&scores, "labels", name, Some(finding));
                let what = format!("{} {name} of {finding}", case["name"]);
                // There it is 0, and counts so in the means.
                if truths.iter().all(|row| row[class] == 0.0) {
                    ensure!(ours.is_none(), "{what}: no study has it");
                    continue;
                }
                super::recorded::close(&what, ours, &case["per_class"][theirs][class], 1e-9)?;
            }
        }
        if case["auc_macro_probs"].is_number() {
            let ours = value(&scores, "findings", "macro AUC", None);
            let what = format!("{} macro AUC", case["name"]);
            super::recorded::close(&what, ours, &case["auc_macro_probs"], 1e-6)?;
        }
    }
    Ok(())
}

#[test]
fn intervals_hold_the_score_repeat_with_the_seed_and_are_drawn_by_patient() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    write_pairs(&folder)?;
    let run = |arguments: &[&str], references: &str| -> Result<Value> {
        let files = ["predictions.csv", "--references", references, "--json"];
        let printed = folder.evaluate(&[&files[..], arguments].concat())?;
        Ok(serde_json::from_str(&printed)?)
    };
    let first = run(&[], "references.csv")?;
    ensure!(
        first == run(&[], "references.csv")?,
        "the same seed, other intervals"
    );
    ensure!(
        first != run(&["--seed", "7"], "references.csv")?,
        "another seed, the same intervals"
    );
    let interval = |scores: &Value| -> Result<(f64, f64, f64)> {
        let metric = &scores["metrics"][3];
        let at = |name: &str| metric[name].as_f64().context("no interval");
        Ok((at("low")?, at("value")?, at("high")?))
    };
    let (low, bleu, high) = interval(&first)?;
    ensure!(low < bleu && bleu < high, "{low} {bleu} {high}");
    // All studies of one patient say nothing of the spread.
    let table = folder
        .read("references.csv")?
        .replace("study_id,findings", "study_id,patient_id,findings");
    let rows: Vec<String> = table
        .split_inclusive('\n')
        .map(|row| match row.split_once(",\"") {
            Some((id, rest)) => format!("{id},p1,\"{rest}"),
            None => row.to_owned(),
        })
        .collect();
    folder.write("one-patient.csv", &rows.concat())?;
    let scores = run(&[], "one-patient.csv")?;
    let metric = &scores["metrics"][3];
    ensure!(metric["value"].is_f64(), "{metric}");
    ensure!(
        metric["low"].is_null() && metric["high"].is_null(),
        "{metric}"
    );
    let printed = folder.evaluate(&["predictions.csv", "--references", "one-patient.csv"])?;
    ensure!(printed.contains(" [-] "), "{printed}");
    Ok(())
}

#[test]
fn what_rests_on_one_patient_has_no_interval_and_is_named() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let (mut lines, mut table) = (String::new(), String::new());
    // Half of the studies have no finding; one patient's two have edema. One has a fracture, and of no other is it known; all but
    // one have devices.
    for place in 0..24 {
        let (id, is_edema) = (format!("s{place}"), place == 1 || place == 3);
        let truths = Finding::ALL.map(|finding| match finding {
            Finding::NoFinding => place % 2 == 0,
            Finding::Fracture => place == 5,
            Finding::SupportDevices => place != 2,
            finding => finding == Finding::Edema && is_edema,
        });
        let labels = truths.map(|truth| {
            if truth {
                Label::Positive
            } else {
                Label::Negative
            }
        });
        // Ranked well, not without an error.
        let off = f32::from(u8::from(place % 5 == 0)) * 0.5;
        let probabilities = truths.map(|truth| if truth { 0.9 - off } else { 0.2 + off });
        lines += &line(&id, "Clear.", Some(labels), Some(probabilities))?;
        let cells = Finding::ALL.map(|finding| match (truths[finding as usize], finding) {
            (true, _) => "1",
            (false, Finding::Fracture) => "",
            (false, _) => "0",
        });
        let patient = if is_edema { "p" } else { id.as_str() };
        table += &format!("{id},{patient},{}\n", cells.join(","));
    }
    let names = Finding::ALL.map(Finding::name).join(",");
    folder.write("results.jsonl", &lines)?;
    folder.write(
        "labels.csv",
        &format!("study_id,patient_id,{names}\n{table}"),
    )?;
    let files = [
        "results.jsonl",
        "--references",
        "labels.csv",
        "--blank",
        "unknown",
    ];
    let scores = folder.scores(&files)?;
    let metrics = scores["metrics"].as_array().context("metrics")?;
    let has_interval = |name: &str, finding: Option<Finding>| -> Result<bool> {
        let finding = finding.map(|finding| Value::from(finding.name()));
        let is_it =
            |metric: &&Value| metric["name"] == name && metric.get("finding").cloned() == finding;
        let metric = metrics
            .iter()
            .find(is_it)
            .with_context(|| name.to_owned())?;
        ensure!(metric["value"].is_f64(), "{metric}");
        Ok(metric["low"].is_f64() && metric["high"].is_f64())
    };
    for name in ["F1", "AUC"] {
        ensure!(!has_interval(name, Some(Finding::Edema))?, "{name}");
        ensure!(has_interval(name, Some(Finding::NoFinding))?, "{name}");
    }
    for name in ["F1", "precision", "recall"] {
        ensure!(!has_interval(name, Some(Finding::Fracture))?, "{name}");
        ensure!(has_interval(name, Some(Finding::SupportDevices))?, "{name}");
    }
    ensure!(!has_interval("AUC", Some(Finding::SupportDevices))?);
    ensure!(has_interval("macro AUC", None)? && has_interval("macro F1", None)?);
    let notes = scores["notes"].to_string();
    for group in ["Labels of the reports", "Findings of the images"] {
        let named = format!(
            "{group}: fewer than 10 patients with, or without, Edema (1), Fracture (1), Support Devices (1): "
        );
        ensure!(notes.contains(&named), "{notes}");
    }
    ensure!(folder.evaluate(&files)?.contains("means that they are in"));
    Ok(())
}

#[test]
fn a_system_does_not_differ_from_itself_and_a_far_better_one_does() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let (mut good, mut bad, mut references) = (
        "id,prediction\n".to_owned(),
        "id,prediction\n".to_owned(),
        "id,findings\n".to_owned(),
    );
    for place in 0..30 {
        let text = format!("The heart is normal in size and lung {place} is clear.");
        good += &format!("a{place},{text}\n");
        bad += &format!("a{place},There is something else number {place}.\n");
        references += &format!("a{place},{text}\n");
    }
    for (name, content) in [
        ("same.csv", good.clone()),
        ("good.csv", good),
        ("bad.csv", bad),
        ("references.csv", references),
    ] {
        folder.write(name, &content)?;
    }
    let compared = |against: &str| -> Result<(f64, f64)> {
        let scores = folder.scores(&[
            "good.csv",
            "--references",
            "references.csv",
            "--against",
            against,
        ])?;
        let metric = &scores["comparison"]["metrics"][3];
        let at = |name: &str| metric[name].as_f64().context("no comparison");
        Ok((at("p")?, at("other")?))
    };
    ensure!(
        compared("same.csv")?.0 == 1.0,
        "a system differs from itself"
    );
    let (p, other) = compared("bad.csv")?;
    // 20 exchanges: none of them differs as much.
    ensure!(p < 0.05 && other < 0.5, "{p} {other}");
    Ok(())
}
