//! What the page shows at once, keeps, and hears from elsewhere.

use anyhow::{Context, Result};
use radialog_tests::services::{Browser, Screen};
use serde_json::json;

use super::{answer, ask, begin, open, turn, until_turn};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED};

/// The findings whose boxes are ticked.
const TICKED: &str = "[...document.querySelectorAll('.finding')].filter((each) => each.querySelector('input').checked)\
    .map((each) => each.querySelector('.bar-name').textContent)";

/// The address of the open conversation's view.
async fn open_path(browser: &Browser) -> Result<String> {
    let hash = browser.value("location.hash").await?;
    let id = hash
        .as_str()
        .unwrap_or_default()
        .trim_start_matches("#/c/")
        .to_owned();
    Ok(format!("/v1/conversations/{id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_follow_what_a_person_writes_into_the_report_here_and_elsewhere() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    let ticked = |present: &str, absent: &str| {
        format!("{TICKED}.includes('{present}') && !{TICKED}.includes('{absent}')")
    };
    browser
        .click(&turn(1, "[aria-label='Edit the report']"))
        .await?;
    browser
        .value(
            "(document.querySelector('.editor textarea').value = 'No edema. There is a fracture.')",
        )
        .await?;
    browser.click(".editor .primary").await?;
    browser.until(&ticked("Fracture", "Edema")).await?;

    // Another machine rewrites it and goes on; the list tells.
    let path = open_path(&browser).await?;
    let edit = format!("{path}/turns/1/edit");
    let text = Some("There is edema. No fracture.");
    let rewritten = fixture.gateway.rewrite(&edit, text, "*").await?;
    assert_eq!(rewritten.status(), 200);
    fixture
        .gateway
        .post(&format!("{path}/turns"), &json!({"task": "summary"}))
        .await?;
    until_turn(&browser, 2, "done").await?;
    browser.until(&ticked("Edema", "Fracture")).await?;

    // Another tab of this browser says that it has rewritten it.
    let text = Some("Fractures of two ribs. The lungs have no edema.");
    let rewritten = fixture.gateway.rewrite(&edit, text, "*").await?;
    assert_eq!(rewritten.status(), 200);
    browser
        .value(&format!(
            "new BroadcastChannel('radialog').postMessage({{ id: '{}' }})",
            path.trim_start_matches("/v1/conversations/")
        ))
        .await?;
    browser.until(&ticked("Fracture", "Edema")).await?;
    assert!(answer(&browser, 1).await?.starts_with("Fractures"));
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_finding_that_is_not_assessed_the_page_says_so_and_no_number() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let row = "[...document.querySelectorAll('.finding')].find((each) => each.querySelector('.bar-name').textContent === 'Edema')";
    browser.until(row).await?;
    let value = format!("{row}.querySelector('.bar-value').textContent");
    let number = browser.value(&value).await?;
    assert!(
        number.as_str().is_some_and(|number| number.ends_with('%')),
        "{number}"
    );
    // Rows are made when an image's findings come.
    browser
        .value("(async () => { const { store } = await import('/assets/store.js'); const { findings } = store.view; \
                for (const known of [null, findings]) { store.view.findings = known; store.dispatchEvent(new CustomEvent('findings')); \
                Object.assign(findings.findings.find((each) => each.finding === 'Edema'), { probability: null, present: false }); } return true; })()")
        .await?;
    assert_eq!(browser.value(&value).await?, "not assessed");
    let label = format!("{row}.querySelector('input').getAttribute('aria-label')");
    let label = browser.value(&label).await?;
    let label = label.as_str().unwrap_or_default();
    assert!(label.starts_with("Edema, not assessed."), "{label}");
    let disputed = format!("{row}.querySelector('.tag').checkVisibility()");
    assert_eq!(
        browser.value(&disputed).await?,
        false,
        "nothing differs from it"
    );
    browser.close().await
}

/// What sentences of reports state and deny.
const STATED_SENTENCES: &str = include_str!("stated_sentences.js");

#[tokio::test(flavor = "multi_thread")]
async fn sentences_of_reports_are_read_the_right_way_round() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let misread = browser
        .value(&format!("(async () => {{ {STATED_SENTENCES} }})()"))
        .await?;
    assert_eq!(misread, json!([]));
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_seen_before_it_is_taken_and_comes_back_where_it_is_not() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    // A network that is away: nothing is sent until it is let through.
    browser
        .value("(window.honest = window.fetch, window.fetch = () => Promise.reject(new TypeError('no network')), true)")
        .await?;
    ask(&browser, "Is there an effusion?").await?;
    browser
        .until("document.querySelector('[data-sending]')?.textContent.includes('trying again')")
        .await?;
    assert_eq!(
        browser.text("[data-sending] .asked-text").await?,
        "Is there an effusion?"
    );
    browser
        .until("document.querySelector('#composer .notice.error').checkVisibility()")
        .await?;
    assert_eq!(
        browser
            .value("[document.querySelector('#question').value, document.querySelectorAll('[data-sending]').length]")
            .await?,
        json!(["Is there an effusion?", 0])
    );
    browser
        .value("(window.fetch = window.honest, true)")
        .await?;
    browser.click("#composer .notice.error .button").await?;
    until_turn(&browser, 2, "done").await?;
    assert_eq!(
        answer(&browser, 2).await?,
        "You asked: Is there an effusion?"
    );

    // What is asked once more, and otherwise.
    browser
        .click(&turn(2, "[aria-label='Ask again, for another answer']"))
        .await?;
    until_turn(&browser, 3, "done").await?;
    let view = fixture.gateway.view(&open_path(&browser).await?).await?;
    assert_eq!(view["turns"][2]["request"]["text"], "Is there an effusion?");
    assert!(view["turns"][2]["request"]["generation"]["temperature"].is_number());
    browser
        .value(&format!(
            "document.querySelector({}).click()",
            json!(turn(3, "[aria-label='Ask it otherwise']"))
        ))
        .await?;
    // What stands in the box goes only where a person says so.
    let reword = format!(
        "document.querySelector({}).click()",
        json!(turn(3, "[aria-label='Ask it otherwise']"))
    );
    let typed = "document.querySelector('#question').value";
    browser.type_into("#question", " Left or right?").await?;
    let before = browser.value(typed).await?;
    browser.value(&reword).await?;
    browser.click("dialog .button:not(.danger)").await?;
    browser.until("!document.querySelector('dialog')").await?;
    assert_eq!(browser.value(typed).await?, before);
    browser.value(&reword).await?;
    browser.click("dialog .danger").await?;
    browser
        .until(&format!("{typed} === 'Is there an effusion?'"))
        .await?;
    ask(&browser, " On which side?").await?;
    until_turn(&browser, 4, "done").await?;
    assert_eq!(
        answer(&browser, 4).await?,
        "You asked: Is there an effusion? On which side?"
    );
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_survive_a_look_at_another_conversation() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    browser
        .until("document.querySelectorAll('.finding').length === 14")
        .await?;
    let first = browser.value("location.hash").await?;
    browser
        .value("document.querySelector('.finding input:not(:checked):not(:disabled)').click()")
        .await?;
    browser
        .click(&turn(1, "[aria-label='Edit the report']"))
        .await?;
    browser
        .type_into(".editor textarea", " Seen by a person.")
        .await?;
    browser.type_into("#question", "half a question").await?;
    let pending = browser.text(".pending").await?;

    browser.click("#new").await?;
    browser.type_into("#first-question", "What is it?").await?;
    browser.click("#begin").await?;
    browser
        .until("document.querySelector('.asked-text')?.textContent === 'What is it?'")
        .await?;
    assert_eq!(
        browser
            .value("document.querySelector('#question').value")
            .await?,
        ""
    );
    browser.value(&format!("(location.hash = {first})")).await?;
    browser
        .until("document.querySelector('.editor textarea')?.value.endsWith('Seen by a person.')")
        .await?;
    assert_eq!(
        browser
            .value("document.querySelector('#question').value")
            .await?,
        "half a question"
    );
    assert_eq!(browser.text(".pending").await?, pending);
    browser.click(".editor .primary").await?;
    browser.until("!document.querySelector('.editor')").await?;
    assert!(answer(&browser, 1).await?.ends_with("Seen by a person."));
    browser
        .value("(document.querySelector('#question').value = '', document.querySelector('#question').dispatchEvent(new Event('input')))")
        .await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_not_saved_over_what_was_saved_elsewhere_unseen() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let path = open_path(&browser).await?;
    let edit = format!("{path}/turns/1/edit");
    let kept = async || {
        let view = fixture.gateway.view(&path).await?;
        anyhow::Ok(view["turns"][0]["edited"].clone())
    };
    let choice = |name: &str| {
        format!(
            "[...document.querySelectorAll('.editor .notice .button')].find((each) => each.textContent.includes('{name}')).click()"
        )
    };
    for (other, choose, right) in [
        ("Theirs.", "Keep the other", "Theirs."),
        ("Theirs again.", "Save mine", "Mine."),
    ] {
        browser
            .click(&turn(1, "[aria-label='Edit the report']"))
            .await?;
        browser
            .value("(() => { const area = document.querySelector('.editor textarea'); area.value = 'Mine.'; area.dispatchEvent(new Event('input')); })()")
            .await?;
        let shown = |text: &str| {
            format!(
                "document.querySelector('.editor .notice blockquote')?.textContent === '{text}'"
            )
        };
        let put = fixture.gateway.rewrite(&edit, Some("First."), "*").await?;
        assert_eq!(put.status(), 200);
        browser.click(".editor .primary").await?;
        browser.until(&shown("First.")).await?;
        // Yet another one, which nobody has seen here: "Save mine" is of the one that is shown.
        let put = fixture.gateway.rewrite(&edit, Some(other), "*").await?;
        assert_eq!(put.status(), 200);
        browser.value(&choice("Save mine")).await?;
        browser.until(&shown(other)).await?;
        assert_eq!(kept().await?, other, "nothing is saved yet");
        browser.value(&choice(choose)).await?;
        browser.until("!document.querySelector('.editor')").await?;
        assert_eq!(kept().await?, right);
        assert_eq!(answer(&browser, 1).await?, right);
    }
    // The thumbs are for the model's words.
    let thumb = format!(
        "document.querySelector({}).checkVisibility()",
        json!(turn(1, "[aria-label='Good answer']"))
    );
    assert_eq!(browser.value(&thumb).await?, false);
    browser.click(&turn(1, ".notes .link")).await?;
    assert_eq!(browser.value(&thumb).await?, true);
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_is_being_saved_takes_no_more_words_and_its_draft_ends_with_it() -> Result<()>
{
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let path = open_path(&browser).await?;
    browser
        .value("import('/assets/store.js').then(({ store }) => (window.store = store, true))")
        .await?;
    // What is saved waits until it is let go.
    browser
        .value(
            "(window.honest = window.fetch, window.fetch = (url, options) => options?.method === 'PUT' ? \
             new Promise((go) => { window.go = () => go(window.honest(url, options)); }) : window.honest(url, options), true)",
        )
        .await?;
    browser
        .click(&turn(1, "[aria-label='Edit the report']"))
        .await?;
    browser
        .value("(() => { const area = document.querySelector('.editor textarea'); area.value = 'Mine.'; area.dispatchEvent(new Event('input')); })()")
        .await?;
    browser.click(".editor .primary").await?;
    browser.until("typeof window.go === 'function'").await?;
    assert_eq!(
        browser
            .value("document.querySelector('.editor').inert")
            .await?,
        true
    );
    // Something else is opened before it is saved.
    browser.value("(location.hash = '', true)").await?;
    browser
        .until("!document.querySelector('#work').checkVisibility()")
        .await?;
    let kept = "[...window.store.drafts.values()].includes('Mine.')";
    assert_eq!(browser.value(kept).await?, true);
    browser.value("(window.go(), true)").await?;
    browser
        .until(&format!("!{kept} && window.store.editedFrom.size === 0"))
        .await?;
    let view = fixture.gateway.view(&path).await?;
    assert_eq!(view["turns"][0]["edited"], "Mine.");
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_was_deleted_elsewhere_leaves_the_screen() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    // Another tab says so, or the list that is read again.
    for heard in [
        "new BroadcastChannel('radialog').postMessage({ id: location.hash.slice(4) })",
        "import('/assets/store.js').then(({ store }) => store.refresh()).catch(() => {})",
    ] {
        begin(&browser).await?;
        until_turn(&browser, 1, "done").await?;
        browser
            .click(&turn(1, "[aria-label='Edit the report']"))
            .await?;
        browser.type_into(".editor textarea", " And mine.").await?;
        browser.type_into("#question", "half a question").await?;
        let path = open_path(&browser).await?;
        assert_eq!(fixture.gateway.delete(&path).await?, 204);
        browser.value(heard).await?;
        browser
            .until("document.querySelector('#loading .notice')?.checkVisibility()")
            .await?;
        assert!(
            browser
                .text("#loading")
                .await?
                .contains("This conversation is not here")
        );
        let kept = "import('/assets/store.js').then(({ store }) => [store.view, store.drafts.size, \
                    document.querySelector('#work').checkVisibility(), document.querySelectorAll('.turn, .editor').length])";
        assert_eq!(browser.value(kept).await?, json!([null, 0, false, 0]));
        browser.click("#loading a").await?;
        browser
            .until("document.querySelector('#choose')?.checkVisibility() || document.querySelector('#remove-image')?.checkVisibility()")
            .await?;
    }
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tab_changes_it_tells_the_others() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let path = open_path(&browser).await?;
    let id = path.trim_start_matches("/v1/conversations/");
    // Another tab hears what another object of this page does.
    browser
        .value(
            "(window.heard = [], window.other = new BroadcastChannel('radialog'), \
             other.onmessage = ({ data }) => heard.push(data.id), true)",
        )
        .await?;
    // Each is told once.
    let told = async || {
        browser
            .until(&format!("heard.splice(0).includes('{id}')"))
            .await
    };
    browser
        .click(&turn(1, "[aria-label='Good answer']"))
        .await?;
    told().await.context("a rating")?;
    browser
        .click(&turn(1, "[aria-label='Edit the report']"))
        .await?;
    browser
        .type_into(".editor textarea", " Seen by a person.")
        .await?;
    browser.click(".editor .primary").await?;
    told().await.context("an edit")?;
    ask(&browser, "Is there an effusion?").await?;
    told().await.context("a question")?;
    until_turn(&browser, 2, "done").await?;
    browser
        .value("document.querySelector(\".item [aria-label^='Rename']\").click()")
        .await?;
    browser
        .type_into("#entered", "\u{e009}a\u{e000}Ward 7, follow-up")
        .await?;
    browser.click("dialog .primary").await?;
    told().await.context("another title")?;
    browser
        .value("document.querySelector(\".item [aria-label^='Delete']\").click()")
        .await?;
    browser.click("dialog .danger").await?;
    told().await.context("a conversation that is deleted")?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_called_as_its_file_renamed_found_and_its_answers_rated() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    let file = crate::gateway::fixture::xray_path();
    let stem = file.file_stem().unwrap().to_str().unwrap();
    browser
        .until(&format!(
            "document.querySelector('.item-title')?.textContent === {}",
            json!(stem)
        ))
        .await?;
    let path = open_path(&browser).await?;
    browser.click("#new").await?;
    browser.type_into("#first-question", "What is it?").await?;
    browser.click("#begin").await?;
    browser
        .until("document.querySelectorAll('.item').length === 2")
        .await?;

    browser
        .value("document.querySelector(\".item:last-child [aria-label^='Rename']\").click()")
        .await?;
    browser
        .type_into("#entered", "\u{e009}a\u{e000}Ward 7, follow-up")
        .await?;
    browser.click("dialog .primary").await?;
    browser
        .until("document.querySelector('.item:last-child .item-title').textContent === 'Ward 7, follow-up'")
        .await?;
    assert_eq!(
        fixture.gateway.view(&path).await?["title"],
        "Ward 7, follow-up"
    );
    browser.type_into("#search", "WARD follow").await?;
    let shown = "[...document.querySelectorAll('.item')].filter((each) => !each.hidden).map((each) => each.querySelector('.item-title').textContent)";
    assert_eq!(browser.value(shown).await?, json!(["Ward 7, follow-up"]));
    browser.type_into("#search", " nothing").await?;
    assert_eq!(browser.value(shown).await?, json!([]));
    assert_eq!(
        browser.text("#no-conversations").await?,
        "No title has these words."
    );
    browser.type_into("#search", "\u{e00c}").await?;
    browser.click(".item:last-child .item-link").await?;
    until_turn(&browser, 1, "done").await?;

    browser.click(&turn(1, "[aria-label='Bad answer']")).await?;
    let pressed = |thumb: &str| {
        let selector = turn(
            1,
            &format!("[aria-label='{thumb} answer'][aria-pressed=true]"),
        );
        format!("document.querySelector({})", json!(selector))
    };
    browser.until(&pressed("Bad")).await?;
    assert_eq!(
        fixture.gateway.view(&path).await?["turns"][0]["rating"],
        "bad"
    );
    browser
        .click(&turn(1, "[aria-label='Good answer']"))
        .await?;
    browser.until(&pressed("Good")).await?;
    browser
        .click(&turn(1, "[aria-label='Good answer']"))
        .await?;
    browser.until(&format!("!{}", pressed("Good"))).await?;
    assert!(fixture.gateway.view(&path).await?["turns"][0]["rating"].is_null());
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_and_differences_between_classifier_and_report_are_shown() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    until_turn(&browser, 1, "done").await?;
    // The report says that the lungs are clear, and nothing of the other findings that the classifier sees.
    let disputed = "[...document.querySelectorAll('.finding.present:not(.fixed)')].every((each) => each.querySelector('.tag').textContent === 'report: no')";
    browser
        .until(&format!(
            "document.querySelector('.finding.present:not(.fixed)') && {disputed}"
        ))
        .await?;
    assert!(
        browser
            .text("#findings-summary")
            .await?
            .contains("from the report")
    );
    assert_eq!(
        browser
            .value("document.querySelector('#warnings').checkVisibility()")
            .await?,
        false
    );
    browser
        .value("(async () => { const { store } = await import('/assets/store.js'); \
                store.view.findings.warnings = ['this is perhaps no chest X-ray']; store.dispatchEvent(new CustomEvent('findings')); return true; })()")
        .await?;
    assert!(
        browser
            .text("#warnings")
            .await?
            .ends_with("This is perhaps no chest X-ray.")
    );
    // What the gate doubts is said above the findings themselves, too.
    let doubt = "document.querySelector('#findings-doubt').checkVisibility()";
    assert_eq!(browser.value(doubt).await?, false);
    browser
        .value("(async () => { const { store } = await import('/assets/store.js'); \
                store.view.findings.input_gate = { passed: false, looks_like: 'other', frontal: 0 }; \
                store.dispatchEvent(new CustomEvent('findings')); return true; })()")
        .await?;
    assert_eq!(browser.value(doubt).await?, true);
    // Those of no X-ray at all are shown to whoever asks for them.
    let is_shown = "document.querySelector('.finding').checkVisibility()";
    assert_eq!(browser.value(is_shown).await?, false);
    assert_eq!(browser.text("#findings-summary").await?, "Not shown");
    browser.click("#findings-doubt .button").await?;
    browser.until(is_shown).await?;
    assert!(browser.text("#findings-summary").await?.contains("present"));
    let is_above = "document.querySelector('#findings-doubt').getBoundingClientRect().bottom \
                    <= document.querySelector('.finding').getBoundingClientRect().top";
    assert_eq!(browser.value(is_above).await?, true);
    browser.close().await
}
