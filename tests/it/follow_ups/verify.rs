//! Reports beside samples of the same study, and studies that are made again from their records.

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::RandomBundle;
use serde_json::{Value, json};

use super::{EvaluationFixture, TOKENS, records};

/// `radialog batch` with samples.
pub(super) fn batch(fixture: &EvaluationFixture, out: &str, more: &[&str]) -> Result<String> {
    let run = [
        "batch",
        "studies.csv",
        "--out",
        out,
        "--bundle",
        "bundle",
        "--limit",
        "3",
    ];
    let tokens = ["--max-new-tokens", TOKENS, "--progress", "off"];
    fixture.says(0, &[&run[..], &tokens, more].concat())
}

#[test]
fn sampled_reports_are_seeded_and_leave_the_report_as_it_is() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    batch(&fixture, "plain", &[])?;
    let sampled = ["--consistency", "3", "--consistency-temperature", "1.5"];
    batch(&fixture, "one", &sampled)?;
    batch(&fixture, "again", &sampled)?;
    batch(
        &fixture,
        "other",
        &[&sampled[..], &["--seed", "1"]].concat(),
    )?;
    let read = |out: &str| -> Result<_> {
        let mut records = records(&fixture.path(out).join("results.jsonl"))?;
        records.sort_by(|one, other| one.study.as_str().cmp(other.study.as_str()));
        Ok(records)
    };
    let (plain, one, again, other) = (read("plain")?, read("one")?, read("again")?, read("other")?);
    for place in 0..3 {
        ensure!(plain[place].report == one[place].report && plain[place].consistency.is_none());
        let consistency = one[place].consistency.as_ref().context("samples")?;
        ensure!(consistency.samples.len() == 3);
        ensure!(
            (0.0..=1.0).contains(&consistency.agreement),
            "{consistency:?}"
        );
        ensure!(
            consistency.samples[0] != consistency.samples[1],
            "a stream each"
        );
        ensure!(one[place].consistency == again[place].consistency);
        ensure!(one[place].consistency != other[place].consistency);
    }
    let table = std::fs::read_to_string(fixture.path("one/results.csv"))?;
    let agreement = one[0]
        .consistency
        .as_ref()
        .map(|of| of.agreement.to_string());
    ensure!(table.contains(&agreement.context("samples")?), "{table}");
    // The run's folder is of these samples, and of no others.
    let more = [
        "batch",
        "studies.csv",
        "--out",
        "one",
        "--bundle",
        "bundle",
        "--limit",
        "3",
    ];
    let text = fixture.says(64, &[&more[..], &["--max-new-tokens", TOKENS]].concat())?;
    ensure!(text.contains("way of decoding"), "{text}");
    Ok(())
}

#[test]
fn a_study_is_made_again_from_its_record_and_a_changed_record_is_found_out() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    batch(
        &fixture,
        "out",
        &["--temperature", "0.9", "--seed", "5", "--consistency", "2"],
    )?;
    let verify = |code: i32, study: &str, more: &[&str]| {
        let run = ["verify", study, "--run", "out", "--bundle", "bundle"];
        fixture.says(code, &[&run[..], more].concat())
    };
    let text = verify(0, "s1", &[])?;
    ensure!(
        text.contains("the same bytes") && text.contains("consistency"),
        "{text}"
    );

    // A sampled report is the same one with samples and without.
    batch(&fixture, "alone", &["--temperature", "0.9", "--seed", "5"])?;
    let reports = |out: &str| -> Result<Vec<_>> {
        let records = records(&fixture.path(out).join("results.jsonl"))?;
        let mut reports: Vec<_> = records
            .into_iter()
            .map(|of| (of.study, of.report))
            .collect();
        reports.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        Ok(reports)
    };
    ensure!(reports("out")? == reports("alone")?);

    // Without the store, the image can be given; the reference cannot.
    let record = records(&fixture.path("out/results.jsonl"))?
        .into_iter()
        .find(|record| record.study.as_str() == "s1")
        .context("s1")?;
    let image = fixture.path(&record.file).display().to_string();
    verify(0, "s1", &["--image", &image])?;
    let text = verify(64, "s1", &["--image", "studies.csv"])?;
    ensure!(
        text.contains("this is another file, or it was changed"),
        "{text}"
    );
    let text = verify(64, "s1", &["--objects", "nowhere"])?;
    ensure!(text.contains("--image"), "{text}");
    let text = verify(64, "s9", &[])?;
    ensure!(
        text.contains("no study 's9'; it has 3 studies: s"),
        "{text}"
    );
    RandomBundle::tiny(8).write(&fixture.path("other"))?;
    let other = ["verify", "s1", "--run", "out", "--bundle", "other"];
    let text = fixture.says(64, &other)?;
    ensure!(text.contains("the study was made with"), "{text}");

    let path = fixture.path("out/results.jsonl");
    let text = std::fs::read_to_string(&path)?;
    let mut lines = text.lines();
    let line = lines.find(|line| line.contains("\"study_id\":\"s1\""));
    let recorded: Value = serde_json::from_str(line.context("s1")?)?;
    // What was taken out, put in or rewritten, at any depth.
    for (field, changed) in [
        ("report_labels", None),
        ("consistency", None),
        ("disagreement", Some(json!([]))),
        (
            "comparisons",
            Some(json!([{"sentence": 0, "range": [0, 1], "words": "x", "words_range": [0, 1]}])),
        ),
        ("signed_by", Some(json!("nobody"))),
    ] {
        let mut line = recorded.clone();
        let fields = line.as_object_mut().context("a record")?;
        match changed {
            Some(changed) => drop(fields.insert(field.to_owned(), changed)),
            None => drop(fields.remove(field)),
        }
        if fields.get(field) == recorded.get(field) {
            continue;
        }
        std::fs::write(&path, line.to_string() + "\n")?;
        let text = verify(65, "s1", &[])?;
        ensure!(text.contains(&format!("  {field}\n")), "{field}: {text}");
    }
    // A release that marked no comparisons and had no gate has written no other line.
    let mut line = recorded.clone();
    let fields = line.as_object_mut().context("a record")?;
    ensure!(fields.remove("comparisons").is_some() && fields.remove("input_gate").is_some());
    if let Some(Value::Array(warnings)) = fields.get_mut("warnings") {
        warnings.retain(|warning| !warning.to_string().contains("frontal chest X-ray"));
        if warnings.is_empty() {
            fields.remove("warnings");
        }
    }
    std::fs::write(&path, line.to_string() + "\n")?;
    let older = verify(0, "s1", &[])?;
    ensure!(
        older.contains("not compared: comparisons, input_gate"),
        "{older}"
    );
    let changed = text.replace("\"seed\":5", "\"seed\":6");
    ensure!(changed != text);
    std::fs::write(&path, changed)?;
    let text = verify(65, "s1", &[])?;
    ensure!(
        text.contains("NOT the same") && text.contains("  report\n"),
        "{text}"
    );
    std::fs::write(&path, text_without(&record)?)?;
    let text = verify(65, "s1", &[])?;
    ensure!(
        text.contains("does not say how the report was decoded"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_run_of_embeddings_has_nothing_that_a_study_could_be_compared_with() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    batch(&fixture, "out", &["--stages", "embedding"])?;
    let verify = ["verify", "s1", "--run", "out", "--bundle", "bundle"];
    let text = fixture.says(65, &verify)?;
    ensure!(
        text.contains("cannot be verified") && text.contains("has no findings"),
        "{text}"
    );
    Ok(())
}

/// The line of a release that did not write how reports are decoded.
fn text_without(record: &radialog_schemas::StudyRecord) -> Result<String> {
    let mut line = serde_json::to_value(record)?;
    line.as_object_mut()
        .context("a record")?
        .remove("generation");
    Ok(line.to_string() + "\n")
}
