//! What an evaluation reads and writes beside tables: ReXrank's JSON, folders of reports, the original's files, the page.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Finding, Label};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;

use super::{EvaluationFixture, label_table, line, value};

#[test]
fn rexrank_json_is_compared_with_its_own_sections() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "predictions.json",
        r#"{"s1": {"section_findings": "The lungs are clear.", "section_impression": NAN, "model_prediction": "The lungs are clear.", "subject_id": 7},
            "s2": {"section_findings": "No effusion.", "model_prediction": ""},
            "s3": {"section_findings": null, "model_prediction": "Edema."}}"#
            .replace("NAN", "null")
            .as_str(),
    )?;
    let scores = folder.scores(&["predictions.json"])?;
    ensure!(
        value(&scores, "text", "ROUGE-L", None) == Some(0.5),
        "{scores}"
    );
    ensure!(scores["faults"]["empty-prediction"] == 1, "{scores}");
    ensure!(scores["faults"]["empty-reference"] == 1, "{scores}");
    ensure!(scores["counts"]["named_patients"] == 1, "{scores}");
    // Whatever the case of its suffix.
    std::fs::rename(folder.path("predictions.json"), folder.path("P.JSON"))?;
    let again = folder.scores(&["P.JSON"])?;
    ensure!(again["metrics"] == scores["metrics"], "{again}");
    Ok(())
}

#[test]
fn a_folder_of_reports_gives_the_findings_sections_by_study() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let place = folder.path("files/p10/p10000032");
    std::fs::create_dir_all(&place)?;
    std::fs::write(
        place.join("s50414267.txt"),
        " FINAL REPORT\n EXAMINATION: CHEST\n\n FINDINGS:\n \n The lungs are clear.\n \n IMPRESSION:\n \n Normal.\n",
    )?;
    std::fs::write(
        place.join("s50000001.txt"),
        " FINDINGS:\n \n Nobody asks.\n",
    )?;
    folder.write(
        "predictions.csv",
        "study_id,report\n50414267,The lungs are clear.\n",
    )?;
    let scores = folder.scores(&["predictions.csv", "--references", "files"])?;
    ensure!(
        value(&scores, "text", "ROUGE-L", None) == Some(1.0),
        "{scores}"
    );
    ensure!(scores["counts"]["named_patients"] == 1, "{scores}");
    ensure!(
        scores["faults"]["reference-without-prediction"] == 1,
        "{scores}"
    );
    Ok(())
}

#[test]
fn the_originals_files_have_its_names_order_and_words() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut labels = [Label::Blank; 14];
    labels[Finding::Edema as usize] = Label::Positive;
    labels[Finding::NoFinding as usize] = Label::Uncertain;
    std::fs::create_dir_all(folder.path("runs/v1"))?;
    let lines = line("a1", "Mild \"edema\".", Some(labels), None)?
        + &line("a2", "Clear.", Some(labels), None)?;
    folder.write("runs/v1/results.jsonl", &lines)?;
    folder.write(
        "texts.csv",
        "study_id,findings\na1,Mild edema.\na2,Clear.\n",
    )?;
    folder.write(
        "labels.csv",
        &label_table([("a1", ["1"; 14]), ("a2", ["0"; 14])]),
    )?;
    folder.evaluate(&[
        "runs/v1",
        "--references",
        "texts.csv",
        "labels.csv",
        "--original-files",
        "old",
    ])?;
    let predictions = folder.read("old/chexbert/outputs/predictions/predictions_runs_v1.csv")?;
    ensure!(
        predictions == "\"Mild edema.\"\n\"Clear.\"\n",
        "{predictions}"
    );
    let labels = folder.read("old/chexbert/outputs/predictions/labels_runs_v1.csv")?;
    ensure!(
        labels.starts_with("findings,Enlarged Cardiomediastinum,Cardiomegaly,"),
        "{labels}"
    );
    ensure!(
        labels.contains("\"Mild \"\"edema\"\".\",,,,,1.0,"),
        "{labels}"
    );
    ensure!(labels.trim_end().ends_with(",-1.0"), "{labels}");
    let scores = folder.read("old/vicuna_results/results_runs_v1.txt")?;
    let names: Vec<&str> = scores
        .lines()
        .skip(1)
        .filter_map(|line| line.split(": ").next())
        .collect();
    ensure!(
        names
            == [
                "Avg Bleu 1",
                "Avg Bleu 2",
                "Avg Bleu 3",
                "Avg Bleu 4",
                "Avg Rouge",
                "Mean Chexpert F1",
                "Mean Chexpert Precision",
                "Mean Chexpert Recall",
                "Sample Chexpert F1",
                "Mean Chexpert Accuracy",
            ],
        "{scores}"
    );
    Ok(())
}

#[test]
fn the_page_of_a_run_over_a_table_shows_the_images_that_the_table_names() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let made = radialog(&["bundle", "random", "bundle", "--seed", "7"])?
        .current_dir(folder.dir.path())
        .output_in_time()?;
    ensure!(made.status.success());
    let xrays = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/xrays");
    std::fs::create_dir_all(folder.path("archive/png"))?;
    for name in ["00001300_000.jpg", "00001680_000.jpg"] {
        std::fs::copy(
            format!("{xrays}/{name}"),
            folder.path("archive/png").join(name),
        )?;
    }
    let absolute = folder.path("archive/png/00001680_000.jpg").canonicalize()?;
    folder.write(
        "archive/studies.csv",
        &format!(
            "study_id,image,reference\ns1,png/00001300_000.jpg,Clear.\ns2,{},Edema.\ns3,{xrays}/00001300_000.jpg,Clear.\n",
            absolute.display()
        ),
    )?;
    let batch = [
        "batch",
        "archive/studies.csv",
        "--allow-outside",
        "--out",
        "results",
        "--bundle",
        "bundle",
        "--max-new-tokens",
        "4",
        "--progress",
        "off",
    ];
    let output = radialog(&batch)?
        .current_dir(folder.dir.path())
        .output_in_time()?;
    ensure!(output.status.success(), "{output:?}");
    folder.write(
        "texts.csv",
        "study_id,findings\ns1,Clear.\ns2,Edema.\ns3,Clear.\n",
    )?;
    let quick = [
        "--references",
        "texts.csv",
        "--resamples",
        "20",
        "--out",
        "eval",
    ];
    for run in ["results", "results/results.jsonl"] {
        folder.evaluate(&[&[run], &quick[..]].concat())?;
        let page = folder.read("eval/report.html")?;
        ensure!(page.matches("src=\"data:image/png;base64,").count() == 2);
        let named = page.contains("lies outside of &#39;") && page.contains("give --allow-outside");
        ensure!(named, "{page}");
        folder.evaluate(&[&[run, "--allow-outside"], &quick[..]].concat())?;
        let page = folder.read("eval/report.html")?;
        ensure!(page.matches("src=\"data:image/png;base64,").count() == 3);
        ensure!(!page.contains("No image"), "{page}");
    }
    // A link that leads outside is outside, whatever names it.
    let within = folder.path("archive/png/00001300_000.jpg");
    std::fs::remove_file(&within)?;
    std::os::unix::fs::symlink(format!("{xrays}/00001300_000.jpg"), &within)?;
    for (options, shown) in [(&[][..], 1), (&["--allow-outside"], 3)] {
        folder.evaluate(&[&["results"], options, &quick[..]].concat())?;
        let page = folder.read("eval/report.html")?;
        ensure!(
            page.matches("src=\"data:image/png;base64,").count() == shown,
            "{page}"
        );
    }
    let summary = folder.read("results/summary.json")?;
    ensure!(summary.contains("\"interrupted\": false"), "{summary}");
    let summary = summary.replace("\"interrupted\": false", "\"interrupted\": true");
    folder.write("results/summary.json", &summary)?;
    let printed = folder.evaluate(&[&["results"], &quick[..]].concat())?;
    ensure!(printed.contains("the run is not complete"), "{printed}");
    std::fs::rename(folder.path("archive"), folder.path("moved"))?;
    folder.evaluate(&[&["results", "--images", "moved"], &quick[..]].concat())?;
    let page = folder.read("eval/report.html")?;
    ensure!(
        page.matches("src=\"data:image/png;base64,").count() == 0,
        "{page}"
    );
    folder.evaluate(
        &[
            &["results", "--images", "moved", "--allow-outside"],
            &quick[..],
        ]
        .concat(),
    )?;
    let page = folder.read("eval/report.html")?;
    // The absolute name of the folder's earlier place leads nowhere.
    ensure!(
        page.matches("src=\"data:image/png;base64,").count() == 2,
        "{page}"
    );
    folder.write("table.csv", "study_id,report\ns1,Clear.\n")?;
    let fault = folder.fault(
        &[&["table.csv", "--allow-outside"], &quick[..]].concat(),
        64,
    )?;
    ensure!(fault.contains("name their folder with --images"), "{fault}");
    Ok(())
}

#[test]
fn the_page_needs_nothing_else_runs_nothing_and_shows_images_and_texts() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/xrays");
    let mut labels = [Label::Negative; 14];
    labels[Finding::Edema as usize] = Label::Positive;
    let mut lines = line(
        "00001300_000",
        "<script>alert(1)</script> & edema",
        Some(labels),
        Some([0.7; 14]),
    )?;
    lines = lines.replace("00001300_000.png", "00001300_000.jpg");
    lines += &line(
        "../outside",
        "Clear.",
        Some([Label::Negative; 14]),
        Some([0.2; 14]),
    )?;
    folder.write("results.jsonl", &lines)?;
    folder.write(
        "texts.csv",
        "study_id,findings\n00001300_000,Mild edema.\n../outside,Clear.\n",
    )?;
    folder.write(
        "labels.csv",
        &label_table([("00001300_000", ["1"; 14]), ("../outside", ["0"; 14])]),
    )?;
    folder.evaluate(&[
        "results.jsonl",
        "--references",
        "texts.csv",
        "labels.csv",
        "--images",
        images,
    ])?;
    let page = folder.read("evaluation/report.html")?;
    for words in [
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; edema",
        "data:image/png;base64,",
        "<h2>Lengths</h2>",
        "Calibration of the findings",
        "Classifier and report",
        "Beside published figures",
        "higher",
        "radialog-2023",
        // A name that leads out of the folder of images is not read.
        "No image: &#39;../outside",
    ] {
        ensure!(page.contains(words), "{words:?} is missing");
    }
    let (_, lengths) = page.split_once("<h2>Lengths</h2>").context("lengths")?;
    let (lengths, _) = lengths.split_once("</figure>").context("its drawing")?;
    ensure!(lengths.contains("<rect class=\"first\""), "{lengths}");
    ensure!(lengths.contains("<rect class=\"second\""), "{lengths}");
    for words in ["<script", "http://", "https://", "href=", "@import"] {
        ensure!(!page.contains(words), "{words:?} is in the page");
    }
    let tables = folder.read("evaluation/report.md")?;
    ensure!(
        tables.contains("| RaDialog-RG (v1, checkpoint 11200) | 39.4 (M) | 40 (M) | 34.6 (X) |"),
        "{tables}"
    );
    // A page with images is its owner's alone, as that of a run is; tables are read by whom the umask lets.
    let mode = |file: &str| {
        let metadata = std::fs::metadata(folder.path(file))?;
        anyhow::Ok(metadata.permissions().mode() & 0o777)
    };
    ensure!(mode("evaluation/report.html")? == 0o600);
    ensure!(mode("evaluation/report.md")? == mode("texts.csv")?);
    Ok(())
}

#[test]
fn the_page_says_protocol_once_and_direction_in_each_score_and_draws_no_finding_that_nobody_has()
-> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut labels = [Label::Negative; 14];
    labels[Finding::Edema as usize] = Label::Positive;
    let (mut lines, mut texts) = (String::new(), "study_id,split,findings\n".to_owned());
    let mut truth = ["0"; 14];
    truth[Finding::Edema as usize] = "1";
    for id in ["a", "b"] {
        lines += &line(id, "Mild edema.", Some(labels), Some([0.7; 14]))?;
        texts += &format!("{id},test,Mild edema.\n");
    }
    folder.write("results.jsonl", &lines)?;
    folder.write("texts.csv", &texts)?;
    folder.write("labels.csv", &label_table([("a", truth), ("b", truth)]))?;
    let printed = folder.evaluate(&[
        "results.jsonl",
        "--references",
        "texts.csv",
        "labels.csv",
        "--out",
        "eval",
        "--resamples",
        "20",
    ])?;
    let page = folder.read("eval/report.html")?;
    ensure!(page.matches(">protocol: radialog-2023<").count() == 1);
    for (name, way) in [("BLEU-1", "↑ higher"), ("Brier score", "↓ lower")] {
        let cell = format!("<td>{name} <span class=\"way\">{way} is better</span></td>");
        ensure!(page.contains(&cell), "{name}");
    }
    ensure!(page.contains(">Edema (2)<") && !page.contains(">Fracture (0)<"));
    ensure!(page.contains("Without scores, since no scored study has it: No Finding, "));
    ensure!(page.contains("wrong: none") && !page.contains("<span class=\"bad\">wrong: none"));
    let scores: serde_json::Value = serde_json::from_str(&folder.read("eval/scores.json")?)?;
    let of = |name: &str, finding| value(&scores, "labels", name, Some(finding));
    ensure!(of("F1", Finding::Edema) == Some(1.0) && of("F1", Finding::Fracture).is_none());
    // As the original defines it: one of 14.
    let whole = value(&scores, "labels", "macro F1", None);
    ensure!(
        whole.is_some_and(|of| (of - 1.0 / 14.0).abs() < 1e-9),
        "{whole:?}"
    );
    ensure!(
        printed.contains("-: no scored study has it") && printed.contains("count 0 in the macro"),
        "{printed}"
    );
    let studies = folder.read("eval/studies.csv")?;
    ensure!(
        studies
            .lines()
            .next()
            .is_some_and(|names| names.ends_with(",line,split,image"))
            && studies.contains(",1,test,a.png"),
        "{studies}"
    );
    Ok(())
}
