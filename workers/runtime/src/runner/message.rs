//! From a message to a task, or to the reason why it is none.

use radialog_schemas::{ErrorCode, Failure, RunId, SCHEMA_VERSION, Stage, StudyId, Task};
use serde_json::Value;

/// A task names objects and holds none, so it is small.
const LARGEST_TASK: usize = 64 * 1024;

/// A message that is not a task of this worker.
#[derive(Debug, PartialEq)]
pub(super) struct NotATask {
    /// Why not.
    pub(super) failure: Failure,
    /// Whose study fails with it, where that can be read.
    pub(super) study: Option<(RunId, StudyId)>,
}

/// Reads a task for `stage` of a version that this worker knows.
pub(super) fn parse(body: &[u8], stage: Stage) -> Result<Task, NotATask> {
    let not_a_task = |code, message: String| {
        let study = serde_json::from_slice(body).ok().and_then(|value| addressee(&value));
        NotATask { failure: Failure::new(code, message), study }
    };
    if body.len() > LARGEST_TASK {
        let message =
            format!("the message has {} bytes; what is larger than a task belongs in the object store", body.len());
        return Err(not_a_task(ErrorCode::MessageInvalid, message));
    }
    // The version stands before everything else: another version may give the same fields another meaning.
    let version = match serde_json::from_slice::<Version>(body) {
        Ok(version) => version.schema_version,
        Err(error) => {
            return Err(not_a_task(ErrorCode::MessageInvalid, format!("the message is not a task: {error}")));
        }
    };
    if version != SCHEMA_VERSION {
        let message = format!(
            "the message has schema version {version}, this worker knows {SCHEMA_VERSION}; use workers and \
             coordinator of one release"
        );
        return Err(not_a_task(ErrorCode::SchemaVersion, message));
    }
    match serde_json::from_slice::<Task>(body) {
        Ok(task) if task.work.stage() == stage => Ok(task),
        Ok(task) => Err(not_a_task(
            ErrorCode::MessageInvalid,
            format!("the task is for the stage {}, this worker is {stage}", task.work.stage()),
        )),
        Err(error) => Err(not_a_task(ErrorCode::MessageInvalid, format!("the message is not a task: {error}"))),
    }
}

#[derive(serde::Deserialize)]
struct Version {
    schema_version: u32,
}

fn addressee(value: &Value) -> Option<(RunId, StudyId)> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    Some((text("run")?.into(), text("study")?.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use radialog_schemas::{ContentHash, ObjectKey, Work};

    use super::*;

    fn task() -> Value {
        let hash = ContentHash::of(b"");
        let image = ObjectKey::image(&hash);
        let work = Work::Findings { image: image.clone() };
        serde_json::to_value(Task::new(&"r".into(), &"s".into(), &hash, image, work)).unwrap()
    }

    fn code(value: &Value, stage: Stage) -> Result<(), (ErrorCode, bool)> {
        let parsed = parse(value.to_string().as_bytes(), stage);
        parsed.map(|_| ()).map_err(|not| (not.failure.code, not.study.is_some()))
    }

    #[test]
    fn a_task_of_the_stage_is_read_and_unknown_fields_are_ignored() {
        let mut value = task();
        value["added_later"] = 1.into();
        assert_eq!(code(&value, Stage::Findings), Ok(()));
    }

    #[test]
    fn what_is_not_a_task_says_why_and_whose_study_it_is() {
        assert_eq!(parse(b"hello", Stage::Findings).unwrap_err().study, None);
        assert_eq!(code(&task(), Stage::Embedding), Err((ErrorCode::MessageInvalid, true)));
        let mut newer = task();
        newer["schema_version"] = 2.into();
        newer["image"] = Value::Null;
        assert_eq!(code(&newer, Stage::Findings), Err((ErrorCode::SchemaVersion, true)));
        let mut large = task();
        large["padding"] = "x".repeat(LARGEST_TASK).into();
        assert_eq!(code(&large, Stage::Findings), Err((ErrorCode::MessageInvalid, true)));
        let mut broken = task();
        broken["image"] = Value::Null;
        assert_eq!(code(&broken, Stage::Findings), Err((ErrorCode::MessageInvalid, true)));
    }
}
