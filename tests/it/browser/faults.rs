//! What goes wrong, in words, and what heals by itself.

use anyhow::Result;
use radialog_tests::services::Screen;

use super::{REPORT, answer, ask, begin, open, turn, until_turn};
use crate::gateway::fake_language_worker::FAILS;
use crate::gateway::fixture::{GatewayFixture, RunningGateway, UNLIMITED};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_gateway_restarts_in_mid_answer_shows_every_word_once() -> Result<()> {
    let words = REPORT.split(' ').count();
    let mut fixture = GatewayFixture::with(words + 2, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    ask(&browser, "one two three four five").await?;
    browser
        .until(&format!(
            "document.querySelector({:?}).textContent.trim() === 'You asked:'",
            turn(2, ".answer-text")
        ))
        .await?;

    let address = fixture.gateway.url.trim_start_matches("http://").parse()?;
    let elsewhere = RunningGateway::start(&fixture.backends, |_| {}).await?;
    std::mem::replace(&mut fixture.gateway, elsewhere)
        .stop()
        .await?;
    browser
        .until("document.querySelector('#connection').checkVisibility()")
        .await?;
    assert!(
        browser
            .text("#connection")
            .await?
            .starts_with("Connection lost, trying again")
    );
    browser.picture("connection-lost").await?;
    // The worker goes on without readers.
    fixture.language_worker.allow(2);
    fixture.gateway =
        RunningGateway::start(&fixture.backends, |config| config.listen = address).await?;
    browser
        .until("!document.querySelector('#connection').checkVisibility()")
        .await?;
    fixture.language_worker.allow(UNLIMITED);
    until_turn(&browser, 2, "done").await?;
    assert_eq!(
        answer(&browser, 2).await?,
        "You asked: one two three four five"
    );
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_in_words_with_what_to_do() -> Result<()> {
    let fixture =
        GatewayFixture::with(UNLIMITED, |config| config.max_image_bytes = 1 << 20).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;

    let folder = tempfile::tempdir()?;
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not an image")?;
    browser.type_into("#file", text.to_str().unwrap()).await?;
    browser
        .until("document.querySelector('#start-error').checkVisibility()")
        .await?;
    let told = browser.text("#start-error").await?;
    assert!(
        told.contains("“notes.txt” is not a PNG or JPEG")
            && told.contains("Choose a PNG or JPEG file"),
        "{told}"
    );

    // Bytes after an image's end are allowed, but make it large.
    let large = folder.path().join("large.jpg");
    std::fs::write(
        &large,
        [crate::gateway::fixture::xray(), vec![0; 2 << 20]].concat(),
    )?;
    browser.type_into("#file", large.to_str().unwrap()).await?;
    browser.click("#begin").await?;
    browser
        .until("document.querySelector('#start-error').textContent.includes('too large')")
        .await?;
    assert!(
        browser.text("#preview-name").await?.contains("large.jpg"),
        "what was chosen stays"
    );

    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    ask(&browser, &format!("this {FAILS}")).await?;
    until_turn(&browser, 2, "failed").await?;
    let told = browser.text(&turn(2, ".notice")).await?;
    assert!(
        told.contains("The model failed") && told.contains("Told to fail."),
        "{told}"
    );

    browser
        .go(&format!("{}/#/c/{}", fixture.gateway.url, "0".repeat(32)))
        .await?;
    browser
        .until("document.querySelector('#loading .notice')")
        .await?;
    let told = browser.text("#loading").await?;
    assert!(
        told.contains("This conversation is not here") && told.contains("Begin a new one."),
        "{told}"
    );
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_and_trying_again_asks_once() -> Result<()> {
    let words = REPORT.split(' ').count();
    let fixture = GatewayFixture::with(words, |config| config.max_waiting = 1).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    ask(&browser, "first").await?;
    browser
        .until("document.querySelector('[data-turn=\"2\"]')")
        .await?;
    until_turn(&browser, 2, "running").await?;
    ask(&browser, "second").await?;
    browser
        .until("document.querySelector('[data-turn=\"3\"]')")
        .await?;
    ask(&browser, "third").await?;
    browser
        .until("document.querySelector('#composer .notice.error').checkVisibility()")
        .await?;
    let told = browser.text("#composer .notice.error").await?;
    assert!(
        told.contains("The service is busy") && told.contains("Try again in "),
        "{told}"
    );
    assert_eq!(
        browser
            .value("document.querySelector('#question').value")
            .await?,
        "third",
        "nothing has to be typed again"
    );

    fixture.language_worker.allow(UNLIMITED);
    until_turn(&browser, 3, "done").await?;
    browser.click("#composer .notice.error .button").await?;
    until_turn(&browser, 4, "done").await?;
    assert_eq!(answer(&browser, 4).await?, "You asked: third");
    assert_eq!(
        browser
            .value("document.querySelectorAll('.turn').length")
            .await?,
        4
    );
    assert_eq!(
        browser
            .value("document.querySelector('#question').value")
            .await?,
        ""
    );
    browser.close().await
}
