//! `schemas/json` is generated from the types; this test holds both together, and writes the files when asked to.

use std::path::Path;

use radialog_schemas::{
    ChatTask, Conversation, Correction, FindingsReport, GeneratedReport, Manifest, ReportLabels, RunSpec, StageResult,
    StudyRecord, StudySpec, Task, TurnEvent, TurnRequest,
};
use schemars::schema_for;

#[test]
fn the_json_schemas_in_the_repository_are_those_of_the_types() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let write = std::env::var_os("RADIALOG_WRITE_SCHEMAS").is_some();
    let schemas = [
        ("task", schema_for!(Task)),
        ("stage-result", schema_for!(StageResult)),
        ("run-spec", schema_for!(RunSpec)),
        ("study-spec", schema_for!(StudySpec)),
        ("findings-report", schema_for!(FindingsReport)),
        ("generated-report", schema_for!(GeneratedReport)),
        ("report-labels", schema_for!(ReportLabels)),
        ("study-record", schema_for!(StudyRecord)),
        ("bundle-manifest", schema_for!(Manifest)),
        ("chat-task", schema_for!(ChatTask)),
        ("conversation", schema_for!(Conversation)),
        ("turn-request", schema_for!(TurnRequest)),
        ("correction", schema_for!(Correction)),
        ("turn-event", schema_for!(TurnEvent)),
    ];
    for (name, schema) in schemas {
        let file = folder.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema)? + "\n";
        if write {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&file, text)?;
        } else {
            let stored = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(stored, text, "{name}.json is out of date: run with RADIALOG_WRITE_SCHEMAS=1");
        }
    }
    Ok(())
}
