//! The configurations of a whole bundle.

use radialog_schemas::Stage;

use super::components::{
    Component, EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent,
};
use super::geometry::Geometry;

/// The configurations of all four components.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentConfigs {
    /// The embedding stage's.
    pub embedding: EmbeddingComponent,
    /// The findings stage's.
    pub findings: FindingsComponent,
    /// The language stage's.
    pub language: LanguageComponent,
    /// The scoring stage's.
    pub scoring: ScoringComponent,
}

impl ComponentConfigs {
    /// The configurations of a geometry.
    pub fn of(geometry: Geometry) -> Self {
        Self {
            embedding: EmbeddingComponent::of(geometry),
            findings: FindingsComponent::of(geometry),
            language: LanguageComponent::of(geometry),
            scoring: ScoringComponent::of(geometry),
        }
    }

    /// The component of one stage.
    pub fn get(&self, stage: Stage) -> &dyn Component {
        match stage {
            Stage::Embedding => &self.embedding,
            Stage::Findings => &self.findings,
            Stage::Language => &self.language,
            Stage::Scoring => &self.scoring,
        }
    }
}
