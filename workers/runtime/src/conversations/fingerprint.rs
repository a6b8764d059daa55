//! Fingerprints of requests: what the same idempotency key is compared by. They cover everything that a client has
//! asked for, and nothing that differs between two tries, such as the time, or the incarnation that an image is stored for.

use radialog_schemas::{
    AdapterName, Ask, ContentHash, Conversation, Exchange, Generation, QueueGroup, TurnRequest,
};
use serde::Serialize;

/// What a client asks for when it begins a conversation.
#[derive(Serialize)]
struct RequestedConversation<'a> {
    owner: &'a str,
    image: Option<String>,
    indication: Option<&'a str>,
    opening: &'a [Exchange],
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a AdapterName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a QueueGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a ContentHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    turns: Vec<RequestedTurn<'a>>,
}

/// What a client asks for when it adds a turn.
#[derive(Serialize)]
struct RequestedTurn<'a> {
    ask: &'a Ask,
    generation: &'a Generation,
    /// From the request on, in milliseconds.
    deadline: Option<u64>,
}

impl<'a> RequestedTurn<'a> {
    fn of(request: &'a TurnRequest) -> Self {
        Self {
            ask: &request.ask,
            generation: &request.generation,
            deadline: request
                .deadline_ms
                .map(|deadline| deadline.saturating_sub(request.asked_ms)),
        }
    }
}

/// The fingerprint of the request that begins this conversation with these turns and this title.
pub(super) fn of_conversation(
    conversation: &Conversation,
    turns: &[TurnRequest],
    title: Option<&str>,
) -> ContentHash {
    hash(&RequestedConversation {
        owner: &conversation.owner,
        image: conversation
            .image
            .as_ref()
            .map(|image| image.image.without_incarnation()),
        indication: conversation.indication.as_deref(),
        opening: &conversation.opening,
        adapter: conversation.adapter.as_ref(),
        group: conversation.group.as_ref(),
        response: conversation
            .response
            .as_ref()
            .map(|response| &response.fingerprint),
        title,
        turns: turns.iter().map(RequestedTurn::of).collect(),
    })
}

/// The fingerprint of the request that adds this turn.
pub(super) fn of_turn(request: &TurnRequest) -> ContentHash {
    hash(&RequestedTurn::of(request))
}

fn hash(request: &impl Serialize) -> ContentHash {
    ContentHash::of(&serde_json::to_vec(request).expect("requests have string keys only"))
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{ChatImage, ObjectKey};

    use super::*;

    fn turn(text: &str, asked_ms: u64) -> TurnRequest {
        TurnRequest {
            ask: Ask::Question { text: text.into() },
            generation: Generation::default(),
            asked_ms,
            deadline_ms: Some(asked_ms + 1000),
            stop: Vec::new(),
        }
    }

    fn image(name: &str) -> ChatImage {
        let key = ObjectKey::image(&ContentHash::of(name.as_bytes()));
        ChatImage {
            image: key.clone(),
            media_type: "image/png".into(),
            embedding: key.clone(),
            findings: key,
        }
    }

    fn conversation(created_ms: u64) -> Conversation {
        Conversation {
            image: Some(image("a")),
            indication: Some("cough".into()),
            ..Conversation::new(
                "a".into(),
                "ward",
                created_ms,
                &ContentHash::of(b"language"),
            )
        }
    }

    #[test]
    fn another_try_of_the_same_request_has_the_same_fingerprint() {
        let of_incarnation = |incarnation: &str, time| {
            let mut conversation = conversation(time);
            let content = ContentHash::of(b"xray");
            let image = ObjectKey::conversation_image(&conversation.id, incarnation, &content);
            if let Some(own) = &mut conversation.image {
                own.image = image;
            }
            of_conversation(&conversation, &[turn("a", time)], Some("ward 1"))
        };
        assert_eq!(of_incarnation("two", 9), of_incarnation("one", 1));
    }

    #[test]
    fn everything_that_a_client_asks_for_changes_the_fingerprint() {
        let known = of_conversation(&conversation(1), &[turn("a", 1)], Some("ward 1"));
        let mut generation = turn("a", 1);
        generation.generation.seed += 1;
        let mut deadline = turn("a", 1);
        deadline.deadline_ms = None;
        let with = |change: fn(&mut Conversation)| {
            let mut changed = conversation(1);
            change(&mut changed);
            of_conversation(&changed, &[turn("a", 1)], Some("ward 1"))
        };
        let others = [
            with(|c| c.owner = "lab".into()),
            with(|c| c.image = Some(image("b"))),
            with(|c| c.image = None),
            with(|c| c.indication = None),
            with(|c| c.adapter = "ins".parse().ok()),
            with(|c| c.group = "other".parse().ok()),
            with(|c| {
                c.opening = vec![Exchange {
                    user: "a".into(),
                    assistant: "b".into(),
                    task: None,
                }];
            }),
            of_conversation(&conversation(1), &[turn("a", 1)], None),
            of_conversation(&conversation(1), &[turn("a", 1)], Some("ward 2")),
            of_conversation(&conversation(1), &[], Some("ward 1")),
            of_conversation(&conversation(1), &[turn("b", 1)], Some("ward 1")),
            of_conversation(&conversation(1), &[generation], Some("ward 1")),
            of_conversation(&conversation(1), &[deadline], Some("ward 1")),
        ];
        for other in others {
            assert_ne!(other, known);
        }
    }
}
