//! A gateway that wants a key.

use anyhow::Result;
use radialog_tests::services::Screen;

use super::{REPORT, answer, begin, open, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED, key};

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_asked_for_once_and_kept_until_the_tab_is_closed() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.keys = vec![key("ward", "rd-ward")]
    })
    .await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    browser
        .until("document.querySelector('dialog[open] #key')")
        .await?;
    browser.type_keys("rd-wrong\u{e007}").await?;
    browser
        .until("document.querySelector('dialog .notice')?.checkVisibility()")
        .await?;
    assert!(
        browser
            .text("dialog .notice")
            .await?
            .starts_with("This key was refused.")
    );
    browser.picture("key").await?;
    browser.type_keys("rd-ward\u{e007}").await?;
    browser.until("!document.querySelector('dialog')").await?;

    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    assert_eq!(answer(&browser, 1).await?, REPORT);
    browser
        .until("document.querySelector('.thumbnail img')?.naturalWidth > 0")
        .await?;
    browser.reload().await?;
    until_turn(&browser, 1, "done").await?;
    assert_eq!(
        browser.value("document.querySelector('dialog')").await?,
        serde_json::Value::Null,
        "not asked again"
    );
    let kept = browser
        .value("[Object.keys(localStorage), document.cookie].flat().join()")
        .await?;
    assert!(
        !kept.to_string().contains("key"),
        "kept longer than the tab: {kept}"
    );
    browser.close().await
}
