//! `report.html`, which `radialog evaluate report` writes, as a browser lays it out.

use anyhow::{Result, ensure};
use radialog_schemas::{Finding, Label};
use radialog_tests::run_files::{label_table, line};
use radialog_tests::services::{Browser, Screen};

use super::assert_fits;
use crate::evaluation::EvaluationFixture;

/// Ids of studies, of which the first has an image.
const STUDIES: [&str; 4] = [
    "00001300_000",
    "s2",
    "s3",
    "a-study-of-a-long-name-without-a-blank",
];

/// Evaluates a small run by texts and labels, with all that the page can draw of it.
fn evaluate(folder: &EvaluationFixture) -> Result<()> {
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/xrays");
    let (mut lines, mut texts) = (String::new(), "study_id,findings\n".to_owned());
    let mut truths = Vec::new();
    for (place, study) in STUDIES.into_iter().enumerate() {
        let mut labels = [Label::Negative; 14];
        labels[Finding::Edema as usize] = Label::Positive;
        labels[place] = Label::Positive;
        let probability = 0.2 * (place + 1) as f32;
        let report = "There is mild edema. The heart is unchanged. ".repeat(place + 1);
        lines += &line(study, &report, Some(labels), Some([probability; 14]))?;
        texts += &format!("{study},Mild edema and a large heart.\n");
        let mut truth = ["0"; 14];
        truth[Finding::Edema as usize] = if place < 2 { "1" } else { "0" };
        truth[place] = "1";
        truths.push((study, truth));
    }
    lines = lines.replace("00001300_000.png", "00001300_000.jpg");
    folder.write("results.jsonl", &lines)?;
    folder.write("texts.csv", &texts)?;
    folder.write("labels.csv", &label_table(truths))?;
    let files = ["results.jsonl", "--references", "texts.csv", "labels.csv"];
    let options = ["--images", images, "--resamples", "20"];
    folder.evaluate(&[&files[..], &options].concat())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_an_evaluation_fits_every_screen_and_asks_nobody() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    tokio::task::block_in_place(|| evaluate(&folder))?;
    let browser = Browser::open(Screen::DESKTOP).await?;
    let page = folder.path("evaluation/report.html");
    browser.go(&format!("file://{}", page.display())).await?;
    let loaded = "document.images.length > 0 && [...document.images].every((image) => image.complete && image.naturalWidth > 0)";
    browser.until(loaded).await?;
    for (name, screen) in [
        ("desktop", Screen::DESKTOP),
        ("desktop-dark", Screen::DESKTOP.dark()),
        ("phone", Screen::PHONE),
        ("phone-dark", Screen::PHONE.dark()),
    ] {
        browser.look(screen).await?;
        assert_fits(&browser).await?;
        let ground = "getComputedStyle(document.body).backgroundColor";
        let ground = browser.value(ground).await?;
        ensure!(
            (ground == "rgb(15, 20, 26)") == screen.dark,
            "{name}: {ground}"
        );
        for heading in [
            "Lengths",
            "Calibration of the findings",
            "Classifier and report",
        ] {
            let drawn = format!(
                "[...document.querySelectorAll('h2')].some((each) => each.innerText === '{heading}' \
                 && each.nextElementSibling.getBoundingClientRect().height > 20)"
            );
            ensure!(browser.value(&drawn).await? == true, "{name}: {heading}");
        }
        browser.picture(&format!("evaluation-{name}")).await?;
        // Down to the images and texts of single studies.
        browser
            .value("document.querySelector('.study').scrollIntoView()")
            .await?;
        browser
            .picture(&format!("evaluation-{name}-studies"))
            .await?;
        browser.value("scrollTo(0, 0)").await?;
    }
    let complaints = browser.complaints().await?;
    ensure!(complaints.is_empty(), "the console says {complaints:?}");
    let asked = browser.requests().await?;
    let is_own = |url: &String| url.starts_with("file:") || url.starts_with("data:");
    ensure!(asked.iter().all(is_own), "the page asked {asked:?}");
    browser.close().await
}
