//! Evaluations that ask on after reports, as their users run them: in this process and over real services, interrupted and not;
//! and studies that are made again from their records.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::RandomBundle;
use radialog_schemas::{DialogPrompt, Stage, StudyRecord};
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::{ProcessCluster, RoleProcess, radialog};
use radialog_tests::services::{Broker, Environment, Services};
use serde_json::Value;
use tempfile::TempDir;

mod intervals;
mod releases;
mod scored;
mod verify;

const TIMEOUT: Duration = Duration::from_secs(600);
/// Reports that every bundle writes soon; random weights rarely end one.
const TOKENS: &str = "12";

/// A folder with the shipped X-rays, a manifest of them, labels, and a bundle.
struct EvaluationFixture {
    dir: TempDir,
}

impl EvaluationFixture {
    fn new(bundle: &RandomBundle) -> Result<Self> {
        let fixture = Self {
            dir: tempfile::tempdir()?,
        };
        bundle.write(&fixture.path("bundle"))?;
        let mut manifest = "study_id,image,split,view,reference\n".to_owned();
        let mut labels = "study_id,Edema,Cardiomegaly,Fracture,Age\n".to_owned();
        let mut names: Vec<PathBuf> = std::fs::read_dir(xrays())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        names.retain(|path| {
            path.extension()
                .is_some_and(|end| end == "jpg" || end == "png")
        });
        names.sort();
        for (number, path) in names.iter().enumerate() {
            let name = path.file_name().context("a name")?.to_string_lossy();
            std::fs::copy(path, fixture.path(&name))?;
            let split = if number < 4 { "test" } else { "train" };
            let reference = match number {
                3 => String::new(),
                _ => format!("There is edema {number}. The heart is large."),
            };
            manifest += &format!("s{number},{name},{split},PA,{reference}\n");
            labels += &format!("s{number},{},1,,60\n", number % 2);
        }
        std::fs::write(fixture.path("studies.csv"), manifest)?;
        std::fs::write(fixture.path("labels.csv"), labels)?;
        Ok(fixture)
    }

    fn tiny() -> Result<Self> {
        Self::new(&RandomBundle::tiny(7))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn json(&self, name: &str) -> Result<Value> {
        let text = std::fs::read_to_string(self.path(name));
        Ok(serde_json::from_str(
            &text.with_context(|| name.to_owned())?,
        )?)
    }

    /// Runs the program in the folder.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(radialog(arguments)?
            .current_dir(self.dir.path())
            .output_in_time()?)
    }

    /// What a command prints that must end with this code.
    fn says(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let text = shown(&output);
        ensure!(output.status.code() == Some(code), "{arguments:?}: {text}");
        Ok(text)
    }

    /// `radialog evaluate` of the test studies.
    fn evaluate(&self, code: i32, task: &[&str], out: &str) -> Result<String> {
        let shared = ["--out", out, "--bundle", "bundle", "--split", "test"];
        let tokens = ["--max-new-tokens", TOKENS];
        let tokens = match task[0] {
            "view" | "impression" => &[],
            _ => &tokens[..],
        };
        let quiet = ["--progress", "off"];
        self.says(
            code,
            &[&["evaluate"], task, &shared, tokens, &quiet].concat(),
        )
    }

    /// The dialogs that a run asked, by study.
    fn dialogs(&self, out: &str, run: &str) -> Result<Vec<(String, DialogPrompt)>> {
        let records = records(&self.path(out).join(run).join("results.jsonl"))?;
        let dialogs = records.into_iter().map(|record| {
            let key = record.input.context("a dialog")?;
            let path = self.path(out).join("objects").join(key.as_str());
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            Ok((record.study.to_string(), serde_json::from_slice(&text)?))
        });
        dialogs.collect()
    }
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn records(results: &Path) -> Result<Vec<StudyRecord>> {
    let text = std::fs::read_to_string(results)?;
    let records = text.lines().map(serde_json::from_str);
    Ok(records.collect::<Result<_, _>>()?)
}

#[test]
fn an_image_that_cannot_be_looked_at_again_keeps_its_scores_and_the_exit_code_says_so() -> Result<()>
{
    let fixture = EvaluationFixture::tiny()?;
    let task = ["correction", "studies.csv"];
    let scored = "3 studies scored, 1 without a truth, 0 failed";
    fixture.evaluate(0, &task, "eval")?;
    let manifest = std::fs::read_to_string(fixture.path("studies.csv"))?;
    let first = manifest.lines().nth(1).context("a study")?;
    let image = first.split(',').nth(1).context("an image")?;
    std::fs::rename(fixture.path(image), fixture.path("away"))?;
    let text = fixture.evaluate(65, &task, "eval")?;
    ensure!(
        text.contains("1 study could not be compared  (image_missing 1)")
            && text.contains("s0: ")
            && text.contains("What was done for them stays")
            && text.contains(scored),
        "{text}"
    );
    std::fs::rename(fixture.path("away"), fixture.path(image))?;
    let text = fixture.evaluate(0, &task, "eval")?;
    ensure!(
        text.contains(scored) && !text.contains("could not be compared"),
        "{text}"
    );
    Ok(())
}

#[test]
fn corrections_are_asked_of_what_labels_differ_in_and_both_sides_are_scored() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let task = ["correction", "studies.csv"];
    let text = fixture.evaluate(0, &task, "eval")?;
    ensure!(
        text.contains("3 studies scored, 1 without a truth, 0 failed"),
        "{text}"
    );
    ensure!(text.contains("s3: it has no reference report"), "{text}");
    let scores = fixture.json("eval/correction.json")?;
    let count = |field: &str| scores[field].as_u64().unwrap_or_default();
    ensure!(
        count("corrected") + count("kept") == 3 && count("corrected") > 0,
        "{scores}"
    );
    ensure!(
        scores["before"]["labels"]["findings"] == 14
            && scores["after"]["texts"][0]["name"] == "BLEU-1"
    );

    // What is asked is what the labels of the first run differ in.
    let reports = records(&fixture.path("eval/reports/results.jsonl"))?;
    let asked = fixture.dialogs("eval", "corrections")?;
    ensure!(asked.len() as u64 == count("corrected"));
    for (study, dialog) in &asked {
        let record = reports.iter().find(|record| record.study.as_str() == study);
        let record = record.context("a report")?;
        ensure!(Some(&dialog.history[0].answer) == record.written_report().as_ref());
        ensure!(Some(&dialog.findings) == record.findings_text.as_ref());
    }

    // Again: nothing is computed, and the files are the same.
    let files = [
        "eval/correction.json",
        "eval/corrections.csv",
        "eval/corrections/results.jsonl",
    ];
    let read = |fixture: &EvaluationFixture| -> Result<Vec<Vec<u8>>> {
        files
            .iter()
            .map(|file| Ok(std::fs::read(fixture.path(file))?))
            .collect()
    };
    let before = read(&fixture)?;
    fixture.evaluate(0, &task, "eval")?;
    ensure!(read(&fixture)? == before);

    // Fewer studies in the same folder are fewer that count.
    let text = fixture.evaluate(0, &[&task[..], &["--limit", "1"]].concat(), "eval")?;
    ensure!(text.contains("1 study scored, 0 without"), "{text}");

    // Another truth is another evaluation.
    let other = ["correction", "studies.csv", "--labels", "labels.csv"];
    let text = fixture.evaluate(64, &other, "eval")?;
    ensure!(text.contains("name another with --out"), "{text}");
    let text = fixture.evaluate(0, &other, "eval-labels")?;
    ensure!(
        text.contains("; of 2 of 14 findings") && text.contains("4 studies scored"),
        "{text}"
    );
    Ok(())
}

#[test]
fn findings_are_asked_as_in_the_original_and_reports_are_generated_once() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let binary = ["findings-qa", "studies.csv", "--mode", "binary"];
    let text = fixture.evaluate(0, &binary, "eval")?;
    ensure!(text.contains("3 studies scored, 1 without"), "{text}");
    let plain = fixture.dialogs("eval", "binary-questions-without-quirks")?;
    ensure!(plain.len() == 4 * 14, "{}", plain.len());
    ensure!(plain.iter().all(|(_, dialog)| dialog.answer_blanks == 1));
    let scores = fixture.json("eval/findings-qa-binary.json")?;
    ensure!(
        scores["protocol"] == "radialog-2023 without quirks" && scores["studies"]["scored"] == 3
    );
    let first = std::fs::read(fixture.path("eval/reports/results.jsonl"))?;
    let all = ["findings-qa", "studies.csv", "--mode", "all"];
    fixture.evaluate(0, &all, "eval")?;
    let quirks = [&binary[..], &["--protocol", "radialog-2023"]].concat();
    fixture.evaluate(0, &quirks, "eval")?;
    ensure!(std::fs::read(fixture.path("eval/reports/results.jsonl"))? == first);
    ensure!(fixture.dialogs("eval", "all-findings-questions")?.len() == 4);
    let asked = fixture.dialogs("eval", "binary-questions")?;
    for (id, dialog) in &asked {
        let (_, number) = id.split_once('#').context("a number")?;
        ensure!(dialog.answer_blanks.to_string() == number, "{id}");
    }
    let scores = fixture.json("eval/findings-qa-binary.json")?;
    ensure!(scores["protocol"] == "radialog-2023" && scores["studies"]["scored"] == 3);

    // The original's files: the pass over the reports, and the scores of the answers.
    let predictions = fixture.path("eval/chexbert/outputs/predictions");
    let results = fixture.path("eval/vicuna_results");
    for mode in ["bin", "all"] {
        let reports = format!("_before_cp_{mode}_qa");
        let texts = scored::read(&predictions, "predictions_", &format!("{reports}.csv"))?;
        let quoted = |line: &str| line.starts_with('"') && line.ends_with('"');
        ensure!(
            quoted(texts.trim_end()) && texts.lines().count() >= 3,
            "{texts}"
        );
        let labels = scored::read(&predictions, "labels_", &format!("{reports}.csv"))?;
        ensure!(labels.starts_with("findings,Enlarged Cardiomediastinum,"));
        let scores = scored::read(&results, "results_", &format!("{reports}.txt"))?;
        let (prompt, scores) = scores
            .split_once("\nAvg Bleu 1: ")
            .context("scores of texts")?;
        ensure!(prompt.ends_with("ASSISTANT:"), "{prompt}");
        ensure!(scores.contains("\nAvg Rouge: ") && scores.contains("\nMean Chexpert F1: "));
        let answers = format!("{reports}_after_cp_{mode}_qa.txt");
        let answers = scored::read(&results, "results_", &answers)?;
        ensure!(answers.starts_with("Mean Chexpert F1: "), "{answers}");
    }
    Ok(())
}

#[test]
fn studies_of_mimic_find_their_labels_in_its_table() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let folder = "mimic/files/p10/p10000032/s50414267";
    std::fs::create_dir_all(fixture.path(folder))?;
    let image = xrays().join("00001300_000.jpg");
    std::fs::copy(image, fixture.path(folder).join("02aa804e-bde0afdd.jpg"))?;
    let chexpert = "subject_id,study_id,Edema\n10000032,50414267,1.0\n";
    std::fs::write(fixture.path("chexpert.csv"), chexpert)?;
    let correction = [
        "evaluate",
        "correction",
        "mimic",
        "--labels",
        "chexpert.csv",
        "--out",
        "eval",
        "--bundle",
        "bundle",
        "--max-new-tokens",
        "4",
        "--progress",
        "off",
    ];
    let text = fixture.says(0, &correction)?;
    ensure!(text.contains("1 study scored, 0 without"), "{text}");
    Ok(())
}

#[test]
fn a_bundle_of_v1_skips_what_v2_was_trained_for_and_says_so() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let view = ["view", "studies.csv", "--views", "studies.csv"];
    std::fs::create_dir(fixture.path("eval"))?;
    std::fs::write(fixture.path("eval/view.json"), "of another bundle")?;
    let text = fixture.evaluate(0, &view, "eval")?;
    ensure!(
        text.contains("view is skipped") && text.contains("RaDialog v2"),
        "{text}"
    );
    // What another bundle has answered is no result of this one, and is not lost.
    let former = std::fs::read_to_string(fixture.path("eval/view.json.old"))?;
    ensure!(!fixture.path("eval/view.json").exists() && former == "of another bundle");
    ensure!(text.contains("is called eval/view.json.old now"), "{text}");
    let sections = "study_id,findings,impression\ns0, The heart is large. ,Large heart.\ns1,x,\n";
    std::fs::write(fixture.path("sections.csv"), sections)?;
    let impression = ["impression", "studies.csv", "--references", "sections.csv"];
    let text = fixture.evaluate(0, &impression, "eval")?;
    ensure!(text.contains("impression is skipped"), "{text}");

    std::fs::remove_dir_all(fixture.path("bundle"))?;
    let random = [
        "bundle", "random", "bundle", "--system", "v2", "--seed", "7",
    ];
    fixture.says(0, &random)?;
    let text = fixture.evaluate(0, &view, "views")?;
    ensure!(
        text.contains("4 studies scored") && text.contains("accuracy"),
        "{text}"
    );
    let text = fixture.evaluate(0, &impression, "impressions")?;
    ensure!(text.contains("1 study scored, 3 without"), "{text}");
    ensure!(
        text.contains("1 row of sections.csv with an empty cell")
            && text.contains("line 3 (s1)")
            && text.contains(
                "s1: its row in the table of --references is empty (sections.csv line 3)"
            ),
        "{text}"
    );
    let asked = fixture.dialogs("impressions", "impressions")?;
    ensure!(asked[0].1.history[0].answer == "The heart is large.");

    // Answers to other findings are of another evaluation.
    std::fs::write(
        fixture.path("sections.csv"),
        sections.replace("large", "small"),
    )?;
    let text = fixture.evaluate(64, &impression, "impressions")?;
    ensure!(text.contains("name another with --out"), "{text}");
    // Nothing is written by a model whose length could be limited.
    let limited = [&view[..], &["--max-new-tokens", "4"]].concat();
    fixture.evaluate(64, &limited, "views")?;
    Ok(())
}

#[test]
fn what_cannot_be_scored_is_named() -> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let correction = ["correction", "studies.csv"];
    let shared = [
        "--out",
        "eval",
        "--bundle",
        "bundle",
        "--max-new-tokens",
        "2",
    ];
    let other = [
        &["evaluate"],
        &correction[..],
        &shared,
        &["--split", "tset"],
    ]
    .concat();
    let text = fixture.says(64, &other)?;
    ensure!(
        text.contains("no study of split 'tset' in 'studies.csv'"),
        "{text}"
    );
    std::fs::write(fixture.path("bad.csv"), "study_id,Edema\ns0,1\ns1,maybe\n")?;
    let text = fixture.evaluate(
        1,
        &[&correction[..], &["--labels", "bad.csv"]].concat(),
        "eval",
    )?;
    ensure!(
        text.contains("bad.csv' line 3: 's1': 'maybe' under Edema"),
        "{text}"
    );
    std::fs::write(fixture.path("others.csv"), "study_id,Edema\n=x,1\n")?;
    let others = [&correction[..], &["--labels", "others.csv"]].concat();
    let text = fixture.evaluate(64, &others, "others")?;
    ensure!(
        text.contains("nothing can be scored; s0: the table of --labels"),
        "{text}"
    );
    let faults = std::fs::read_to_string(fixture.path("others/correction-faults.csv"))?;
    ensure!(
        faults.contains("\"others.csv\",\"2\",\"'=x\",\"no study of the run")
            && faults.contains("\"others.csv\",\"\",\"s0\",\"the table of --labels has no row"),
        "{faults}"
    );
    for file in ["corrections.csv", "correction.json", "vicuna_results"] {
        ensure!(!fixture.path("others").join(file).exists(), "{file}");
    }
    let bundle = fixture.path("nowhere").display().to_string();
    let text = fixture.says(
        64,
        &[
            "evaluate",
            "correction",
            "studies.csv",
            "--out",
            "x",
            "--bundle",
            &bundle,
        ],
    )?;
    ensure!(text.contains("nowhere"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_real_services_with_a_killed_coordinator_the_scores_are_those_of_one_process()
-> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let tasks: [&[&str]; 2] = [
        &["correction", "studies.csv"],
        &["findings-qa", "studies.csv", "--mode", "binary"],
    ];
    for task in tasks {
        fixture.evaluate(0, task, "embedded")?;
    }
    let broker = Broker::start(1).await?;
    let services = Services::shared().await?;
    let environment = Environment::services(broker.virtual_host()?, services.redis())
        .bucket(services.bucket()?)
        .with(
            "RADIALOG_BUNDLE",
            fixture.path("bundle").display().to_string(),
        );
    let cluster = ProcessCluster::new(environment)?;
    let mut workers = Vec::new();
    for stage in Stage::ALL {
        workers.push(cluster.start(&["worker", stage.name()])?);
    }
    let (archive, out) = (fixture.path("studies.csv"), fixture.path("services"));
    let (archive, out) = (archive.display().to_string(), out.display().to_string());
    for (task, run) in tasks.into_iter().zip(["corrections", "binary-questions"]) {
        let arguments = [
            &["evaluate", task[0], &archive],
            &task[2..],
            &["--out", &out, "--split", "test", "--max-new-tokens", TOKENS],
        ]
        .concat();
        let mut coordinator = cluster.start(&arguments)?;
        let results = fixture.path("services").join(run).join("results.jsonl");
        until_written(&results, &mut coordinator, &cluster).await?;
        coordinator.kill();
        let output = tokio::task::block_in_place(|| cluster.run(&arguments))?;
        ensure!(output.status.success(), "{}", shown(&output));
    }
    for file in [
        "correction.json",
        "corrections.csv",
        "findings-qa-binary.json",
        "findings-qa-binary.csv",
    ] {
        let of = |folder: &str| std::fs::read_to_string(fixture.path(folder).join(file));
        ensure!(
            of("services")? == of("embedded")?,
            "{file} differs:\n{}",
            of("services")?
        );
    }
    Ok(())
}

/// Waits until a run has a line, or its process has ended.
async fn until_written(
    results: &Path,
    process: &mut RoleProcess,
    cluster: &ProcessCluster,
) -> Result<()> {
    let begun = Instant::now();
    let is_written = || std::fs::read_to_string(results).is_ok_and(|text| text.contains('\n'));
    while !is_written() && process.0.try_wait()?.is_none() {
        ensure!(begun.elapsed() < TIMEOUT, "{}", cluster.log("evaluate"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
