//! `results.html`, which `radialog batch --html` writes, as a browser lays it out.

use std::path::Path;

use anyhow::{Result, ensure};
use radialog_schemas::Finding;
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
