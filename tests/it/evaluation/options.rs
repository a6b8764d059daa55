//! Each option is honoured, or refused where it could change nothing.

use anyhow::{Result, ensure};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;

use super::EvaluationFixture;

#[test]
fn options_that_would_change_nothing_are_refused() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\n")?;
    folder.write("references.csv", "id,findings\na,Clear.\n")?;
    folder.write("graphs.json", "[]")?;
    let files = ["predictions.csv", "--references", "references.csv"];
    // What is read more than once cannot be a pipe, or the like.
    for files in [
        ["/dev/null", "--references", "references.csv"],
        ["predictions.csv", "--references", "/dev/null"],
    ] {
        let fault = folder.fault(&files, 64)?;
        ensure!(fault.contains("'/dev/null' is a pipe"), "{fault}");
    }
    for (options, words) in [
        (&["--run", "labels"][..], "name its bundle with --bundle"),
        (&["--retry-failed"], "name its bundle with --bundle"),
        (&["--blank", "unknown"], "--blank is about tables of labels"),
        (&["--uncertain", "positive"], "--uncertain is about labels"),
        (
            &["--references", "./references.csv"],
            "'./references.csv' twice",
        ),
        (
            &["--against", "predictions.csv"],
            "name those of another system",
        ),
        (
            &["--out", "graphs.json"],
            "'graphs.json' is a file: name a folder",
        ),
        (
            &["--original-files", "graphs.json"],
            "'graphs.json' is no folder",
        ),
        (
            &[
                "--radgraph-hypotheses",
                "graphs.json",
                "--radgraph-references",
                "graphs.json",
            ],
            "annotations are scored under --protocol rexrank",
        ),
    ] {
        let fault = folder.fault(&[&files[..], options].concat(), 64)?;
        ensure!(fault.contains(words), "{options:?}: {fault}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_read_is_never_overwritten() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    std::fs::create_dir(folder.path("eval"))?;
    folder.write("eval/studies.csv", "id,report\na,Clear.\n")?;
    folder.write("references.csv", "id,findings\na,Clear.\n")?;
    let files = ["eval/studies.csv", "--references", "references.csv"];
    let fault = folder.fault(&[&files[..], &["--out", "eval"]].concat(), 64)?;
    ensure!(fault.contains("'eval/studies.csv' is"), "{fault}");
    ensure!(folder.read("eval/studies.csv")?.starts_with("id,report"));
    // Nor what else lies there, as long as no evaluation has written it.
    folder.write("others.csv", "id,report\na,Clear.\n")?;
    let others = [
        "others.csv",
        "--references",
        "references.csv",
        "--out",
        "eval",
    ];
    let fault = folder.fault(&others, 64)?;
    ensure!(fault.contains("no evaluation has written it"), "{fault}");
    ensure!(folder.read("eval/studies.csv")?.starts_with("id,report"));
    folder.evaluate(&files)?;
    folder.evaluate(&files)?;
    Ok(())
}

#[test]
fn what_no_part_of_a_bundles_evaluation_uses_is_refused() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("labels.csv", "image,split\n")?;
    std::fs::create_dir(folder.path("images"))?;
    let findings = ["--nih", "labels.csv", "images", "--only", "findings"];
    for (options, words) in [
        (
            &[&findings[..], &["--lower-case-names"]].concat(),
            "--lower-case-names is about dialog",
        ),
        (
            &[&findings[..], &["--texts", "texts.json"]].concat(),
            "--texts has what report, image and dialog write",
        ),
        (
            &["--nih", "labels.csv", "images", "--texts", "quality.json"].to_vec(),
            "--out and --texts name one file",
        ),
        (
            &["--nih", "nowhere.csv", "images"].to_vec(),
            "there is no 'nowhere.csv'",
        ),
        (
            &[&findings[..], &["--split", "train"]].concat(),
            "use test, or validate",
        ),
        (
            &[&findings[..], &["--limit", "0"]].concat(),
            "invalid value '0'",
        ),
        (
            &[&findings[..], &["--out", "labels.csv"]].concat(),
            "'labels.csv' is read",
        ),
    ] {
        let line = [&["evaluate", "bundle"], &options[..]].concat();
        let output = radialog(&line)?
            .current_dir(folder.dir.path())
            .output_in_time()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(64) && error.contains(words),
            "{options:?}: {error}"
        );
    }
    Ok(())
}
