//! The choice of a model, where a gateway has several.

use anyhow::Result;
use radialog_tests::services::{Browser, Screen};

use super::{assert_calm, assert_fits, begin, until_turn};
use crate::gateway::models::TwoBundles;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_can_be_chosen_is_described_and_is_named_above_its_answers() -> Result<()> {
    let two = TwoBundles::start().await?;
    let browser = Browser::open(Screen::PHONE).await?;
    browser.go(&two.gateway.url).await?;
    browser
        .until("document.querySelector('#model')?.checkVisibility()")
        .await?;
    let choices = browser
        .value("[...document.querySelectorAll('#model option')].map(each => each.value).join()")
        .await?;
    assert_eq!(choices, "one,one-rg,one-ins,two");
    // Random weights are said where any model has them.
    browser
        .until("!document.querySelector('#random').hidden")
        .await?;
    browser
        .value(
            "(() => { const model = document.querySelector('#model'); model.value = 'one-rg'; \
             for (const name of ['input', 'change']) model.dispatchEvent(new Event(name, {bubbles: true})); })()",
        )
        .await?;
    browser.click("#about-model summary").await?;
    let about = browser.text("#about-model-lines").await?;
    for words in ["one-rg", "rg", "no licence applies", "turns"] {
        assert!(about.contains(words), "{about}");
    }
    assert_fits(&browser).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser.click("#show-dialog").await?;
    assert_eq!(browser.text("#answered-by").await?, "Answered by one-rg");
    assert_fits(&browser).await?;
    assert_calm(&browser, &two.gateway.url).await
}
