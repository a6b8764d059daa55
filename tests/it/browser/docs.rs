//! The readable page of the API.

use std::collections::BTreeSet;

use anyhow::Result;
use radialog_tests::services::{Browser, Screen};
use serde_json::Value;

use super::{assert_calm, assert_fits};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_api_has_every_operation_of_the_document() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let document: Value = fixture.gateway.get("/openapi.json").await?.json().await?;
    let operations = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values());
    let expected: BTreeSet<String> = operations
        .filter_map(|operation| operation["operationId"].as_str())
        .map(str::to_owned)
        .collect();

    let browser = Browser::open(Screen::DESKTOP).await?;
    browser.go(&format!("{}/docs", fixture.gateway.url)).await?;
    browser
        .until("document.querySelector('.operation')")
        .await?;
    let shown = "[...document.querySelectorAll('.operation .method')].map((each) => each.closest('.operation').id)";
    let shown: BTreeSet<String> = serde_json::from_value(browser.value(shown).await?)?;
    assert_eq!(shown, expected);
    let examples = browser
        .value("document.querySelectorAll('.operation pre').length")
        .await?;
    assert!(
        examples.as_u64() >= Some(expected.len() as u64),
        "{examples} examples"
    );
    let unresolved = browser
        .value("document.querySelector('main').innerText.includes('undefined')")
        .await?;
    assert_eq!(unresolved, false);
    assert_eq!(
        browser.text(".disclaimer").await?,
        "Research use only. Not a medical device."
    );
    browser.picture("docs").await?;
    browser.look(Screen::PHONE.dark()).await?;
    assert_fits(&browser).await?;
    browser.picture("docs-phone").await?;
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}
