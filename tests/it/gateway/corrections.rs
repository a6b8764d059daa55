//! Reports that people rewrite and answers that they rate are data until they take it back; titles are theirs, too.

use anyhow::Result;
use radialog_coordinator::conversation::{corrections, ratings};
use radialog_schemas::Rating;
use serde_json::json;

use super::fixture::{GatewayFixture, about_xray};

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

    assert_eq!(fixture.gateway.delete(&edit).await?, 204);
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
    for wrong in [" \n", &"x".repeat(201)] {
        let refused = gateway.put(&title, &json!({"title": wrong})).await?;
        assert_eq!(refused.status(), 422, "{wrong}");
    }
    let empty = json!({"question": "x", "title": " "});
    assert_eq!(
        gateway.post("/v1/conversations", &empty).await?.status(),
        422
    );
    Ok(())
}
