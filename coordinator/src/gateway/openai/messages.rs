//! From a list of messages to a conversation: what was said before, the image, and what is asked now.
//!
//! - Words of `system` and `developer` are not used, and told: the model was trained with one system text, which its
//!   bundle holds.
//! - At most one image, in any message of the user. It belongs to the first turn, as the model was trained.
//! - A last message without words asks for the report of the image; one with words is a question about it.
//! - Several messages of one side in a row count as one.
//! - The list of attached files that Open WebUI writes before the words of a user's message is not used, and told: it is none
//!   of the user's words, and the model reads no file but the image.
//! - What an assistant says before the user's first words, a greeting, is not used: the model was trained on dialogs that
//!   a user begins.

use axum::body::Bytes;
use radialog_schemas::http::openai::{ChatMessage, Content, Part, Role};
use radialog_schemas::http::{MAX_TEXT, ProblemCode};
use radialog_schemas::{Ask, Exchange};

use crate::gateway::body::check_text;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::upload::data_uri;

/// The largest number of messages in one request.
const MOST_MESSAGES: usize = 1000;

/// What is said of a second image.
const ONE_IMAGE: &str = "the model reads one. Begin a new chat for the other one";

/// A list of messages as a conversation: what was said before, the image, and what is asked now.
#[derive(Debug, PartialEq)]
pub(super) struct ParsedMessages {
    pub(super) image: Option<Bytes>,
    /// Where the image stands in the request; empty where there is none.
    pub(super) image_param: String,
    /// Messages whose words are not used, by their places.
    pub(super) unused: Vec<usize>,
    /// Messages whose `name` is not used, by their places.
    pub(super) named: Vec<usize>,
    /// Messages whose list of attached files is not used, by their places.
    pub(super) files: Vec<usize>,
    pub(super) opening: Vec<Exchange>,
    pub(super) ask: Ask,
}

impl ParsedMessages {
    /// Reads the messages, whose words have at most `max_chars` characters together.
    pub(super) fn new(messages: Vec<ChatMessage>, max_chars: u64) -> ApiResult<Self> {
        if messages.is_empty() || messages.len() > MOST_MESSAGES {
            let detail = format!("'messages' has 1 to {MOST_MESSAGES} messages");
            return Err(invalid(&detail).at("messages"));
        }
        let (mut image, mut image_param, mut chars) = (None, String::new(), 0);
        let (mut unused, mut named, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let (mut last, mut other_file) = (String::new(), None);
        // Sides take turns in here.
        let mut said: Vec<(Role, String)> = Vec::new();
        for (place, message) in messages.into_iter().enumerate() {
            let param = format!("messages[{place}]");
            let message = checked(&param, message)?;
            let ChatMessage {
                role,
                content,
                name,
                ..
            } = message;
            named.extend(name.is_some_and(|name| !name.is_empty()).then_some(place));
            last = format!("{param}.content");
            let words_and_image = content.map(|content| read(&last, content)).transpose()?;
            let (mut text, found) = words_and_image.unwrap_or_default();
            let behind = match role {
                Role::User => behind_files(&text).map(str::to_owned),
                _ => None,
            };
            if role == Role::User {
                // Messages of one side in a row are one.
                let goes_on = said.last().is_some_and(|(last, _)| *last == Role::User);
                other_file = match (&found, &behind) {
                    (Some(_), _) => None,
                    (None, Some(_)) => Some(last.clone()),
                    (None, None) => other_file.filter(|_| goes_on),
                };
            }
            if let Some(words) = behind {
                files.push(place);
                text = words;
            }
            check_length(&last, &text)?;
            if let Some((part, uri)) = found {
                if role != Role::User {
                    let error = invalid("only the user's messages may have an image");
                    return Err(error.at(&part));
                }
                let content = data_uri("image_url", &uri).map_err(|error| error.at(&part))?;
                if image.replace(content).is_some() {
                    let detail = format!("the messages have more than one image; {ONE_IMAGE}");
                    return Err(invalid(&detail).at(&part));
                }
                image_param = part;
            }
            let is_greeting = role == Role::Assistant && said.is_empty();
            if matches!(role, Role::System | Role::Developer) || is_greeting {
                unused.extend((!text.trim().is_empty()).then_some(place));
                continue;
            }
            chars += text.chars().count() as u64;
            if chars > max_chars {
                let detail = format!(
                    "the messages are over the limit of {max_chars} characters together; leave the oldest ones out"
                );
                return Err(ApiError::new(ProblemCode::TextTooLong, detail).at("messages"));
            }
            match said.last_mut() {
                Some((last, words)) if *last == role => {
                    words.push('\n');
                    words.push_str(&text);
                }
                _ => said.push((role, text)),
            }
        }
        let asked = match said.pop() {
            Some((Role::User, words)) => words.trim().to_owned(),
            _ => {
                let param = last.trim_end_matches(".content");
                return Err(invalid("the last message must be the user's").at(param));
            }
        };
        // What is asked about another file is not to be answered from the image before it.
        if let Some(param) = other_file {
            let detail = "the model does not read the file of this message, only one PNG or JPEG image a chat; leave the file out, or begin a new chat with its image";
            return Err(invalid(detail).at(&param));
        }
        let ask = match asked.is_empty() && image.is_some() {
            true => Ask::Report,
            false => {
                check_text("content", &asked).map_err(|error| error.at(&last))?;
                Ask::Question { text: asked }
            }
        };
        Ok(Self {
            image,
            image_param,
            unused,
            named,
            files,
            opening: opening(said)?,
            ask,
        })
    }
}

fn opening(said: Vec<(Role, String)>) -> ApiResult<Vec<Exchange>> {
    let mut opening = Vec::new();
    let mut said = said.into_iter();
    while let Some((role, user)) = said.next() {
        let (Role::User, Some((_, assistant))) = (role, said.next()) else {
            return Err(invalid("the first message must be the user's").at("messages"));
        };
        opening.push(Exchange {
            user: user.trim().to_owned(),
            assistant,
            task: None,
        });
    }
    Ok(opening)
}

/// Refuses what a message says and cannot be done.
fn checked(param: &str, message: ChatMessage) -> ApiResult<ChatMessage> {
    for (field, list) in [
        ("annotations", &message.annotations),
        ("tool_calls", &message.tool_calls),
    ] {
        if list.as_ref().is_some_and(|list| !list.is_empty()) {
            let param = format!("{param}.{field}");
            let detail = format!("'{param}' is not supported; leave it out");
            return Err(invalid(&detail).at(&param));
        }
    }
    Ok(message)
}

/// The words of the content that stands at `param`, and the place and the address of its image.
fn read(param: &str, content: Content) -> ApiResult<(String, Option<(String, String)>)> {
    let mut image = None;
    let text = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            let mut words = Vec::new();
            for (place, part) in parts.into_iter().enumerate() {
                let part_param = format!("{param}[{place}]");
                match part {
                    Part::Text { text } => words.push(text),
                    Part::ImageUrl { image_url } => {
                        if image.replace((part_param.clone(), image_url.url)).is_some() {
                            let detail = format!("a message has more than one image; {ONE_IMAGE}");
                            return Err(invalid(&detail).at(&part_param));
                        }
                    }
                }
            }
            words.join("\n")
        }
    };
    Ok((text, image))
}

/// Refuses words that are too long for a message.
fn check_length(param: &str, text: &str) -> ApiResult<()> {
    match text.len() > MAX_TEXT {
        true => check_text("content", text).map_err(|error| error.at(param)),
        false => Ok(()),
    }
}

/// The words behind the list of attached files with which Open WebUI begins a user's message; none where there is no such list.
fn behind_files(text: &str) -> Option<&str> {
    let listed = text.strip_prefix("<attached_files>\n")?;
    let (lines, words) = listed.split_once("\n</attached_files>")?;
    let is_file = |line: &str| line.starts_with("<file ") && line.ends_with("/>");
    lines.split('\n').all(is_file).then(|| words.trim_start())
}

fn invalid(detail: &str) -> ApiError {
    ApiError::new(ProblemCode::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn dialog(messages: Value) -> ApiResult<ParsedMessages> {
        ParsedMessages::new(serde_json::from_value(messages).unwrap(), 40_000)
    }

    fn image() -> Value {
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AQID", "detail": "high"}})
    }

    #[test]
    fn an_image_alone_asks_for_its_report_and_words_ask_about_it() {
        let report = dialog(json!([{"role": "user", "content": [image()]}])).unwrap();
        assert_eq!((report.ask, report.image.unwrap().len()), (Ask::Report, 3));
        let words = json!({"type": "text", "text": "Is there edema?"});
        let question = dialog(json!([{"role": "user", "content": [words, image()]}])).unwrap();
        assert_eq!(
            question.ask,
            Ask::Question {
                text: "Is there edema?".into()
            }
        );
    }

    #[test]
    fn a_list_of_attached_files_is_none_of_the_users_words() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let user = |content: Value| json!({"role": "user", "content": content});
        let question = |text: &str| Ask::Question { text: text.into() };
        let file = r#"<file type="file" id="e9fe7559" url="e9fe7559" content_type="image/jpeg" name="x.jpg"/>"#;
        let one = format!("<attached_files>\n{file}\n</attached_files>\n\n");
        let two = format!("<attached_files>\n{file}\n{file}\n</attached_files>\n\n");
        let said = json!({"role": "assistant", "content": one});
        let edema = "Is there edema?";
        for (messages, ask, files) in [
            (
                json!([user(json!([text(&one), image()]))]),
                Ask::Report,
                vec![0],
            ),
            (
                json!([user(json!([text(&one), text(edema), image()]))]),
                question(edema),
                vec![0],
            ),
            (
                json!([
                    user(json!([text(&one), image()])),
                    said,
                    user(json!(format!("{two}{edema}"))),
                    {"role": "assistant", "content": "No."},
                    user(json!(edema)),
                ]),
                question(edema),
                vec![0, 2],
            ),
            (
                json!([user(json!([text(&one), image()])), said, user(json!(edema))]),
                question(edema),
                vec![0],
            ),
        ] {
            let dialog = dialog(messages.clone()).unwrap();
            assert_eq!((dialog.ask, dialog.files), (ask, files), "{messages}");
            // What the assistant says stays as it is.
            if let Some(first) = dialog.opening.first() {
                assert_eq!((&*first.user, &*first.assistant), ("", &*one));
            }
        }
        // Its length is none of the words'.
        let most = "x".repeat(MAX_TEXT);
        let longest = json!([text(&format!("{one}{most}")), image()]);
        let longest = dialog(json!([user(longest)])).unwrap();
        assert_eq!(longest.ask, question(&most));
        // A file that is no image is not answered from the image before it, whatever is asked about it and comes behind it.
        let shown = user(json!([image()]));
        let asked = user(json!(format!("{one}{edema}")));
        let system = json!({"role": "system", "content": "Be brief."});
        for (messages, place) in [
            (json!([user(json!(one))]), 0),
            (json!([shown, said, user(json!(one))]), 2),
            (json!([shown, said, asked]), 2),
            (json!([shown, said, asked, system]), 2),
            (json!([shown, said, asked, user(json!(edema))]), 2),
            (
                json!([shown, said, user(json!(one)), user(json!(edema))]),
                2,
            ),
            (json!([shown, said, user(json!(one)), system]), 2),
        ] {
            let error = dialog(messages).unwrap_err();
            assert_eq!(error.problem.code, ProblemCode::InvalidRequest);
            assert_eq!(error.param, Some(format!("messages[{place}].content")));
        }
        for other in [
            edema.to_owned(),
            format!("{edema}\n{one}"),
            "<attached_files>".to_owned(),
            "<attached_files>\n\n</attached_files>".to_owned(),
            format!("<attached_files>\n{file}"),
            format!("<attached_files>\n{file}\nor not\n</attached_files>\n\n{edema}"),
        ] {
            let taken = dialog(json!([user(json!([text(&other), image()]))])).unwrap();
            assert_eq!((taken.ask, taken.files), (question(other.trim()), vec![]));
        }
    }

    #[test]
    fn what_was_said_before_becomes_the_opening() {
        let dialog = dialog(json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [image()]},
            {"role": "assistant", "content": "Clear lungs."},
            {"role": "user", "content": "Really?"},
            {"role": "user", "content": "Look again."},
        ]))
        .unwrap();
        assert_eq!(
            dialog.opening,
            [Exchange {
                user: String::new(),
                assistant: "Clear lungs.".into(),
                task: None,
            }]
        );
        assert_eq!(
            dialog.ask,
            Ask::Question {
                text: "Really?\nLook again.".into()
            }
        );
        assert!(dialog.image.is_some());
    }

    #[test]
    fn what_is_refused_is_named_with_its_message_and_part() {
        let user = |content: Value| json!({"role": "user", "content": content});
        let words = json!({"type": "text", "text": "x"});
        let remote = json!({"type": "image_url", "image_url": {"url": "http://host/x.png"}});
        let said = json!({"role": "assistant", "content": "y"});
        for (messages, param) in [
            (json!([]), "messages"),
            (json!([user(json!("x")), said]), "messages[1]"),
            (
                json!([user(json!("x")), said, user(json!(" "))]),
                "messages[2].content",
            ),
            (
                json!([user(json!([words, remote]))]),
                "messages[0].content[1]",
            ),
            (
                json!([user(json!([image(), words, image()]))]),
                "messages[0].content[2]",
            ),
            (
                json!([user(json!([image()])), said, user(json!([words, image()]))]),
                "messages[2].content[1]",
            ),
            (
                json!([user(json!("x".repeat(MAX_TEXT + 1)))]),
                "messages[0].content",
            ),
        ] {
            let error = dialog(messages).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{:?}", error.problem);
        }
        let taken = dialog(json!([
            {"role": "system", "content": "Be brief.", "name": ""},
            {"role": "developer", "content": " ", "name": null},
            {"role": "assistant", "content": "Hello.", "name": "ann"},
            user(json!([words, image()])),
        ]))
        .unwrap();
        assert_eq!(taken.named, [2]);
        assert_eq!(taken.image_param, "messages[3].content[1]");
        assert_eq!(taken.unused, [0, 2]);
    }

    #[test]
    fn what_makes_no_dialog_is_refused() {
        let code = |messages: Value| dialog(messages).unwrap_err().problem.code;
        let user = |content: Value| json!({"role": "user", "content": content});
        assert_eq!(code(json!([])), ProblemCode::InvalidRequest);
        assert_eq!(code(json!([user(json!(" "))])), ProblemCode::TextEmpty);
        assert_eq!(
            code(json!([user(json!([image(), image()]))])),
            ProblemCode::InvalidRequest
        );
        assert_eq!(
            code(json!([{"role": "assistant", "content": "x"}])),
            ProblemCode::InvalidRequest
        );
        let remote = json!({"type": "image_url", "image_url": {"url": "http://host/x.png"}});
        assert_eq!(code(json!([user(json!([remote]))])), ProblemCode::RemoteUrl);
        let long = "x".repeat(MAX_TEXT + 1);
        assert_eq!(code(json!([user(json!(long))])), ProblemCode::TextTooLong);
        let most = user(json!("x".repeat(MAX_TEXT)));
        let answer = json!({"role": "assistant", "content": "y".repeat(8000)});
        let within = json!([most, answer, most]);
        assert!(dialog(within).is_ok());
        let short = json!({"role": "assistant", "content": "y"});
        let over = json!([most, answer, most, short, user(json!("z"))]);
        assert_eq!(code(over), ProblemCode::TextTooLong);
    }
}
