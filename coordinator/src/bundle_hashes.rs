//! The bundle as a coordinator knows it: its hashes alone, since outputs are stored under keys that follow from them.

use radialog_schemas::{ChatImage, ContentHash, ObjectKey, PerStage, Stage};

/// What a gateway must know of the bundle that its workers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleHashes {
    /// Its name, for people and for clients that choose a model.
    pub name: String,
    /// Hash of the whole bundle.
    pub bundle: ContentHash,
    /// Hash of each stage's component.
    pub components: PerStage<ContentHash>,
}

impl BundleHashes {
    /// The bundle component of a stage.
    pub fn component(&self, stage: Stage) -> &ContentHash {
        self.components.get(stage)
    }

    /// Where the outputs of an image go.
    pub fn image(&self, image: &ObjectKey, media_type: &str) -> ChatImage {
        ChatImage {
            image: image.clone(),
            media_type: media_type.to_owned(),
            embedding: ObjectKey::embedding(self.component(Stage::Embedding), image),
            findings: ObjectKey::findings(self.component(Stage::Findings), image),
        }
    }
}
