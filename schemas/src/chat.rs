//! What a conversation is: an image, turns that ask something about it, and the events by which a turn's answer comes.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::response::is_default;
use crate::{
    AdapterName, ComparisonMark, ContentHash, Failure, Finding, FindingsReport, Generation,
    ObjectKey, QueueGroup, ResponseRequest, SCHEMA_VERSION, Stage, ids::text_id, queues,
};

text_id! {
    /// One conversation. Whoever knows it and holds its key can read it, so it cannot be guessed.
    ConversationId
}

/// One message on the chat queue: a turn to answer. What it needs stands in the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatTask {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The conversation that the turn belongs to.
    pub conversation: ConversationId,
    /// The number of the turn in it, counted from 1.
    pub turn: u32,
    /// The language component that has to answer.
    pub component: ContentHash,
    /// The group of queues that its bundle's workers take turns from; none is the queue without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<QueueGroup>,
    /// A line of a batch of requests: nobody waits for the answer, and the turn goes with the language stage's tasks, behind all
    /// turns that somebody waits for.
    #[serde(default, alias = "background", skip_serializing_if = "is_default")]
    pub of_batch: bool,
}

impl ChatTask {
    /// A task of the current schema version.
    pub fn new(conversation: &ConversationId, turn: u32, component: &ContentHash) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            conversation: conversation.clone(),
            turn,
            component: component.clone(),
            group: None,
            of_batch: false,
        }
    }

    /// The queue that it is published to.
    pub fn queue(&self) -> Cow<'_, str> {
        turn_queue(self.of_batch, self.group.as_ref())
    }
}

fn turn_queue(of_batch: bool, group: Option<&QueueGroup>) -> Cow<'_, str> {
    let queue = match of_batch {
        true => queues::work(Stage::Language),
        false => queues::CHAT,
    };
    queues::in_group(queue, group)
}

impl Conversation {
    /// A conversation in words that its owner has begun at this time, and that this component answers; with nothing else.
    pub fn new(id: ConversationId, owner: &str, created_ms: u64, component: &ContentHash) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            owner: owner.to_owned(),
            created_ms,
            image: None,
            indication: None,
            component: component.clone(),
            adapter: None,
            group: None,
            lifetime_seconds: None,
            opening: Vec::new(),
            response: None,
            of_batch: false,
        }
    }

    /// The queue that its turns are published to.
    pub fn queue(&self) -> Cow<'_, str> {
        turn_queue(self.of_batch, self.group.as_ref())
    }

    /// The task to answer this turn of it.
    pub fn task(&self, turn: u32) -> ChatTask {
        ChatTask {
            group: self.group.clone(),
            of_batch: self.of_batch,
            ..ChatTask::new(&self.id, turn, &self.component)
        }
    }
}

/// What all turns of a conversation share; written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Its name.
    pub id: ConversationId,
    /// Name of the API key that it belongs to; `local` where there are no keys.
    pub owner: String,
    /// The time at which it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// The X-ray; none is a conversation in words only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ChatImage>,
    /// The reason why the image was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indication: Option<String>,
    /// The language component that answers.
    pub component: ContentHash,
    /// The adapter that answers, where the client chose one; none is the bundle's own for conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterName>,
    /// The group of queues that the bundle's workers take turns and tasks from; none is the queues without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<QueueGroup>,
    /// How many seconds it is kept after its last use; none is the 30 days of a conversation that somebody may return to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u32>,
    /// What was said before the first turn, e.g. by a client that keeps its own history.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opening: Vec<Exchange>,
    /// The request for a response that its only turn answers; none where it was begun otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseRequest>,
    /// A line of a batch of requests: nobody waits for the answer, which is written as an archive's reports are, behind all turns
    /// that somebody waits for.
    #[serde(default, alias = "background", skip_serializing_if = "is_default")]
    pub of_batch: bool,
}

/// The X-ray of a conversation and where its outputs go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatImage {
    /// The stored file.
    pub image: ObjectKey,
    /// The media type, `image/png` or `image/jpeg`.
    pub media_type: String,
    /// Image tokens `[32, 768]`.
    pub embedding: ObjectKey,
    /// A [`FindingsReport`].
    pub findings: ObjectKey,
}

impl ChatImage {
    /// The objects that belong to it: the stored file, and what stages make of it.
    pub fn objects(&self) -> [&ObjectKey; 3] {
        [&self.image, &self.embedding, &self.findings]
    }
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exchange {
    /// The user's words.
    pub user: String,
    /// The model's words.
    pub assistant: String,
    /// What was asked, where that was a task that the bundle has the wording of; none is the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Ask>,
}

/// What a turn asks. Except for [`Ask::Question`] the bundle has the wording, which its model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Ask {
    /// Write the findings section.
    Report,
    /// Anything, in the user's words.
    Question {
        /// The words.
        text: String,
    },
    /// Rewrite the report with findings added and removed.
    Correction {
        /// What it missed.
        #[serde(default)]
        add: Vec<Finding>,
        /// What it has wrongly.
        #[serde(default)]
        remove: Vec<Finding>,
    },
    /// List all findings of the report.
    AllFindings,
    /// Is this finding there?
    Presence {
        /// The finding that is asked about.
        finding: Finding,
    },
    /// A summary.
    Summary,
    /// The report in words for a patient.
    PlainLanguage,
    /// A question about how a region looks.
    Region {
        /// The region that is asked about.
        region: Region,
    },
    /// What in the image speaks for these findings?
    Reasons {
        /// The findings that are asked about; at least one.
        findings: Vec<Finding>,
    },
    /// The view that the image was taken from. Only bundles whose prompts have this task answer it.
    View,
    /// The impression section of the report. Only bundles whose prompts have this task answer it.
    Impression,
}

/// A task that not every model was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptionalTask {
    /// Says from which view the image was taken.
    View,
    /// Writes the impression section of the report.
    Impression,
}

/// A region that the model was trained to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Region {
    Heart,
    Lungs,
    Bones,
    Mediastinum,
}

/// A turn as it was asked; written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnRequest {
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
    /// The settings with which the answer is decoded.
    pub generation: Generation,
    /// The time at which it was asked, in milliseconds since 1970.
    pub asked_ms: u64,
    /// The time after which it is not worth answering, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Texts at which the answer ends; the first of them and what follows is no part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// The state of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// Waits for the image's outputs, an earlier turn, or a worker.
    Queued,
    /// A worker answers it.
    Running,
    /// It has an answer.
    Done,
    /// It has no answer.
    Failed,
    /// Nobody wanted the answer any more; what was written until then stays.
    Cancelled,
}

impl TurnStatus {
    /// Whether nothing more happens.
    pub fn is_final(self) -> bool {
        !matches!(self, TurnStatus::Queued | TurnStatus::Running)
    }
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The model's words, without the white space in front of them.
    pub text: String,
    /// The white space that the model wrote in front of them, behind its name: whoever shows the answer to the model again shows
    /// this, too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lead: String,
    /// Number of tokens in the prompt.
    pub prompt_tokens: u32,
    /// The number of them that were in the worker's cache from earlier turns.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Number of generated tokens, the end token included.
    pub tokens: u32,
    /// True when the end token stopped it, false when the limit did.
    pub complete: bool,
    /// Earlier turns that were left out of the prompt, because the context window had no room for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_turns: Vec<u32>,
    /// Sentences of an answer that is a report (asked for by [`Ask::Report`] or [`Ask::Correction`]) that compare with an earlier
    /// image, which the model has not seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<ComparisonMark>,
}

impl Answer {
    /// The answer as the model wrote it: what a model is shown that goes on from it.
    pub fn as_written(&self) -> String {
        format!("{}{}", self.lead, self.text)
    }
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum TurnOutcome {
    /// The turn has ended with an answer.
    Done(Answer),
    /// The turn has ended without an answer.
    Failed(Failure),
    /// The turn has ended because nobody wanted it any more.
    Cancelled,
}

impl TurnOutcome {
    /// The status that a turn has after it.
    pub fn status(&self) -> TurnStatus {
        match self {
            TurnOutcome::Done(_) => TurnStatus::Done,
            TurnOutcome::Failed(_) => TurnStatus::Failed,
            TurnOutcome::Cancelled => TurnStatus::Cancelled,
        }
    }
}

/// One event of a turn. Events of a turn are numbered from 1 without a gap; the last one is [`TurnEvent::Ended`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TurnEvent {
    /// What the classifier sees in the image. Only in the first turn of a conversation with an image.
    Findings(FindingsReport),
    /// A worker has begun. It may come again, when another worker continues.
    Started {
        /// The question as the model reads it.
        asked: String,
    },
    /// One more token.
    Token {
        /// Its id.
        id: u32,
        /// What it adds to the text: empty in the middle of a character.
        text: String,
    },
    /// Nothing more comes.
    Ended(TurnOutcome),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_release_wrote_of_a_line_of_a_batch_is_one() {
        let of_batch = ChatTask {
            of_batch: true,
            ..ChatTask::new(
                &ConversationId("c".to_owned()),
                1,
                &ContentHash::of(b"language"),
            )
        };
        let json = serde_json::to_string(&of_batch).unwrap();
        let earlier = json.replace("of_batch", "background");
        assert_ne!(json, earlier);
        assert_eq!(
            serde_json::from_str::<ChatTask>(&earlier).unwrap(),
            of_batch
        );
    }
}
