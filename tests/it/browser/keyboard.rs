//! Without a mouse, and without eyes.

use anyhow::Result;
use radialog_tests::services::Screen;
use serde_json::json;

use super::{REPORT, answer, begin, open, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const DOWN: &str = "\u{e015}";

#[tokio::test(flavor = "multi_thread")]
async fn tasks_can_be_chosen_with_the_keyboard_alone() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    browser.type_keys(TAB).await?;
    assert_eq!(
        browser.value("document.activeElement.id").await?,
        "skip",
        "the first stop leads past the list"
    );
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;

    let opener = "[...document.querySelectorAll('.chips [aria-haspopup=menu]')].find((each) => each.textContent === 'Region')";
    browser.value(&format!("{opener}.focus()")).await?;
    browser.type_keys(DOWN).await?;
    assert_eq!(
        browser.value("document.activeElement.textContent").await?,
        "Heart"
    );
    browser
        .until(&format!("{opener}.ariaExpanded === 'true'"))
        .await?;
    browser.type_keys(ESCAPE).await?;
    browser
        .until(&format!("document.activeElement === {opener}"))
        .await?;
    browser.type_keys(DOWN).await?;
    browser.type_keys(DOWN).await?;
    browser.type_keys(ENTER).await?;
    until_turn(&browser, 2, "done").await?;
    assert_eq!(answer(&browser, 2).await?, "Task region.");
    assert_eq!(
        browser.text("[data-turn='2'] .asked-text").await?,
        "What about the lungs?"
    );
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unfolded_by_the_keyboard_findings_have_the_focus() -> Result<()> {
    let fixture = GatewayFixture::of_no_xray(UNLIMITED).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelector('#findings-doubt .button').checkVisibility()")
        .await?;
    browser
        .value("document.querySelector('#findings-doubt .button').focus()")
        .await?;
    browser.type_keys(ENTER).await?;
    browser
        .until("document.activeElement.matches('.finding input')")
        .await?;
    let is_checkable =
        "document.activeElement.checkVisibility() && !document.activeElement.disabled";
    assert_eq!(browser.value(is_checkable).await?, true);
    assert_eq!(answer(&browser, 1).await?, REPORT);
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_can_be_used_has_a_name_and_answers_are_said_by_the_sentence() -> Result<()>
{
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let said = "(window.said = [], new MutationObserver((changes) => { for (const change of changes) \
                for (const node of change.addedNodes) said.push(node.textContent.trim()); })\
                .observe(document.querySelector('#announce'), { childList: true }))";
    browser.value(&format!("{said}, true")).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until(&format!("said.join(' ').includes({})", json!(REPORT)))
        .await?;
    let pieces = browser.value("said.length").await?;
    assert!(
        pieces.as_u64() <= Some(4),
        "{pieces} announcements for two sentences"
    );
    assert_eq!(
        browser
            .value("document.querySelector('#announce').ariaLive")
            .await?,
        "polite"
    );

    let nameless = "[...document.querySelectorAll('button, a, input, textarea, canvas, [role=menuitem]')]\
        .filter((each) => !(each.ariaLabel || each.innerText?.trim() || each.textContent.trim() || each.labels?.length))\
        .map((each) => each.outerHTML)";
    assert_eq!(browser.value(nameless).await?, json!([]));
    let unlit = "(() => { document.querySelector('#question').focus(); \
        return getComputedStyle(document.querySelector('#question')).outlineStyle; })()";
    assert_ne!(browser.value(unlit).await?, "none", "the focus is seen");
    assert_eq!(browser.value("document.documentElement.lang").await?, "en");
    assert_eq!(
        browser
            .value("document.querySelectorAll('h1:not([hidden])').length > 0")
            .await?,
        true
    );
    browser.close().await
}
