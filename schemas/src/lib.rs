#![doc = include_str!("../README.md")]

pub mod bundle;
pub mod chat;
pub mod comparison;
pub mod consistency;
pub mod correction;
mod counted;
pub mod dialog;
pub mod error;
pub mod findings;
pub mod http;
pub mod ids;
pub mod image_format;
mod input_gate;
pub mod json_members;
pub mod objects;
pub mod plain_name;
pub mod queues;
pub mod rating;
pub mod record;
pub mod relative_path;
pub mod response;
pub mod result;
pub mod stage;
pub mod system_files;
pub mod table;
pub mod task;
mod unique_keys;

pub use bundle::Manifest;
pub use chat::{
    Answer, Ask, ChatImage, ChatTask, Conversation, ConversationId, Exchange, OptionalTask, Region,
    TurnEvent, TurnOutcome, TurnRequest, TurnStatus,
};
pub use comparison::ComparisonMark;
pub use consistency::{Consistency, ReportSampling, SentenceAgreement};
pub use correction::Correction;
pub use counted::counted;
pub use dialog::{AnsweredAsk, DialogPrompt};
pub use error::{ErrorClass, ErrorCode, Failure};
pub use findings::{Finding, FindingsReport, Label, Labels, PredictedFinding};
pub use ids::{ContentHash, ContentHasher, RunId, StudyId};
pub use image_format::{ImageFormat, PngHeader};
pub use input_gate::{GateVerdict, ImageKind};
pub use objects::ObjectKey;
pub use plain_name::{AdapterName, InvalidName, QueueGroup};
pub use rating::{RatedAnswer, Rating};
pub use record::{StudyRecord, StudyStatus};
pub use relative_path::{InvalidPath, RelativePath};
pub use response::ResponseRequest;
pub use result::{Outcome, StageResult, StageTimings};
pub use stage::{PerStage, Stage, StageSet};
pub use task::{
    GeneratedReport, Generation, ReportLabels, RunSpec, Source, StudySpec, Task, TextPrompt, Work,
};

/// Version of every message in this crate.
pub const SCHEMA_VERSION: u32 = 1;
/// The oldest version whose messages this crate still reads as they were meant; what an older release has left in a queue, or
/// sends while an installation is upgraded.
pub const OLDEST_SCHEMA_VERSION: u32 = 1;

/// Whether this crate reads messages of this version. A reader gives back what it does not know, for readers of the other release,
/// and dead-letters it once nobody has known it.
pub fn is_known_schema_version(version: u32) -> bool {
    (OLDEST_SCHEMA_VERSION..=SCHEMA_VERSION).contains(&version)
}
