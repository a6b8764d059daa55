//! The page on paper, in the reader's own colours, and on a phone.

use anyhow::Result;
use radialog_tests::services::Screen;
use serde_json::json;

use super::{REPORT, begin, open, turn, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED, xray_path};

/// Whether a place is seen and has a height.
fn seen(selector: &str) -> String {
    let selector = json!(selector);
    format!(
        "(() => {{ const place = document.querySelector({selector}); \
         return place.checkVisibility() && place.getBoundingClientRect().height > 50; }})()"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn paper_has_the_image_the_findings_and_the_report_from_every_screen() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelector('.printed canvas')?.width > 0")
        .await?;
    // A finding that is not assessed has no threshold.
    let marks = "(() => { const bar = document.querySelector('.bar'); \
                 const mark = () => getComputedStyle(bar, '::after').content; \
                 const marks = [mark()]; bar.classList.add('unassessed'); marks.push(mark()); \
                 bar.classList.remove('unassessed'); return marks; })()";
    assert_eq!(browser.value(marks).await?, json!(["\"\"", "none"]));
    for (name, screen) in [("desktop", Screen::DESKTOP), ("phone", Screen::PHONE)] {
        for pane in ["image", "dialog"] {
            browser.look(screen).await?;
            browser
                .value(&format!("document.querySelector('#show-{pane}').click()"))
                .await?;
            browser.emulate("print", &[]).await?;
            assert_eq!(
                browser.value(&seen(".printed canvas")).await?,
                true,
                "{name}, {pane}: the X-ray"
            );
            assert_eq!(
                browser.value(&seen(".bars")).await?,
                true,
                "{name}, {pane}: the findings"
            );
            let (head, hash) = (
                browser.text("#paper-head").await?,
                browser.value("location.hash.slice(4)").await?,
            );
            let stem = xray_path();
            let stem = stem.file_stem().unwrap().to_str().unwrap();
            assert!(
                head.starts_with(stem) && head.ends_with(hash.as_str().unwrap_or("?")),
                "{name}, {pane}: {head}"
            );
            let report = browser.text(&turn(1, ".answer-text")).await?;
            assert_eq!(report, REPORT, "{name}, {pane}");
            for away in [
                "#open-list",
                ".toolbar",
                "#composer",
                ".pane-switch",
                "#skip",
                ".actions",
                ".hint",
            ] {
                let shown = format!("document.querySelector('{away}').checkVisibility()");
                assert_eq!(browser.value(&shown).await?, false, "{away}");
            }
        }
        browser.picture(&format!("paper-{name}")).await?;
    }
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_readers_own_colours_bars_and_what_is_chosen_are_seen() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelector('.present .bar-fill') && document.querySelector('.item [aria-current]')")
        .await?;
    browser.emulate("", &[("forced-colors", "active")]).await?;
    let colour = |selector: &str, part: &str| {
        format!(
            "getComputedStyle(document.querySelector({})).{part}",
            json!(selector)
        )
    };
    let ground = browser.value(&colour(".bar", "backgroundColor")).await?;
    for selector in [".present .bar-fill", ".icon-button[aria-pressed=true]"] {
        let shown = browser.value(&colour(selector, "backgroundColor")).await?;
        assert_ne!(shown, ground, "{selector}");
    }
    assert_ne!(
        browser
            .value(&colour(".item:has([aria-current])", "outlineStyle"))
            .await?,
        "none"
    );
    browser.picture("forced-colours").await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_shows_the_report_first_and_leads_to_where_it_is_corrected() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::PHONE).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let report = format!("document.querySelector({})", json!(turn(1, ".answer-text")));
    assert_eq!(
        browser
            .value(&format!("{report}.checkVisibility()"))
            .await?,
        true
    );
    browser
        .until("[...document.querySelectorAll('.chips .button')].find((each) => each.textContent === 'Correct').checkVisibility()")
        .await?;
    browser
        .value("[...document.querySelectorAll('.chips .button')].find((each) => each.textContent === 'Correct').click()")
        .await?;
    browser
        .until("document.querySelector('#findings').checkVisibility() && document.activeElement.closest('.finding')")
        .await?;
    let ring = "getComputedStyle(document.querySelector('#findings')).outlineStyle";
    assert_eq!(browser.value(ring).await?, "solid");
    browser.picture("phone-correct").await?;
    browser
        .value("document.querySelector('#question').focus()")
        .await?;
    browser.click("#show-dialog").await?;
    browser
        .until("!document.querySelector('#findings').classList.contains('led')")
        .await?;
    browser.close().await
}
