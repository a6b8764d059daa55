//! What is said beside the usual scores: errors by severity, unsupported comparisons, studies that are set aside, ReXrank's own.

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Finding, Label};
use serde_json::{Value, json};

use super::{EvaluationFixture, label_table, line, value};

/// Labels of a report in which this is positive and all else negative.
fn only(finding: Finding) -> [Label; 14] {
    let mut labels = [Label::Negative; 14];
    labels[finding as usize] = Label::Positive;
    labels
}

/// The same as a row of a table.
fn row(finding: Finding) -> [&'static str; 14] {
    Finding::ALL.map(|other| if other == finding { "1" } else { "0" })
}

fn direction(scores: &Value, name: &str) -> Option<String> {
    let metrics = scores["metrics"].as_array()?;
    let metric = metrics.iter().find(|metric| metric["name"] == name)?;
    metric["better"].as_str().map(str::to_owned)
}

#[test]
fn errors_are_weighed_comparisons_marked_and_lower_is_said_to_be_better() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let lines = line(
        "a1",
        "Heart size is unchanged. Rib fracture.",
        Some(only(Finding::Fracture)),
        None,
    )? + &line("a2", "Edema.", Some(only(Finding::Edema)), None)?;
    folder.write("results.jsonl", &lines)?;
    let rows = [
        ("a1", row(Finding::Pneumothorax)),
        ("a2", row(Finding::Edema)),
    ];
    folder.write("labels.csv", &label_table(rows))?;
    let scores = folder.scores(&["results.jsonl", "--references", "labels.csv"])?;
    // A missed pneumothorax weighs 4, a fracture that is none 1; two reports.
    let severity = "severity-weighted errors of a report";
    ensure!(
        value(&scores, "labels", severity, None) == Some(2.5),
        "{scores}"
    );
    let compare = "reports that compare";
    ensure!(
        value(&scores, "comparisons", compare, None) == Some(0.5),
        "{scores}"
    );
    for name in [severity, compare] {
        ensure!(
            direction(&scores, name).as_deref() == Some("lower"),
            "{name}"
        );
    }
    let page = folder.read("evaluation/report.html")?;
    for words in [
        "<span class=\"compares\">Heart size is <mark>unchanged</mark>.</span> Rib fracture.",
        "<li>a1: <span class=\"compares\">Heart size is <mark>unchanged</mark>.</span></li>",
        "<tr><td>Pneumothorax</td><td class=\"number\">4</td><td class=\"number\">2</td></tr>",
    ] {
        ensure!(page.contains(words), "{words:?} is missing");
    }
    let studies = folder.read("evaluation/studies.csv")?;
    ensure!(
        studies.contains(",5,,Fracture,Pneumothorax,,,2,1,,,,1,,a1.png\n"),
        "{studies}"
    );
    Ok(())
}

#[test]
fn scores_rise_where_the_least_consistent_studies_are_the_wrong_ones() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut lines = String::new();
    let ids: Vec<String> = (0..20).map(|place| format!("a{place:02}")).collect();
    for (place, id) in ids.iter().enumerate() {
        // The two wrong ones agree least with their samples.
        let is_wrong = place < 2;
        let said = only(if is_wrong {
            Finding::Fracture
        } else {
            Finding::Edema
        });
        let mut record: Value = serde_json::from_str(&line(id, "Edema.", Some(said), None)?)?;
        let agreement = if is_wrong { 0.1 } else { 0.9 };
        record["consistency"] =
            json!({"agreement": agreement, "sentences": [], "samples": ["Edema."]});
        lines += &format!("{record}\n");
    }
    folder.write("results.jsonl", &lines)?;
    let rows = ids.iter().map(|id| (id.as_str(), row(Finding::Edema)));
    folder.write("labels.csv", &label_table(rows))?;
    let scores = folder.scores(&["results.jsonl", "--references", "labels.csv"])?;
    let aside = &scores["set_asides"];
    ensure!(aside["sampled"] == 20, "{aside}");
    let metrics = aside["metrics"].as_array().context("no metrics")?;
    let micro = metrics
        .iter()
        .position(|metric| metric["name"] == "micro F1");
    let micro = micro.context("no micro F1")?;
    let rows = aside["rows"].as_array().context("no rows")?;
    let of = |row: &Value| {
        let f1 = row["values"][micro].as_f64().unwrap_or(f64::NAN);
        (row["studies"].clone(), format!("{f1:.6}"))
    };
    let found: Vec<_> = rows.iter().map(of).collect();
    // One, then none of the wrong ones is left.
    let expected = [
        (20, "0.900000"),
        (19, "0.947368"),
        (18, "1.000000"),
        (16, "1.000000"),
    ];
    let expected = expected.map(|(studies, f1)| (Value::from(studies), f1.to_owned()));
    ensure!(found == expected, "{found:?}");
    let interval = |row: &Value| -> Option<[f64; 2]> {
        let interval = &row["intervals"][micro];
        Some([interval[0].as_f64()?, interval[1].as_f64()?])
    };
    let [low, high] = interval(&rows[0]).context("an interval")?;
    ensure!(low < 0.9 && 0.9 < high, "{low} {high}");
    // All that stay are right.
    ensure!(interval(&rows[3]) == Some([1.0, 1.0]), "{rows:?}");
    let printed = folder.evaluate(&["results.jsonl", "--references", "labels.csv"])?;
    ensure!(
        printed.contains("Without the least consistent of 20 studies"),
        "{printed}"
    );
    let page = folder.read("evaluation/report.html")?;
    ensure!(
        page.contains("10 % aside (18)"),
        "the page has no set-asides"
    );
    Ok(())
}

#[test]
fn rexrank_scores_whole_reports_by_its_own_bleu_and_names_what_it_does_not_compute() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "predictions.json",
        r#"{"s1": {"section_findings": "The lungs are clear.", "section_impression": null,
            "model_prediction": "Findings: The lungs are clear. Impression: None"}}"#,
    )?;
    let rexrank = ["predictions.json", "--protocol", "rexrank"];
    let scores = folder.scores(&rexrank)?;
    // The benchmark writes Python's `None` for a section that is missing.
    ensure!(
        value(&scores, "text", "BLEU-2 (mean of texts)", None) == Some(1.0),
        "{scores}"
    );
    ensure!(
        value(&scores, "text", "ROUGE-L", None).is_none(),
        "{scores}"
    );
    let notes = scores["notes"].to_string();
    ensure!(notes.contains("GREEN is not computed"), "{notes}");
    let studies = folder.read("evaluation/studies.csv")?;
    ensure!(
        studies.starts_with("study_id,patient,words,reference_words,bleu_2,label_f1,"),
        "{studies}"
    );
    folder.write("meteor.jar", "")?;
    for (option, place) in [("--meteor", "meteor.jar"), ("--original-files", "old")] {
        let fault = folder.fault(&[&rexrank[..], &[option, place]].concat(), 64)?;
        ensure!(fault.contains("leave"), "{fault}");
    }
    Ok(())
}
