//! Images of conversations in the object store: claimed before they are stored, removed with their last claim.

use std::time::Duration;

use radialog_runtime::conversations::ImageClaim;
use radialog_schemas::{ChatImage, ConversationId};

use super::app_state::AppState;
use super::image::CheckedImage;
use super::problem::ApiResult;

/// An image that is being removed is gone in a moment.
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Claims an image for the request that is about to create this conversation, so that nobody else's end takes it along,
/// and stores it.
pub(super) async fn claim(
    app: &AppState,
    id: &ConversationId,
    image: &CheckedImage,
) -> ApiResult<ImageClaim> {
    let (objects, whole) = (&app.backends.objects, Some(image.content.len() as u64));
    let claim = ImageClaim::new(id);
    loop {
        let stored = objects.size(&image.key).await? == whole;
        if app
            .backends
            .conversations
            .claim_image(&claim, &image.key, stored)
            .await?
        {
            break;
        }
        tokio::time::sleep(REMOVAL_PAUSE).await;
    }
    if let Err(error) = store(app, image).await {
        release(app, &claim, &app.bundle.image(&image.key, image.media_type)).await;
        return Err(error);
    }
    Ok(claim)
}

async fn store(app: &AppState, image: &CheckedImage) -> ApiResult<()> {
    let objects = &app.backends.objects;
    if objects.size(&image.key).await? != Some(image.content.len() as u64) {
        objects.put(&image.key, image.content.clone()).await?;
    }
    Ok(())
}

/// Gives back the claim of a request that has created no conversation, and removes the image where nobody else has it.
pub(super) async fn release(app: &AppState, claim: &ImageClaim, image: &ChatImage) {
    let releasing = async {
        let conversations = &app.backends.conversations;
        if !conversations.release_image(claim, &image.image).await? {
            remove(app, image).await?;
        }
        ApiResult::Ok(())
    };
    if releasing.await.is_err() {
        // Why stands in the log already.
        tracing::warn!(
            claim = claim.as_str(),
            "a claim on an image was not given back"
        );
    }
}

/// Removes an image that nobody has, with its outputs.
pub(super) async fn remove(app: &AppState, image: &ChatImage) -> ApiResult<()> {
    let ChatImage {
        image,
        embedding,
        findings,
        ..
    } = image;
    for key in [embedding, findings, image] {
        app.backends.objects.delete(key).await?;
    }
    Ok(app.backends.conversations.image_removed(image).await?)
}
