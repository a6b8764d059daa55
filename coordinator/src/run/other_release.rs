//! What another release has stored for a run. A release with another revision of a stage's code looks for outputs elsewhere, so
//! that whoever reads what an earlier session has made would find nothing, and could not say why.

use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{RunSpec, Stage, StudyRecord};

use super::pipeline;

/// The revision of the embedding stage with which another release has stored the image tokens of a study's image; none where this
/// release's are there, or nobody's are.
///
/// # Errors
/// When the store does not answer.
pub async fn embedded_by_another_release(
    objects: &dyn Objects,
    run: &RunSpec,
    record: &StudyRecord,
) -> Result<Option<u32>, ObjectError> {
    let given = record.given.contains_key(&Stage::Embedding);
    let Some(image) = record.input.as_ref().filter(|_| !given) else {
        return Ok(None);
    };
    for (revision, key) in pipeline::embeddings(run, image) {
        if objects.size(&key).await?.is_some() {
            let is_own = revision == *Stage::REVISIONS.get(Stage::Embedding);
            return Ok((!is_own).then_some(revision));
        }
    }
    Ok(None)
}
