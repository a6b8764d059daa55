//! Dialogs of evaluations, as the original's test program writes them: the answers before stand as they were generated, whatever
//! is in them.

use radialog_schemas::{AnsweredAsk, DialogPrompt};

use super::{Prompt, PromptSegment, Prompts};

impl Prompts {
    /// The prompt of a dialog, up to and including `ASSISTANT:`. None where a question asks nothing that the model was trained for.
    pub fn dialog(&self, dialog: &DialogPrompt) -> Option<Prompt> {
        let [user, assistant] = &self.roles;
        let blanks = " ".repeat(dialog.answer_blanks as usize);
        let mut findings = Some(dialog.findings.as_str());
        let mut prompt = self.opening();
        for AnsweredAsk { ask, answer } in &dialog.history {
            prompt.push_text(&format!("{user}: "));
            prompt.push(&self.message(ask, findings.take())?);
            // An empty answer ends its turn, too.
            prompt.push_text(&format!(" {assistant}:{blanks}{answer}"));
            prompt.push_segment(PromptSegment::End);
        }
        prompt.push_text(&format!("{user}: "));
        prompt.push(&self.message(&dialog.ask, findings.take())?);
        prompt.push_text(&format!(" {assistant}:"));
        Some(prompt)
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{Ask, ContentHash, Finding, ObjectKey};

    use super::*;

    fn dialog(answer: &str, ask: Ask, blanks: u32) -> DialogPrompt {
        DialogPrompt {
            embedding: ObjectKey::image(&ContentHash::of(b"x")),
            findings: "edema".into(),
            history: vec![AnsweredAsk {
                ask: Ask::Report,
                answer: answer.into(),
            }],
            ask,
            answer_blanks: blanks,
        }
    }

    #[test]
    fn a_dialog_is_the_written_history_with_the_question_behind_it() {
        let prompts = Prompts::default();
        let finding = Finding::Edema;
        for (answer, blanks) in [("Clear lungs. ", 1), (" Edema.", 14), ("", 1)] {
            let history = prompts.report("edema").to_string() + answer;
            let question = prompts.questions.presence(finding);
            let dialog = dialog(answer, Ask::Presence { finding }, blanks);
            assert_eq!(
                prompts.dialog(&dialog).unwrap().to_string(),
                prompts.follow_up(&history, &question, blanks as usize)
            );
        }
    }

    #[test]
    fn the_view_is_asked_first_and_only_of_models_that_were_trained_for_it() {
        let view = DialogPrompt {
            history: Vec::new(),
            ..dialog("", Ask::View, 1)
        };
        assert_eq!(Prompts::default().dialog(&view), None);
        let prompts = Prompts::v2();
        let written = prompts.written(&prompts.dialog(&view).unwrap());
        assert!(
            written.ends_with("USER: <image> From what view was this image taken? ASSISTANT:"),
            "{written}"
        );
        assert_eq!(
            Prompts::default().dialog(&dialog("", Ask::Impression, 1)),
            None
        );
    }
}
