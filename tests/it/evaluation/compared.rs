//! Two systems beside each other, on what both have.

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Finding, Label};
use serde_json::Value;

use super::{EvaluationFixture, label_table, line, value};

/// A score of both systems.
fn compared(scores: &Value, name: &str) -> Option<[f64; 2]> {
    let metrics = scores["comparison"]["metrics"].as_array()?;
    let compared = metrics
        .iter()
        .find(|of| of["name"] == name || of["metric"]["name"] == name)?;
    Some([compared["ours"].as_f64()?, compared["other"].as_f64()?])
}

#[test]
fn a_study_without_a_score_on_one_side_counts_on_neither() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let others = "i1,Clear lungs.\ni2,Small effusion.\n";
    // Too long to compare with its reference.
    let failed = "effusion ".repeat(3000);
    folder.write("a.csv", &format!("id,report\ni0,{failed}\n{others}"))?;
    folder.write("b.csv", &format!("id,report\ni0,Other words.\n{others}"))?;
    let reference = "lung ".repeat(2000);
    folder.write("r.csv", &format!("id,findings\ni0,{reference}\n{others}"))?;
    let scores = folder.scores(&["a.csv", "--references", "r.csv", "--against", "b.csv"])?;
    let rouge = compared(&scores, "ROUGE-L").context("ROUGE-L")?;
    ensure!(rouge == [1.0, 1.0], "{rouge:?}");
    let unpaired = &scores["comparison"]["unpaired"];
    ensure!(
        unpaired[0]["scores"] == "words" && unpaired[0]["studies"] == 1,
        "{unpaired}"
    );
    Ok(())
}

#[test]
fn two_classifiers_are_compared_by_how_they_rank_and_state() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let (mut good, mut bad, mut rows) = (String::new(), String::new(), Vec::new());
    let ids: Vec<String> = (0..12).map(|place| format!("s{place}")).collect();
    for (place, id) in ids.iter().enumerate() {
        let is_there = place % 2 == 0;
        let probability = |right: bool| [if is_there == right { 0.9 } else { 0.2 }; 14];
        good += &line(id, "Clear.", None, Some(probability(true)))?;
        bad += &line(id, "Clear.", None, Some(probability(false)))?;
        rows.push((id.as_str(), [if is_there { "1" } else { "0" }; 14]));
    }
    folder.write("good.jsonl", &good)?;
    folder.write("bad.jsonl", &bad)?;
    folder.write("labels.csv", &label_table(rows))?;
    let files = ["good.jsonl", "--references", "labels.csv"];
    let scores = folder.scores(&[&files[..], &["--against", "bad.jsonl"]].concat())?;
    let of = |name: &str| compared(&scores, name).with_context(|| name.to_owned());
    ensure!(of("macro AUC")? == [1.0, 0.0] && of("AUC")? == [1.0, 0.0]);
    for name in ["Brier score", "expected calibration error"] {
        let [ours, other] = of(name)?;
        ensure!(ours < other, "{name}: {ours} {other}");
    }
    let mut metrics = scores["metrics"].as_array().into_iter().flatten();
    let error = metrics.find(|metric| metric["name"] == "expected calibration error");
    let error = error.context("the error of calibration")?;
    ensure!(
        error["better"] == "lower" && error["low"].is_f64(),
        "{error}"
    );
    let printed = folder.evaluate(&[&files[..], &["--against", "good.jsonl"]].concat());
    ensure!(printed.is_err(), "a system beside itself");
    Ok(())
}

#[test]
fn equal_texts_have_equal_scores_whatever_else_a_system_has() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let row = |place: u32| {
        format!(
            "i{place},Lungs clear {place}. Heart size normal w{}.\n",
            place % 7
        )
    };
    let all: String = (0..40).map(row).collect();
    let half: String = (0..20).map(row).collect();
    folder.write("a.csv", &format!("id,report\n{all}"))?;
    folder.write("b.csv", &format!("id,report\n{half}"))?;
    let references = all.replace("Heart size", "The heart size is");
    folder.write("r.csv", &format!("id,findings\n{references}"))?;
    let protocol = ["--protocol", "coco-caption"];
    for (ours, other) in [("a.csv", "b.csv"), ("b.csv", "a.csv")] {
        let files = [ours, "--references", "r.csv", "--against", other];
        let scores = folder.scores(&[&files[..], &protocol].concat())?;
        let [ours, other] = compared(&scores, "CIDEr").context("CIDEr")?;
        ensure!(ours == other, "{ours} and {other}");
    }
    Ok(())
}

#[test]
fn findings_that_were_given_have_no_probabilities() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let probabilities = |edema: f32| {
        let mut all = [0.0; 14];
        all[Finding::Edema as usize] = edema;
        Some(all)
    };
    let labels = Some([Label::Negative; 14]);
    let lines = line("a", "Edema.", labels, probabilities(1.0))?
        + &line("b", "Clear.", labels, probabilities(0.0))?;
    folder.write("results.jsonl", &lines)?;
    let mut cells = [["0"; 14]; 2];
    cells[0][Finding::Edema as usize] = "1";
    folder.write(
        "labels.csv",
        &label_table([("a", cells[0]), ("b", cells[1])]),
    )?;
    let files = ["results.jsonl", "--references", "labels.csv"];
    let scores = folder.scores(&files)?;
    ensure!(
        value(&scores, "findings", "Brier score", None).is_some(),
        "{scores}"
    );
    let sha256 = "ab".repeat(32);
    let given = format!(
        "\"given\":{{\"findings\":{{\"object\":\"given/findings/{sha256}.json\",\"file\":{{\"name\":\"p.json\",\"sha256\":\"{sha256}\"}}}}}},\"status\":"
    );
    let given = lines.replace("\"status\":", &given);
    folder.write("results.jsonl", &given)?;
    let scores = folder.scores(&files)?;
    ensure!(
        value(&scores, "findings", "Brier score", None).is_none(),
        "{scores}"
    );
    ensure!(
        value(&scores, "findings", "micro F1", None) == Some(1.0),
        "{scores}"
    );
    ensure!(scores.get("calibration").is_none(), "{scores}");
    Ok(())
}

#[test]
fn a_table_of_chexberts_is_read_as_the_original_reads_it() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut lines = String::new();
    for (study, finding) in [
        ("a", Some(Finding::Edema)),
        ("b", Some(Finding::Cardiomegaly)),
        ("c", None),
        ("d", Some(Finding::Fracture)),
    ] {
        let mut labels = [Label::Blank; 14];
        if let Some(finding) = finding {
            labels[finding as usize] = Label::Positive;
        }
        lines += &line(study, "x", Some(labels), None)?;
    }
    folder.write("results.jsonl", &lines)?;
    let mut cells = [[""; 14]; 4];
    cells[0][Finding::Edema as usize] = "1.0";
    cells[1][Finding::Edema as usize] = "0.0";
    cells[1][Finding::Cardiomegaly as usize] = "1.0";
    let rows = ["a", "b", "c", "d"].into_iter().zip(cells);
    let table = label_table(rows);
    folder.write("chexbert.csv", &table)?;
    folder.write("labels.csv", &table)?;
    let of = |references: &str| folder.scores(&["results.jsonl", "--references", references]);
    let scores = of("chexbert.csv")?;
    // scikit-learn's means over 14 classes and 4 studies.
    let near = |name: &str, expected: f64| -> Result<()> {
        let found = value(&scores, "labels", name, None).context(name.to_owned())?;
        ensure!((found - expected).abs() < 1e-6, "{name}: {found}");
        Ok(())
    };
    near("macro F1", 2.0 / 14.0)?;
    near("sample F1", 0.5)?;
    near("accuracy", 55.0 / 56.0)?;
    let others = of("labels.csv")?;
    ensure!(others["counts"]["labelled_reports"] == 2, "{others}");
    ensure!(
        others["metrics"]
            .to_string()
            .contains("of 2 of 14 findings"),
        "{others}"
    );
    Ok(())
}

#[test]
fn blanks_of_a_table_count_as_the_user_says() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut said = [Label::Negative; 14];
    said[Finding::Edema as usize] = Label::Positive;
    let mut lines = line("a", "x", Some(said), None)?;
    said[Finding::Cardiomegaly as usize] = Label::Positive;
    lines += &line("b", "x", Some(said), None)?;
    folder.write("results.jsonl", &lines)?;
    let mut cells = [[""; 14]; 2];
    cells[0][Finding::Edema as usize] = "1.0";
    cells[1][Finding::Cardiomegaly as usize] = "1.0";
    let rows = ["a", "b"].into_iter().zip(cells);
    folder.write("labels.csv", &label_table(rows))?;
    let files = ["results.jsonl", "--references", "labels.csv", "--blank"];
    // Of the two findings that have labels, b's edema is wrong; of all 14 as well; and where blanks are not known, nothing is.
    for (blank, accuracy, macro_f1) in [
        ("auto", 3.0 / 4.0, (2.0 / 3.0 + 1.0) / 2.0),
        ("negative", 27.0 / 28.0, (2.0 / 3.0 + 1.0) / 14.0),
        ("unknown", 1.0, 1.0),
    ] {
        let scores = folder.scores(&[&files[..], &[blank]].concat())?;
        for (name, expected) in [("accuracy", accuracy), ("macro F1", macro_f1)] {
            let found = value(&scores, "labels", name, None).context(name)?;
            ensure!((found - expected).abs() < 1e-9, "{blank}, {name}: {found}");
        }
    }
    Ok(())
}
