//! CheXbert labels of a table of reports.

use std::fmt::Write;

use anyhow::{Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::ReportLabeler;
use radialog_models::bundle::{Bundle, RandomBundle};
use radialog_schemas::{Finding, Label, Labels};
use radialog_training::prepare::{LabelKey, LabelTable};

use super::{PrepareFixture, shown};

/// Reports whose lengths differ.
fn text(row: usize) -> String {
    let words = [
        "The heart",
        "is large",
        "and the lungs are clear",
        "without an effusion",
        "or edema",
    ];
    (0..=row % 7)
        .map(|word| words[(row + word) % words.len()])
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sectioned_table_gets_the_labels_that_the_data_sets_join_and_the_same_after_a_kill()
-> Result<()> {
    let fixture = PrepareFixture::new()?;
    RandomBundle::tiny(7).write(&fixture.path("bundle"))?;
    let names =
        "impression,findings,last_paragraph,comparison,dicom_id,Img_Filename,Img_Folder,Note_file";
    let mut table = format!("{names}\r\n");
    for row in 0..40 {
        let findings = if row % 10 == 9 {
            String::new()
        } else {
            text(row)
        };
        writeln!(
            table,
            "s{row},i,\"{findings}\",,,d{row},d{row}.jpg,files/p10/p1/s{row},s{row}.txt\r"
        )?;
    }
    fixture.write("sectioned.csv", &table)?;
    let arguments = [
        "labels",
        "--reports",
        "sectioned.csv",
        "--bundle",
        "bundle",
        "--out",
    ];
    let whole = fixture
        .prepare(&[&arguments[..], &["whole.csv"]].concat())
        .await?;
    ensure!(
        whole.status.success() && shown(&whole).contains("labels of 36 reports"),
        "{}",
        shown(&whole)
    );
    ensure!(
        shown(&whole).contains("4 rows without text"),
        "{}",
        shown(&whole)
    );

    // Of another table nobody can say it: where every row has a cell more, a text may be cut at its comma.
    fixture.write(
        "commas.csv",
        "dicom_id,findings\ns1,No edema, no effusion\n",
    )?;
    let commas = "labels --reports commas.csv --bundle bundle --out commas.labels.csv";
    let commas: Vec<&str> = commas.split(' ').collect();
    let commas = shown(&fixture.prepare(&commas).await?);
    let guess = "all rows have one field more than the header";
    ensure!(commas.contains(guess), "{commas}");
    ensure!(!shown(&whole).contains(guess), "{}", shown(&whole));

    // Where no row has a text there is nothing to label, and nothing is made.
    fixture.write("blank.csv", "dicom_id,findings\nd1,\nd2, \n")?;
    let blank = "labels --reports blank.csv --bundle bundle --out blank.labels.csv";
    let blank = fixture
        .prepare(&blank.split(' ').collect::<Vec<_>>())
        .await?;
    ensure!(
        blank.status.code() == Some(64) && shown(&blank).contains("no row has a text there: name"),
        "{}",
        shown(&blank)
    );
    for made in ["blank.labels.csv", "blank.labels.csv.run"] {
        ensure!(!fixture.path(made).exists(), "{made}");
    }

    let bundle = Bundle::open(&fixture.path("bundle"))?;
    let labeler = ReportLabeler::load(&bundle, &Device::Cpu)?;
    let read = LabelTable::read(&fixture.path("whole.csv"))?;
    ensure!(read.len() == 36);
    for row in [0, 17, 38] {
        let expected: Labels = labeler.label(&[labeler.encode(&text(row))?])?.remove(0);
        let dicom = &format!("d{row}");
        let labels = read.get(LabelKey { dicom, study: "" });
        let blank = Label::Blank;
        ensure!(
            Finding::ALL
                .iter()
                .all(|f| labels[*f as usize] == *expected.get(f).unwrap_or(&blank)),
            "row {row}"
        );
    }

    let killed = [&arguments[..], &["killed.csv"]].concat();
    let killed = fixture
        .prepare_interrupted(&killed, "killed.csv.run", 1)
        .await?;
    ensure!(killed.status.success(), "{}", shown(&killed));
    ensure!(fixture.read("killed.csv")? == fixture.read("whole.csv")?);
    Ok(())
}
