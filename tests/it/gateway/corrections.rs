//! Reports that people rewrite are data until they take it back.

use anyhow::Result;
use radialog_coordinator::conversation::corrections;
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
