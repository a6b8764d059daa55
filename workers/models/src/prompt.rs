//! What the language model is told, as data: a bundle carries its prompts, and the published ones are the default.
//! The published weights were trained on these exact strings, so every blank and full stop of them counts.

mod chat;
mod dialog;
mod questions;

pub use chat::{ChatPrompt, ChatPromptError, Exchange, FittedPrompt};
pub use questions::Questions;

pub use crate::tokenizers::{ImageRule, Prompt, PromptSegment};

use radialog_schemas::OptionalTask;
use serde::{Deserialize, Serialize};

/// Marks the image tokens in [`Prompts::report`].
const IMAGE_SLOT: &str = "{image}";
/// Marks the findings in [`Prompts::report`], and those that a question is about.
const FINDINGS_SLOT: &str = "{findings}";

/// The texts around a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "of_unnamed")]
pub struct Prompts {
    /// The system sentence that every conversation starts with.
    pub system: String,
    /// Names of the two speakers, the user first.
    pub roles: [String; 2],
    /// The number of placeholder tokens that one image takes.
    pub image_tokens: usize,
    /// The way in which an image stands in a written prompt; it also decides the ids beside it.
    #[serde(skip_serializing_if = "ImageRule::is_default")]
    pub image_rule: ImageRule,
    /// The request for a report, with `{image}` and `{findings}` where they go.
    pub report: String,
    /// The text before the first message of a conversation with an image, where that is not the request for a
    /// report; with `{image}` and `{findings}`.
    pub image: String,
    /// The wording of questions about a report.
    pub questions: Questions,
    /// The question from which view an image was taken, with `{image}` where that goes if it begins a conversation; for models
    /// that were trained to answer it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
    /// The request for the impression section of the report; for models that were trained to write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impression: Option<String>,
    /// Whether white space around an answer is dropped before it is shown, stored and read again. In training of RaDialog v2
    /// an answer was apart from its role by a blank, which is then its first token's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trim_answers: bool,
    /// Whether the model answers in conversations without an image, as the published ones do, whose base is a model of texts. Any
    /// other was trained on images alone, and would invent the findings of one that it was not given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub text_only: bool,
}

/// Prompts of a bundle that does not name all of them: the published ones, but for what nobody may assume of a model.
fn of_unnamed() -> Prompts {
    Prompts {
        text_only: false,
        ..Prompts::default()
    }
}

impl Default for Prompts {
    fn default() -> Self {
        Self {
            system: "A chat between a curious user and an artificial intelligence assistant acting as an experienced \
                     radiologist. The assistant gives professional, detailed, and polite answers to the user's \
                     questions."
                .into(),
            roles: ["USER".into(), "ASSISTANT".into()],
            image_tokens: 32,
            image_rule: ImageRule::Placeholders,
            report: "Image information: {image}. Predicted Findings: {findings}. You are to act as a radiologist and \
                     write the finding section of a chest x-ray radiology report for this X-ray image and the given \
                     predicted findings. Write in the style of a radiologist, write one fluent text without \
                     enumeration, be concise and don't provide explanations or reasons."
                .into(),
            image: "Image information: {image}. Predicted Findings: {findings}. ".into(),
            questions: Questions::default(),
            view: None,
            impression: None,
            trim_answers: false,
            text_only: true,
        }
    }
}

impl Prompts {
    /// The prompts of RaDialog v2, published in 2024.
    pub fn v2() -> Self {
        let v1 = Self::default();
        Self {
            image_tokens: 196,
            image_rule: ImageRule::Marker,
            report: v1.report.replace("Image information: ", ""),
            image: v1.image.replace("Image information: ", ""),
            view: Some("{image} From what view was this image taken?".into()),
            impression: Some(
                "Write the impression section corresponding to this radiology report.".into(),
            ),
            trim_answers: true,
            ..v1
        }
    }

    /// The published prompts with the demo's system sentence, which differs from the trained one.
    pub fn demo() -> Self {
        let system = "A chat between a curious user and an artificial intelligence assistant.The assistant gives \
                      professional, detailed, and polite answers to the user's questions.";
        Self {
            system: system.into(),
            ..Self::default()
        }
    }

    /// The user's message that asks for a report on one image. `findings` goes in as plain text and nowhere but at its
    /// slot.
    pub fn report_message(&self, findings: &str) -> Prompt {
        self.fill(&self.report, findings)
    }

    fn fill(&self, template: &str, findings: &str) -> Prompt {
        let mut message = Prompt::default();
        let mut rest = template;
        while let Some((at, slot)) = [IMAGE_SLOT, FINDINGS_SLOT]
            .into_iter()
            .filter_map(|slot| rest.find(slot).map(|at| (at, slot)))
            .min_by_key(|&(at, _)| at)
        {
            message.push_text(&rest[..at]);
            if slot == IMAGE_SLOT {
                message.push_segment(PromptSegment::Image {
                    tokens: self.image_tokens,
                });
            } else {
                message.push_text(findings);
            }
            rest = &rest[at + slot.len()..];
        }
        message.push_text(rest);
        message
    }

    /// A prompt as data sets have it, for a tokenizer of the same bundle.
    pub fn written(&self, prompt: &Prompt) -> String {
        prompt.written(self.image_rule)
    }

    /// The whole prompt of a report on one image, up to and including `ASSISTANT:`.
    pub fn report(&self, findings: &str) -> Prompt {
        self.conversation(&[self.report_message(findings), Prompt::default()])
    }

    /// Assembles a conversation of alternating messages, the user's first. An empty message leaves its turn open: a
    /// prompt to be answered ends with one.
    pub fn conversation(&self, messages: &[Prompt]) -> Prompt {
        self.assemble(self.opening(), messages)
    }

    /// The text that every conversation starts with.
    fn opening(&self) -> Prompt {
        Prompt::text(&format!("{} ", self.system))
    }

    /// Adds messages to a prompt, the user's first.
    fn assemble<'a>(
        &self,
        mut prompt: Prompt,
        messages: impl IntoIterator<Item = &'a Prompt>,
    ) -> Prompt {
        for (index, message) in messages.into_iter().enumerate() {
            let role = &self.roles[index % 2];
            if message.is_empty() {
                prompt.push_text(&format!("{role}:"));
                continue;
            }
            prompt.push_text(&format!("{role}: "));
            prompt.push(message);
            if index % 2 == 0 {
                prompt.push_text(" ");
            } else {
                prompt.push_segment(PromptSegment::End);
            }
        }
        prompt
    }

    /// The report in an answer to [`Prompts::report`]: all of it, or what comes before the model starts another
    /// assistant's turn.
    pub fn report_text<'a>(&self, answer: &'a str) -> &'a str {
        let report = answer
            .split(&format!("{}:", self.roles[1]))
            .next()
            .unwrap_or(answer);
        self.answer_text(report)
    }

    /// The answer in what was written to a follow-up question: what stands behind the assistant's last name, without white space
    /// around it.
    pub fn last_answer<'a>(&self, written: &'a str) -> &'a str {
        let name = format!("{}:", self.roles[1]);
        written.rsplit(&name).next().unwrap_or(written).trim()
    }

    /// An answer as it is shown and stored.
    pub fn answer_text<'a>(&self, answer: &'a str) -> &'a str {
        match self.trim_answers {
            true => answer.trim(),
            false => answer,
        }
    }

    /// The answer of a model that is not for conversations without an image.
    pub const WITHOUT_IMAGE: &str = "There is no X-ray in this conversation, and this model can only speak of one. Send a PNG or JPEG image with the question.";

    /// The tasks that these prompts have beside those that every bundle's have.
    pub fn optional_tasks(&self) -> Vec<OptionalTask> {
        let tasks = [
            (OptionalTask::View, self.view.is_some()),
            (OptionalTask::Impression, self.impression.is_some()),
        ];
        let there = tasks.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(task, _)| task).collect()
    }

    /// The question for the view: with the image where it begins a conversation, as plain text later. None where the model was
    /// not trained for it.
    fn view_message(&self, begins: bool) -> Option<Prompt> {
        let view = self.view.as_deref()?;
        Some(match begins {
            true => self.fill(view, ""),
            false => Prompt::text(view.replace(IMAGE_SLOT, "").trim()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_prompt_is_the_published_string() {
        let prompt = Prompts::default().report("cardiomegaly, edema").to_string();
        let image = "<IMG>".repeat(32);
        assert_eq!(
            prompt,
            format!(
                "A chat between a curious user and an artificial intelligence assistant acting as an experienced \
                 radiologist. The assistant gives professional, detailed, and polite answers to the user's questions. \
                 USER: Image information: {image}. Predicted Findings: cardiomegaly, edema. You are to act as a \
                 radiologist and write the finding section of a chest x-ray radiology report for this X-ray image and \
                 the given predicted findings. Write in the style of a radiologist, write one fluent text without \
                 enumeration, be concise and don't provide explanations or reasons. ASSISTANT:"
            )
        );
    }

    #[test]
    fn an_answered_turn_ends_with_the_end_token_and_no_blank() {
        let prompts = Prompts {
            system: "S.".into(),
            ..Prompts::default()
        };
        let messages = [
            Prompt::text("a"),
            Prompt::text("b"),
            Prompt::text("c"),
            Prompt::default(),
        ];
        assert_eq!(
            prompts.conversation(&messages).to_string(),
            "S. USER: a ASSISTANT: b</s>USER: c ASSISTANT:"
        );
    }

    #[test]
    fn findings_are_replaced_at_their_slot_only_and_never_expanded() {
        let prompts = Prompts {
            report: "{findings} at {image}{unknown}".into(),
            ..Prompts::default()
        };
        let message = prompts.report_message("{image}<IMG></s>");
        let text = |text: &str| PromptSegment::Text(text.into());
        assert_eq!(
            message.segments(),
            [
                text("{image}<IMG></s> at "),
                PromptSegment::Image { tokens: 32 },
                text("{unknown}")
            ]
        );
    }

    #[test]
    fn a_report_ends_where_another_turn_begins() {
        let prompts = Prompts::default();
        assert_eq!(prompts.report_text(" Clear lungs. "), " Clear lungs. ");
        assert_eq!(prompts.report_text("Clear.ASSISTANT: more"), "Clear.");
    }
}
