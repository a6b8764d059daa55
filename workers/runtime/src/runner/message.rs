//! From a message to a task, or to the reason why it is none.

use radialog_schemas::{
    ChatTask, ErrorCode, Failure, ObjectKey, RunId, SCHEMA_VERSION, Stage, StudyId, Task,
    is_known_schema_version,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A task names objects and holds none, so it is small.
const LARGEST_TASK: usize = 64 * 1024;

/// What a result is about.
#[derive(Debug, PartialEq)]
pub(super) struct Subject {
    pub(super) run: RunId,
    pub(super) study: StudyId,
    /// The key that the task gives to its output; none where the message could not be read as a task.
    pub(super) output: Option<ObjectKey>,
}

impl From<Task> for Subject {
    fn from(task: Task) -> Self {
        Self {
            run: task.run,
            study: task.study,
            output: Some(task.output),
        }
    }
}

/// A message that is not a task of this worker, which no attempt can change.
#[derive(Debug, PartialEq)]
pub(super) struct InvalidMessage {
    /// The reason why it is invalid.
    pub(super) failure: Failure,
    /// The study that fails with it, where it can be read.
    pub(super) subject: Option<Subject>,
}

/// Reads a task for `stage` of a version that this worker knows.
pub(super) fn parse(body: &[u8], stage: Stage) -> Result<Task, InvalidMessage> {
    let task = read::<Task>(body).and_then(|task| match task.work.stage() {
        its if its == stage => Ok(task),
        its => {
            let message = format!("the task is for the stage {its}, this worker is {stage}");
            Err(Failure::new(ErrorCode::MessageInvalid, message))
        }
    });
    task.map_err(|failure| {
        let subject = serde_json::from_slice(body)
            .ok()
            .and_then(|value| subject_of(&value));
        InvalidMessage { failure, subject }
    })
}

/// Reads a turn of a version that this worker knows.
pub(super) fn parse_turn(body: &[u8]) -> Result<ChatTask, Failure> {
    read(body)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.len() > LARGEST_TASK {
        let message = format!(
            "the message has {} bytes; what is larger than a task belongs in the object store",
            body.len()
        );
        return Err(Failure::new(ErrorCode::MessageInvalid, message));
    }
    let invalid = |error: serde_json::Error| {
        Failure::new(
            ErrorCode::MessageInvalid,
            format!("the message is not a task: {error}"),
        )
    };
    // The version stands before everything else: another version may give the same fields another meaning.
    let version = serde_json::from_slice::<Version>(body)
        .map_err(invalid)?
        .schema_version;
    if !is_known_schema_version(version) {
        let message = format!(
            "the message has schema version {version}, this worker knows {SCHEMA_VERSION}; use workers and \
             coordinator of one release"
        );
        return Err(Failure::new(ErrorCode::SchemaVersion, message));
    }
    serde_json::from_slice(body).map_err(invalid)
}

#[derive(serde::Deserialize)]
struct Version {
    schema_version: u32,
}

fn subject_of(value: &Value) -> Option<Subject> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    Some(Subject {
        run: text("run")?.into(),
        study: text("study")?.into(),
        // What cannot be read as a task may give another meaning to it.
        output: None,
    })
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{ContentHash, Work};

    use super::*;

    fn task() -> Value {
        let hash = ContentHash::of(b"");
        let image = ObjectKey::image(&hash);
        let work = Work::Findings {
            image: image.clone(),
        };
        serde_json::to_value(Task::new(&"r".into(), &"s".into(), &hash, image, work)).unwrap()
    }

    fn code(value: &Value, stage: Stage) -> Result<(), (ErrorCode, bool)> {
        let parsed = parse(value.to_string().as_bytes(), stage);
        parsed
            .map(|_| ())
            .map_err(|invalid| (invalid.failure.code, invalid.subject.is_some()))
    }

    #[test]
    fn a_task_of_the_stage_is_read_and_unknown_fields_are_ignored() {
        let mut value = task();
        value["added_later"] = 1.into();
        assert_eq!(code(&value, Stage::Findings), Ok(()));
    }

    #[test]
    fn a_turn_is_read_and_what_is_none_says_why() {
        let turn =
            serde_json::to_value(ChatTask::new(&"c".into(), 1, &ContentHash::of(b""))).unwrap();
        let code = |value: &Value| {
            parse_turn(value.to_string().as_bytes())
                .map(|_| ())
                .map_err(|failure| failure.code)
        };
        assert_eq!(code(&turn), Ok(()));
        assert_eq!(code(&task()), Err(ErrorCode::MessageInvalid));
        let mut newer = turn;
        newer["schema_version"] = 2.into();
        assert_eq!(code(&newer), Err(ErrorCode::SchemaVersion));
    }

    #[test]
    fn what_is_not_a_task_says_why_and_whose_study_it_is() {
        assert_eq!(parse(b"hello", Stage::Findings).unwrap_err().subject, None);
        assert_eq!(
            code(&task(), Stage::Embedding),
            Err((ErrorCode::MessageInvalid, true))
        );
        let mut newer = task();
        newer["schema_version"] = 2.into();
        newer["image"] = Value::Null;
        assert_eq!(
            code(&newer, Stage::Findings),
            Err((ErrorCode::SchemaVersion, true))
        );
        let mut large = task();
        large["padding"] = "x".repeat(LARGEST_TASK).into();
        assert_eq!(
            code(&large, Stage::Findings),
            Err((ErrorCode::MessageInvalid, true))
        );
        let mut broken = task();
        broken["image"] = Value::Null;
        assert_eq!(
            code(&broken, Stage::Findings),
            Err((ErrorCode::MessageInvalid, true))
        );
    }
}
