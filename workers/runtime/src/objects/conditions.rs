//! Whether a store does conditional writes as its contract says: some do not know them and do each write, some know one
//! condition of the two, some refuse them all.

use bytes::Bytes;
use radialog_schemas::ObjectKey;
use tracing::warn;

use super::{NO_VERSION, ObjectError, Objects, Version};

/// Tries conditional writes with the object `key`, which nothing else uses and which does not stay: one that must be done
/// where nothing is, and one over its version; and two that must be left undone, where something is and over another version.
///
/// # Errors
/// Where the store does not answer, and so nothing is known.
pub async fn knows_conditions(objects: &dyn Objects, key: &ObjectKey) -> Result<bool, ObjectError> {
    let tried = try_conditions(objects, key).await;
    if let Err(error) = objects.delete(key).await {
        warn!(object = %key, %error, "what was written for a try stays");
    }
    match tried {
        Err(ObjectError::NoConditions { .. }) => Ok(false),
        tried => tried,
    }
}

async fn try_conditions(objects: &dyn Objects, key: &ObjectKey) -> Result<bool, ObjectError> {
    let put = |content: &'static [u8], expected: Option<Version>| async move {
        let content = Bytes::from_static(content);
        objects.put_if(key, content, expected.as_ref()).await
    };
    let Some(version) = put(b"first", None).await? else {
        return Ok(false);
    };
    let is_done_anyhow = put(b"again", None).await?.is_some()
        || put(b"wrong", Some(Version(NO_VERSION.to_owned())))
            .await?
            .is_some();
    if is_done_anyhow {
        return Ok(false);
    }
    Ok(put(b"right", Some(version)).await?.is_some())
}
