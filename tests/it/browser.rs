//! The page as people use it, in a headless Chromium: over a gateway whose language worker writes what and when a test
//! wants, and over the whole system in one process.
//!
//! Pictures for people are left in the target folder, under `screenshots`.

use anyhow::{Result, ensure};
use radialog_tests::services::{Browser, Screen};
use serde_json::json;

use crate::gateway::fixture::{GatewayFixture, xray_path};

mod access;
mod dialog;
mod docs;
mod evaluation_page;
mod faults;
mod findings;
mod image;
mod keyboard;
mod models;
mod paper;
mod results_page;
mod speech;
mod tabs;
mod whole;

/// The report that the fake language worker writes.
const REPORT: &str = "The lungs are clear. No pleural effusion.";

/// A page at its start.
async fn open(fixture: &GatewayFixture, screen: Screen) -> Result<Browser> {
    let browser = Browser::open(screen).await?;
    browser.go(&fixture.gateway.url).await?;
    browser
        .until("document.querySelector('#choose')?.checkVisibility()")
        .await?;
    Ok(browser)
}

/// Chooses the shipped X-ray and begins.
async fn begin(browser: &Browser) -> Result<()> {
    browser
        .type_into("#file", xray_path().to_str().unwrap())
        .await?;
    browser
        .until("document.querySelector('#preview').naturalWidth > 0")
        .await?;
    browser.click("#begin").await?;
    browser
        .until("document.querySelector('#work').checkVisibility()")
        .await
}

/// Asks in words.
async fn ask(browser: &Browser, question: &str) -> Result<()> {
    // Enter, as WebDriver writes it.
    browser
        .type_into("#question", &format!("{question}\u{e007}"))
        .await
}

/// CSS selector of a part of a turn.
fn turn(number: usize, part: &str) -> String {
    format!("[data-turn=\"{number}\"] {part}").trim().to_owned()
}

/// Waits until a turn has this status.
async fn until_turn(browser: &Browser, number: usize, status: &str) -> Result<()> {
    let selector = format!("[data-turn=\"{number}\"][data-status=\"{status}\"]");
    browser
        .until(&format!("document.querySelector({})", json!(selector)))
        .await
}

/// The text of a turn's answer.
async fn answer(browser: &Browser, number: usize) -> Result<String> {
    browser.text(&turn(number, ".answer-text")).await
}

/// The console is silent, and nothing was asked of anybody but the gateway.
async fn assert_calm(browser: &Browser, desk_url: &str) -> Result<()> {
    let complaints = browser.complaints().await?;
    ensure!(complaints.is_empty(), "the console says {complaints:?}");
    let requests = browser.requests().await?;
    ensure!(!requests.is_empty(), "no request was seen");
    let own = |url: &String| {
        url.starts_with(desk_url) || url.starts_with("blob:") || url.starts_with("data:")
    };
    let foreign: Vec<&String> = requests.iter().filter(|url| !own(url)).collect();
    ensure!(foreign.is_empty(), "the page asked {foreign:?}");
    Ok(())
}

/// Nothing has to be moved sideways to be read.
async fn assert_fits(browser: &Browser) -> Result<()> {
    let overflow = browser
        .value("document.documentElement.scrollWidth - innerWidth")
        .await?;
    ensure!(
        overflow.as_i64() <= Some(0),
        "the page is {overflow} pixels wider than the screen"
    );
    Ok(())
}
