//! Intervals of what is asked after reports, selections, and references that a run has stored.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::EvaluationFixture;
use super::verify::batch;

#[test]
fn every_score_of_corrections_has_an_interval_over_the_patients_of_the_table() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let labels = std::fs::read_to_string(fixture.path("labels.csv"))?;
    let with_patients: Vec<String> = labels
        .lines()
        .enumerate()
        .map(|(row, line)| match row {
            0 => format!("patient_id,nih_labels,{line}"),
            row => format!("p{},x,{line}", row / 3),
        })
        .collect();
    std::fs::write(fixture.path("nih.csv"), with_patients.join("\n") + "\n")?;
    let task = ["correction", "studies.csv", "--labels", "nih.csv"];
    let text = fixture.evaluate(0, &[&task[..], &["--resamples", "50"]].concat(), "eval")?;
    ensure!(text.contains("truth: NIH's labels (nih.csv)"), "{text}");
    ensure!(
        text.contains("bootstrap of 50 resamples over 2 patients"),
        "{text}"
    );
    let scores = fixture.json("eval/correction.json")?;
    ensure!(scores["truth"]["kind"] == "nih", "{scores}");
    let intervals = scores["intervals"].as_array().context("intervals")?;
    let names: Vec<&str> = intervals
        .iter()
        .filter_map(|of| of["name"].as_str())
        .collect();
    for name in [
        "BLEU-1",
        "ROUGE-L",
        "macro F1",
        "accuracy",
        "precision",
        "recall",
        "F1",
    ] {
        ensure!(names.contains(&name), "{name}: {names:?}");
    }
    for of in intervals {
        let [first, second, difference] =
            ["first", "second", "difference"].map(|side| of[side]["value"].as_f64());
        let (first, second) = (first.context("first")?, second.context("second")?);
        let difference = difference.context("difference")?;
        ensure!((second - first - difference).abs() < 1e-9, "{of}");
        ensure!(of["first"]["low"].as_f64() <= of["first"]["high"].as_f64());
    }
    let bleu = &scores["before"]["texts"][0];
    ensure!(bleu["name"] == "BLEU-1" && bleu["low"].is_f64(), "{bleu}");
    Ok(())
}

#[test]
fn a_stratified_evaluation_asks_about_selected_studies_and_counts_those_without_a_truth()
-> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    // Of four studies one has no label, one a finding, two nothing; int(1 * 14 / 13 / 14) = 0 of these stay.
    let labels = "study_id,No Finding,Edema,Cardiomegaly\ns0,0,1,0\ns1,1,0,0\ns2,1,0,0\ns3,,,\n";
    std::fs::write(fixture.path("some.csv"), labels)?;
    let labels = ["--labels", "some.csv", "--stratified"];
    let correction = [&["correction", "studies.csv"], &labels[..]].concat();
    let text = fixture.evaluate(0, &correction, "eval")?;
    ensure!(
        text.contains("1 study scored, 1 without a truth, 0 failed")
            && text.contains("2 not selected"),
        "{text}"
    );
    let all = [
        &["findings-qa", "studies.csv", "--mode", "all"],
        &labels[..],
    ]
    .concat();
    fixture.evaluate(0, &all, "eval")?;
    let asked = fixture.dialogs("eval", "all-findings-questions")?;
    ensure!(asked.len() == 1 && asked[0].0 == "s0", "{asked:?}");
    let scores = fixture.json("eval/findings-qa-all.json")?;
    ensure!(scores["studies"]["not_selected"] == 2, "{scores}");
    // All studies are another evaluation, and a refused one has not touched the scores.
    let text = fixture.evaluate(64, &all[..all.len() - 1], "eval")?;
    ensure!(text.contains("name another with --out"), "{text}");
    ensure!(fixture.json("eval/findings-qa-all.json")? == scores);
    Ok(())
}

#[test]
fn a_run_is_scored_beside_the_reference_texts_that_it_has_stored() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    batch(&fixture, "out", &[])?;
    let evaluate = |code: i32, more: &[&str]| -> Result<(String, Value)> {
        let report = ["evaluate", "report", "out", "--resamples", "20"];
        let text = fixture.says(code, &[&report[..], more].concat())?;
        Ok((text, fixture.json("out/evaluation/scores.json")?))
    };
    let (text, scores) = evaluate(0, &[])?;
    ensure!(scores["counts"]["texts"] == 3, "{text}");
    ensure!(
        text.contains("BLEU-1") && !text.contains("no text scores"),
        "{text}"
    );
    let truth = &scores["label_sources"]["truth"][0];
    ensure!(
        truth["of"].to_string().contains("references of the run"),
        "{truth}"
    );
    // A store that is not there is said, and labels are scored all the same.
    let (text, scores) = evaluate(0, &["--objects", "nowhere"])?;
    ensure!(scores["counts"]["texts"] == 0, "{text}");
    ensure!(
        text.contains("3 reference texts that the run's store does not have")
            && text.contains("the reference texts that the run had are not in its store"),
        "{text}"
    );
    ensure!(!fixture.path("nowhere").exists());
    Ok(())
}
