//! Whose labels scores are of, which files cannot be read, and what an evaluation leaves behind that fails.

use anyhow::{Result, ensure};
use radialog_files::folder_lock::FolderLock;
use radialog_schemas::{Finding, Label};

use super::{EvaluationFixture, label_table, line, value};

/// A run of two labelled reports.
fn run(folder: &EvaluationFixture) -> Result<()> {
    let mut labels = [Label::Negative; 14];
    labels[Finding::Edema as usize] = Label::Positive;
    let lines = line("a", "Edema.", Some(labels), Some([0.7; 14]))?
        + &line("b", "Clear.", Some([Label::Blank; 14]), Some([0.2; 14]))?;
    folder.write("results.jsonl", &lines)
}

#[test]
fn every_score_of_labels_names_whose_labels_it_is_beside() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    run(&folder)?;
    let table = label_table([("a", ["1"; 14]), ("b", ["0"; 14])]);
    folder.write(
        "nih.csv",
        &table
            .replace("study_id,", "study_id,nih_labels,")
            .replace("\na,", "\na,Edema,")
            .replace("\nb,", "\nb,,"),
    )?;
    let scores = folder.scores(&["results.jsonl", "--references", "nih.csv"])?;
    let truth = &scores["label_sources"]["truth"][0];
    ensure!(
        truth["kind"] == "nih" && truth["of"] == "nih.csv",
        "{truth}"
    );
    ensure!(scores["label_sources"]["reports"][0]["kind"] == "chexbert");
    for metric in scores["metrics"].as_array().into_iter().flatten() {
        let is_of_labels = metric["group"] == "labels" || metric["group"] == "findings";
        let names = metric["protocol"]
            .to_string()
            .contains("NIH's labels (nih.csv)");
        ensure!(names == is_of_labels, "{metric}");
    }
    for file in ["report.html", "report.md"] {
        let text = folder.read(&format!("evaluation/{file}"))?;
        ensure!(text.contains("NIH") && text.contains("(nih.csv)"), "{file}");
        ensure!(text.contains("they cannot be compared"), "{file}");
        // Each score that is published has a place beside ours.
        ensure!(
            text.contains("BERTScore") && text.contains("not computed here"),
            "{file}"
        );
    }
    folder.write("finding_chexbert_labels.csv", &table)?;
    let chexbert = [
        "results.jsonl",
        "--references",
        "finding_chexbert_labels.csv",
    ];
    let scores = folder.scores(&chexbert)?;
    ensure!(scores["label_sources"]["truth"][0]["kind"] == "chexbert");
    // Another measure under the same name cannot be laid beside the published one.
    folder.scores(&[&chexbert[..], &["--uncertain", "positive"]].concat())?;
    let tables = folder.read("evaluation/report.md")?;
    ensure!(
        tables.contains("CE here counts uncertain findings as positive"),
        "{tables}"
    );
    folder.scores(&chexbert)?;
    ensure!(
        !folder
            .read("evaluation/report.md")?
            .contains("CE here is beside")
    );
    Ok(())
}

#[test]
fn files_of_another_encoding_are_named_with_what_to_do() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let utf_16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let latin_1 = |text: &str| -> Vec<u8> {
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
        bytes.map(|byte| byte.unwrap_or(b'?')).collect()
    };
    let table = "id,report\na,D\u{e9}nse.\nb,Clear.\n";
    folder.write("good.csv", table)?;
    let json = r#"{"a": {"findings": "D\u00e9", "model_prediction": "x"}}"#;
    for (name, content) in [
        ("utf16.csv", utf_16(table)),
        ("texts16.csv", utf_16("Clear.\nEdema.\n")),
        ("utf16.json", utf_16(json)),
        ("latin1.json", latin_1(&json.replace("\\u00e9", "\u{e9}"))),
        ("texts1.csv", latin_1("D\u{e9}nse.\nClear.\n")),
    ] {
        std::fs::write(folder.path(name), content)?;
        for (reports, references) in [(name, "good.csv"), ("good.csv", name)] {
            let fault = folder.fault(&[reports, "--references", references], 64)?;
            ensure!(
                fault.contains(name) && fault.contains("in UTF-8"),
                "{name}: {fault}"
            );
            // A table is saved as CSV, and nothing else is.
            ensure!(
                name.ends_with(".csv") || !fault.contains("CSV"),
                "{name}: {fault}"
            );
        }
    }
    let records = "\u{feff}".to_owned() + &line("a", "D\u{e9}nse.", None, None)?;
    folder.write("results.jsonl", &records)?;
    folder.evaluate(&["results.jsonl", "--references", "good.csv"])?;
    for (name, content) in [
        ("utf16.jsonl", utf_16(&records)),
        ("latin1.jsonl", latin_1(&records[3..])),
    ] {
        std::fs::write(folder.path(name), content)?;
        let fault = folder.fault(&[name, "--references", "good.csv"], 64)?;
        ensure!(
            fault.contains(&format!("{name}' line 1: it is "))
                && fault.contains("save the file in UTF-8"),
            "{name}: {fault}"
        );
    }
    // A line of a run that is damaged is computed anew, and not saved otherwise.
    let whole = line("a", "Clear.", None, None)?;
    for damaged in [
        &b"{\"study\": \"\xff\"}\n"[..],
        b"{\"study\": \"a\n",
        &[0; 99],
    ] {
        let content = [whole.as_bytes(), damaged, whole.as_bytes()].concat();
        std::fs::write(folder.path("results.jsonl"), content)?;
        let fault = folder.fault(&["results.jsonl", "--references", "good.csv"], 64)?;
        ensure!(
            fault.contains("results.jsonl' line 2: ")
                && fault.contains("delete it, and run the batch again"),
            "{fault}"
        );
    }
    // Of a table, the row alone.
    std::fs::write(folder.path("latin1.csv"), latin_1(table))?;
    let printed = folder.evaluate(&["good.csv", "--references", "latin1.csv"])?;
    ensure!(
        printed.contains("latin1.csv line 2: it is not UTF-8: save the file in UTF-8"),
        "{printed}"
    );
    std::fs::create_dir(folder.path("reports"))?;
    std::fs::write(
        folder.path("reports/a.txt"),
        latin_1("FINDINGS: D\u{e9}nse."),
    )?;
    let report = " FINAL REPORT\n FINDINGS:\n \n The lungs are clear.\n";
    folder.write("reports/b.txt", report)?;
    let printed = folder.evaluate(&["good.csv", "--references", "reports"])?;
    ensure!(
        printed.contains("1 report that is not UTF-8") && printed.contains("a.txt"),
        "{printed}"
    );
    Ok(())
}

#[test]
fn an_evaluation_that_fails_leaves_no_scores_of_an_earlier_one_under_their_names() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\n")?;
    folder.write("references.csv", "id,findings\na,Clear.\n")?;
    folder.write("others.csv", "id,findings\nx,Clear.\n")?;
    let files = ["predictions.csv", "--references", "references.csv"];
    folder.evaluate(&files)?;
    folder.fault(&["predictions.csv", "--references", "nowhere.csv"], 64)?;
    let exists = |name: &str| folder.path("evaluation").join(name).exists();
    ensure!(exists("scores.json"), "nothing was begun");
    folder.fault(&["predictions.csv", "--references", "others.csv"], 64)?;
    for name in ["scores.json", "studies.csv", "report.html", "report.md"] {
        ensure!(!exists(name) && exists(&format!("{name}.old")), "{name}");
    }
    ensure!(folder.read("evaluation/faults.csv")?.contains(",a,"));
    folder.evaluate(&files)?;
    ensure!(exists("scores.json") && !exists("scores.json.old"));
    // Somebody else writes there.
    let lock = FolderLock::take(&folder.path("evaluation/.evaluation.lock"))?;
    let fault = folder.fault(&files, 1)?;
    ensure!(
        fault.contains("another evaluation writes to 'evaluation'"),
        "{fault}"
    );
    ensure!(exists("scores.json"));
    drop(lock);
    folder.evaluate(&files)?;
    Ok(())
}

#[test]
fn studies_without_labels_are_named_and_left_out_of_a_stratified_selection() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    run(&folder)?;
    folder.write(
        "labels.csv",
        &label_table([("a", ["1"; 14])]).replace("a,1,", "a,0,"),
    )?;
    folder.write("texts.csv", "study_id,findings\na,Edema.\nb,Clear.\n")?;
    let files = [
        "results.jsonl",
        "--references",
        "labels.csv",
        "texts.csv",
        "--stratified",
    ];
    let scores = folder.scores(&files)?;
    ensure!(scores["counts"]["studies"] == 1, "{scores}");
    ensure!(scores["faults"]["unlabelled"] == 1, "{scores}");
    ensure!(
        folder
            .read("evaluation/faults.csv")?
            .contains("studies without labels")
    );
    Ok(())
}

#[test]
fn a_text_of_twenty_thousand_words_has_no_text_scores_and_is_named() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let long = "effusion ".repeat(20_000);
    folder.write(
        "predictions.csv",
        &format!("id,report\na,{long}\nb,Clear.\n"),
    )?;
    let files = ["predictions.csv", "--references", "predictions.csv"];
    let scores = folder.scores(&files)?;
    ensure!(scores["counts"]["texts"] == 1, "{scores}");
    ensure!(scores["faults"]["too-long"] == 1, "{scores}");
    Ok(())
}

#[test]
fn rexranks_scores_of_annotations_are_found_by_study_and_one_without_is_named() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "predictions.csv",
        "id,report\na,Small effusion.\nb,Clear.\nc,Clear.\n",
    )?;
    let graph = r#"{"entities": {"1": {"tokens": "effusion", "label": "OBS-DP", "relations": [["modify", "2"]]},
        "2": {"tokens": "small", "label": "OBS-DP", "relations": []}}}"#;
    folder.write("graphs.json", &format!(r#"{{"a": {graph}, "b": {graph}}}"#))?;
    folder.write("few.json", &format!(r#"{{"a": {graph}}}"#))?;
    folder.write("none.json", &format!(r#"{{"z": {graph}}}"#))?;
    folder.write("parts.csv", "study_id,bertscore,semb_score\nb,1,1\na,1,1\n")?;
    let files = [
        "predictions.csv",
        "--references",
        "predictions.csv",
        "--protocol",
        "rexrank",
    ];
    let plain = folder.scores(&files)?;
    ensure!(
        plain["notes"]
            .to_string()
            .contains("RadCliQ-v1 is not computed: give --report-scores")
    );
    let graphs = [
        "--radgraph-hypotheses",
        "graphs.json",
        "--radgraph-references",
        "graphs.json",
    ];
    let parts = ["--report-scores", "parts.csv"];
    let scores = folder.scores(&[&files[..], &graphs, &parts].concat())?;
    ensure!(
        value(&scores, "text", "RadGraph F1", None) == Some(1.0),
        "{scores}"
    );
    let radcliq = value(&scores, "text", "RadCliQ-v1", None);
    ensure!(
        radcliq.is_some_and(|value| (value + 1.440_69).abs() < 1e-4),
        "{scores}"
    );
    ensure!(scores["faults"]["not-annotated"] == 1, "{scores}");
    ensure!(
        folder
            .read("evaluation/faults.csv")?
            .contains("graphs.json has no")
    );
    // A report in whose text RadGraph found nothing has no entry: nothing is right of it, and that is said.
    let few = [&["--radgraph-hypotheses", "few.json"], &graphs[2..]].concat();
    let scores = folder.scores(&[&files[..], &few, &parts].concat())?;
    ensure!(
        value(&scores, "text", "RadGraph F1", None) == Some(0.5),
        "{scores}"
    );
    ensure!(
        scores["faults"]["unannotated-report"] == 1 && scores["faults"]["not-annotated"] == 1,
        "{scores}"
    );
    let radcliq = value(&scores, "text", "RadCliQ-v1", None);
    let expected = -1.440_69 + 1.245_22 / 2.0;
    ensure!(
        radcliq.is_some_and(|value| (value - expected).abs() < 1e-4),
        "{scores}"
    );
    let none = [&["--radgraph-hypotheses", "none.json"], &graphs[2..]].concat();
    let fault = folder.fault(&[&files[..], &none].concat(), 64)?;
    ensure!(
        fault.contains("none.json has an annotation of none of the reports"),
        "{fault}"
    );
    let fault = folder.fault(
        &[
            &["predictions.csv", "--references", "predictions.csv"],
            &graphs[..],
        ]
        .concat(),
        64,
    )?;
    ensure!(fault.contains("--protocol rexrank"), "{fault}");
    Ok(())
}
