//! What is wrong with files is named with line and id, and counted.

use anyhow::{Result, ensure};
use radialog_schemas::{Finding, Label};
use serde_json::Value;

use super::{EvaluationFixture, label_table, line, value};

#[test]
fn every_fault_of_a_row_is_named_with_its_line_and_counted() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "predictions.csv",
        "study_id,report\n\
         a1,The lungs are clear.\n\
         a2,nan\n\
         a1,Twice.\n\
         =a3,No reference for this.\n\
         ,No id.\n\
         a4,Cut,off\n\
         a5,Empty reference.\n\
         a6,Which one?\n",
    )?;
    folder.write(
        "references.csv",
        "study_id,findings\n\
         a1,The lungs are clear.\n\
         a2,No effusion.\n\
         a5,\n\
         a6,One.\n\
         a6,Another.\n\
         a9,Nobody predicted this.\n",
    )?;
    let printed = folder.evaluate(&["predictions.csv", "--references", "references.csv"])?;
    for words in [
        "2 studies scored: 2 texts",
        "1 empty prediction, scored as an empty text\n    predictions.csv line 3 (a2)",
        "1 prediction whose id stands earlier\n    predictions.csv line 4 (a1): line 2 has this id already",
        "1 prediction without a reference\n    predictions.csv line 5 (=a3)",
        "1 row without an id\n    predictions.csv line 6",
        "predictions.csv line 7: ",
        "1 empty reference\n    predictions.csv line 8 (a5): references.csv line 4",
        "1 reference that differs from another under its id\n    predictions.csv line 9 (a6): lines 5 and 6 of references.csv",
        "references.csv line 7 (a9)",
    ] {
        ensure!(printed.contains(words), "{words:?} is missing:\n{printed}");
    }
    let faults = folder.read("evaluation/faults.csv")?;
    ensure!(
        faults.contains("predictions.csv,3,a2,") && faults.contains(",yes,"),
        "{faults}"
    );
    // No spreadsheet runs an id.
    ensure!(faults.contains("predictions.csv,5,'=a3,"), "{faults}");
    let scores = folder.read("evaluation/scores.json")?;
    ensure!(scores.contains("\"duplicate-prediction\": 1"), "{scores}");
    // An empty report pulls the score down instead of being left out.
    let scores = serde_json::from_str(&scores)?;
    ensure!(
        value(&scores, "text", "ROUGE-L", None) == Some(0.5),
        "{scores}"
    );
    Ok(())
}

#[test]
fn a_label_table_with_unknown_columns_says_which_and_a_misspelled_finding_is_refused() -> Result<()>
{
    let folder = EvaluationFixture::new()?;
    let mut labels = [Label::Negative; 14];
    labels[Finding::Edema as usize] = Label::Positive;
    folder.write("results.jsonl", &line("a1", "Edema.", Some(labels), None)?)?;
    let table = label_table([(
        "a1",
        [
            "0", "", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0", "", "x",
        ],
    )]);
    let refused = table.replace("Pleural Effusion", "Pleural_Effusion");
    folder.write("labels.csv", &refused)?;
    let fault = folder.fault(&["results.jsonl", "--references", "labels.csv"], 64)?;
    ensure!(
        fault.contains("labels.csv' line 1: the column 'Pleural_Effusion' is not known: write it 'Pleural Effusion'"),
        "{fault}"
    );
    // A cell that is no label takes its row with it, by name.
    folder.write("labels.csv", &table)?;
    let fault = folder.fault(&["results.jsonl", "--references", "labels.csv"], 64)?;
    ensure!(
        fault.contains("labels.csv line 2 (a1): Support Devices"),
        "{fault}"
    );
    let table = table
        .replace(",x", ",")
        .replace("study_id,", "study_id,Airway Disease,Age,")
        .replace("a1,", "a1,1,77,");
    folder.write("labels.csv", &table)?;
    let printed = folder.evaluate(&["results.jsonl", "--references", "labels.csv"])?;
    for words in [
        "columns with labels that are none of the 14 findings, not scored: Airway Disease",
        "columns that are not used: Age",
        "no row of the labels has one of Enlarged Cardiomediastinum, Fracture, Support Devices: not scored, and left out of the means",
    ] {
        ensure!(printed.contains(words), "{words:?} is missing:\n{printed}");
    }
    Ok(())
}

#[test]
fn texts_without_ids_must_be_as_many_on_both_sides() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "\"Clear.\"\n\"No edema.\"\n")?;
    folder.write("references.csv", "\"Clear.\"\n")?;
    let fault = folder.fault(&["predictions.csv", "--references", "references.csv"], 64)?;
    ensure!(
        fault.contains("2 predictions without ids, but references.csv has 1 text:"),
        "{fault}"
    );
    // The order of a table's rows that have a text, as the original's program takes them.
    folder.write(
        "references.csv",
        "dicom_id,findings\nd1,Clear.\nd2,\nd3,No edema.\n",
    )?;
    let scores = folder.scores(&["predictions.csv", "--references", "references.csv"])?;
    ensure!(
        value(&scores, "text", "ROUGE-L", None) == Some(1.0),
        "{scores}"
    );
    Ok(())
}

#[test]
fn a_row_whose_image_is_called_as_its_id_is_one_row() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\n")?;
    folder.write(
        "references.csv",
        "study_id,image,findings\na,a.png,Clear.\n",
    )?;
    let scores = folder.scores(&["predictions.csv", "--references", "references.csv"])?;
    ensure!(
        value(&scores, "text", "ROUGE-L", None) == Some(1.0),
        "{scores}"
    );
    Ok(())
}

#[test]
fn references_that_lack_a_half_are_named_and_a_row_that_says_nothing_hides_none() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "made.csv",
        "study_id,dicom_id,prediction\n50000001,a1,Clear.\n50000001,a2,Clear.\n50000002,b1,Clear.\n",
    )?;
    folder.write(
        "texts.csv",
        "study_id,report\ns50000001,Clear.\n50000002,Clear.\n",
    )?;
    folder.write("blank.csv", "study_id,Edema\n50000001,\n50000002,\n")?;
    folder.write("labels.csv", "study_id,Edema\n50000001,1\n")?;
    let references = ["--references", "texts.csv", "blank.csv", "labels.csv"];
    let printed = folder.evaluate(&[&["made.csv"], &references[..]].concat())?;
    // Two images of one study are two predictions.
    ensure!(printed.contains("3 studies scored: 3 texts"), "{printed}");
    let faults = folder.read("evaluation/faults.csv")?;
    let empty: Vec<&str> = faults
        .lines()
        .filter(|line| line.contains("blank.csv"))
        .collect();
    ensure!(empty.len() == 1 && empty[0].contains("b1"), "{faults}");
    folder.write("others.csv", "study_id,Edema\n50000001,0\n")?;
    folder.evaluate(&[&["made.csv"], &references[..], &["others.csv"]].concat())?;
    let faults = folder.read("evaluation/faults.csv")?;
    ensure!(
        faults.contains("labels.csv line 2 and") && faults.contains("others.csv line 2"),
        "{faults}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_with_the_other_systems_file_is_named_too() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\n")?;
    folder.write("others.csv", "id,report\na,Edema.\na,Twice.\n")?;
    folder.write("references.csv", "id,findings\na,Clear.\n")?;
    let files = ["predictions.csv", "--references", "references.csv"];
    let against = [&files[..], &["--against", "others.csv"]].concat();
    let printed = folder.evaluate(&against)?;
    ensure!(
        printed.contains("1 prediction whose id stands earlier\n    others.csv line 3 (a)"),
        "{printed}"
    );
    ensure!(
        printed.contains("Compared with others.csv on 1 study that both have"),
        "{printed}"
    );
    let fault = folder.fault(&[&against[..], &["--run", "labels"]].concat(), 64)?;
    ensure!(fault.contains("with --bundle"), "{fault}");
    Ok(())
}

#[test]
fn a_split_or_selection_that_cannot_be_made_is_refused() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\nb,Edema.\n")?;
    folder.write("references.csv", "id,findings\na,Clear.\nb,Edema.\n")?;
    let files = ["predictions.csv", "--references", "references.csv"];
    let fault = folder.fault(&[&files[..], &["--split", "test"]].concat(), 64)?;
    ensure!(
        fault.contains("leave out --split test, or add a column split"),
        "{fault}"
    );
    let fault = folder.fault(&[&files[..], &["--stratified"]].concat(), 64)?;
    ensure!(
        fault.contains("needs labels of the references, and 'a' has none"),
        "{fault}"
    );
    folder.write(
        "references.csv",
        "id,split,findings\na,test,Clear.\nb,train,Edema.\n",
    )?;
    let fault = folder.fault(&[&files[..], &["--split", "validate"]].concat(), 64)?;
    ensure!(
        fault.contains("no study of the split 'validate' that can be scored, but 2 of others"),
        "{fault}"
    );
    let scores = folder.scores(&[&files[..], &["--split", "test"]].concat())?;
    ensure!(
        scores["counts"]["studies"] == 1 && scores["counts"]["other_splits"] == 1,
        "{scores}"
    );
    ensure!(
        scores["faults"]
            .as_object()
            .is_some_and(|faults| faults.is_empty()),
        "{scores}"
    );
    Ok(())
}

#[test]
fn nothing_to_compare_with_says_what_is_missing() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("predictions.csv", "id,report\na,Clear.\n")?;
    let fault = folder.fault(&["predictions.csv"], 64)?;
    ensure!(
        fault.contains("1 prediction without a reference") && fault.contains("--references"),
        "{fault}"
    );
    // What is printed names the file that has all of them.
    ensure!(folder.read("evaluation/faults.csv")?.contains(",2,a,"));
    let fault = folder.fault(&["nowhere.csv"], 64)?;
    ensure!(fault.contains("there is no 'nowhere.csv'"), "{fault}");
    folder.write("predictions.csv", "name,words\na,Clear.\n")?;
    let fault = folder.fault(&["predictions.csv"], 64)?;
    ensure!(
        fault.contains("line 1: a table of predictions has a column of ids"),
        "{fault}"
    );
    Ok(())
}

#[test]
fn a_stratified_selection_keeps_all_findings_and_a_thirteenth_without() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut lines = String::new();
    let mut rows = Vec::new();
    let ids: Vec<String> = (0..60).map(|place| format!("a{place:02}")).collect();
    for (place, id) in ids.iter().enumerate() {
        lines += &line(id, "Clear.", Some([Label::Negative; 14]), None)?;
        let mut cells = ["0"; 14];
        // The first 27 have a finding, of which int(27 * 14 / 13 / 14) = 2 without follow.
        cells[if place < 27 {
            Finding::Edema as usize
        } else {
            Finding::NoFinding as usize
        }] = "1";
        rows.push((id.as_str(), cells));
    }
    folder.write("results.jsonl", &lines)?;
    folder.write("labels.csv", &label_table(rows))?;
    let scores = folder.scores(&[
        "results.jsonl",
        "--references",
        "labels.csv",
        "--stratified",
    ])?;
    ensure!(
        scores["counts"]["studies"] == 29 && scores["counts"]["not_selected"] == 31,
        "{scores}"
    );
    let studies = folder.read("evaluation/studies.csv")?;
    ensure!(
        studies.contains("\na28,") && !studies.contains("\na29,"),
        "{studies}"
    );
    Ok(())
}

#[test]
fn only_what_is_scored_counts_as_an_empty_report_that_is() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write(
        "p.csv",
        "id,split,report\na,test,Clear.\nb,train,\nc,test,nan\nd,test,\n",
    )?;
    folder.write("r.csv", "id,findings\na,Clear.\nb,Clear.\nd,Clear.\n")?;
    let files = ["p.csv", "--references", "r.csv", "--split", "test"];
    let scores = folder.scores(&files)?;
    ensure!(scores["faults"]["empty-prediction"] == 1, "{scores}");
    let faults = folder.read("evaluation/faults.csv")?;
    ensure!(
        faults.contains("p.csv,5,d,") && !faults.contains("p.csv,3,b,"),
        "{faults}"
    );
    let scores = folder.scores(&[&files[..], &["--limit", "1"]].concat())?;
    ensure!(
        scores["faults"].get("empty-prediction").is_none(),
        "{scores}"
    );
    Ok(())
}

#[test]
fn two_columns_of_one_name_are_refused_where_they_are_read() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    folder.write("p.csv", "id,report,other,other\na,Clear.,x,y\n")?;
    let references = "study_id,findings,findings\na,Clear.,Edema.\n";
    folder.write("r.csv", references)?;
    let fault = folder.fault(&["p.csv", "--references", "r.csv"], 64)?;
    ensure!(
        fault.contains("r.csv' has several columns 'findings', 2 and 3"),
        "{fault}"
    );
    folder.write("r.csv", &references.replacen("findings", "Findings", 1))?;
    folder.evaluate(&["p.csv", "--references", "r.csv"])?;
    Ok(())
}

#[test]
fn a_first_row_with_a_cell_too_many_is_a_fault_of_its_own() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let predictions = "study_id,prediction\na,Clear, and more\nb,Edema.\nc,Edema.\n";
    folder.write("p.csv", predictions)?;
    folder.write("r.csv", "study_id,findings\nb,Edema.\nc,Edema.\n")?;
    let printed = folder.evaluate(&["p.csv", "--references", "r.csv"])?;
    ensure!(
        printed.contains("2 studies scored")
            && printed.contains("p.csv line 2: 3 values under 2 names"),
        "{printed}"
    );
    Ok(())
}

#[test]
fn a_header_longer_than_any_row_is_named_and_not_listed() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let columns: Vec<String> = (0..200_000).map(|number| format!("c{number}")).collect();
    let wide = format!("id,{},text\na,Clear.\n", columns.join(","));
    folder.write("wide.csv", &wide)?;
    folder.write("r.csv", "id,report\na,Clear.\n")?;
    for (reports, references) in [("wide.csv", "r.csv"), ("r.csv", "wide.csv")] {
        let fault = folder.fault(&[reports, "--references", references], 64)?;
        ensure!(
            fault.contains("wide.csv' line 1: its first line is longer than 1 MiB")
                && fault.len() < 4096,
            "{fault:.4096}"
        );
    }
    Ok(())
}

#[test]
fn a_run_that_was_killed_is_scored_without_its_broken_last_line() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let whole = line("a", "Clear.", None, None)?;
    let cut = line("b", "Clear.", None, None)?;
    folder.write("results.jsonl", &(whole + "\n" + &cut[..cut.len() / 2]))?;
    folder.write("r.csv", "id,findings\na,Clear.\n")?;
    let printed = folder.evaluate(&["results.jsonl", "--references", "r.csv"])?;
    ensure!(
        printed.contains("1 study scored") && printed.contains("line 3: the last line is cut"),
        "{printed}"
    );
    let fault = folder.fault(&["s3://bucket/run", "--references", "r.csv"], 64)?;
    ensure!(fault.contains("--s3"), "{fault}");
    Ok(())
}

#[test]
fn a_study_of_another_split_that_failed_is_no_fault_of_this_one() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let mut lines = String::new();
    for (id, split) in [("a", "test"), ("b", "test"), ("c", "train")] {
        let mut record: Value = serde_json::from_str(&line(id, "Clear.", None, None)?)?;
        record["split"] = split.into();
        if id != "a" {
            record["status"] = "failed".into();
            record["error"] = serde_json::json!({"code": "image_unreadable", "message": "cut"});
        }
        lines += &format!("{record}\n");
    }
    folder.write("results.jsonl", &lines)?;
    folder.write("r.csv", "id,findings\na,Clear.\nb,Clear.\nc,Clear.\n")?;
    let files = ["results.jsonl", "--references", "r.csv"];
    let scores = folder.scores(&[&files[..], &["--split", "test"]].concat())?;
    ensure!(scores["faults"]["failed-study"] == 1, "{scores}");
    ensure!(scores["counts"]["other_splits"] == 1, "{scores}");
    let scores = folder.scores(&files)?;
    ensure!(scores["faults"]["failed-study"] == 2, "{scores}");
    Ok(())
}

#[test]
fn references_that_differ_are_told_apart_in_time() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let (mut predictions, mut references) = ("id,report\n".to_owned(), "id,findings\n".to_owned());
    for id in 0..20_000 {
        predictions += &format!("a{id},Clear.\n");
        references += &format!("a{id},One.\na{id},Other.\na{id},One.\n");
    }
    folder.write("p.csv", &(predictions + "b,Clear.\n"))?;
    folder.write("r.csv", &(references + "b,Clear.\n"))?;
    // A pass over the table for each of them took four minutes.
    let scores = folder.scores(&["p.csv", "--references", "r.csv"])?;
    ensure!(
        scores["faults"]["differing-references"] == 20_000,
        "{scores}"
    );
    ensure!(
        scores["faults"]
            .get("reference-without-prediction")
            .is_none(),
        "{scores}"
    );
    Ok(())
}

#[test]
fn numbers_that_are_no_probabilities_are_named_and_their_findings_not_scored() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let lines = line("a", "Edema.", None, Some([7.5; 14]))?
        + &line("b", "Clear.", None, Some([0.2; 14]))?
        + &line("c", "Edema.", None, Some([0.9; 14]))?;
    folder.write("results.jsonl", &lines)?;
    let rows = [("a", ["1"; 14]), ("b", ["0"; 14]), ("c", ["1"; 14])];
    folder.write("labels.csv", &label_table(rows))?;
    let scores = folder.scores(&["results.jsonl", "--references", "labels.csv"])?;
    ensure!(
        scores["faults"]["no-probability"] == 1 && scores["counts"]["classified_images"] == 2,
        "{scores}"
    );
    Ok(())
}
