//! The bundle as a coordinator knows it: its hashes alone, since outputs are stored under keys that follow from them.

use radialog_schemas::{ChatImage, ContentHash, ObjectKey, PerStage, Stage};

/// The hashes of the bundle that the workers hold, and its name.
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
    /// Gives the hash of a stage's component.
    pub fn component(&self, stage: Stage) -> &ContentHash {
        self.components.get(stage)
    }

    /// Says under which keys the outputs of an image are stored.
    pub fn image(&self, image: &ObjectKey, media_type: &str) -> ChatImage {
        ChatImage {
            image: image.clone(),
            media_type: media_type.to_owned(),
            embedding: ObjectKey::embedding(self.component(Stage::Embedding), image),
            findings: ObjectKey::findings(self.component(Stage::Findings), image),
        }
    }
}
