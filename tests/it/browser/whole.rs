//! The README's quickstart: one command, and a page over the whole system, with the demo bundle.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_tests::processes::{RoleProcess, radialog};
use radialog_tests::services::{Browser, Screen};

use super::{answer, ask, assert_calm, begin, until_turn};

/// The first start makes the bundle.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The address that the program says it is at.
async fn address(serving: &RoleProcess, log: &Path) -> Result<String> {
    let begun = Instant::now();
    loop {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(rest) = said.split("RaDialog is at ").nth(1)
            && let Some(url) = rest.split_whitespace().next()
        {
            return Ok(url.to_owned());
        }
        serving.check()?;
        ensure!(
            begun.elapsed() < TIMEOUT,
            "`radialog serve` did not start: {said}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_opens_a_page_that_reports_answers_corrects_and_remembers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("serve");
    let mut command =
        tokio::task::spawn_blocking(|| radialog(&["serve", "--listen", "127.0.0.1:0"])).await??;
    let serving = RoleProcess::start(command.current_dir(folder.path()), &log)?;
    let url = address(&serving, &log).await?;

    let browser = Browser::open(Screen::DESKTOP).await?;
    browser.go(&url).await?;
    browser
        .until(
            "!document.getElementById('demo').hidden && document.getElementById('random').hidden",
        )
        .await
        .context("it says what small models are worth")?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    ask(&browser, "Is there an effusion?").await?;
    ask(&browser, "What about the heart?").await?;
    until_turn(&browser, 3, "done").await?;
    browser
        .value("document.querySelector('.finding:not(.fixed) input').click()")
        .await?;
    browser.click(".pending .primary").await?;
    until_turn(&browser, 4, "done").await?;
    let mut before = Vec::new();
    for turn in 1..=4 {
        before.push(answer(&browser, turn).await?);
    }
    ensure!(
        before.iter().any(|text| !text.is_empty()),
        "no answer has a word"
    );

    browser.reload().await?;
    until_turn(&browser, 4, "done").await?;
    for (turn, text) in (1..).zip(&before) {
        assert_eq!(&answer(&browser, turn).await?, text, "turn {turn}");
    }
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    let asked = browser
        .text("[data-turn='1'] details")
        .await
        .context("what the model read")?;
    assert!(asked.contains("What the model read"));
    browser.picture("whole").await?;
    assert_calm(&browser, &url).await?;
    browser.close().await
}
