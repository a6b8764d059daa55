//! By which names studies of both sides are one.

use anyhow::{Result, ensure};

use super::EvaluationFixture;

#[test]
fn paths_that_end_alike_are_not_one_study() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "p.csv",
        "study_id,report\np1/frontal,The lungs are clear.\np2/frontal,Large effusion.\n",
    )?;
    folder.write(
        "r.csv",
        "study_id,image,findings\np1/frontal,p1/frontal.jpg,The lungs are clear.\n",
    )?;
    let scores = folder.scores(&["p.csv", "--references", "r.csv"])?;
    ensure!(scores["counts"]["studies"] == 1, "{scores}");
    ensure!(scores["faults"]["no-reference"] == 1, "{scores}");
    let faults = folder.read("evaluation/faults.csv")?;
    ensure!(faults.contains("p.csv,3,p2/frontal,"), "{faults}");

    // Where the end alone leads to a row, it must be of one study.
    folder.write("r.csv", "study_id,findings\nfrontal,The lungs are clear.\n")?;
    let fault = folder.fault(&["p.csv", "--references", "r.csv"], 64)?;
    ensure!(
        fault.contains("2 predictions whose paths end alike")
            && fault.contains("p.csv line 2 (p1/frontal): as 'frontal' of r.csv"),
        "{fault}"
    );
    Ok(())
}

#[test]
fn a_table_of_chexpert_is_found_by_the_paths_of_its_images() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let row =
        |path: &str, edema: &str| format!("CheXpert-v1.0-small/valid/{path}.jpg,AP,{edema}\n");
    let table = "Path,AP/PA,Edema\n".to_owned()
        + &row("patient1/study1/view1_frontal", "1.0")
        + &row("patient2/study1/view1_frontal", "0.0")
        + &row("patient2/study1/view2_lateral", "0.0");
    folder.write("valid.csv", &table)?;
    let mut lines = String::new();
    for study in [
        "valid/patient1/study1/view1_frontal",
        "valid/patient2/study1/view1_frontal",
        "valid/patient7/study1/view2_lateral",
    ] {
        let labels = [radialog_schemas::Label::Negative; 14];
        lines += &super::line(study, "No edema.", Some(labels), None)?;
    }
    folder.write("results.jsonl", &lines)?;
    let scores = folder.scores(&["results.jsonl", "--references", "valid.csv"])?;
    ensure!(scores["counts"]["labelled_reports"] == 2, "{scores}");
    ensure!(scores["faults"]["no-reference"] == 1, "{scores}");
    ensure!(
        scores["faults"]["reference-without-prediction"] == 1,
        "{scores}"
    );
    let faults = folder.read("evaluation/faults.csv")?;
    ensure!(
        faults.contains("valid/patient7/study1/view2_lateral"),
        "{faults}"
    );
    Ok(())
}

#[test]
fn a_folder_of_reports_with_a_link_to_itself_ends_and_files_of_one_name_stay_apart() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    for (patient, text) in [("p1", "Clear lungs."), ("p2", "Large effusion.")] {
        std::fs::create_dir_all(folder.path(&format!("refs/{patient}")))?;
        let text = format!(" FINAL REPORT\n FINDINGS:\n \n {text}\n");
        folder.write(&format!("refs/{patient}/chest.txt"), &text)?;
    }
    std::fs::create_dir(folder.path("elsewhere"))?;
    folder.write(
        "elsewhere/knee.txt",
        " FINAL REPORT\n FINDINGS:\n \n Normal knee.\n",
    )?;
    for (leads_to, link) in [
        (".", "l"),
        (".", "m"),
        ("..", "p1/up"),
        ("../elsewhere", "n"),
    ] {
        std::os::unix::fs::symlink(leads_to, folder.path("refs").join(link))?;
    }
    folder.write(
        "p.csv",
        "study_id,report\np1/chest,Clear lungs.\np2/chest,Large effusion.\nchest,Clear.\nknee,Normal knee.\n",
    )?;
    let scores = folder.scores(&["p.csv", "--references", "refs"])?;
    ensure!(
        super::value(&scores, "text", "ROUGE-L", None) == Some(1.0),
        "{scores}"
    );
    // A folder behind a link is read, too, and none of them twice.
    ensure!(scores["counts"]["studies"] == 3, "{scores}");
    ensure!(
        scores["faults"]["no-reference"] == 1
            && scores["faults"]
                .get("reference-without-prediction")
                .is_none(),
        "{scores}"
    );
    Ok(())
}
