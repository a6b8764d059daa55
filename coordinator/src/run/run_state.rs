//! How a run stands in the shared state: one document says what the run is, one how far it is, and the facts of a study
//! begin with its description.

use radialog_runtime::state::{Fact, STUDY_FIELD, State, StateError};
use radialog_schemas::{RunId, RunSpec, StudyId, StudySpec};

/// The name of the document that holds a run's [`RunSpec`].
pub const SPEC_DOCUMENT: &str = "spec";
/// The name of the document that holds a run's last [`RunProgress`](super::RunProgress).
pub const PROGRESS_DOCUMENT: &str = "progress";

/// Tells all coordinators what the run is.
///
/// # Errors
/// When the state store does not answer.
pub(crate) async fn announce_run(state: &dyn State, run: &RunSpec) -> Result<(), StateError> {
    let document = serde_json::to_string(run).expect("a specification has string keys only");
    state.open_run(&run.run).await?;
    state.put_document(&run.run, SPEC_DOCUMENT, document).await
}

/// As [`announce_run`] for a run that several processes may begin: the first one's specification counts, and is returned.
///
/// # Errors
/// When the state store does not answer, or has a specification that cannot be read.
pub(crate) async fn announce_once(state: &dyn State, run: &RunSpec) -> Result<RunSpec, StateError> {
    let known = announce_again(state, run).await?;
    serde_json::from_str(&known)
        .map_err(|error| StateError(format!("the specification of '{}': {error}", run.run)))
}

/// Tells all coordinators what the run is where the state does not know it (any more), and returns what it knows.
///
/// # Errors
/// When the state store does not answer.
pub(crate) async fn announce_again(state: &dyn State, run: &RunSpec) -> Result<String, StateError> {
    let document = serde_json::to_string(run).expect("a specification has string keys only");
    state
        .create_document(&run.run, SPEC_DOCUMENT, document)
        .await
}

/// Makes the fact with which a study begins.
pub(crate) fn study_fact(run: &RunId, study: &StudySpec) -> Fact {
    Fact {
        run: run.clone(),
        study: study.study.clone(),
        field: STUDY_FIELD.to_owned(),
        value: serde_json::to_string(study).expect("a study has string keys only"),
        of: None,
    }
}

/// Makes the fact with which a study ends: its line, which the run's dispatcher collects.
pub(crate) fn finished_fact(run: &RunId, study: &StudyId, line: String) -> Fact {
    Fact {
        run: run.clone(),
        study: study.clone(),
        field: String::new(),
        value: line,
        of: None,
    }
}
