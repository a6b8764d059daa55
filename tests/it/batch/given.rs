//! Files that stand in for the image stages of a run.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use radialog_coordinator::run::GivenOutputs;
use radialog_coordinator::{CoordinatorError, plan_run};
use radialog_schemas::record::GivenFile;
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, Finding, FindingsReport, PredictedFinding, StudyStatus,
};
use radialog_tests::embedded::{batch_options, run_batch};
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use safetensors::SafeTensors;

use super::*;

/// Outputs of these stages for every image but those called `unknown…`.
struct Known {
    stages: Vec<Stage>,
    content: &'static str,
}

impl Known {
    fn of(stages: &[Stage], content: &'static str) -> Option<Arc<dyn GivenOutputs>> {
        let stages = stages.to_vec();
        Some(Arc::new(Self { stages, content }))
    }

    fn file(&self) -> GivenFile {
        GivenFile {
            name: "known".into(),
            sha256: ContentHash::of(self.content.as_bytes()),
        }
    }
}

impl GivenOutputs for Known {
    fn files(&self) -> BTreeMap<Stage, Vec<GivenFile>> {
        let file = |stage: &Stage| (*stage, vec![self.file()]);
        self.stages.iter().map(file).collect()
    }

    fn output(&self, stage: Stage, image: &str) -> Result<Option<(Bytes, GivenFile)>, Failure> {
        if image.starts_with("unknown") {
            return Ok(None);
        }
        let content = match stage {
            Stage::Findings => serde_json::to_vec(&FindingsReport {
                findings: Finding::ALL
                    .map(|finding| PredictedFinding {
                        finding,
                        probability: Some(0.0),
                        present: false,
                        threshold: None,
                    })
                    .into(),
                text: format!("{} {image}", self.content),
                warnings: Vec::new(),
                input_gate: None,
            })
            .unwrap(),
            _ => format!("{} {image}", self.content).into_bytes(),
        };
        Ok(Some((content.into(), self.file())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_no_image_is_read_no_image_stage_runs_and_each_line_says_what_it_is_made_of() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["unknown.png"]);
    // Images that are not there: nothing but their names is needed.
    fixture.write_file(
        "table.csv",
        b"study_id,image\ns1,p10/a.jpg\ns2,p11/b.jpg\nunknown-study,unknown.png\n",
    );
    let images = [Stage::Embedding, Stage::Findings];
    let mut options = batch_options(fixture.archive("table.csv").await, &fixture.out());
    options.given = Known::of(&images, "first");
    let plan = plan_run(&options, &*fixture.backends.objects)
        .await
        .unwrap();
    assert_eq!((plan.studies, plan.unreadable), (3, 1));
    let summary = run_batch(options, &fixture.backends).await.unwrap();
    assert_eq!((summary.done, summary.failed), (2, 1));
    let records = records(&fixture.out());
    for study in ["s1", "s2"] {
        let record = &records[study];
        assert_eq!(record.status, StudyStatus::Done, "{record:?}");
        assert_eq!(record.given.keys().copied().collect::<Vec<_>>(), images);
        let given = &record.given[&Stage::Embedding];
        assert_eq!(
            (given.file.name.as_str(), record.input.as_ref()),
            ("known", Some(&given.object))
        );
        let ran: Vec<Stage> = record.timings.keys().copied().collect();
        assert_eq!(ran, [Stage::Language, Stage::Scoring]);
    }
    assert_eq!(records["s1"].findings_text.as_deref(), Some("first a"));
    let error = records["unknown-study"].error.clone().unwrap();
    assert_eq!(error.code, ErrorCode::GivenMissing);
    assert!(
        error
            .message
            .contains("known has no entry 'unknown' or 'unknown-study'"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_given_and_of_computed_embeddings_are_never_taken_for_each_other() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["a.png", "b.png"]);
    let run = async |out: &str, given: Option<Arc<dyn GivenOutputs>>| {
        let out = fixture.dir.path().join(out);
        let mut options = batch_options(fixture.archive("").await, &out);
        options.given = given;
        run_batch(options, &fixture.backends).await.unwrap()
    };
    let reused = |summary: RunSummary| {
        let reports = &summary.stages[&Stage::Language];
        (reports.done + reports.reused, reports.reused)
    };
    let embedding = [Stage::Embedding];
    assert_eq!(reused(run("computed", None).await), (2, 0));
    let first = run("first", Known::of(&embedding, "first")).await;
    assert!(!first.stages.contains_key(&Stage::Embedding), "{first:?}");
    assert_eq!(reused(first), (2, 0));
    assert_eq!(
        reused(run("second", Known::of(&embedding, "second")).await),
        (2, 0)
    );
    // Again, with everything there.
    for (out, given) in [
        ("computed again", None),
        ("first again", Known::of(&embedding, "first")),
        ("second again", Known::of(&embedding, "second")),
    ] {
        assert_eq!(reused(run(out, given).await), (2, 2), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_gone_on_with_where_the_files_are_others() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["a.png"]);
    let images = [Stage::Embedding, Stage::Findings];
    let run = async |given: Option<Arc<dyn GivenOutputs>>| {
        let mut options = batch_options(fixture.archive("").await, &fixture.out());
        options.given = given;
        run_batch(options, &fixture.backends).await
    };
    run(Known::of(&images, "first")).await.unwrap();
    run(Known::of(&images, "first")).await.unwrap();
    for given in [
        Known::of(&images, "second"),
        Known::of(&images[..1], "first"),
        None,
    ] {
        let error = run(given).await.unwrap_err();
        assert!(
            matches!(error, CoordinatorError::OtherRun { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("files of embeddings and predictions"),
            "{error}"
        );
    }
}

/// Runs the program, and gives what it says; where it fails, what it complains of.
fn run(arguments: &[&str]) -> Result<Result<String, String>> {
    let output = radialog(arguments)?.stdin(Stdio::null()).output_in_time()?;
    let (out, err) = (output.stdout, output.stderr);
    Ok(match output.status.success() {
        true => Ok(String::from_utf8(out)?),
        false => Err(String::from_utf8(err)?),
    })
}

/// A dictionary of numpy arrays as Python's pickle writes it in protocol 3, which the original's Python 3.7 uses.
fn pickle(arrays: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let text = |text: &str| {
        [
            b"X",
            &(text.len() as u32).to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    };
    let mut out = b"\x80\x03}(".to_vec();
    for (name, shape, bytes) in arrays {
        out.extend(text(name));
        out.extend(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01",
        );
        for side in shape {
            out.extend([b"M", &(*side as u16).to_le_bytes()[..]].concat());
        }
        out.extend(b"\x86cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B");
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
        out.extend(b"tb");
    }
    out.extend(b"u.");
    out
}

#[test]
fn the_releases_files_give_the_reports_that_the_images_give() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let names = ["00001300_000", "2cd63b76"];
    fs::create_dir(path("images"))?;
    for name in names {
        let file = format!("{name}.jpg");
        fs::copy(xrays().join(&file), dir.path().join("images").join(file))?;
    }
    let batch = |out: &str, more: &[&str]| {
        let (images, out) = (path("images"), path(out));
        let mut arguments = vec!["batch", &images, "--out", &out, "--max-new-tokens", "40"];
        arguments.extend(["--progress", "off"]);
        arguments.extend(more);
        run(&arguments)
    };
    batch("computed", &[])?.map_err(anyhow::Error::msg)?;
    let computed = records(&dir.path().join("computed"));

    // Ours, and the same as the original writes it.
    let table: String = names.iter().map(|name| format!("{name}.jpg\n")).collect();
    fs::write(
        dir.path().join("images/table.csv"),
        format!("image\n{table}"),
    )?;
    let (table, ours) = (path("images/table.csv"), path("e.safetensors"));
    let prepare = [
        "prepare",
        "embeddings",
        "--images",
        &table,
        "--out",
        &ours,
        "--progress",
        "off",
    ];
    run(&prepare)?.map_err(anyhow::Error::msg)?;
    fs::remove_file(&table)?;
    let content = fs::read(&ours)?;
    let tensors = SafeTensors::deserialize(&content)?;
    let array = |name: &str| -> Result<_> {
        let tensor = tensors.tensor(name)?;
        Ok((
            name.to_owned(),
            tensor.shape().to_vec(),
            tensor.data().to_vec(),
        ))
    };
    let arrays = names.into_iter().map(array).collect::<Result<Vec<_>>>()?;
    let theirs = path("embeddings_test.pkl");
    fs::write(&theirs, pickle(&arrays))?;
    let predicted = |record: &StudyRecord| -> Vec<Finding> {
        let findings = record.findings.iter().flatten();
        findings
            .filter(|each| each.present)
            .map(|each| each.finding)
            .collect()
    };
    let predictions: BTreeMap<&str, _> = names
        .iter()
        .map(|name| (*name, predicted(&computed[*name])))
        .collect();
    let json = path("preds_test_macro.json");
    fs::write(&json, serde_json::to_vec(&predictions)?)?;

    for (out, embeddings) in [("ours", &ours), ("theirs", &theirs)] {
        batch(out, &["--embeddings", embeddings, "--predictions", &json])?
            .map_err(anyhow::Error::msg)?;
        let given = records(&dir.path().join(out));
        for name in names {
            let (given, computed) = (&given[name], &computed[name]);
            ensure!(given.status == StudyStatus::Done, "{given:?}");
            assert_eq!(given.report, computed.report);
            assert_eq!(given.findings_text, computed.findings_text);
            assert_eq!(given.report_labels, computed.report_labels);
            assert!(!given.timings.contains_key(&Stage::Embedding));
            let file = &given
                .given
                .get(&Stage::Embedding)
                .context("not given")?
                .file;
            assert!(embeddings.ends_with(&file.name));
            assert_eq!(file.sha256, ContentHash::of(&fs::read(embeddings)?));
        }
    }

    // What cannot be meant is refused before anything runs.
    fs::write(
        path("twice.json"),
        r#"{"a": [], "b": ["Edema"], "a": ["Edema"]}"#,
    )?;
    fs::write(path("names.json"), r#"{"a": ["Oedema"]}"#)?;
    fs::write(
        path("other.pkl"),
        pickle(&[("a".into(), vec![2, 3], vec![0; 24])]),
    )?;
    fs::write(path("cut.pkl"), &fs::read(&theirs)?[..100])?;
    fs::write(path("nothing.pkl"), pickle(&[]))?;
    for (flag, files, words) in [
        ("--predictions", vec!["twice.json"], "'a' stands twice"),
        (
            "--predictions",
            vec!["names.json"],
            "'a': 'Oedema' is not one of the 14",
        ),
        ("--predictions", vec!["missing.json"], "missing.json"),
        (
            "--embeddings",
            vec!["other.pkl"],
            "has the shape [2, 3], and the bundle's language model takes",
        ),
        ("--embeddings", vec!["cut.pkl"], "cut.pkl"),
        ("--embeddings", vec!["nothing.pkl"], "has no embedding"),
        (
            "--embeddings",
            vec!["twice.json"],
            "is no file of embeddings",
        ),
        (
            "--embeddings",
            vec!["e.safetensors", "embeddings_test.pkl"],
            "leave one of the files out",
        ),
    ] {
        let files: Vec<String> = files.into_iter().map(path).collect();
        let mut arguments = vec![flag];
        arguments.extend(files.iter().map(String::as_str));
        let refused = batch("refused", &arguments)?.unwrap_err();
        assert!(refused.contains(words), "{arguments:?}: {refused}");
        assert!(!dir.path().join("refused/results.jsonl").exists());
    }
    let refused = batch("refused", &["--stages", "findings", "--embeddings", &ours])?.unwrap_err();
    assert!(refused.contains("which this run has not"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_name_that_images_of_two_studies_have_stands_for_neither() {
    let fixture = BatchFixture::new().await;
    fixture.write_file(
        "table.csv",
        b"study_id,image\ns1,p1/frontal.png\nunknown-2,p2/frontal.png\ns3,p3/other.png\n",
    );
    let images = [Stage::Embedding, Stage::Findings];
    let mut options = batch_options(fixture.archive("table.csv").await, &fixture.out());
    options.given = Known::of(&images, "first");
    let summary = run_batch(options, &fixture.backends).await.unwrap();
    assert_eq!((summary.done, summary.failed), (2, 1));
    let records = records(&fixture.out());
    let text = |study: &str| records[study].findings_text.clone().unwrap();
    assert_eq!(
        (text("s1").as_str(), text("s3").as_str()),
        ("first s1", "first other")
    );
    let error = records["unknown-2"].error.clone().unwrap();
    assert_eq!(error.code, ErrorCode::GivenMissing);
    assert!(error.message.contains("are called 'frontal'"), "{error}");
}
