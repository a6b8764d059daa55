#![doc = include_str!("../README.md")]

pub mod bundle;
pub mod chat;
pub mod correction;
pub mod error;
pub mod findings;
pub mod http;
pub mod ids;
pub mod image_format;
pub mod objects;
pub mod plain_name;
pub mod queues;
pub mod record;
pub mod relative_path;
pub mod response;
pub mod result;
pub mod stage;
pub mod table;
pub mod task;
mod unique_keys;

pub use bundle::Manifest;
pub use chat::{
    Answer, Ask, ChatImage, ChatTask, Conversation, ConversationId, Exchange, OptionalTask, Region,
    TurnEvent, TurnOutcome, TurnRequest, TurnStatus,
};
pub use correction::Correction;
pub use error::{ErrorClass, ErrorCode, Failure};
pub use findings::{Finding, FindingsReport, Label, Labels, PredictedFinding};
pub use ids::{ContentHash, ContentHasher, RunId, StudyId};
pub use image_format::ImageFormat;
pub use objects::ObjectKey;
pub use plain_name::{AdapterName, InvalidName, QueueGroup};
pub use record::{StudyRecord, StudyStatus};
pub use relative_path::{InvalidPath, RelativePath};
pub use response::ResponseRequest;
pub use result::{Outcome, StageResult, StageTimings};
pub use stage::{PerStage, Stage, StageSet};
pub use task::{
    GeneratedReport, Generation, ReportLabels, RunSpec, Source, StudySpec, Task, TextPrompt, Work,
};

/// Version of every message in this crate. A reader dead-letters what it does not know.
pub const SCHEMA_VERSION: u32 = 1;
