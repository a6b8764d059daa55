//! A new conversation: its image into the store, its first turns into the shared state, its work to the stages.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use radialog_runtime::clock::now_ms;
use radialog_runtime::conversations::{ConversationSnapshot, CreateOutcome};
use radialog_schemas::http::{
    ConversationView, MAX_DEADLINE_SECONDS, MAX_NEW_TOKENS, MAX_SEED, ProblemCode, TurnOptions,
};
use radialog_schemas::{
    AdapterName, Ask, ChatImage, ContentHash, Conversation, ConversationId, Exchange, Generation,
    ResponseRequest, SCHEMA_VERSION, Stage, TurnRequest,
};
use tracing::Instrument;
use uuid::Uuid;

use super::app_state::AppState;
use super::auth::Caller;
use super::body::check_text;
use super::image::CheckedImage;
use super::problem::{ApiError, ApiResult};
use super::queue_place::QueuePlaces;
use super::request_path::{ID_LENGTH, IdempotencyKey};
use super::upload::Upload;
use super::{conversations, view};
use crate::conversation::NewImage;
use crate::{ServedBundle, conversation};

/// The answer of a request whose work goes on: `202` with where to look.
pub(super) type Accepted<T> = (StatusCode, [(header::HeaderName, String); 1], Json<T>);

/// A conversation as it was asked for, before it is stored.
pub(super) struct ConversationDraft {
    pub(super) id: ConversationId,
    pub(super) owner: String,
    /// Who answers: the bundle's group of queues, and the adapter that was asked for.
    pub(super) model: ChosenModel,
    pub(super) image: Option<CheckedImage>,
    /// Where another conversation of the same owner keeps this image.
    pub(super) known_image: Option<ChatImage>,
    pub(super) indication: Option<String>,
    /// Seconds from its last use to its end; none where somebody may return to it.
    pub(super) lifetime_seconds: Option<u32>,
    pub(super) opening: Vec<Exchange>,
    /// The request for a response that it answers.
    pub(super) response: Option<ResponseRequest>,
    /// A line of a batch of requests: nobody waits for it, so that it takes no place among the turns that wait.
    pub(super) of_batch: bool,
    /// The title that a person gave it.
    pub(super) title: Option<String>,
    pub(super) turns: Vec<TurnRequest>,
}

/// The model that a client asked for.
#[derive(Clone)]
pub(super) struct ChosenModel {
    pub(super) bundle: ServedBundle,
    pub(super) adapter: Option<AdapterName>,
}

impl ChosenModel {
    /// Finds the model of this name; the first bundle where none is named.
    pub(super) fn find(app: &AppState, name: Option<&str>) -> ApiResult<Self> {
        let found = app.bundles.find(name);
        let (bundle, adapter) = found.ok_or_else(|| {
            let detail = format!(
                "there is no model of this name; this gateway has {}",
                app.bundles.names()
            );
            ApiError::new(ProblemCode::ModelNotFound, detail)
        })?;
        Ok(Self {
            bundle: bundle.clone(),
            adapter: adapter.cloned(),
        })
    }
}

pub(super) async fn create(
    State(app): State<AppState>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    upload: Upload,
) -> ApiResult<Accepted<ConversationView>> {
    let Upload {
        conversation: asked,
        image,
        memory: _memory,
    } = upload;
    for (field, text) in [
        ("question", &asked.question),
        ("indication", &asked.indication),
    ] {
        text.as_deref()
            .map_or(Ok(()), |text| check_text(field, text))?;
    }
    let title = asked.title.as_deref().map(conversations::checked_title);
    let title = title.transpose()?;
    let model = ChosenModel::find(&app, asked.model.as_deref())?;
    let generation = Generation {
        adapter: model.adapter.clone(),
        ..generation(&asked.options)?
    };
    let image = match image {
        Some(content) => Some(CheckedImage::new(content, &app.config).await?),
        None => None,
    };
    let report = image.as_ref().map(|_| Ask::Report);
    let asks: Vec<Ask> = report
        .into_iter()
        .chain(asked.question.map(|text| Ask::Question { text }))
        .collect();
    if asks.is_empty() {
        return Err(ApiError::new(
            ProblemCode::InvalidRequest,
            "give an image, a question, or both",
        ));
    }
    let turns = asks
        .into_iter()
        .map(|ask| turn_request(&app, ask, &generation, &asked.options))
        .collect();
    let id = key
        .as_deref()
        .map_or_else(new_id, |key| known_id("conversation", &caller, key));
    let owner = caller.owner.to_string();
    let draft = ConversationDraft {
        id,
        owner,
        model,
        image,
        known_image: None,
        indication: asked.indication,
        lifetime_seconds: None,
        opening: Vec::new(),
        response: None,
        of_batch: false,
        title,
        turns,
    };
    let snapshot = begin(&app, draft).await?;
    let location = [(
        header::LOCATION,
        view::conversation_path(&snapshot.conversation.id),
    )];
    Ok((
        StatusCode::ACCEPTED,
        location,
        Json(view::conversation(&app, &snapshot).await?),
    ))
}

/// Makes an id that nobody can guess.
pub(super) fn new_id() -> ConversationId {
    ConversationId(Uuid::new_v4().simple().to_string())
}

/// The name that every gateway gives this request for something of this kind.
pub(super) fn known_id(kind: &str, caller: &Caller, key: &str) -> ConversationId {
    let hash = ContentHash::of_parts([kind.as_bytes(), caller.owner.as_bytes(), key.as_bytes()]);
    ConversationId(hash.as_str()[..ID_LENGTH].to_owned())
}

/// Begins a conversation, or goes on with the one that the same request has begun. It is done to its end also where the
/// client has gone away, so that nothing of it is left half done.
pub(super) async fn begin(
    app: &AppState,
    draft: ConversationDraft,
) -> ApiResult<ConversationSnapshot> {
    let app = app.clone();
    let beginning = async move { begin_to_end(&app, draft).await };
    tokio::spawn(beginning.in_current_span())
        .await
        .map_err(|error| {
            tracing::error!(%error, "a conversation was not begun");
            ApiError::new(ProblemCode::Internal, "the conversation was not begun")
        })?
}

async fn begin_to_end(app: &AppState, draft: ConversationDraft) -> ApiResult<ConversationSnapshot> {
    let conversations = &app.backends.conversations;
    // A look only: what is there already makes no new work. What counts is decided when it is created.
    let places = match conversations.snapshot(&draft.id).await? {
        None if !draft.of_batch => {
            Some(QueuePlaces::take(app, &draft.owner, draft.turns.len()).await?)
        }
        _ => None,
    };
    let ConversationDraft {
        id,
        owner,
        model: ChosenModel { bundle, adapter },
        image,
        known_image,
        indication,
        lifetime_seconds,
        opening,
        response,
        of_batch,
        title,
        turns,
    } = draft;
    let brought = image.as_ref().map(|checked| NewImage {
        content: checked.content.clone(),
        known: known_image,
    });
    let image = image.map(|checked| {
        bundle
            .hashes
            .image(&checked.new_key(&id), checked.media_type)
    });
    let conversation = Conversation {
        schema_version: SCHEMA_VERSION,
        id,
        owner,
        created_ms: now_ms(),
        image,
        indication,
        component: bundle.hashes.component(Stage::Language).clone(),
        adapter,
        group: bundle.group.clone(),
        lifetime_seconds,
        opening,
        response,
        of_batch,
    };
    let outcome = conversation::begin(
        &app.backends,
        &bundle.hashes,
        &conversation,
        &turns,
        title.as_deref(),
        brought.as_ref(),
    )
    .await?;
    if outcome == CreateOutcome::Mismatch {
        let detail =
            "this Idempotency-Key made another conversation; give each new request a new key";
        return Err(ApiError::new(ProblemCode::IdempotencyMismatch, detail));
    }
    if let Some(places) = places {
        places.free().await;
    }
    let snapshot = conversations.snapshot(&conversation.id).await?;
    snapshot.ok_or_else(ApiError::no_conversation)
}

/// Makes a turn as it goes into the state.
pub(super) fn turn_request(
    app: &AppState,
    ask: Ask,
    generation: &Generation,
    options: &TurnOptions,
) -> TurnRequest {
    let asked = options
        .deadline_seconds
        .map(|seconds| Duration::from_secs(seconds.into()));
    let wait = asked.or(app.config.deadline);
    let now = now_ms();
    let deadline_ms =
        wait.map(|wait| now.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
    TurnRequest {
        ask,
        generation: generation.clone(),
        asked_ms: now,
        deadline_ms,
        stop: Vec::new(),
    }
}

/// Says that a field's value is not in its range.
pub(super) fn outside(field: &str, range: impl std::fmt::Display) -> ApiError {
    let detail = format!("'{field}' is not {range}");
    ApiError::new(ProblemCode::InvalidRequest, detail).at(field)
}

/// Checks the options and says how to decode.
pub(super) fn generation(options: &TurnOptions) -> ApiResult<Generation> {
    let default = Generation::default();
    let max_new_tokens = options.max_new_tokens.unwrap_or(default.max_new_tokens);
    if !(1..=MAX_NEW_TOKENS).contains(&max_new_tokens) {
        return Err(outside(
            "max_new_tokens",
            format!("from 1 to {MAX_NEW_TOKENS}"),
        ));
    }
    if options
        .temperature
        .is_some_and(|value| !(0.0..=2.0).contains(&value))
    {
        return Err(outside("temperature", "from 0 to 2"));
    }
    if options
        .top_p
        .is_some_and(|value| !(value > 0.0 && value <= 1.0))
    {
        return Err(outside("top_p", "over 0 and up to 1"));
    }
    // All of the mass is what an answer has without it; many clients send that. At a temperature of 0 there is one token to take.
    if options.temperature.is_none() && options.top_p.is_some_and(|value| value < 1.0) {
        let detail = "'top_p' is only for answers that are sampled: give a 'temperature' over 0, or leave it out";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("top_p"));
    }
    if options.seed.is_some_and(|seed| seed > MAX_SEED) {
        return Err(outside("seed", format!("from 0 to {MAX_SEED}")));
    }
    if options
        .deadline_seconds
        .is_some_and(|seconds| !(1..=MAX_DEADLINE_SECONDS).contains(&seconds))
    {
        return Err(outside(
            "deadline_seconds",
            format!("from 1 to {MAX_DEADLINE_SECONDS}"),
        ));
    }
    let temperature = options.temperature.filter(|value| *value > 0.0);
    Ok(Generation {
        max_new_tokens,
        temperature,
        top_p: options.top_p.filter(|_| temperature.is_some()),
        seed: options.seed.unwrap_or(default.seed),
        adapter: None,
        samples: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_of_0_is_greedy_and_options_have_their_ranges() {
        let cold = TurnOptions {
            temperature: Some(0.0),
            top_p: Some(0.9),
            ..TurnOptions::default()
        };
        assert_eq!(generation(&cold).unwrap(), Generation::default());
        let whole = TurnOptions {
            top_p: Some(1.0),
            ..TurnOptions::default()
        };
        assert_eq!(generation(&whole).unwrap(), Generation::default());
        for wrong in [
            TurnOptions {
                top_p: Some(0.9),
                ..TurnOptions::default()
            },
            TurnOptions {
                max_new_tokens: Some(0),
                ..TurnOptions::default()
            },
            TurnOptions {
                max_new_tokens: Some(MAX_NEW_TOKENS + 1),
                ..TurnOptions::default()
            },
            TurnOptions {
                temperature: Some(2.1),
                ..TurnOptions::default()
            },
            TurnOptions {
                top_p: Some(0.0),
                ..TurnOptions::default()
            },
            TurnOptions {
                seed: Some(MAX_SEED + 1),
                ..TurnOptions::default()
            },
            TurnOptions {
                deadline_seconds: Some(0),
                ..TurnOptions::default()
            },
        ] {
            assert_eq!(
                generation(&wrong).unwrap_err().problem.code,
                ProblemCode::InvalidRequest,
                "{wrong:?}"
            );
        }
    }
}
