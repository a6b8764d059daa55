//! `results.html`, which `radialog batch --html` writes, as a browser lays it out.

use std::path::Path;

use anyhow::{Result, ensure};
use radialog_schemas::Finding;
use radialog_tests::fixtures::xray;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::services::{Browser, Screen};

/// The first finding whose number is not beside its name.
const ASTRAY: &str = "[...document.querySelectorAll('li')].filter((item) => {
  const [row, number] = [item, item.querySelector('b')].map((part) => part.getBoundingClientRect());
  return number.top < row.top - 1 || number.bottom > row.bottom + 1 || number.right > row.right + 1;
}).map((item) => item.textContent).join()";

#[tokio::test(flavor = "multi_thread")]
async fn each_probability_stands_in_the_row_of_its_finding() -> Result<()> {
    let style =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/cli/src/results_page/style.css");
    let style = std::fs::read_to_string(style)?;
    let row = |finding: Finding| {
        let said = match finding {
            Finding::EnlargedCardiomediastinum => "not assessed",
            _ => "23 % (over 16 %)",
        };
        format!(
            "<li class=\"present\">{} <b>{said}</b></li>",
            finding.name()
        )
    };
    let rows = Finding::ALL.map(row).concat();
    let page = format!(
        "<!doctype html><style>{style}</style><main><article><p class=\"none\">No picture: gone</p><div><h2>a</h2><ul>{rows}</ul>\
         </div></article></main>"
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("results.html");
    std::fs::write(&path, page)?;
    let browser = Browser::open(Screen::DESKTOP).await?;
    browser.go(&format!("file://{}", path.display())).await?;
    for width in [400, 700, 1000, 1280, 1600] {
        browser
            .look(Screen {
                width,
                ..Screen::DESKTOP
            })
            .await?;
        let astray = browser.value(ASTRAY).await?;
        ensure!(astray == "", "at {width} pixels: {astray}");
        ensure!(
            browser
                .value("document.querySelectorAll('li').length")
                .await?
                == 14,
            "the page has all findings"
        );
    }
    browser.close().await
}

/// The names of the studies that are seen.
const SEEN: &str = "[...document.querySelectorAll('article')].filter((each) => each.checkVisibility())\
    .map((each) => each.querySelector('h2').textContent).join()";

#[tokio::test(flavor = "multi_thread")]
async fn a_search_and_a_filter_leave_the_studies_that_are_meant() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (archive, out) = (folder.path().join("archive"), folder.path().join("out"));
    std::fs::create_dir(&archive)?;
    for name in ["00001300_000.jpg", "00001680_000.jpg"] {
        std::fs::copy(xray(name), archive.join(name))?;
    }
    std::fs::write(archive.join("broken.png"), "no image")?;
    let [archive, results] = [&archive, &out].map(|path| path.display().to_string());
    let batch = ["batch", &archive, "--out", &results, "--stages", "findings"];
    let shown = ["--progress", "off", "--html"];
    let mut batch = radialog(&[&batch[..], &shown].concat())?;
    let run = tokio::task::block_in_place(|| batch.output_in_time())?;
    ensure!(run.status.code() == Some(65), "one study failed: {run:?}");
    let browser = Browser::open(Screen::DESKTOP).await?;
    let page = format!("file://{results}/results.html");
    let all = "00001300_000,00001680_000,broken";
    for (field, value, seen) in [
        ("words", "", all),
        ("words", " 00001680", "00001680_000"),
        ("words", "nowhere", ""),
        ("kind", "failed", "broken"),
        ("kind", "disagrees", ""),
    ] {
        browser.go(&page).await?;
        let script = format!(
            "(() => {{ const field = document.getElementById('{field}'); field.value = '{value}'; \
             field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        );
        browser.value(&script).await?;
        let found = browser.value(SEEN).await?;
        ensure!(found == seen, "{field} {value:?}: {found}");
        let studies = seen.split(',').filter(|name| !name.is_empty()).count();
        let count = browser.text("#count").await?;
        ensure!(count == format!("{studies} of 3 studies"), "{count}");
        let nothing = "document.getElementById('none').checkVisibility()";
        ensure!(
            browser.value(nothing).await? == seen.is_empty(),
            "{value:?}"
        );
    }
    // Of each finding, those studies whose row is marked.
    browser.go(&page).await?;
    let astray = browser
        .value(
            "(() => { const field = document.getElementById('finding'); let seen = 0; \
             const wrong = [...field.options].slice(1).filter(({ value }) => { \
               field.value = value; field.dispatchEvent(new Event('input', { bubbles: true })); \
               return [...document.querySelectorAll('article')].some((each) => { \
                 const rows = [...each.querySelectorAll('li.present')].map((row) => row.firstChild.textContent.trim()); \
                 seen += rows.includes(value); return each.checkVisibility() !== rows.includes(value); }); }); \
             return seen > 0 ? wrong.map(({ value }) => value).join() : 'no finding is marked'; })()",
        )
        .await?;
    ensure!(astray == "", "{astray}");
    browser.close().await
}
