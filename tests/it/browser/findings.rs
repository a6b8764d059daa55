//! The findings on the page: which of them a person is shown as present, and over which threshold.

use anyhow::Result;
use radialog_schemas::{Finding, PredictedFinding};
use radialog_tests::services::Screen;
use serde_json::json;

use super::{assert_calm, begin, open, until_turn};
use crate::gateway::fixture::GatewayFixture;

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
