//! A request for a response as it comes in: what it may say is done or refused, with the name of the field.

use axum::extract::{FromRequest, Request};
use radialog_schemas::ContentHash;
use radialog_schemas::http::openai::{ChatMessage, Content, ImageUrl, Part, Role};
use radialog_schemas::http::responses::{
    InputContent, InputItem, NewPart, NewResponse, ResponseInput,
};
use radialog_schemas::http::{MAX_NEW_TOKENS, MAX_SEED, ProblemCode, TurnOptions};
use radialog_schemas::response::{
    InputMessage, InputPart, InputRole, ResponseLabels, ResponseRequest,
};

use super::super::messages::ParsedMessages;
use super::super::warning::Unused;
use super::super::{ToolForm, check_tools};
use crate::gateway::app_state::AppState;
use crate::gateway::body::{self, ReadBody};
use crate::gateway::body_memory::HeldMemory;
use crate::gateway::problem::{ApiError, ApiResult};

/// The largest number of messages in one request.
const MOST_MESSAGES: usize = 1000;
/// Longest label, in characters.
const LONGEST_LABEL: usize = 512;
/// Most notes, and the characters of their names and values.
const MOST_NOTES: usize = 16;
const LONGEST_NOTE_NAME: usize = 64;
const LONGEST_NOTE: usize = 512;
/// What is said of how closely an image is looked at.
const DETAIL: &str = "auto";

/// A request's body, and the memory that it takes; images make it large.
pub(in crate::gateway) struct ResponseBody(pub(super) AskedResponse, pub(super) HeldMemory);

/// A request that can be done.
#[derive(Debug)]
pub(in crate::gateway::openai) struct AskedResponse {
    pub(super) request: ResponseRequest,
    pub(super) options: TurnOptions,
    pub(super) dialog: ParsedMessages,
    /// The tools that were offered.
    tools: usize,
    pub(super) store: bool,
    pub(super) stream: bool,
}

impl FromRequest<AppState> for ResponseBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let limit = app.config.body_limit();
        let ReadBody { content, memory } = body::read_json(request, app, limit).await?;
        let most = app.config.max_opening_chars;
        body::beside(move || {
            let asked = body::parse(&content)?;
            Ok(Self(AskedResponse::new(asked, most)?, memory))
        })
        .await
    }
}

impl AskedResponse {
    /// Parses what a line of a batch asks for. What needs a client that reads along or asks again is refused.
    pub(in crate::gateway::openai) fn of_line(content: &[u8], max_chars: u64) -> ApiResult<Self> {
        let asked: NewResponse = body::parse(content)?;
        let refusals = [
            ("stream", asked.stream == Some(true), "leave it out"),
            ("background", asked.background == Some(true), "leave it out"),
            (
                "previous_response_id",
                asked.previous_response_id.is_some(),
                "send what was said before in 'input'",
            ),
        ];
        match refusals.into_iter().find(|(_, is_asked, _)| *is_asked) {
            Some((param, _, instead)) => {
                let detail = format!("'{param}' is not for batches; {instead}");
                Err(invalid(param, detail))
            }
            None => Self::new(asked, max_chars),
        }
    }

    /// What of the request is not used.
    pub(in crate::gateway::openai) fn unused(&self) -> Unused {
        Unused {
            tools: self.tools,
            list: "input",
            places: self.dialog.unused.clone(),
            named: self.dialog.named.clone(),
            files: self.dialog.files.clone(),
            of_image: None,
        }
    }

    /// Checks the request, whose words have at most `max_chars` characters together.
    fn new(mut asked: NewResponse, max_chars: u64) -> ApiResult<Self> {
        check(&asked)?;
        let (mut messages, mut input) = (Vec::new(), Vec::new());
        match &mut asked.input {
            ResponseInput::Text(text) => {
                input.push(InputMessage {
                    role: InputRole::User,
                    content: vec![InputPart::InputText { text: text.clone() }],
                });
                messages.push(ChatMessage::new(Role::User, Content::Text(text.clone())));
            }
            ResponseInput::Items(items) => {
                if items.is_empty() || items.len() > MOST_MESSAGES {
                    let detail = format!("'input' has 1 to {MOST_MESSAGES} messages");
                    return Err(invalid("input", detail));
                }
                for (place, item) in items.iter_mut().enumerate() {
                    let (message, kept) = read(&format!("input[{place}]"), item)?;
                    messages.push(message);
                    input.push(kept);
                }
            }
        }
        let dialog = ParsedMessages::new(messages, max_chars).map_err(|error| ApiError {
            // The place in the messages is none in this request.
            param: Some("input".into()),
            ..error
        })?;
        // Without its image, whose bytes count however they were written.
        let written = serde_json::to_vec(&asked)
            .map_err(|error| ApiError::new(ProblemCode::Internal, error))?;
        let image = dialog.image.as_deref().unwrap_or_default();
        let options = TurnOptions {
            max_new_tokens: asked.max_output_tokens,
            temperature: asked.temperature,
            top_p: asked.top_p,
            seed: asked.seed,
            deadline_seconds: None,
        };
        let request = ResponseRequest {
            fingerprint: ContentHash::of_parts([written.as_slice(), image]),
            model: asked.model,
            input,
            background: asked.background.unwrap_or(false),
            previous_response_id: asked.previous_response_id,
            max_output_tokens: asked.max_output_tokens,
            temperature: asked.temperature,
            top_p: asked.top_p,
            metadata: asked.metadata.unwrap_or_default(),
            labels: ResponseLabels {
                prompt_cache_key: asked.prompt_cache_key,
                safety_identifier: asked.safety_identifier,
                user: asked.user,
            },
        };
        Ok(Self {
            request,
            options,
            dialog,
            tools: asked.tools.map_or(0, |tools| tools.len()),
            store: asked.store.unwrap_or(true),
            stream: asked.stream.unwrap_or(false),
        })
    }
}

/// Refuses what the types allow and cannot be done.
fn check(asked: &NewResponse) -> ApiResult<()> {
    let outside = |value: Option<f64>, least: f64, most: f64| {
        value.is_some_and(|value| !(least..=most).contains(&value))
    };
    let is_long = |label: &Option<String>| {
        label
            .as_ref()
            .is_some_and(|label| label.chars().count() > LONGEST_LABEL)
    };
    let is_filled =
        |list: &Option<Vec<serde_json::Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let (store, stream) = (asked.store.unwrap_or(true), asked.stream.unwrap_or(false));
    let options = asked.stream_options.as_ref();
    let hides = options.and_then(|options| options.include_obfuscation);
    let refusals = [
        (
            "background",
            asked.background == Some(true) && !store,
            "needs a response that is kept; leave out 'store': false".to_owned(),
        ),
        (
            "stream_options",
            options.is_some() && !stream,
            "is only for 'stream': true".to_owned(),
        ),
        (
            "stream_options.include_obfuscation",
            hides == Some(true),
            "is not supported; leave it out".to_owned(),
        ),
        (
            "max_output_tokens",
            asked
                .max_output_tokens
                .is_some_and(|most| !(1..=MAX_NEW_TOKENS).contains(&most)),
            format!("is not from 1 to {MAX_NEW_TOKENS}"),
        ),
        (
            "temperature",
            outside(asked.temperature, 0.0, 2.0),
            "is not from 0 to 2".to_owned(),
        ),
        (
            "top_p",
            outside(asked.top_p, f64::MIN_POSITIVE, 1.0),
            "is not over 0 and up to 1".to_owned(),
        ),
        (
            "seed",
            asked.seed.is_some_and(|seed| seed > MAX_SEED),
            format!("is not from 0 to {MAX_SEED}"),
        ),
        (
            "prompt_cache_key",
            is_long(&asked.prompt_cache_key),
            format!("has more than {LONGEST_LABEL} characters"),
        ),
        (
            "safety_identifier",
            is_long(&asked.safety_identifier),
            format!("has more than {LONGEST_LABEL} characters"),
        ),
        (
            "user",
            is_long(&asked.user),
            format!("has more than {LONGEST_LABEL} characters"),
        ),
        (
            "include",
            is_filled(&asked.include),
            "is not supported; leave it out".to_owned(),
        ),
        (
            "top_logprobs",
            asked.top_logprobs.is_some_and(|count| count > 0),
            "is not supported with this value; leave it out".to_owned(),
        ),
    ];
    if let Some((param, _, detail)) = refusals.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
        return Err(invalid(param, format!("'{param}' {detail}")));
    }
    check_tools(asked.tools.as_deref(), ToolForm::Flat)?;
    let notes = asked.metadata.iter().flatten();
    let is_long_note = |(name, value): (&String, &String)| {
        name.chars().count() > LONGEST_NOTE_NAME || value.chars().count() > LONGEST_NOTE
    };
    if notes.clone().count() > MOST_NOTES || notes.into_iter().any(is_long_note) {
        let detail = format!(
            "'metadata' has at most {MOST_NOTES} notes, with names of {LONGEST_NOTE_NAME} and values of {LONGEST_NOTE} \
             characters"
        );
        return Err(invalid("metadata", detail));
    }
    Ok(())
}

/// Takes the image out of a message, and gives the message as a completion reads it and as it is kept.
fn read(param: &str, item: &mut InputItem) -> ApiResult<(ChatMessage, InputMessage)> {
    let is_user = item.role == InputRole::User;
    let words = |text: &str| match is_user {
        true => InputPart::InputText {
            text: text.to_owned(),
        },
        false => InputPart::OutputText {
            text: text.to_owned(),
        },
    };
    let (mut parts, mut kept) = (Vec::new(), Vec::new());
    match &mut item.content {
        InputContent::Text(text) => {
            kept.push(words(text));
            parts.push(Part::Text { text: text.clone() });
        }
        InputContent::Parts(given) => {
            for (place, part) in given.iter_mut().enumerate() {
                let param = format!("{param}.content[{place}]");
                match part {
                    NewPart::InputText { text } if is_user => {
                        kept.push(words(text));
                        parts.push(Part::Text { text: text.clone() });
                    }
                    NewPart::OutputText {
                        text,
                        annotations,
                        logprobs,
                        ..
                    } if !is_user => {
                        for (field, list) in [("annotations", annotations), ("logprobs", logprobs)]
                        {
                            if list.as_ref().is_some_and(|list| !list.is_empty()) {
                                let param = format!("{param}.{field}");
                                let detail = format!("'{param}' is not supported; leave it out");
                                return Err(invalid(&param, detail));
                            }
                        }
                        kept.push(words(text));
                        parts.push(Part::Text { text: text.clone() });
                    }
                    NewPart::InputImage { image_url, .. } if is_user => {
                        kept.push(InputPart::InputImage {
                            detail: DETAIL.to_owned(),
                            image_url: None,
                        });
                        let url = std::mem::take(image_url);
                        parts.push(Part::ImageUrl {
                            image_url: ImageUrl { url, detail: None },
                        });
                    }
                    _ => {
                        let detail = format!(
                            "'{param}' is not a part of such a message: a user's has 'input_text' and 'input_image', the \
                             assistant's 'output_text'"
                        );
                        return Err(invalid(&param, detail));
                    }
                }
            }
        }
    }
    let role = match item.role {
        InputRole::User => Role::User,
        InputRole::Assistant => Role::Assistant,
    };
    let message = ChatMessage::new(role, Content::Parts(parts));
    let kept = InputMessage {
        role: item.role,
        content: kept,
    };
    Ok((message, kept))
}

fn invalid(param: &str, detail: String) -> ApiError {
    ApiError::new(ProblemCode::InvalidRequest, detail).at(param)
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Ask;
    use serde_json::{Value, json};

    use super::*;

    fn asked(body: &Value) -> ApiResult<AskedResponse> {
        let body = body.to_string();
        AskedResponse::new(body::parse(body.as_bytes())?, 40_000)
    }

    fn image(bytes: &str) -> Value {
        json!({"type": "input_image", "detail": "auto", "image_url": format!("data:image/png;base64,{bytes}")})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "fake", "input": "x"});
        body[field] = value;
        body
    }

    #[test]
    fn words_ask_a_question_and_an_image_alone_asks_for_its_report() {
        let words = asked(&json!({"model": "fake", "input": "Is there edema?"})).unwrap();
        let question = Ask::Question {
            text: "Is there edema?".into(),
        };
        assert_eq!((&words.dialog.ask, words.store), (&question, true));
        let input = json!([{"role": "user", "content": [image("AQID")]}]);
        let report = asked(&json!({"model": "fake", "input": input})).unwrap();
        assert_eq!(report.dialog.ask, Ask::Report);
        assert_eq!(report.dialog.image.unwrap().len(), 3);
        let kept = InputPart::InputImage {
            detail: "auto".into(),
            image_url: None,
        };
        assert_eq!(report.request.input[0].content, [kept]);
    }

    #[test]
    fn tools_may_be_offered_and_are_told_as_unused() {
        let clock = json!({"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": false});
        let formula = json!({"type": "custom", "name": "formula"});
        let offered = asked(&with("tools", json!([clock, formula]))).unwrap();
        assert_eq!(offered.unused().tools, 2);
        for none in [json!([]), json!(null)] {
            assert_eq!(asked(&with("tools", none)).unwrap().unused().tools, 0);
        }
    }

    #[test]
    fn the_output_of_a_response_can_be_given_back_as_it_came() {
        let part = json!({"type": "output_text", "text": "No.", "annotations": [], "logprobs": [], "parsed": null});
        let answer = json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]});
        let input = json!([{"role": "user", "content": "Edema?"}, answer, {"role": "user", "content": "Sure?"}]);
        let asked = asked(&json!({"model": "fake", "input": input})).unwrap();
        assert_eq!(asked.dialog.opening.len(), 1);
        assert_eq!(asked.request.input.len(), 3);
    }

    #[test]
    fn another_try_has_the_same_fingerprint_and_whatever_differs_another_one() {
        let of = |body: &Value| asked(body).unwrap().request.fingerprint;
        let message = |image: Value| json!([{"role": "user", "content": [image]}]);
        let first = with("input", message(image("AQID")));
        assert_eq!(of(&first), of(&first));
        let mut explicit = first.clone();
        explicit["temperature"] = Value::Null;
        assert_eq!(of(&explicit), of(&first));
        let mut noted = first.clone();
        noted["metadata"] = json!({"ward": "7"});
        for other in [
            with("input", message(image("AQIE"))),
            noted,
            with("seed", json!(1)),
        ] {
            assert_ne!(of(&other), of(&first));
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_the_name_of_its_field() {
        let part = |part: Value| with("input", json!([{"role": "user", "content": [part]}]));
        let clock = json!({"type": "function", "name": "clock", "strict": false});
        let refused = [
            (json!({"input": "x"}), "model"),
            (json!({"model": "fake"}), "input"),
            (with("instructions", json!("Be brief.")), "instructions"),
            (
                with("tools", json!([clock, {"type": "web_search"}])),
                "tools[1]",
            ),
            (
                with("tools", json!([{"type": "file_search", "name": "x"}])),
                "tools[0]",
            ),
            (
                with("tools", json!([{"type": "function", "function": clock}])),
                "tools[0]",
            ),
            (with("tools", json!(["clock"])), "tools[0]"),
            (with("tool_choice", json!("required")), "tool_choice"),
            (with("reasoning", json!({"effort": "low"})), "reasoning"),
            (with("conversation", json!("conv_1")), "conversation"),
            (with("prompt", json!({"id": "p"})), "prompt"),
            (with("truncation", json!("disabled")), "truncation"),
            (with("service_tier", json!("flex")), "service_tier"),
            (
                with("include", json!(["reasoning.encrypted_content"])),
                "include",
            ),
            (with("max_output_tokens", json!(0)), "max_output_tokens"),
            (with("max_output_tokens", json!("9")), "max_output_tokens"),
            (with("temperature", json!(2.5)), "temperature"),
            (with("top_p", json!(0)), "top_p"),
            (with("top_logprobs", json!(2)), "top_logprobs"),
            (with("stream_options", json!({})), "stream_options"),
            (with("metadata", json!({"a": 1})), "metadata.a"),
            (with("metadata", json!({"a": "x".repeat(513)})), "metadata"),
            (with("user", json!("x".repeat(513))), "user"),
            (with("wizardry", json!(1)), "wizardry"),
            (with("text", json!({"verbosity": "low"})), "text.verbosity"),
            (
                with("text", json!({"format": {"type": "text", "foo": 1}})),
                "text.format.foo",
            ),
            (
                with("stream_options", json!({"foo": true})),
                "stream_options.foo",
            ),
            (
                with("input", json!([{"role": "user", "content": "x", "foo": 1}])),
                "input[0].foo",
            ),
            (
                part(json!({"type": "input_text", "text": "x", "foo": 1})),
                "input[0].content[0]",
            ),
            (
                part(
                    json!({"type": "input_image", "image_url": "data:image/png;base64,AQID", "foo": 1}),
                ),
                "input[0].content[0]",
            ),
            (part(json!(["input_text", "x"])), "input[0].content[0]"),
            (with("input", json!([["message", "user", "x"]])), "input[0]"),
            (with("text", json!([{"type": "text"}])), "text"),
            (with("text", json!({"format": ["text"]})), "text.format"),
            (with("stream_options", json!([false])), "stream_options"),
            (with("input", json!([])), "input"),
            (with("input", json!(7)), "input"),
            (with("input", json!(" ")), "input"),
            (
                with("input", json!([{"role": "system", "content": "x"}])),
                "input[0].role",
            ),
            (
                with("input", json!([{"type": "item_reference", "id": "x"}])),
                "input[0].type",
            ),
            (with("input", json!([{"content": "x"}])), "input[0].role"),
            (
                part(json!({"type": "input_file", "file_id": "x"})),
                "input[0].content[0].type",
            ),
            (
                part(json!({"type": "output_text", "text": "x"})),
                "input[0].content[0]",
            ),
            (
                part(json!({"type": "input_image", "image_url": "https://host/x.png"})),
                "input",
            ),
        ];
        for (body, param) in refused {
            let error = asked(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
        for (body, param) in [
            (
                r#"{"model": "fake", "input": "x", "model": "fake"}"#,
                Some("model"),
            ),
            (r#"{"input": "x"}"#, Some("model")),
            (r#"["fake", "x"]"#, None),
            ("[]", None),
            ("7", None),
        ] {
            let error = body::parse::<NewResponse>(body.as_bytes()).unwrap_err();
            assert_eq!(error.problem.code, ProblemCode::InvalidRequest, "{body}");
            assert_eq!(error.param.as_deref(), param, "{body}");
        }
        let mut background = with("background", json!(true));
        background["store"] = json!(false);
        let error = asked(&background).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("background"));
    }
}
