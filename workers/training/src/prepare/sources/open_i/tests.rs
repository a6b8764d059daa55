use std::fs;

use super::*;

fn read(csv: &str, of_findings: bool) -> Result<OpenIReports, TrainingError> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("reports.csv");
    fs::write(&source, csv).unwrap();
    OpenI {
        source,
        removed: RemovedWords::Mend,
        of_findings,
    }
    .read()
}

fn label(reports: &OpenIReports, row: usize, finding: Finding) -> Label {
    reports.rows[row].labels[finding as usize]
}

#[test]
fn tags_make_positives_and_the_text_denials_and_hedges() {
    let csv = "uid,MeSH,findings,impression\n\
        2,Cardiomegaly/borderline,Borderline cardiomegaly. No effusion.,\n\
        1,Opacity/lung,Small effusion. Possible pneumonia.,Stable opacity.\n";
    let reports = read(csv, false).unwrap();
    assert_eq!(reports.rows[0].study, "1", "sorted by number");
    assert_eq!(label(&reports, 0, Finding::LungOpacity), Label::Positive);
    assert_eq!(label(&reports, 0, Finding::Pneumonia), Label::Uncertain);
    assert_eq!(
        label(&reports, 0, Finding::PleuralEffusion),
        Label::Blank,
        "stated, but nobody tagged it"
    );
    assert_eq!(
        label(&reports, 1, Finding::Cardiomegaly),
        Label::Uncertain,
        "every mention is a hedge"
    );
    assert_eq!(
        label(&reports, 1, Finding::PleuralEffusion),
        Label::Negative
    );
    assert_eq!(
        reports.agreement[&Finding::PleuralEffusion].untagged_stated,
        1
    );
    assert_eq!(reports.agreement[&Finding::Cardiomegaly].tagged_possible, 1);
}

#[test]
fn labels_of_the_findings_section_leave_out_what_it_does_not_mention() {
    let csv = "study_id,mesh,findings,impression\nCXR1,Opacity/lung;Cardiomegaly,The heart is large.,Opacity at the left base.\n";
    let of_section = read(csv, true).unwrap();
    assert_eq!(label(&of_section, 0, Finding::LungOpacity), Label::Blank);
    assert_eq!(
        label(&of_section, 0, Finding::Cardiomegaly),
        Label::Positive
    );
    assert_eq!(
        label(&read(csv, false).unwrap(), 0, Finding::LungOpacity),
        Label::Positive
    );
}

#[test]
fn no_finding_is_positive_or_blank_and_ends_where_something_is_possible() {
    let csv = "study_id,mesh,findings,impression\nCXR1,normal,Clear lungs.,\nCXR2,normal,Possible effusion.,\nCXR3,Spine/degenerative,Clear.,\n";
    let reports = read(csv, false).unwrap();
    let labels: Vec<Label> = (0..3)
        .map(|row| label(&reports, row, Finding::NoFinding))
        .collect();
    assert_eq!(labels, [Label::Positive, Label::Blank, Label::Blank]);
}

#[test]
fn studies_without_tags_or_text_are_left_out_and_counted() {
    let csv = "study_id,mesh,findings,impression\nCXR1,No Indexing,Clear.,\nCXR2,normal,XXXX.,\nCXR3,normal,Clear.,\n";
    let reports = read(csv, false).unwrap();
    assert_eq!(
        (reports.rows.len(), reports.untagged, reports.without_text),
        (1, 1, 1)
    );
}

#[test]
fn the_side_is_that_of_the_source_or_follows_from_the_number() {
    let reports = read(
        "study_id,mesh,findings,impression\nCXR2,normal,Clear.,\n",
        false,
    )
    .unwrap();
    assert_eq!(reports.rows[0].split, "test");
    let reports = read(
        "study_id,mesh,findings,impression,split\nCXR2,normal,Clear.,,train\n",
        false,
    )
    .unwrap();
    assert_eq!(reports.rows[0].split, "train");
}

#[test]
fn a_folder_of_the_publisher_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ecgen-radiology");
    fs::create_dir(&folder).unwrap();
    for number in [10, 9] {
        let xml = format!(
            "<eCitation><uId id=\"CXR{number}\"/><AbstractText Label=\"FINDINGS\">Clear lungs.</AbstractText>\
             <MeSH><major>normal</major></MeSH></eCitation>"
        );
        fs::write(folder.join(format!("{number}.xml")), xml).unwrap();
    }
    let of = |source: &Path| {
        OpenI {
            source: source.to_owned(),
            removed: RemovedWords::Mend,
            of_findings: false,
        }
        .read()
    };
    let studies: Vec<String> = of(dir.path())
        .unwrap()
        .rows
        .into_iter()
        .map(|row| row.study)
        .collect();
    assert_eq!(studies, ["CXR9", "CXR10"]);
    fs::write(folder.join("11.xml"), "<eCitation/>").unwrap();
    let error = of(&folder).unwrap_err().to_string();
    assert!(error.contains("11.xml") && error.contains("uId"), "{error}");
    let error = of(&dir.path().join("no-such")).unwrap_err().to_string();
    assert!(error.contains("no-such"), "{error}");
}

#[test]
fn tables_without_what_is_needed_are_refused_with_their_line() {
    let error = |csv: &str| read(csv, false).unwrap_err().to_string();
    let cases = [
        (
            "study_id,mesh,findings\nCXR1,normal,Clear.\n",
            "line 1: no column 'impression'",
        ),
        (
            "study_id,findings,impression\nCXR1,Clear.,\n",
            "mesh or problems",
        ),
        (
            "study_id,mesh,findings,impression\n,normal,Clear.,\n",
            "line 2: a row without study_id",
        ),
        (
            "study_id,findings,impression,Edema\nCXR1,Clear.,,1\n",
            "no column 'No Finding'",
        ),
        (
            "study_id,mesh,findings,impression\nCXR1,No Indexing,Clear.,\n",
            "no tagged report",
        ),
    ];
    for (csv, expected) in cases {
        assert!(error(csv).contains(expected), "{csv}: {}", error(csv));
    }
    let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
    let csv = format!(
        "study_id,findings,impression,{}\nCXR1,Clear.,{},2\n",
        names.join(","),
        ",".repeat(13)
    );
    assert!(
        error(&csv).contains("line 2: Support Devices: '2' is not a label"),
        "{}",
        error(&csv)
    );
}
