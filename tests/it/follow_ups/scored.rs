//! What evaluations write study by study, what labels count as there, and runs whose results are in a store.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::services::{Environment, Services};
use serde_json::Value;

use super::{EvaluationFixture, TOKENS, shown};

/// The file of a folder whose name begins and ends so.
pub(super) fn read(folder: &Path, begin: &str, end: &str) -> Result<String> {
    let files = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for file in files {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(begin) && name.ends_with(end) {
            return Ok(std::fs::read_to_string(&path)?);
        }
    }
    anyhow::bail!(
        "no file of {} begins with {begin} and ends with {end}",
        folder.display()
    )
}

#[test]
fn each_study_and_each_entry_that_is_none_has_its_row_and_both_passes_the_originals_files()
-> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let mut manifest = std::fs::read_to_string(fixture.path("studies.csv"))?;
    let line = manifest.lines().count() + 1;
    manifest += ",x.jpg,test,PA,\ns0,x.jpg,test,PA,\nbad,nowhere.jpg,test,PA,Clear.\n";
    std::fs::write(fixture.path("studies.csv"), manifest)?;
    let task = ["correction", "studies.csv", "--resamples", "20"];
    let text = fixture.evaluate(65, &task, "eval")?;
    ensure!(
        text.contains("2 entries of the archive are left out") && !text.contains("\nleft out: "),
        "{text}"
    );
    let scores = fixture.json("eval/correction.json")?;
    let studies = &scores["studies"];
    ensure!(
        studies["scored"] == 3 && studies["left_out"] == 2 && studies["failed"] == 1,
        "{studies}"
    );
    let faults = std::fs::read_to_string(fixture.path("eval/correction-faults.csv"))?;
    for (at, words) in [
        (line, "the row has no id"),
        (line + 1, "study 's0' was named before"),
        (line + 2, "\"bad\""),
    ] {
        let place = format!("studies.csv\",\"{at}\",");
        let row = faults.lines().find(|row| row.contains(&place));
        ensure!(row.is_some_and(|row| row.contains(words)), "{at}: {faults}");
    }
    let table = std::fs::read_to_string(fixture.path("eval/correction-studies.csv"))?;
    let header = table.lines().next().context("a header")?;
    ensure!(table.lines().count() == 4, "{table}");
    for column in [
        "true",
        "before_label_f1",
        "after_false_negative",
        "after_rouge_l",
    ] {
        ensure!(header.split(',').any(|name| name == column), "{header}");
    }
    let cells = table.lines().nth(1).context("a study")?;
    ensure!(cells.starts_with("s0,") && !cells.ends_with(','), "{cells}");

    let page = std::fs::read_to_string(fixture.path("eval/correction.html"))?;
    ensure!(
        page.contains("<th class=\"number\">after</th>") && page.contains("macro F1"),
        "{page}"
    );
    ensure!(
        page.contains("ROUGE-L") && page.contains("&#39;s0&#39; was named before"),
        "{page}"
    );

    // Which way is better stands beside each score.
    ensure!(
        scores["before"]["labels"]["better"] == "higher"
            && scores["intervals"][0]["better"] == "higher",
        "{scores}"
    );
    let finding = text.lines().find(|line| line.contains("    Edema"));
    ensure!(
        finding.is_some_and(|line| line.ends_with("higher is better")),
        "{text}"
    );
    let folder = fixture.path("eval/chexbert/outputs/predictions");
    for suffix in ["_before_corr", "_before_corr_after_corrections"] {
        let end = format!("{suffix}.csv");
        let texts = read(&folder, "predictions_", &end)?;
        ensure!(
            texts.lines().count() >= 3 && texts.starts_with('"'),
            "{texts}"
        );
        let labels = read(&folder, "labels_", &end)?;
        ensure!(
            labels.starts_with("findings,Enlarged Cardiomediastinum,"),
            "{labels}"
        );
        let results = read(
            &fixture.path("eval/vicuna_results"),
            "results_",
            &format!("{suffix}.txt"),
        )?;
        ensure!(results.contains("Mean Chexpert F1: "), "{results}");
    }
    Ok(())
}

#[test]
fn texts_that_were_scored_before_a_correction_failed_are_not_scored_again() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let task = ["correction", "studies.csv", "--resamples", "20"];
    fixture.evaluate(0, &task, "eval")?;
    let expected = fixture.json("eval/correction.json")?;
    // A link that leads nowhere: the original's files cannot be written, which is found out last.
    let folder = fixture.path("eval/vicuna_results");
    std::fs::remove_dir_all(&folder)?;
    std::os::unix::fs::symlink("nowhere", &folder)?;
    let text = fixture.evaluate(1, &task, "eval")?;
    ensure!(text.contains("vicuna_results"), "{text}");
    std::fs::remove_file(&folder)?;
    let text = fixture.evaluate(0, &task, "eval")?;
    // Both sides of three studies.
    ensure!(
        text.contains("note: 6 texts were scored by an evaluation that was interrupted"),
        "{text}"
    );
    ensure!(fixture.json("eval/correction.json")? == expected);
    let counts = fixture.path("eval/.evaluation.texts-correction");
    ensure!(!counts.exists());
    Ok(())
}

#[test]
fn what_labels_count_as_is_told_and_scores_of_fewer_findings_are_not_the_originals() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let table = ["--labels", "labels.csv", "--resamples", "20"];
    let correction = |more: &[&'static str]| [&["correction", "studies.csv"], more].concat();
    let of_table = [&correction(&[])[..], &table].concat();
    let text = fixture.evaluate(0, &of_table, "auto")?;
    ensure!(
        text.contains("; of 2 of 14 findings, the others have no label\n")
            && text.contains("--blank negative gives those of all"),
        "{text}"
    );
    // One name for one score: in the table, beside its interval and in JSON.
    let named = text.lines().filter(|line| line.starts_with("  macro F1 "));
    ensure!(named.count() == 2, "{text}");
    let scores = fixture.json("auto/correction.json")?;
    ensure!(
        scores["intervals"].to_string().contains("\"macro F1\""),
        "{scores}"
    );
    let results = read(
        &fixture.path("auto/vicuna_results"),
        "results_",
        "_before_corr.txt",
    )?;
    ensure!(!results.contains("Mean Chexpert F1"), "{results}");

    let negative = [&of_table[..], &["--blank", "negative"]].concat();
    let text = fixture.evaluate(0, &negative, "negative")?;
    ensure!(
        text.contains("uncertain as negative, blank as negative")
            && !text.contains("of 14 findings"),
        "{text}"
    );
    let scores = fixture.json("negative/correction.json")?;
    ensure!(
        scores["before"]["labels"]["findings"] == 14 && scores["blank"] == "negative",
        "{scores}"
    );
    // A finding that no study has is no sure 0.
    let absent = text.lines().find(|line| line.contains("    Pneumothorax"));
    ensure!(absent.is_some_and(|line| line.contains("  - ")), "{text}");
    let intervals = scores["intervals"].as_array().context("intervals")?;
    let of = |finding: &str| {
        intervals
            .iter()
            .filter(|of| of["finding"] == finding)
            .count()
    };
    ensure!(
        of("Pneumothorax") == 0 && of("Cardiomegaly") == 3,
        "{scores}"
    );
    let results = read(
        &fixture.path("negative/vicuna_results"),
        "results_",
        "_before_corr.txt",
    )?;
    ensure!(results.contains("Mean Chexpert F1"), "{results}");
    // Other labels ask for other corrections.
    let positive = [&negative[..], &["--uncertain", "positive"]].concat();
    let text = fixture.evaluate(64, &positive, "negative")?;
    ensure!(text.contains("name another with --out"), "{text}");

    let questions = ["findings-qa", "studies.csv", "--mode", "all"];
    let questions = [&questions[..], &table, &["--blank", "negative"]].concat();
    fixture.evaluate(0, &questions, "negative")?;
    let page = std::fs::read_to_string(fixture.path("negative/findings-qa-all.html"))?;
    ensure!(page.contains("<th class=\"number\">answers</th>"), "{page}");
    let results = read(
        &fixture.path("negative/vicuna_results"),
        "results_",
        "_after_cp_all_qa.txt",
    )?;
    ensure!(results.contains("Mean Chexpert AUC: "), "{results}");
    let studies = std::fs::read_to_string(fixture.path("negative/findings-qa-all-studies.csv"))?;
    ensure!(
        studies.contains("reports_label_f1") && studies.lines().count() == 5,
        "{studies}"
    );
    // Without a table there are no blanks.
    let text = fixture.evaluate(64, &correction(&["--blank", "negative"]), "none")?;
    ensure!(text.contains("--labels"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_results_are_in_a_store_is_evaluated_and_verified() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let bucket = Services::shared().await?.s3().bucket()?;
    let environment = Environment::default().bucket(&bucket);
    let name = bucket.rsplit('/').next().context("a bucket")?;
    let out = format!("s3://{name}/runs/a");
    let says = |code: i32, arguments: &[&str]| -> Result<String> {
        let mut command = radialog(arguments)?;
        command
            .envs(environment.variables())
            .current_dir(fixture.path("."));
        let output = tokio::task::block_in_place(|| command.output_in_time())?;
        let text = shown(&output);
        ensure!(output.status.code() == Some(code), "{arguments:?}: {text}");
        Ok(text)
    };
    let batch = ["batch", "studies.csv", "--out", &out, "--bundle", "bundle"];
    let few = [
        "--limit",
        "3",
        "--max-new-tokens",
        TOKENS,
        "--progress",
        "off",
    ];
    says(0, &[&batch[..], &few].concat())?;
    let report = [
        "evaluate",
        "report",
        &out,
        "--resamples",
        "20",
        "--out",
        "eval",
    ];
    let text = says(0, &report)?;
    ensure!(
        text.contains("3 studies scored: 3 texts") && !text.contains("is not complete"),
        "{text}"
    );
    let scores: Value = fixture.json("eval/scores.json")?;
    ensure!(scores["name"] == out.as_str(), "{scores}");
    // What is wrong is named as people know the place.
    let references = "study_id,findings\ns0,There is edema.\n";
    std::fs::write(fixture.path("one.csv"), references)?;
    says(0, &[&report[..], &["--references", "one.csv"]].concat())?;
    let faults = std::fs::read_to_string(fixture.path("eval/faults.csv"))?;
    ensure!(
        faults.contains(&format!("{out}/results.jsonl,")),
        "{faults}"
    );
    let verify = ["verify", "s0", "--run", &out, "--bundle", "bundle"];
    says(0, &verify)?;
    let nothing = format!("s3://{name}/runs/b");
    let text = says(64, &["evaluate", "report", &nothing])?;
    ensure!(text.contains("is no run"), "{text}");
    says(
        64,
        &["verify", "s0", "--run", &nothing, "--bundle", "bundle"],
    )?;
    Ok(())
}
