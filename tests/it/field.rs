//! Files from the field, made after public reports of faults: `RADIALOG_FIELD` names their folder. What the classifier says of
//! each picture is what it says of the same one in a plain PNG file, and each archive has the studies that it shows.
#![expect(clippy::print_stdout, reason = "whether it ran is this test's result")]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use radialog_schemas::{StudyRecord, StudyStatus};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;

/// Names the folder.
const VARIABLE: &str = "RADIALOG_FIELD";
/// Furthest that a probability of a JPEG file may be off: it was compressed once more.
const TOLERANCE: f32 = 0.005;
/// Archives, and how many studies they have.
const ARCHIVES: [(&str, usize); 4] = [("film", 1), ("mimic_gz", 1), ("mixed", 3), ("suffixes", 5)];

/// The studies of an archive, all of which must be done.
fn scored(archive: &Path) -> Result<BTreeMap<String, StudyRecord>> {
    let out = tempfile::tempdir()?;
    let [archive, results] = [archive, out.path()].map(|path| path.display().to_string());
    let batch = ["batch", &archive, "--out", &results, "--stages", "findings"];
    let run = radialog(&batch)?
        .args(["--progress", "off"])
        .output_in_time()?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let lines = std::fs::read_to_string(out.path().join("results.jsonl"));
    let mut studies = BTreeMap::new();
    for line in lines.with_context(|| said.clone())?.lines() {
        let record: StudyRecord = serde_json::from_str(line)?;
        ensure!(record.status == StudyStatus::Done, "{line}\n{said}");
        studies.insert(record.study.to_string(), record);
    }
    Ok(studies)
}

#[test]
fn files_of_the_field_are_read_as_the_pictures_that_they_show() -> Result<()> {
    let Some(named) = std::env::var_os(VARIABLE) else {
        println!("not run: set {VARIABLE} to the folder of the field's files");
        return Ok(());
    };
    // cargo runs tests in the crate's folder, but a person names a folder from the project's.
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = project.join(named);
    let seen = scored(&folder.join("images"))?;
    let expected = scored(&folder.join("expected"))?;
    ensure!(!expected.is_empty(), "nothing is expected");
    ensure!(seen.keys().eq(expected.keys()), "{:?}", seen.keys());
    for (seen, expected) in seen.values().zip(expected.values()) {
        let most = match seen.file.ends_with(".png") {
            true => 0.0,
            false => TOLERANCE,
        };
        let [ours, right] = [seen, expected].map(|record| record.findings.clone());
        let (ours, right) = (ours.unwrap_or_default(), right.unwrap_or_default());
        ensure!((ours.len(), right.len()) == (14, 14), "{}", seen.file);
        for (ours, right) in ours.iter().zip(&right) {
            let off = match (ours.probability, right.probability) {
                (Some(ours), Some(right)) => (ours - right).abs(),
                (None, None) => 0.0,
                _ => f32::INFINITY,
            };
            let is_right = ours.finding == right.finding && off <= most;
            ensure!(is_right, "{}: {ours:?}, and not {right:?}", seen.file);
        }
    }
    for (archive, studies) in ARCHIVES {
        let found = scored(&folder.join(archive))?;
        ensure!(found.len() == studies, "{archive}: {:?}", found.keys());
        if archive == "mimic_gz" {
            let record = found.values().next().context("a study")?;
            let is_frontal = record.file.ends_with("bbbb0002.jpg");
            ensure!(is_frontal, "{}", record.file);
            ensure!(
                record.split.as_deref() == Some("test"),
                "{:?}",
                record.split
            );
        }
    }
    println!(
        "field: {} pictures and {} archives are read as they should be",
        expected.len(),
        ARCHIVES.len()
    );
    Ok(())
}
