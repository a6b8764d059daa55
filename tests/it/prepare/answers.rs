//! Answers of a language model to texts, for the instruction data set.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::{Bundle, RandomBundle};
use radialog_models::language::{Engine, EngineEvent, EngineLimits, GenerationRequest};
use radialog_models::prompt::Prompt;
use radialog_schemas::{ContentHash, Finding, Label, Labels, StudyRecord};
use radialog_tests::patience::InTime;
use radialog_tests::processes::{RoleProcess, radialog};
use radialog_tests::services::{Broker, S3Key, Services};
use serde_json::Value;

use super::{PrepareFixture, shown};

const IMAGES: usize = 36;
const DATA: [&str; 6] = [
    "--sectioned",
    "sectioned.csv",
    "--labels",
    "labels.csv",
    "--bundle",
    "bundle",
];

/// A sectioned table of reports with their labels, and a bundle.
fn fixture() -> Result<PrepareFixture> {
    let fixture = PrepareFixture::new()?;
    RandomBundle::tiny(7).write(&fixture.path("bundle"))?;
    let names =
        "impression,findings,last_paragraph,comparison,dicom_id,Img_Filename,Img_Folder,Note_file";
    let mut table = format!("{names}\r\n");
    let findings: Vec<&str> = Finding::ALL.into_iter().map(Finding::name).collect();
    let mut labels = format!("dicom_id,{}\n", findings.join(","));
    for row in 0..IMAGES {
        let text = format!(" The heart of {row}\n is large.");
        writeln!(
            table,
            "s{row},i,\"{text}\",,,d{row},d{row}.jpg,files/p10/p1/s{row},s{row}.txt\r"
        )?;
        writeln!(labels, "d{row},,,1{}", ",".repeat(11))?;
    }
    fixture.write("sectioned.csv", &table)?;
    fixture.write("labels.csv", &labels)?;
    Ok(fixture)
}

fn tasks(fixture: &PrepareFixture, file: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_slice(&fixture.read(file)?)?)
}

/// What the bundle's language model answers, asked directly.
fn asked(language: &LanguagePipeline, messages: &[&str]) -> Result<String> {
    let messages: Vec<Prompt> = messages
        .iter()
        .map(|text| Prompt::text(text))
        .chain([Prompt::default()])
        .collect();
    let prompt = language
        .tokenizer
        .encode_prompt(&language.prompts.conversation(&messages))?;
    let limits = EngineLimits {
        sequences: 1,
        cache_tokens: 4096,
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(language.model.clone(), limits);
    engine.admit(GenerationRequest {
        prompt,
        max_new_tokens: 256,
        ..GenerationRequest::default()
    })?;
    loop {
        for event in engine.step()? {
            if let EngineEvent::Finished { result, .. } = event {
                return Ok(language.tokenizer.decode_continuation(&result?.tokens));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_file_has_the_models_answers_and_goes_into_the_instruction_data_set() -> Result<()> {
    let fixture = fixture()?;
    let arguments = [&["answers", "--task", "EL", "--tasks", "tasks"], &DATA[..]].concat();
    let output = fixture.prepare(&arguments).await?;
    ensure!(
        output.status.success() && shown(&output).contains("6 samples of EL"),
        "{}",
        shown(&output)
    );
    let samples = tasks(&fixture, "tasks/instruct_large_EL.json")?;
    ensure!(samples.len() == IMAGES / 6);

    let bundle = Bundle::open(&fixture.path("bundle"))?;
    let language = LanguagePipeline::load(&bundle, &Device::Cpu)?;
    for sample in &samples[..2] {
        let row = &sample["dicom"].as_str().context("an id")?[1..];
        let question = sample["task"].as_str().context("a question")?;
        let message = format!("Report: The heart of {row} is large.\n{question}");
        let answer = asked(&language, &[&message])?;
        ensure!(
            sample["output"] == language.prompts.report_text(&answer),
            "{sample}"
        );
        ensure!(
            sample["instruction"]
                .as_str()
                .context("a prompt")?
                .ends_with(&format!("{question} ASSISTANT:"))
        );
        ensure!(
            sample["gt_report"] == format!("The heart of {row} is large.")
                && sample["task_type"] == "EL"
        );
    }

    let data = ["--sectioned", "sectioned.csv", "--labels", "labels.csv"];
    let fused = fixture
        .prepare(
            &[
                &["instruct", "--tasks", "tasks", "--out", "instruct.json"],
                &data[..],
            ]
            .concat(),
        )
        .await?;
    ensure!(
        fused.status.success() && shown(&fused).contains("EL             6  read"),
        "{}",
        shown(&fused)
    );

    let again = fixture
        .prepare(&[&arguments[..], &["--seed", "1"]].concat())
        .await?;
    ensure!(
        again.status.code() == Some(64) && shown(&again).contains("another input"),
        "{}",
        shown(&again)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn corrections_are_asked_where_a_runs_reports_differ_from_the_labels() -> Result<()> {
    let fixture = fixture()?;
    let record = |dicom: &str, positive: Finding| {
        StudyRecord {
        report: Some(format!("Report on {dicom}.")),
        report_labels: Some(Labels::from([(positive, Label::Positive)])),
        ..serde_json::from_value(serde_json::json!({
            "study": format!("p10/{dicom}"), "file": "x", "status": "done", "bundle": ContentHash::of(b"b"),
        }))
        .unwrap()
    }
    };
    std::fs::create_dir(fixture.path("run"))?;
    let records = [
        record("d2", Finding::Edema),
        record("d1", Finding::Cardiomegaly),
        record("d0", Finding::Edema),
    ];
    let lines = records
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    fixture.write("run/results.jsonl", &(lines.join("\n") + "\n"))?;
    let arguments = [
        &[
            "answers",
            "--task",
            "CO",
            "--reports",
            "run",
            "--tasks",
            "tasks",
        ],
        &DATA[..],
    ]
    .concat();
    let output = fixture.prepare(&arguments).await?;
    ensure!(output.status.success(), "{}", shown(&output));
    let samples = tasks(&fixture, "tasks/instruct_large_CO.json")?;
    let images: Vec<&str> = samples
        .iter()
        .filter_map(|sample| sample["dicom"].as_str())
        .collect();
    ensure!(images == ["d0", "d2"], "{images:?}");

    let bundle = Bundle::open(&fixture.path("bundle"))?;
    let language = LanguagePipeline::load(&bundle, &Device::Cpu)?;
    let explicit = "Please provide an adapted report. Do not mention Edema. Mention Cardiomegaly.";
    let messages = [
        "Please write a radiology report for the given x-ray.",
        "Report on d0.",
        explicit,
    ];
    let answer = asked(&language, &messages)?;
    let expected = answer
        .rsplit("ASSISTANT:")
        .next()
        .unwrap_or_default()
        .trim();
    ensure!(
        samples[0]["output"] == expected && samples[0]["incorrect_report"] == "Report on d0.",
        "{}",
        samples[0]
    );

    let without = fixture
        .prepare(&[&["answers", "--task", "CO", "--tasks", "tasks"], &DATA[..]].concat())
        .await?;
    ensure!(without.status.code() == Some(64), "{}", shown(&without));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_killed_run_over_real_services_are_those_of_this_process() -> Result<()> {
    let fixture = fixture()?;
    let task = ["answers", "--task", "RQA"];
    let here = fixture
        .prepare(&[&task[..], &["--tasks", "here"], &DATA[..]].concat())
        .await?;
    ensure!(here.status.success(), "{}", shown(&here));

    let broker = Broker::start(1).await?;
    let services = Services::shared().await?;
    let (amqp, s3) = (broker.virtual_host()?, services.bucket()?);
    let flags = ["--amqp", &amqp, "--s3", &s3, "--redis", services.redis()];
    let key = S3Key::of_tests();
    let keys = [
        ("AWS_ACCESS_KEY_ID", &key.id),
        ("AWS_SECRET_ACCESS_KEY", &key.secret),
    ];
    let command = |arguments: &[&str]| -> Result<std::process::Command> {
        let mut command = radialog(&[arguments, &flags].concat())?;
        command.current_dir(fixture.path("")).envs(keys);
        Ok(command)
    };
    let arguments = ["worker", "language", "--bundle", "bundle"];
    let worker = RoleProcess::start(&mut command(&arguments)?, &fixture.path("worker.log"))?;
    let there = [&["prepare"], &task[..], &["--tasks", "there"], &DATA[..]].concat();
    let mut first = RoleProcess::start(&mut command(&there)?, &fixture.path("log"))?;
    fixture
        .until_written(&[&worker, &first], "there/instruct_large_RQA.json.run", 1)
        .await?;
    first.kill();
    let mut second = command(&there)?;
    let second = tokio::task::spawn_blocking(move || second.output_in_time()).await??;
    ensure!(second.status.success(), "{}", shown(&second));
    ensure!(
        fixture.read("here/instruct_large_RQA.json")?
            == fixture.read("there/instruct_large_RQA.json")?
    );
    Ok(())
}
