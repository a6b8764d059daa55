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
            "(() => { const model = document.querySelector('#model'); model.value = 'one-rg'; for (const name of \
             ['input', 'change']) model.dispatchEvent(new Event(name, { bubbles: true })); })()",
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

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_a_model_alone_was_trained_for_are_offered_with_it_and_not_with_others()
-> Result<()> {
    let two = TwoBundles::start().await?;
    let browser = Browser::open(Screen::DESKTOP).await?;
    for (model, offered) in [("two", true), ("one", false)] {
        browser.go(&two.gateway.url).await?;
        browser
            .until("document.querySelectorAll('#model option').length > 1")
            .await?;
        browser
            .value(&format!(
                "document.querySelector('#model').value = '{model}'"
            ))
            .await?;
        begin(&browser).await?;
        until_turn(&browser, 1, "done").await?;
        let chips = "[...document.querySelectorAll('.chips > .button')].filter((chip) => \
                     chip.checkVisibility()).map((chip) => chip.textContent).join()";
        let chips = browser.value(chips).await?;
        let names = chips.as_str().unwrap_or_default().split(',');
        let special = names.filter(|name| ["View", "Impression"].contains(name));
        assert_eq!(
            special.count(),
            if offered { 2 } else { 0 },
            "{model}: {chips}"
        );
        if !offered {
            continue;
        }
        for (turn, name) in [(2, "View"), (3, "Impression")] {
            let click = "[...document.querySelectorAll('.chips > .button')].find((chip) => \
                         chip.textContent === 'NAME').click()";
            browser.value(&click.replace("NAME", name)).await?;
            until_turn(&browser, turn, "done").await?;
        }
        assert_fits(&browser).await?;
        browser.picture("v2-tasks").await?;
    }
    assert_calm(&browser, &two.gateway.url).await
}
