//! How a sample of the language model is written before it becomes ids: as its system was trained.
//!
//! In RaDialog v2 a message with an image was rewritten on its way to the model: its text without the marker, stripped, behind
//! the marker and a line break. And its answers stand apart from their role by a blank, which v1's do not.

use radialog_models::prompt::{ImageRule, Prompt, Prompts};
use radialog_models::tokenizers::{IMAGE, MARKER};
use serde::Deserialize;

/// The prompts of a bundle, as training writes them.
#[derive(Clone, Debug)]
pub struct SampleForm {
    prompts: Prompts,
}

/// A message of a conversation as LLaVA's data sets have it, RaDialog-Instruct among them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConversationMessage {
    /// `human` or `gpt`.
    pub from: String,
    /// The text; `<image>` stands for the image.
    pub value: String,
}

/// A prompt and the answer that is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenSample {
    /// The prompt, up to and including `ASSISTANT:`.
    pub instruction: String,
    /// The answer, with the blank that stands before it.
    pub output: String,
}

impl SampleForm {
    /// The form of the samples of a bundle with these prompts.
    pub fn new(prompts: Prompts) -> Self {
        Self { prompts }
    }

    /// A sample that has its whole prompt.
    ///
    /// # Errors
    /// The prompt shows its image as another system does.
    pub fn of_prompt(&self, instruction: &str, output: &str) -> Result<WrittenSample, String> {
        let (foreign, ours) = match self.prompts.image_rule {
            ImageRule::Placeholders => (MARKER, IMAGE),
            ImageRule::Marker => (IMAGE, MARKER),
        };
        if instruction.contains(foreign) {
            return Err(format!(
                "it has {foreign} where the bundle that is trained has {ours}: prepare the data set with --system of this \
                 bundle"
            ));
        }
        Ok(WrittenSample {
            instruction: match self.prompts.image_rule {
                ImageRule::Placeholders => instruction.to_owned(),
                ImageRule::Marker => self.with_rewritten_message(instruction),
            },
            output: match self.prompts.trim_answers {
                true => format!(" {output}"),
                false => output.to_owned(),
            },
        })
    }

    /// A sample that is a conversation, the user's message first; its last answer is learned.
    ///
    /// # Errors
    /// Messages that do not take turns, or end in a question.
    pub fn of_conversation(
        &self,
        messages: &[ConversationMessage],
    ) -> Result<WrittenSample, String> {
        let takes_turns = messages
            .iter()
            .enumerate()
            .all(|(index, message)| message.from == ["human", "gpt"][index % 2]);
        let (Some((answer, asked)), true) = (
            messages.split_last(),
            takes_turns && messages.len().is_multiple_of(2),
        ) else {
            let reason = "its conversations must alternate between human and gpt, and end with gpt";
            return Err(reason.to_owned());
        };
        let open = [Prompt::default()];
        let texts: Vec<Prompt> = asked
            .iter()
            .map(|message| Prompt::text(&message.value))
            .chain(open)
            .collect();
        let instruction = self.prompts.conversation(&texts).to_string();
        self.of_prompt(&instruction, &answer.value)
    }

    /// The prompt with the message that has the marker rewritten. Only a conversation's first message has one.
    fn with_rewritten_message(&self, instruction: &str) -> String {
        let [user, assistant] = &self.prompts.roles;
        let (begin, end) = (format!("{user}: "), format!(" {assistant}:"));
        let Some((before, after)) = instruction.split_once(MARKER) else {
            return instruction.to_owned();
        };
        let start = before.rfind(&begin).map_or(0, |at| at + begin.len());
        let stop = after.find(&end).unwrap_or(after.len());
        let message = format!("{}{}", &before[start..], &after[..stop]);
        let (before, after) = (&before[..start], &after[stop..]);
        format!("{before}{MARKER}\n{}{after}", message.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2() -> SampleForm {
        SampleForm::new(Prompts {
            system: "S.".into(),
            ..Prompts::v2()
        })
    }

    #[test]
    fn a_message_with_an_image_is_rewritten_and_the_others_are_not() {
        let prompt = "S. USER: <image>. Findings: a.  ASSISTANT: b</s>USER:  c ASSISTANT:";
        let written = v2().of_prompt(prompt, "d").unwrap();
        let expected = "S. USER: <image>\n. Findings: a. ASSISTANT: b</s>USER:  c ASSISTANT:";
        assert_eq!(
            (written.instruction.as_str(), written.output.as_str()),
            (expected, " d")
        );
        let plain = SampleForm::new(Prompts::default()).of_prompt("S. USER: x ASSISTANT:", "d");
        assert_eq!(plain.unwrap().output, "d");
    }

    #[test]
    fn a_conversation_is_written_with_the_bundles_prompts() {
        let said = |from: &str, value: &str| ConversationMessage {
            from: from.into(),
            value: value.into(),
        };
        let messages = [said("human", "<image> Which view?"), said("gpt", "PA.")];
        let written = v2().of_conversation(&messages).unwrap();
        assert_eq!(
            written.instruction,
            "S. USER: <image>\nWhich view? ASSISTANT:"
        );
        assert_eq!(written.output, " PA.");
        assert!(v2().of_conversation(&messages[..1]).is_err());
        assert!(v2().of_conversation(&messages[1..]).is_err());
    }

    #[test]
    fn an_image_of_the_other_system_is_refused() {
        let fault = v2().of_prompt("USER: <IMG> ASSISTANT:", "").unwrap_err();
        assert!(fault.contains("--system"), "{fault}");
        let v1 = SampleForm::new(Prompts::default());
        assert!(v1.of_prompt("USER: <image> ASSISTANT:", "").is_err());
    }
}
