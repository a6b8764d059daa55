//! The section parser, and the CSV made from a tree of reports and images.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use radialog_tests::golden::Case;
use radialog_training::prepare::sections::sections;
use radialog_training::prepare::{SectionedReader, Sectioning};
use serde::Deserialize;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

#[derive(Deserialize)]
struct RecordedSections {
    name: String,
    text: String,
    sections: Vec<String>,
    section_names: Vec<String>,
    section_idx: Vec<usize>,
    study: String,
    folder: String,
    dicom_ids: Vec<String>,
}

/// Holds every report's sections, and the bytes of the CSV.
pub(super) fn check(case: &Case) -> Result<()> {
    let reports: Vec<RecordedSections> = case.json(
        &case
            .field::<String>("/reports")
            .map(|_| "reports.json".to_owned())?,
    )?;
    for report in &reports {
        let ours = sections(&report.text);
        let name = &report.name;
        let names: Vec<_> = ours.iter().map(|section| section.name.as_str()).collect();
        ensure!(
            names == report.section_names,
            "{name}: {names:?}, recorded {:?}",
            report.section_names
        );
        let texts: Vec<_> = ours.iter().map(|section| section.text).collect();
        ensure!(
            texts == report.sections,
            "{name}: {texts:?}, recorded {:?}",
            report.sections
        );
        let starts: Vec<_> = ours.iter().map(|section| section.start).collect();
        ensure!(
            starts == report.section_idx,
            "{name}: {starts:?}, recorded {:?}",
            report.section_idx
        );
    }
    check_csv(
        &reports,
        &case.dir().join(case.field::<String>("/csv/file")?),
    )
}

fn check_csv(reports: &[RecordedSections], recorded: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    let sectioning = Sectioning {
        reports: root.path().join("reports"),
        images: root.path().join("images"),
        output: root.path().join("sectioned.csv"),
        name_study: false,
    };
    for report in reports {
        write_study(&sectioning, report)?;
    }
    let summary = sectioning.run(&|_, _| ())?;
    // The original says nothing of a report without an image; neither has it a row.
    let without = reports.iter().filter(|report| report.dicom_ids.is_empty());
    ensure!(
        summary.problems.len() == without.count() && summary.reports == reports.len() as u64,
        "{summary:?}"
    );

    let (ours, theirs) = (raw_rows(&sectioning.output)?, raw_rows(recorded)?);
    ensure!(ours == theirs, "the rows of the CSV differ");
    for (ours, theirs) in
        SectionedReader::open(&sectioning.output)?.zip(SectionedReader::open(recorded)?)
    {
        // Both orders are sorted, by other columns.
        ensure!(
            ours?.dicom_id.len() == theirs?.dicom_id.len(),
            "an image is not where the reader expects it"
        );
    }
    Ok(())
}

fn write_study(sectioning: &Sectioning, report: &RecordedSections) -> Result<()> {
    let folder = sectioning.reports.join(&report.folder);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{}.txt", report.study)), &report.text)?;
    let images = sectioning.images.join(&report.folder).join(&report.study);
    fs::create_dir_all(&images)?;
    for dicom in &report.dicom_ids {
        fs::write(images.join(format!("{dicom}.jpg")), b"")?;
    }
    fs::write(images.join("index.html"), b"")?;
    Ok(())
}

/// The file's lines as bytes, sorted: the original follows the order of its directories.
fn raw_rows(path: &Path) -> Result<Vec<String>> {
    let text = String::from_utf8(fs::read(path)?)?;
    let mut rows: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
    rows[1..].sort();
    Ok(rows)
}

#[test]
fn a_report_without_images_or_with_other_bytes_is_named_and_the_rest_written() {
    let root = tempfile::tempdir().unwrap();
    let (reports, images) = (root.path().join("reports"), root.path().join("images"));
    let patient = Path::new("p10/p10000001");
    fs::create_dir_all(reports.join(patient)).unwrap();
    fs::create_dir_all(images.join(patient).join("s3")).unwrap();
    fs::create_dir_all(images.join(patient).join("s1")).unwrap();
    fs::write(
        reports.join(patient).join("s1.txt"),
        b" x\n FINDINGS: clear\n",
    )
    .unwrap();
    // An image in capitals is one, Finder's copy of an attribute none.
    fs::write(images.join(patient).join("s1/a.JPG"), b"").unwrap();
    fs::write(images.join(patient).join("s1/._a.jpg"), b"").unwrap();
    fs::write(images.join(patient).join("s3/page.html"), b"").unwrap();
    fs::write(reports.join(patient).join("s4.txt"), b"no .jpg").unwrap();
    fs::create_dir_all(images.join(patient).join("s4")).unwrap();
    fs::write(reports.join(patient).join("s2.txt"), b"no images").unwrap();
    fs::write(reports.join(patient).join("s3.txt"), b"\xff\xfe").unwrap();
    // What is no report, no image, or has no counterpart is named, too.
    fs::write(reports.join(patient).join("s5.TXT"), b"no .txt").unwrap();
    fs::write(images.join(patient).join("s1/b.jpeg"), b"").unwrap();
    fs::create_dir_all(images.join(patient).join("s6")).unwrap();
    fs::create_dir_all(images.join("p11/p11000001")).unwrap();
    let output = root.path().join("out.csv");
    let summary = Sectioning {
        reports,
        images,
        output: output.clone(),
        name_study: false,
    }
    .run(&|_, _| ())
    .unwrap();
    assert_eq!((summary.reports, summary.rows), (4, 1));
    let named = [
        "s5.TXT",
        "s1/b.jpeg",
        "s2.txt",
        "s3.txt",
        "s4.txt",
        "s6",
        "p11000001",
    ];
    for (problem, name) in summary.problems.iter().zip(named) {
        assert!(problem.contains(name), "{summary:?}");
    }
    assert_eq!(summary.problems.len(), named.len(), "{summary:?}");
    let row = SectionedReader::open(&output)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.study.as_str(), row.report.findings.as_str()),
        ("s1", "clear")
    );
    assert_eq!(row.image_file, "a.JPG");
}

/// The published zip in small: invented reports, one of them stored and the others deflated, and a file that is none.
const ZIP: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/mimic/mimic-cxr-reports.zip"
);

#[test]
fn the_published_zip_gives_the_same_rows_as_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let (folder, images) = (root.path().join("reports"), root.path().join("images"));
    let studies = [
        ("p10/p10000001", "s1", "The", "Normal."),
        ("p10/p10000001", "s2", "The", "Nothing new."),
        ("p10/p10000002", "s4", "Both", "No change."),
        ("p11/p11000001", "s9", "All", "Fine."),
    ];
    for (patient, study, findings, impression) in studies {
        fs::create_dir_all(images.join(patient).join(study)).unwrap();
        fs::write(images.join(patient).join(study).join("a.jpg"), b"").unwrap();
        fs::create_dir_all(folder.join(patient)).unwrap();
        let text = format!(
            " FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n {findings} lungs are clear, the lungs are \
             clear, the lungs are clear.\n \n IMPRESSION: \n \n {impression}\n"
        );
        fs::write(folder.join(patient).join(format!("{study}.txt")), text).unwrap();
    }
    let bytes = |reports: &Path| {
        let output = root.path().join("out.csv");
        let sectioning = Sectioning {
            reports: reports.to_owned(),
            images: images.clone(),
            output: output.clone(),
            name_study: false,
        };
        let summary = sectioning.run(&|_, _| ()).unwrap();
        assert_eq!((summary.reports, summary.rows), (4, 4), "{summary:?}");
        fs::read(output).unwrap()
    };
    let rows = bytes(&folder);
    assert_eq!(bytes(Path::new(ZIP)), rows);
    // Finder's icon of a folder, which is left out of both.
    let icon = "p10/p10000001/Icon\r";
    fs::write(folder.join(icon), b"").unwrap();
    let zip = root.path().join("with-icon.zip");
    fs::copy(ZIP, &zip).unwrap();
    let file = fs::File::options().read(true).write(true).open(&zip);
    let mut writer = ZipWriter::new_append(file.unwrap()).unwrap();
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    writer.start_file(format!("files/{icon}"), stored).unwrap();
    writer.finish().unwrap();
    for reports in [&folder, &zip] {
        assert_eq!(bytes(reports), rows, "{}", reports.display());
    }
}

#[test]
fn a_zip_that_is_damaged_or_none_is_named() {
    let root = tempfile::tempdir().unwrap();
    let reports = root.path().join("reports.zip");
    let run = |bytes: &[u8]| {
        fs::write(&reports, bytes).unwrap();
        let output = root.path().join("out.csv");
        Sectioning {
            reports: reports.clone(),
            images: root.path().to_owned(),
            output,
            name_study: false,
        }
        .run(&|_, _| ())
    };
    let error = run(b"no zip").unwrap_err().to_string();
    assert!(error.contains("reports.zip"), "{error}");
    for (elsewhere, reason) in [("../../", "'..'"), ("/iles/", "absolute")] {
        let mut bytes = fs::read(ZIP).unwrap();
        let name = b"files/p10/p10000002";
        let windows = bytes.windows(name.len()).enumerate();
        let named = windows.filter(|(_, part)| *part == name);
        let places: Vec<usize> = named.map(|(at, _)| at).collect();
        assert_eq!(places.len(), 2, "before the file and in the directory");
        for at in places {
            bytes[at..at + elsewhere.len()].copy_from_slice(elsewhere.as_bytes());
        }
        let error = run(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("reports.zip") && error.contains(reason),
            "{error}"
        );
    }
    assert!(!root.path().join("out.csv").exists());
    let mut bytes = fs::read(ZIP).unwrap();
    let deflated = bytes.windows(2).position(|two| two == b"s2").unwrap() + 8;
    bytes[deflated..deflated + 20].fill(0xff);
    let summary = run(&bytes).unwrap();
    assert!(
        summary
            .problems
            .iter()
            .any(|problem| problem.contains("s2.txt") && problem.contains("cannot read")),
        "{summary:?}"
    );
}

#[test]
fn of_several_reports_of_a_study_in_a_zip_none_is_taken_silently() {
    let root = tempfile::tempdir().unwrap();
    let (reports, images) = (root.path().join("reports.zip"), root.path().join("images"));
    for study in ["p10000001/s1", "p10000001/s2", "p10000002/s4"] {
        let images = images.join("p10").join(study);
        fs::create_dir_all(&images).unwrap();
        fs::write(images.join("a.jpg"), b"").unwrap();
    }
    let run = |second: &[u8]| {
        let mut bytes = fs::read(ZIP).unwrap();
        let name = b"files/p10/p10000001/s2.txt";
        let windows = bytes.windows(name.len()).enumerate();
        let named = windows.filter(|(_, part)| *part == name);
        let places: Vec<usize> = named.map(|(at, _)| at).collect();
        assert_eq!(places.len(), 2, "before the file and in the directory");
        for at in places {
            bytes[at..at + name.len()].copy_from_slice(second);
        }
        fs::write(&reports, bytes).unwrap();
        Sectioning {
            reports: reports.clone(),
            images: images.clone(),
            output: root.path().join("out.csv"),
            name_study: false,
        }
        .run(&|_, _| ())
    };
    let summary = run(b"older/p10/p10000001/s1.txt").unwrap();
    let of_zip = |problem: &&String| problem.contains("s1.txt");
    let named: Vec<_> = summary.problems.iter().filter(of_zip).collect();
    assert!(
        named.len() == 1 && named[0].contains("several times in the zip"),
        "{summary:?}"
    );
    assert_eq!(summary.rows, 1, "that of s4: {summary:?}");
    let error = run(b"files/p10/p10000001/s1.txt").unwrap_err().to_string();
    assert!(
        error.contains("reports.zip") && error.contains("have one name"),
        "{error}"
    );
}

#[test]
fn a_study_column_with_a_name_gives_as_many_names_as_values() {
    let root = tempfile::tempdir().unwrap();
    let (reports, images) = (root.path().join("reports"), root.path().join("images"));
    let patient = Path::new("p10/p10000001");
    fs::create_dir_all(reports.join(patient)).unwrap();
    fs::create_dir_all(images.join(patient).join("s1")).unwrap();
    let text = " FINDINGS: clear, but\n for one\n";
    fs::write(reports.join(patient).join("s1.txt"), text).unwrap();
    fs::write(images.join(patient).join("s1/a.jpg"), b"").unwrap();
    let output = root.path().join("sectioned.csv");
    for (name_study, names) in [(false, 8), (true, 9)] {
        let sectioning = Sectioning {
            reports: reports.clone(),
            images: images.clone(),
            output: output.clone(),
            name_study,
        };
        sectioning.run(&|_, _| ()).unwrap();
        let text = fs::read_to_string(&output).unwrap();
        let header = text.lines().next().unwrap();
        assert_eq!(header.split(',').count(), names, "{header}");
        assert_eq!(header.starts_with("study_id,"), name_study);
        let row = SectionedReader::open(&output).unwrap().next().unwrap();
        let row = row.unwrap();
        assert_eq!((row.study.as_str(), row.dicom_id.as_str()), ("s1", "a"));
    }
}
