//! The dialog: report, questions, corrections, edits, several conversations.

use anyhow::{Context, Result};
use radialog_tests::services::Screen;

use super::{REPORT, answer, ask, assert_calm, assert_fits, begin, open, turn, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_with_findings_questions_a_correction_and_an_edit_survives_a_reload()
-> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    assert_eq!(answer(&browser, 1).await?, REPORT);
    assert_eq!(
        browser
            .value("document.querySelectorAll('.finding').length")
            .await?,
        14
    );
    assert!(browser.text("#findings-summary").await?.contains("present"));

    ask(&browser, "Is there an effusion?").await?;
    ask(&browser, "On which side?").await?;
    until_turn(&browser, 3, "done").await?;
    assert_eq!(
        answer(&browser, 2).await?,
        "You asked: Is there an effusion?"
    );
    assert_eq!(answer(&browser, 3).await?, "You asked: On which side?");

    // One to add and one to remove, whatever the classifier says.
    browser
        .value("document.querySelector('.finding input:not(:checked):not(:disabled)').click()")
        .await?;
    browser
        .value("document.querySelector('.finding.present:not(.fixed) input:checked').click()")
        .await?;
    let ticks = "[...document.querySelectorAll('.finding input')].map((box) => box.checked)";
    let ticked = browser.value(ticks).await?;
    browser.click(".pending .primary").await?;
    until_turn(&browser, 4, "done").await?;
    assert_eq!(answer(&browser, 4).await?, "Task correction.");
    let asked = browser.text(&turn(4, ".asked-text")).await?;
    assert!(
        asked.starts_with("Correct the report: add ") && asked.contains("; remove "),
        "{asked}"
    );

    browser
        .until(&format!("!document.querySelector('.pending').checkVisibility() && JSON.stringify({ticks}) === '{ticked}'"))
        .await
        .context("what was corrected is as it was ticked")?;
    // The answer has done nothing of it: the ticks say what was asked, the tags what the report has.
    let tags =
        "[...document.querySelectorAll('.tag')].map((tag) => tag.textContent).filter(Boolean)";
    browser
        .until(&format!(
            "{tags}.includes('not in the report') && {tags}.includes('removed') && !{tags}.includes('added')"
        ))
        .await
        .context("a correction that was not made is told")?;
    let label = browser
        .value("[...document.querySelectorAll('.finding')].find((each) => each.querySelector('.tag').textContent === 'not in the report').querySelector('input').ariaLabel")
        .await?;
    let label = label.as_str().unwrap_or_default();
    assert!(
        label.ends_with("Wanted in the report. not in the report"),
        "{label}"
    );
    assert!(
        browser
            .text("#findings-summary")
            .await?
            .contains("from the report")
    );
    browser
        .click(&turn(4, "[aria-label='Accept this correction']"))
        .await?;
    browser
        .until(&format!(
            "document.querySelector({:?}).textContent.includes('Accepted')",
            turn(4, ".notes")
        ))
        .await?;

    browser
        .click(&turn(1, "[aria-label='Edit the report']"))
        .await?;
    browser
        .type_into(".editor textarea", " Seen by a person.")
        .await?;
    browser.click(".editor .primary").await?;
    browser.until("!document.querySelector('.editor')").await?;
    let ticked = browser.value(ticks).await?;

    let view = fixture
        .gateway
        .view(&format!("/v1/conversations/{}", open_id(&browser).await?))
        .await?;
    assert_eq!(
        view["turns"][0]["edited"],
        format!("{REPORT} Seen by a person.")
    );
    assert_eq!(view["turns"][3]["request"]["task"], "correction");
    assert_eq!(view["turns"][3]["edited"], "Task correction.");

    browser.reload().await?;
    until_turn(&browser, 4, "done").await?;
    assert_eq!(
        answer(&browser, 1).await?,
        format!("{REPORT} Seen by a person.")
    );
    assert_eq!(answer(&browser, 3).await?, "You asked: On which side?");
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    assert_eq!(
        browser.value(ticks).await?,
        ticked,
        "as before it was loaded again"
    );
    browser
        .until("document.querySelector('.viewer-readout').textContent.includes('pixels')")
        .await?;

    browser
        .click(&turn(1, "[aria-label='Undo my changes']"))
        .await?;
    browser
        .until(&format!(
            "!document.querySelector({:?}).checkVisibility()",
            turn(1, "[aria-label='Undo my changes']")
        ))
        .await?;
    assert_eq!(answer(&browser, 1).await?, REPORT);
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_that_compare_with_an_earlier_image_are_marked_below_the_answer() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    ask(&browser, "Größe? It is unchanged. No effusion").await?;
    until_turn(&browser, 2, "done").await?;
    let mark = turn(2, ".comparisons mark");
    assert_eq!(browser.text(&mark).await?, "unchanged");
    let sentence = browser.text(&turn(2, ".comparisons q")).await?;
    assert_eq!(sentence, "It is unchanged.");
    let marks = "document.querySelectorAll('.comparisons').length";
    assert_eq!(browser.value(marks).await?, 1, "no other answer compares");
    browser.picture("comparisons").await?;
    assert_fits(&browser).await?;
    browser.reload().await?;
    until_turn(&browser, 2, "done").await?;
    assert_eq!(browser.text(&mark).await?, "unchanged");
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_shows_all_of_the_page_without_scrolling_sideways() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    browser.picture("start").await?;
    begin(&browser).await?;
    ask(&browser, "Is there an effusion?").await?;
    until_turn(&browser, 2, "done").await?;
    let smallest = Screen {
        width: 360,
        height: 640,
        ..Screen::PHONE
    };
    let tablet = Screen {
        width: 820,
        height: 1180,
        ..Screen::PHONE
    };
    let wide = Screen {
        width: 2560,
        height: 1300,
        ..Screen::DESKTOP
    };
    for (name, screen) in [
        ("desktop-light", Screen::DESKTOP),
        ("desktop-dark", Screen::DESKTOP.dark()),
        ("phone-light", Screen::PHONE),
        ("phone-dark", Screen::PHONE.dark()),
        ("phone-small", smallest),
        ("tablet", tablet),
        ("wide", wide),
    ] {
        browser.look(screen).await?;
        let ground = browser
            .value("getComputedStyle(document.body).backgroundColor")
            .await?;
        assert_eq!(ground == "rgb(13, 19, 22)", screen.dark, "{name}: {ground}");
        assert_eq!(
            browser.text(".disclaimer").await?,
            "Research use only. Not a medical device.",
            "{name}"
        );
        for pane in ["image", "dialog"] {
            // On a phone they take turns.
            if browser
                .value("document.querySelector('#show-image').checkVisibility()")
                .await?
                == true
            {
                browser.click(&format!("#show-{pane}")).await?;
            }
            assert_fits(&browser).await?;
            browser.picture(&format!("{name}-{pane}")).await?;
        }
    }
    browser.look(Screen::PHONE).await?;
    browser.click("#open-list").await?;
    browser.click("#new").await?;
    browser
        .until("document.querySelector('#start').checkVisibility()")
        .await?;
    assert_fits(&browser).await?;
    browser.picture("phone-start").await?;
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_listed_opened_and_deleted_after_asking() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    for question in ["What is an effusion?", "What is an infiltrate?"] {
        browser.click("#new").await?;
        browser.type_into("#first-question", question).await?;
        browser.click("#begin").await?;
        until_turn(&browser, 1, "done").await?;
        assert_eq!(answer(&browser, 1).await?, format!("You asked: {question}"));
    }
    browser
        .until("document.querySelectorAll('.item').length === 2")
        .await?;
    assert_eq!(
        browser.text(".item:first-child .item-title").await?,
        "What is an infiltrate?",
        "the latest first"
    );
    browser.click(".item:last-child .item-link").await?;
    browser
        .until("document.querySelector('.asked-text')?.textContent === 'What is an effusion?'")
        .await?;

    let remove = "document.querySelector(\".item:last-child [aria-label^='Delete']\").click()";
    browser.value(remove).await?;
    assert!(browser.text("dialog").await?.contains("cannot be undone"));
    browser.click("dialog .button:not(.danger)").await?;
    assert_eq!(
        browser
            .value("document.querySelectorAll('.item').length")
            .await?,
        2,
        "kept"
    );
    browser.value(remove).await?;
    browser.click("dialog .danger").await?;
    browser
        .until("document.querySelectorAll('.item').length === 1")
        .await?;
    browser
        .until("document.querySelector('#start').checkVisibility()")
        .await?;
    let list: serde_json::Value = fixture
        .gateway
        .get("/v1/conversations")
        .await?
        .json()
        .await?;
    assert_eq!(list["conversations"].as_array().map(Vec::len), Some(1));
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_deletes_a_conversation_while_an_answer_comes_is_not_told_that_it_is_gone()
-> Result<()> {
    let fixture = GatewayFixture::with(1, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "running").await?;
    browser.until("document.querySelector('.item')").await?;
    // The stream's end and the look that it leads to come before the deletion's own answer.
    let watched = "(window.honest = window.fetch, window.missed = 0, window.notices = 0, \
                   window.held = new Promise((go) => { window.release = go; }), \
                   window.fetch = async (url, options) => { \
                       const response = await window.honest(url, options); \
                       if (response.status === 404) window.missed += 1; \
                       if (options?.method === 'DELETE') await window.held; \
                       return response; \
                   }, \
                   new MutationObserver(() => { if (document.querySelector('#loading .notice')) window.notices += 1; }) \
                       .observe(document.querySelector('#loading'), { childList: true }), \
                   true)";
    browser.value(watched).await?;
    browser
        .value("document.querySelector(\".item [aria-label^='Delete']\").click()")
        .await?;
    browser.click("dialog .danger").await?;
    browser.until("window.missed > 0").await?;
    let seen = "document.querySelector('[data-turn=\"1\"]')?.dataset.status";
    assert_eq!(browser.value(seen).await?, "running");
    browser.value("(window.release(), true)").await?;
    browser
        .until("document.querySelector('#start').checkVisibility()")
        .await?;
    assert_eq!(browser.value("window.notices").await?, 0);
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_writes_is_shown_as_text() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let attack = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp; <b>bold</b>";
    browser.type_into("#indication", attack).await?;
    browser.type_into("#first-question", attack).await?;
    begin(&browser).await?;
    until_turn(&browser, 2, "done").await?;
    assert_eq!(answer(&browser, 2).await?, format!("You asked: {attack}"));
    assert!(browser.text(".indication").await?.ends_with(attack));
    browser
        .value("document.querySelector(\".item [aria-label^='Rename']\").click()")
        .await?;
    browser
        .type_into("#entered", &format!("\u{e009}a\u{e000}{attack}"))
        .await?;
    browser.click("dialog .primary").await?;
    browser
        .until("document.querySelector('.item-title').textContent.startsWith('<img')")
        .await?;
    let inside =
        "document.querySelectorAll('#turns img, #turns script, #turns b, .item-title *').length";
    assert_eq!(browser.value(inside).await?, 0);
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_answer_keeps_its_words_and_lets_the_next_one_through() -> Result<()> {
    let words = REPORT.split(' ').count();
    let fixture = GatewayFixture::with(words + 2, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    ask(&browser, "one two three").await?;
    ask(&browser, "after it").await?;
    // The worker has words for no more than this.
    browser
        .until(&format!(
            "document.querySelector({:?}).textContent.trim() === 'You asked:'",
            turn(2, ".answer-text")
        ))
        .await?;
    assert_eq!(browser.text(&turn(2, ".status")).await?, "Writing…");
    assert_eq!(
        browser.text(&turn(3, ".status")).await?,
        "Waits for the answer above"
    );

    browser.click(&turn(2, ".answer-head > .button")).await?;
    // It stops at its next word.
    fixture.language_worker.allow(1);
    until_turn(&browser, 2, "cancelled").await?;
    assert_eq!(browser.text(&turn(2, ".status")).await?, "Stopped");
    fixture.language_worker.allow(UNLIMITED);
    until_turn(&browser, 3, "done").await?;
    assert_eq!(answer(&browser, 3).await?, "You asked: after it");
    let stopped = answer(&browser, 2).await?;
    assert!(
        stopped.starts_with("You asked:") && stopped.len() < "You asked: one two three".len(),
        "{stopped}"
    );

    browser.reload().await?;
    until_turn(&browser, 2, "cancelled").await?;
    assert_eq!(answer(&browser, 2).await?, stopped);
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

/// The id of the open conversation, which stands in the address.
async fn open_id(browser: &radialog_tests::services::Browser) -> Result<String> {
    let hash = browser.value("location.hash").await?;
    Ok(hash.as_str().unwrap().trim_start_matches("#/c/").to_owned())
}
