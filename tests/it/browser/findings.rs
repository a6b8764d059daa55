//! The findings on the page: which of them a person is shown as present, over which threshold, and of which pictures only
//! where that is asked for.

use anyhow::Result;
use radialog_schemas::{Finding, PredictedFinding};
use radialog_tests::services::Screen;
use serde_json::json;

use super::{REPORT, answer, assert_calm, begin, open, turn, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

/// The names of the rows that a selector finds.
fn named(rows: &str) -> String {
    format!(
        "[...document.querySelectorAll('{rows}')].map((row) => row.querySelector('.bar-name').title)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_finding_gives_way_to_another_which_is_present_over_a_threshold_of_its_own() -> Result<()>
{
    // Both are over what the bundle calls present.
    let predicted = Finding::ALL.map(|finding| {
        let (probability, threshold) = match finding {
            Finding::NoFinding => (0.75, None),
            Finding::Edema => (0.375, Some(0.25)),
            _ => (0.125, None),
        };
        PredictedFinding {
            finding,
            probability: Some(probability),
            present: probability > threshold.unwrap_or(0.5),
            threshold,
        }
    });
    let fixture = GatewayFixture::seeing(predicted.to_vec()).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    let edema = json!(["Edema"]);
    assert_eq!(browser.value(&named(".finding.present")).await?, edema);
    // Nor would a correction ask for it.
    let ticked = named(".finding:has(input:checked)");
    assert_eq!(browser.value(&ticked).await?, edema);
    let summary = browser.text("#findings-summary").await?;
    assert!(
        summary.starts_with("1 of 13 present (over its threshold)"),
        "{summary}"
    );
    let threshold = "(() => { const row = document.querySelector('.finding.present'); \
                     return [row.querySelector('.bar-value').title, row.querySelector('.bar').style.getPropertyValue('--threshold')]; })()";
    assert_eq!(
        browser.value(threshold).await?,
        json!(["present over 25%", "25%"])
    );
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_and_report_of_no_xray_are_not_there_before_somebody_unfolds_them() -> Result<()> {
    let fixture = GatewayFixture::of_no_xray(2).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let said = "(window.said = [], new MutationObserver((changes) => { for (const change of changes) \
                for (const node of change.addedNodes) said.push(node.textContent.trim()); })\
                .observe(document.querySelector('#announce'), { childList: true }), true)";
    browser.value(said).await?;
    begin(&browser).await?;
    let unfold = turn(1, ".unfold");
    let seen = |selector: &str| {
        format!(
            "document.querySelector({})?.checkVisibility() ?? false",
            json!(selector)
        )
    };
    let told =
        "document.body.textContent.includes('The lungs') || said.join(' ').includes('The lungs')";
    let first_reason = "(() => { const opener = [...document.querySelectorAll('.chips [aria-haspopup=menu]')]\
                        .find((each) => each.textContent === 'Reasons'); opener.click(); \
                        const menu = document.querySelector('.menu:popover-open'); \
                        const first = menu.firstElementChild.textContent; menu.hidePopover(); return first; })()";
    // The first words are there, and then all of them.
    browser.until(&seen(&unfold)).await?;
    assert_eq!(browser.value(told).await?, false);
    fixture.language_worker.allow(UNLIMITED);
    until_turn(&browser, 1, "done").await?;
    browser
        .until("said.includes('There is a report. It is not shown.')")
        .await?;
    assert_eq!(browser.value(told).await?, false);
    assert_eq!(browser.text(&turn(1, ".status")).await?, "Not shown");
    assert_eq!(browser.text("#findings-summary").await?, "Not shown");
    assert_eq!(
        browser.value(first_reason).await?,
        "Enlarged Cardiomediastinum"
    );
    // Nor can it be copied or saved, and paper does not have it.
    for media in ["", "print"] {
        browser.emulate(media, &[]).await?;
        for part in [".answer-text", ".actions", ".notes details"] {
            let part = turn(1, part);
            assert_eq!(
                browser.value(&seen(&part)).await?,
                false,
                "{part} {media:?}"
            );
        }
        assert_eq!(
            browser.value(&seen(".finding")).await?,
            false,
            "findings {media:?}"
        );
    }
    browser.emulate("", &[]).await?;
    browser.click(&unfold).await?;
    assert_eq!(answer(&browser, 1).await?, REPORT);
    browser.until(&seen(".finding")).await?;
    browser
        .until(&format!("said.join(' ').includes({})", json!(REPORT)))
        .await?;
    let focused = "document.activeElement.ariaLabel";
    assert_eq!(browser.value(focused).await?, "Edit the report");
    for folded in [unfold.as_str(), "#findings-doubt .button"] {
        assert_eq!(browser.value(&seen(folded)).await?, false, "{folded}");
    }
    assert_eq!(browser.value(first_reason).await?, "All in the report13");
    // The file has what the page shows.
    let keep = "(() => { window.saved = ''; HTMLAnchorElement.prototype.click = () => {}; \
                URL.createObjectURL = (blob) => (blob.text().then((text) => (saved = text)), 'blob:none'); })()";
    browser.value(keep).await?;
    browser.click(&turn(1, "[aria-label='Download']")).await?;
    browser.click(".menu:popover-open [role=menuitem]").await?;
    browser
        .until(&format!(
            "saved.includes({}) && saved.includes('Classifier: Enlarged Cardiomediastinum 75%')",
            json!(REPORT)
        ))
        .await?;
    // Asked again, it is asked for anew.
    browser.reload().await?;
    until_turn(&browser, 1, "done").await?;
    browser.until(&seen("#findings-doubt .button")).await?;
    assert_eq!(browser.value(&seen(&turn(1, ".answer-text"))).await?, false);
    browser.click("#findings-doubt .button").await?;
    assert_eq!(answer(&browser, 1).await?, REPORT);
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}
