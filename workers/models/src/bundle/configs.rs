//! The configurations of a whole bundle.

use radialog_schemas::Stage;

use super::components::{
    Component, EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent,
};
use super::geometry::{Geometry, System};

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
    /// The configurations of a geometry of RaDialog v1.
    pub fn of(geometry: Geometry) -> Self {
        Self::of_system(System::V1, geometry)
    }

    /// The configurations of a geometry. Findings and scoring are the same in both systems.
    pub fn of_system(system: System, geometry: Geometry) -> Self {
        let (embedding, language) = match system {
            System::V1 => (
                EmbeddingComponent::of(geometry),
                LanguageComponent::of(geometry),
            ),
            System::V2 => (
                EmbeddingComponent::v2(geometry),
                LanguageComponent::v2(geometry),
            ),
        };
        Self {
            embedding,
            findings: FindingsComponent::of(geometry),
            language,
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
