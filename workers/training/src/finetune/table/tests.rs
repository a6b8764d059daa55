use super::*;

/// A folder with images, and what is read of a table beside it.
fn read_as(table: &str, names: &ColumnNames) -> Result<FinetuneTable, String> {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/golden/01_preprocess/images/rgb.png");
    std::fs::create_dir(dir.path().join("img")).unwrap();
    for name in ["a.png", "b.png", "c.png", "d.png"] {
        std::fs::copy(&source, dir.path().join("img").join(name)).unwrap();
    }
    let path = dir.path().join("mine.csv");
    std::fs::write(&path, table).unwrap();
    let read = FinetuneTable::read(&path, &dir.path().join("img"), names, &|_, _| {});
    read.map_err(|error| error.to_string())
}

fn read(table: &str) -> Result<FinetuneTable, String> {
    read_as(table, &ColumnNames::default())
}

fn labels(table: &FinetuneTable, finding: Finding) -> Vec<Label> {
    let labels = table.rows.iter().map(|row| row.labels[finding as usize]);
    labels.collect()
}

#[test]
fn a_column_of_names_is_read_where_a_column_of_the_finding_says_nothing() {
    use Label::{Blank, Negative, Positive};
    let table = "image,labels,Fracture,Edema\na.png,Edema,,\nb.png,Effusion,1,\nc.png,Edema,,0\n";
    let table = read(table).unwrap();
    assert_eq!(
        labels(&table, Finding::Edema),
        [Positive, Negative, Negative]
    );
    assert_eq!(labels(&table, Finding::Fracture), [Blank, Positive, Blank]);
    assert_eq!(
        labels(&table, Finding::PleuralEffusion),
        [Negative, Positive, Negative]
    );
    let notes = table.notes.join("\n");
    assert!(
        notes.contains("1 label of a single finding contradicts 'labels', the first in line 4"),
        "{notes}"
    );

    // A column that happens to be called so is named, and not read.
    let other = "image,label,Edema\na.png,abnormal,1\nb.png,normal,0\n";
    let table = read(other).unwrap();
    assert_eq!(labels(&table, Finding::Edema), [Positive, Negative]);
    let notes = table.notes.join("\n");
    assert!(notes.contains("column 'label' is not read"), "{notes}");
    let named = ColumnNames {
        labels: Some("label".to_owned()),
        ..ColumnNames::default()
    };
    let refused = read_as(other, &named).unwrap_err();
    assert!(refused.contains("'abnormal' is none of"), "{refused}");
}

#[test]
fn a_table_with_nothing_to_learn_from_is_refused() {
    let refused = read("image,report,Edema\na.png,,\nb.png,nan,\n").unwrap_err();
    assert!(
        refused.contains("no row has a label or a report"),
        "{refused}"
    );
}

#[test]
fn one_file_by_two_names_is_one_image_and_backslashes_are_slashes() {
    let refused = read("image,Edema\na.png,1\n./a.png,0\n../img/a.png,1\n").unwrap_err();
    for line in [3, 4] {
        let names = ["./a.png", "../img/a.png"][line - 3];
        let fault = format!("line {line}: image '{names}' is the file of 'a.png' in line 2, too");
        assert!(refused.contains(&fault), "{refused}");
    }
    let windows = read("image,Edema\n.\\a.png,1\n..\\img\\b.png,0\n").unwrap();
    assert_eq!(windows.rows[1].name, "../img/b.png");
}

#[test]
fn what_contradicts_itself_and_who_is_nobody_is_counted() {
    let table =
        "image,patient_id,labels\na.png,p,Edema\nb.png,,No Finding|Edema\nc.png,nan,No Finding\n";
    let notes = read(table).unwrap().notes.join("\n");
    for part in [
        "1 row has No Finding beside a finding, the first in line 3",
        "2 rows name no patient: each counts as a patient of its own",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}

#[test]
fn faults_are_told_in_the_order_of_their_lines() {
    let table = "image,split,Edema\nnone.png,train,1\na.png,train,2\nb.png,third,1\n";
    let refused = read(table).unwrap_err();
    let places = [2, 3, 4].map(|line| refused.find(&format!("line {line}:")).unwrap());
    assert!(places.is_sorted(), "{refused}");
}

#[test]
fn a_column_that_is_no_column_of_reports_or_patients_is_a_fault_and_is_not_learned_from() {
    // Of the columns of the name "findings" are both: texts, and names.
    let names = "image,findings\na.png,Edema|Effusion\nb.png,No Finding\n";
    let refused = read(names).unwrap_err();
    assert!(
        refused.contains("line 2: column 'findings' was taken for the reports"),
        "{refused}"
    );
    let as_labels = ColumnNames {
        labels: Some("findings".to_owned()),
        ..ColumnNames::default()
    };
    let table = read_as(names, &as_labels).unwrap();
    assert!(table.has_labels() && !table.has_reports());

    let files = "image,report,Edema\na.png,,1\nb.png,p1/s2.txt,0\n";
    let as_report = ColumnNames {
        report: Some("report".to_owned()),
        ..ColumnNames::default()
    };
    let refused = read_as(files, &as_report).unwrap_err();
    assert!(
        refused.contains("line 3: column 'report' names files, as 'p1/s2.txt'"),
        "{refused}"
    );
    // Where there are labels, the column need not be one of reports.
    let names = "image,findings,Edema\na.png,Edema,1\nb.png,No Finding,0\n";
    for (table, what) in [(files, "names files"), (names, "names of findings")] {
        let table = read(table).unwrap();
        assert!(table.has_labels() && !table.has_reports(), "{what}");
        let mut notes = table.notes.iter();
        let said = |note: &String| note.contains(what) && note.contains("it is not read");
        assert!(notes.any(said), "{what}: {:?}", table.notes);
    }

    let sheet = "image,patient_id,report,Edema\na.png,1.23457E+11,#NAME?,1\nb.png,p2,No edema.,0\n";
    let refused = read(sheet).unwrap_err();
    for part in [
        "line 2: errors of a spreadsheet in 1 cell of 'report', the first '#NAME?'",
        "line 2: 1 id of 'patient_id' is a number that a spreadsheet has shortened",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[test]
fn days_are_no_patients_though_a_row_has_none() {
    let days = "image,study,Edema\na.png,3/1/26,1\nb.png,,0\nc.png,3/2/26 10:00,0\n";
    let refused = read(days).unwrap_err();
    assert!(
        refused.contains("line 2: column 'study' has dates, as '3/1/26'"),
        "{refused}"
    );
    let nobody = "image,patient_id,Edema\na.png,p1,1\nb.png,#NV,0\nc.png,#NV,0\n";
    let refused = read(nobody).unwrap_err();
    assert!(
        refused.contains("line 3: errors of a spreadsheet in 2 cells of 'patient_id'"),
        "{refused}"
    );
}

#[test]
fn what_is_not_read_of_a_table_is_said() {
    let table = "image;labels;report;Alter;age;Pleuraerguss\n\
        a.png;Edema;Kein Erguss.;x;45,5;1\nb.png;None;Herz normal.;x;1956-03-12;0\nc.png;;;x;;\n";
    let table = read(table).unwrap();
    let notes = table.notes.join("\n");
    for part in [
        "columns that are not read: Alter, Pleuraerguss",
        "1 cell says None in 'labels', the first in line 3: not labelled",
        "2 of 2 reports have none of the commonest words of English ones",
        "the age of 1 row cannot be read, the first in line 3: such rows are in no subgroup by it",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(table.rows[1].labels, [Label::Blank; Finding::ALL.len()]);
    let whole = read("image,report,Edema\na.png,The heart is large.,1\n").unwrap();
    let notes = whole.notes.join("\n");
    assert!(
        !notes.contains("not read") && !notes.contains("English"),
        "{notes}"
    );
}

#[test]
fn findings_that_no_row_has_a_label_of_are_unlabelled_and_named_where_there_are_reports() {
    let note = |table: &FinetuneTable| {
        let notes = table.notes.join("\n");
        notes.contains("the start's CheXbert reads them for the parts that learn from texts")
    };
    let columns = Finding::ALL.map(Finding::name)[..13].join(",");
    let row =
        |image: &str, label: &str| format!("{image},The lungs are clear.{}\n", label.repeat(13));
    let table = format!(
        "image,report,{columns}\n{}{}",
        row("a.png", ",0"),
        row("b.png", ",")
    );
    let table = read(&table).unwrap();
    assert_eq!(table.unlabelled(), [Finding::SupportDevices]);
    assert!(note(&table), "{:?}", table.notes);
    let table = read("image,Edema\na.png,1\n").unwrap();
    assert_eq!(table.unlabelled().len(), 13);
    assert!(!note(&table), "{:?}", table.notes);
    let table = read("image,report\na.png,The lungs are clear.\n").unwrap();
    assert!(
        table.unlabelled().is_empty() && !note(&table),
        "{:?}",
        table.notes
    );
}
