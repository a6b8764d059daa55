//! What an evaluation that did not come to its end has scored is not scored again.

use std::fs::{self, OpenOptions};

use anyhow::{Result, ensure};

use super::EvaluationFixture;

/// More than are scored at a time.
const STUDIES: usize = 700;

#[test]
fn texts_that_were_scored_before_an_evaluation_failed_are_not_scored_again() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let table = |text: &str| {
        let row = |number| format!("{number},\"{text}, {number} mm.\"\n");
        "id,report\n".to_owned() + &(0..STUDIES).map(row).collect::<String>()
    };
    folder.write("ours.csv", &table("Small left effusion"))?;
    folder.write("theirs.csv", &table("No effusion"))?;
    folder.write("references.csv", &table("There is a small effusion"))?;
    let files = [
        "ours.csv",
        "--references",
        "references.csv",
        "--against",
        "theirs.csv",
    ];
    let files = [
        &files[..],
        &["--original-files", "old", "--resamples", "20"],
    ]
    .concat();
    folder.evaluate(&files)?;
    let expected = folder.read("evaluation/scores.json")?;
    let counts = ["reports", "against"];
    let counts = counts.map(|of| folder.path(&format!("evaluation/.evaluation.texts-{of}")));
    ensure!(counts.iter().all(|file| !file.exists()));

    // It fails at its end, where it writes the original's files, and was killed while it kept what it had counted.
    // A link that leads nowhere is a folder for nobody.
    fs::remove_dir_all(folder.path("old/vicuna_results"))?;
    std::os::unix::fs::symlink("nowhere", folder.path("old/vicuna_results"))?;
    let fault = folder.fault(&files, 1)?;
    ensure!(fault.contains("vicuna_results"), "{fault}");
    let length = fs::metadata(&counts[0])?.len();
    let file = OpenOptions::new().write(true).open(&counts[0])?;
    file.set_len(length / 2)?;

    fs::remove_file(folder.path("old/vicuna_results"))?;
    let output = folder.run(&files)?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");
    for texts in [STUDIES / 2 - 1, STUDIES] {
        let note = format!("note: {texts} texts were scored by an evaluation that was interrupted");
        ensure!(said.contains(&note), "{note}: {said}");
    }
    ensure!(folder.read("evaluation/scores.json")? == expected);
    ensure!(counts.iter().all(|file| !file.exists()));
    Ok(())
}
