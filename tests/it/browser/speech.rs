//! Reading aloud and dictation, with a stand-in for what a headless browser has no voice and no ears for; and what is said of
//! a history that is too long.

use anyhow::Result;
use radialog_tests::services::Screen;

use super::{REPORT, ask, assert_calm, assert_fits, begin, open, turn, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_read_aloud_until_it_is_over_or_stopped() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let voice = "(() => { window.said = []; window.silenced = 0; \
                 speechSynthesis.speak = (utterance) => said.push(utterance); \
                 speechSynthesis.cancel = () => { silenced += 1; }; })()";
    browser.value(voice).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser.click(&turn(1, "[aria-label='Read aloud']")).await?;
    let spoken = browser
        .value("said.map((utterance) => utterance.text).join(' ')")
        .await?;
    assert_eq!(spoken, REPORT);
    let stop = turn(1, "[aria-label='Stop reading']");
    browser.value("silenced = 0").await?;
    browser.click(&stop).await?;
    browser.until("silenced > 0").await?;
    browser.click(&turn(1, "[aria-label='Read aloud']")).await?;
    browser
        .value("said.at(-1).dispatchEvent(new Event('end'))")
        .await?;
    browser
        .until(&format!("!document.querySelector({stop:?})"))
        .await?;
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dictated_is_typed_where_the_browser_hears() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let hears = browser
        .value("typeof (window.SpeechRecognition ?? window.webkitSpeechRecognition) === 'function'")
        .await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let shown = browser
        .value("Boolean(document.querySelector('.dictate')?.checkVisibility())")
        .await?;
    assert_eq!(shown, hears, "the button is there where the browser hears");
    if shown == true {
        let ears = "(window.SpeechRecognition ?? webkitSpeechRecognition).prototype.start = function () { \
                    const results = [[{ transcript: 'is the heart large' }]]; \
                    setTimeout(() => this.dispatchEvent(Object.assign(new Event('result'), { results })), 10); \
                    setTimeout(() => this.dispatchEvent(Object.assign(new Event('error'), { error: 'not-allowed' })), 30); \
                    setTimeout(() => this.dispatchEvent(new Event('end')), 40); }";
        browser.value(ears).await?;
        browser.type_into("#question", "Tell me:").await?;
        browser.click(".dictate").await?;
        browser
            .until("document.querySelector('#question').value === 'Tell me: is the heart large'")
            .await?;
        browser
            .until("document.querySelector('.composer .error').textContent.includes('microphone')")
            .await?;
        assert_eq!(
            browser
                .value("document.querySelector('.dictate').getAttribute('aria-pressed')")
                .await?,
            "false"
        );
    }
    assert_fits(&browser).await?;
    browser.picture("dictation").await?;
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_too_long_is_told_until_a_shorter_one_is_read_whole() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::PHONE).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser.click("#show-dialog").await?;
    ask(&browser, "First").await?;
    until_turn(&browser, 2, "done").await?;
    assert_eq!(
        browser
            .value("document.querySelector('#history').hidden")
            .await?,
        true
    );
    ask(&browser, "It forgets").await?;
    until_turn(&browser, 3, "done").await?;
    browser
        .until("document.querySelector('#history').checkVisibility()")
        .await?;
    let notice = browser.text("#history").await?;
    for words in ["too long", "turn 2", "begin a new conversation"] {
        assert!(notice.contains(words), "{notice}");
    }
    assert_fits(&browser).await?;
    browser.picture("history-too-long").await?;
    ask(&browser, "Short").await?;
    until_turn(&browser, 4, "done").await?;
    browser
        .until("document.querySelector('#history').hidden")
        .await?;
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}
