//! Reports that people rewrite and answers that they rate are data until they take it back; titles are theirs, too.

use std::sync::Arc;

use anyhow::Result;
use radialog_coordinator::conversation::{corrections, ratings};
use radialog_schemas::{ObjectKey, Rating};
use radialog_tests::faults::{Denial, FaultInjector};
use serde_json::json;

use super::fixture::{GatewayFixture, UNLIMITED, about_xray, problem};

#[tokio::test]
async fn a_rewritten_report_is_kept_as_data_until_it_or_its_conversation_is_removed() -> Result<()>
{
    let fixture = GatewayFixture::start().await?;
    let path = fixture.gateway.begin(&about_xray()).await?;
    let view = fixture.gateway.view_when(&path, 1, "done").await?;
    let edit = format!("{path}/turns/1/edit");
    let kept = async || anyhow::Ok(corrections::list(&*fixture.backends.objects).await?.0);
    assert_eq!(
        fixture
            .gateway
            .put(&edit, &json!({"text": "Clear lungs."}))
            .await?
            .status(),
        200
    );
    let data = kept().await?;
    assert_eq!(data.len(), 1);
    assert_eq!(data[0].corrected, "Clear lungs.");
    assert_eq!(data[0].report, view["turns"][0]["text"].as_str().unwrap());
    assert_eq!(data[0].findings, view["findings"]["text"].as_str().unwrap());

    let forgotten = fixture.gateway.rewrite(&edit, None, "*").await?;
    assert_eq!(forgotten.status(), 204);
    assert_eq!(kept().await?, []);
    fixture
        .gateway
        .put(&edit, &json!({"text": "Clear."}))
        .await?;
    assert_eq!(kept().await?.len(), 1);
    assert_eq!(fixture.gateway.delete(&path).await?, 204);
    assert_eq!(kept().await?, []);
    Ok(())
}

#[tokio::test]
async fn a_rated_answer_is_kept_as_data_until_the_rating_or_the_conversation_is_removed()
-> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&about_xray()).await?;
    let before = gateway.view_when(&path, 1, "done").await?;
    let rating = format!("{path}/turns/1/rating");
    let kept = async || anyhow::Ok(ratings::list(&*fixture.backends.objects).await?.0);
    let bad = gateway.put(&rating, &json!({"rating": "bad"})).await?;
    assert_eq!(bad.status(), 200);
    let data = kept().await?;
    assert_eq!(data.len(), 1);
    assert_eq!(data[0].rating, Rating::Bad);
    assert_eq!(data[0].answer, before["turns"][0]["text"].as_str().unwrap());
    assert_eq!(
        data[0].findings.as_deref(),
        before["findings"]["text"].as_str()
    );
    let after = gateway.view(&path).await?;
    assert_eq!(after["turns"][0]["rating"], "bad");
    assert_ne!(after["revision"], before["revision"], "others see it");
    for wrong in [json!({"rating": "fine"}), json!({})] {
        assert_eq!(gateway.put(&rating, &wrong).await?.status(), 422, "{wrong}");
    }

    assert_eq!(gateway.delete(&rating).await?, 204);
    assert_eq!(kept().await?, []);
    gateway.put(&rating, &json!({"rating": "good"})).await?;
    assert_eq!(kept().await?[0].rating, Rating::Good);
    assert_eq!(gateway.delete(&path).await?, 204);
    assert_eq!(kept().await?, []);
    Ok(())
}

#[tokio::test]
async fn a_deletion_that_fails_half_way_can_be_asked_for_again() -> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, |_| {}).await?;
    let (gateway, objects) = (&fixture.gateway, &*fixture.backends.objects);
    for kind in [ObjectKey::CORRECTIONS, ObjectKey::RATINGS] {
        let path = gateway.begin(&about_xray()).await?;
        gateway.view_when(&path, 1, "done").await?;
        let turn = format!("{path}/turns/1");
        let text = json!({"text": "Clear lungs."});
        let edited = gateway.put(&format!("{turn}/edit"), &text).await?;
        assert_eq!(edited.status(), 200);
        let good = json!({"rating": "good"});
        let rated = gateway.put(&format!("{turn}/rating"), &good).await?;
        assert_eq!(rated.status(), 200);

        faults.deny(kind, Denial::Failing);
        assert_eq!(gateway.delete(&path).await?, 503, "{kind}");
        faults.allow_all();
        assert_eq!(gateway.delete(&path).await?, 204, "{kind}");
        assert_eq!(corrections::list(objects).await?.0, []);
        assert_eq!(ratings::list(objects).await?.0, []);
        assert_eq!(gateway.get(&path).await?.status(), 404);
    }
    Ok(())
}

#[tokio::test]
async fn a_rating_leaves_the_correction_beside_it_as_it_is_and_an_edit_the_rating() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let (gateway, objects) = (&fixture.gateway, &fixture.backends.objects);
    let path = gateway.begin(&about_xray()).await?;
    let before = gateway.view_when(&path, 1, "done").await?;
    let report = before["turns"][0]["text"].as_str().unwrap();
    let turns = format!("{path}/turns");
    let correction = json!({"task": "correction", "add": ["Edema"]});
    assert_eq!(gateway.post(&turns, &correction).await?.status(), 202);
    gateway.view_when(&path, 2, "done").await?;
    let put = async |turn: u32, what: &str, body: serde_json::Value| {
        let put = gateway
            .put(&format!("{turns}/{turn}/{what}"), &body)
            .await?;
        assert_eq!(put.status(), 200, "{turn} {what}");
        anyhow::Ok(())
    };
    put(2, "edit", json!({"text": "Edema."})).await?;
    let id = path.rsplit('/').next().unwrap().into();
    let (correction, rating) = (ObjectKey::correction(&id, 2), ObjectKey::rating(&id, 2));
    let of_model = objects.get(&correction).await?;
    let stored = corrections::list(&**objects).await?.0;
    assert_eq!((stored.len(), &*stored[0].report), (1, report));
    // The correction was written of the report as it was then.
    put(1, "edit", json!({"text": "Another report."})).await?;
    put(2, "rating", json!({"rating": "good"})).await?;
    assert_eq!(objects.get(&correction).await?, of_model);
    let rated = objects.get(&rating).await?;
    let edit = format!("{turns}/2/edit");
    let again = gateway.rewrite(&edit, Some("Edema, small."), "*").await?;
    assert_eq!(again.status(), 200);
    assert_eq!(objects.get(&rating).await?, rated);
    assert_ne!(objects.get(&correction).await?, of_model);
    let taken_back = gateway.delete(&format!("{turns}/2/rating")).await?;
    assert_eq!(taken_back, 204);
    assert!(objects.size(&rating).await?.is_none());
    assert!(objects.size(&correction).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn only_the_version_that_was_seen_is_replaced() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&about_xray()).await?;
    let view = gateway.view_when(&path, 1, "done").await?;
    let edit = format!("{path}/turns/1/edit");
    let tag = |view: &serde_json::Value| view["edit_tag"].as_str().unwrap_or_default().to_owned();
    let code = async |answer| anyhow::Ok(problem(answer).await?.1);
    let kept = async || {
        let view = gateway.view(&path).await?;
        anyhow::Ok(view["turns"][0]["edited"].clone())
    };
    let none = tag(&view["turns"][0]);
    // Two begin with the model's words, and one is first.
    let first = gateway.rewrite(&edit, Some("First."), &none).await?;
    let header = first.headers()["etag"].to_str()?.to_owned();
    let first = tag(&first.json().await?);
    assert_eq!(first, header);
    for text in [Some("Second."), None] {
        let late = gateway.rewrite(&edit, text, &none).await?;
        assert_eq!(late.status(), 412);
        assert_eq!(code(late).await?, "precondition_failed");
        assert_eq!(kept().await?, "First.");
    }
    // Whoever has seen nothing replaces nothing.
    let unnamed = gateway.put(&edit, &json!({"text": "Second."})).await?;
    assert_eq!(unnamed.status(), 428);
    assert_eq!(code(unnamed).await?, "precondition_required");
    assert_eq!(gateway.delete(&edit).await?, 428);
    // An answer that was lost on its way: the same again is no other version.
    let repeated = gateway.rewrite(&edit, Some("First."), &none).await?;
    assert_eq!(repeated.status(), 200);
    let same = gateway.put(&edit, &json!({"text": "First."})).await?;
    assert_eq!(same.status(), 200);

    let several = format!("{none}, {first}");
    let second = gateway.rewrite(&edit, Some("Second."), &several).await?;
    assert_eq!(second.status(), 200);
    let second = second.headers()["etag"].to_str()?.to_owned();
    let forgotten = gateway.rewrite(&edit, None, &second).await?;
    assert_eq!(forgotten.status(), 204);
    assert_eq!(forgotten.headers()["etag"], none.as_str());
    assert_eq!(kept().await?, serde_json::Value::Null);
    assert_eq!(gateway.delete(&edit).await?, 204);
    let wrong = gateway.rewrite(&edit, Some("x"), "no tag").await?;
    assert_eq!(wrong.status(), 422);
    Ok(())
}

#[tokio::test]
async fn of_writers_that_have_seen_the_same_version_one_is_heard() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&about_xray()).await?;
    let view = gateway.view_when(&path, 1, "done").await?;
    let edit = format!("{path}/turns/1/edit");
    let seen = view["turns"][0]["edit_tag"].as_str().unwrap_or_default();
    let texts: Vec<String> = (0..16)
        .map(|writer| format!("Of writer {writer}."))
        .collect();
    let writing = texts.iter().map(async |text| {
        let answer = gateway.rewrite(&edit, Some(text), seen).await?;
        anyhow::Ok((answer.status().as_u16(), text))
    });
    let answers = futures::future::try_join_all(writing).await?;
    let heard: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .collect();
    assert_eq!(heard.len(), 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|(status, _)| [200, 412].contains(status))
    );
    let view = gateway.view(&path).await?;
    assert_eq!(view["turns"][0]["edited"], heard[0].1.as_str());
    Ok(())
}

#[tokio::test]
async fn a_turn_without_an_answer_is_not_rated() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let path = gateway.begin(&json!({"question": "Is it clear?"})).await?;
    let rating = format!("{path}/turns/1/rating");
    let rate = async || {
        let rated = gateway.put(&rating, &json!({"rating": "bad"})).await?;
        problem(rated).await
    };
    assert_eq!(rate().await?, (409, "turn_not_final".into(), None));
    assert_eq!(gateway.delete(&format!("{path}/turns/1")).await?, 204);
    fixture.language_worker.allow(UNLIMITED);
    gateway.view_when(&path, 1, "cancelled").await?;
    assert_eq!(rate().await?, (409, "no_answer".into(), None));
    let view = gateway.view(&path).await?;
    assert_eq!(view["turns"][0]["rating"], serde_json::Value::Null);
    assert_eq!(gateway.delete(&path).await?, 204);
    assert_eq!(rate().await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_conversation_is_listed_by_the_title_that_it_was_given_last() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let begun = json!({"question": "What is an effusion?", "title": "  chest\n0001 "});
    let path = gateway.begin(&begun).await?;
    let listed = async || {
        let list: serde_json::Value = gateway.get("/v1/conversations").await?.json().await?;
        anyhow::Ok(list["conversations"][0].clone())
    };
    assert_eq!(listed().await?["title"], "chest 0001");
    let title = format!("{path}/title");
    let renamed = gateway.put(&title, &json!({"title": "follow-up"})).await?;
    assert_eq!(renamed.status(), 204);
    let (entry, view) = (listed().await?, gateway.view(&path).await?);
    assert_eq!(entry["title"], "follow-up");
    assert_eq!(view["title"], "follow-up");
    for wrong in [
        " \n",
        &"x".repeat(201),
        "\u{200b}",
        "\u{200d} \u{200e}",
        "\u{202e}gnp.exe",
        "ward\u{0} 1",
        "ward\u{feff}1",
        "\u{2800}",
        "\u{ffa0}\u{3164}",
        "ward\u{17b4}1",
        "ward\u{1d173}1",
        "ward\u{e0080}1",
        // Forms and directions of nothing.
        "\u{fe00}\u{e0100}",
        "\u{61c}\u{180f}",
    ] {
        let refused = gateway.put(&title, &json!({"title": wrong})).await?;
        assert_eq!(refused.status(), 422, "{wrong:?}");
    }
    for right in [
        "می\u{200c}خواهم",
        "葛\u{e0100} 鈴木",
        "\u{1820}\u{180b}",
        "Röntgen 7 \u{1f469}\u{200d}\u{2695}\u{fe0f}",
    ] {
        let renamed = gateway.put(&title, &json!({"title": right})).await?;
        assert_eq!(renamed.status(), 204, "{right:?}");
        assert_eq!(gateway.view(&path).await?["title"], right);
    }
    // Only the title that was seen is replaced, where it is named.
    let before = listed().await?["title_tag"].as_str().unwrap().to_owned();
    let rename = async |name: &str, seen: &str| {
        let request = gateway.ask(reqwest::Method::PUT, &title);
        let request = request.header("If-Match", seen);
        anyhow::Ok(request.json(&json!({"title": name})).send().await?)
    };
    let first = rename("first", &before).await?;
    assert_eq!(first.status(), 204);
    assert_eq!(rename("second", &before).await?.status(), 412);
    let view = gateway.view(&path).await?;
    assert_eq!(view["title"], "first");
    assert_eq!(view["title_tag"], first.headers()["etag"].to_str()?);
    let empty = json!({"question": "x", "title": " "});
    assert_eq!(
        gateway.post("/v1/conversations", &empty).await?.status(),
        422
    );
    Ok(())
}
