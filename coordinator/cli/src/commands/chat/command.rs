//! What can be typed in a conversation: questions in any words, and `/commands` for what the model was trained on.

use radialog_schemas::{Ask, Finding, Region};

/// The commands, for `/help`.
pub(super) const HELP: &str = "\
  any words               ask them
  /report                 write the report again
  /correct +A -B, ...     rewrite the report with findings added (+) and removed (-), e.g. /correct +edema, -fracture
  /findings               list all findings of the report
  /is FINDING             is it there? e.g. /is pleural effusion
  /summary                a summary
  /plain                  the report in plain language
  /region REGION          heart, lungs, bones or mediastinum
  /why FINDING, ...       what speaks for these findings?
  /view                   the view that the image was taken from, if the model was trained for it
  /impression             the impression section of the report, if the model was trained for it
  /show                   findings and probabilities again; of what looks like no chest X-ray, its report, too
  /save FILE              write the conversation as JSON
  /help                   this list
  /quit                   end (also Ctrl-D); the conversation stays. Ctrl-C stops an answer";

/// A line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TypedLine {
    Ask(Ask),
    Show,
    Save(String),
    Help,
    Quit,
    Nothing,
}

/// Understands a line.
///
/// # Errors
/// What is wrong with it, and what is possible, in words.
pub(super) fn parse(line: &str) -> Result<TypedLine, String> {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return Ok(if line.is_empty() {
            TypedLine::Nothing
        } else {
            TypedLine::Ask(Ask::Question {
                text: line.to_owned(),
            })
        });
    };
    let (name, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim();
    Ok(match name {
        "report" => TypedLine::Ask(Ask::Report),
        "correct" => TypedLine::Ask(correction(rest)?),
        "findings" => TypedLine::Ask(Ask::AllFindings),
        "is" => TypedLine::Ask(Ask::Presence {
            finding: finding(rest)?,
        }),
        "summary" => TypedLine::Ask(Ask::Summary),
        "plain" => TypedLine::Ask(Ask::PlainLanguage),
        "region" => TypedLine::Ask(Ask::Region {
            region: region(rest)?,
        }),
        "why" => TypedLine::Ask(Ask::Reasons {
            findings: list(rest).map(finding).collect::<Result<_, _>>()?,
        }),
        "view" => TypedLine::Ask(Ask::View),
        "impression" => TypedLine::Ask(Ask::Impression),
        "show" => TypedLine::Show,
        "save" if !rest.is_empty() => TypedLine::Save(rest.to_owned()),
        "save" => return Err("/save needs the name of a file".to_owned()),
        "help" => TypedLine::Help,
        "quit" | "exit" => TypedLine::Quit,
        other => return Err(format!("there is no /{other}; /help lists the commands")),
    })
}

fn correction(text: &str) -> Result<Ask, String> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for item in list(text) {
        match item.split_at_checked(1) {
            Some(("+", name)) => add.push(finding(name)?),
            Some(("-", name)) => remove.push(finding(name)?),
            _ => {
                return Err(format!(
                    "'{item}' has neither + nor -, e.g. /correct +edema, -fracture"
                ));
            }
        }
    }
    if add.is_empty() && remove.is_empty() {
        return Err(
            "/correct needs findings to add or remove, e.g. /correct +edema, -fracture".to_owned(),
        );
    }
    Ok(Ask::Correction { add, remove })
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn finding(name: &str) -> Result<Finding, String> {
    let names = || Finding::ALL.map(Finding::name).join(", ");
    name.trim()
        .parse()
        .map_err(|error| format!("{error}: {}", names()))
}

fn region(name: &str) -> Result<Region, String> {
    serde_json::from_value(name.to_lowercase().into())
        .map_err(|_| format!("'{name}' is not a region: heart, lungs, bones or mediastinum"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_question_and_commands_are_tasks() {
        let ask = |line| match parse(line) {
            Ok(TypedLine::Ask(ask)) => ask,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            ask(" Is it bad? "),
            Ask::Question {
                text: "Is it bad?".into()
            }
        );
        assert_eq!(
            ask("/is pleural effusion"),
            Ask::Presence {
                finding: Finding::PleuralEffusion
            }
        );
        assert_eq!(
            ask("/region Lungs"),
            Ask::Region {
                region: Region::Lungs
            }
        );
        let (add, remove) = (
            vec![Finding::Edema],
            vec![Finding::Fracture, Finding::LungLesion],
        );
        assert_eq!(
            ask("/correct +edema, -fracture, - lung lesion"),
            Ask::Correction { add, remove }
        );
        assert_eq!(parse("  "), Ok(TypedLine::Nothing));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_possible() {
        let error = |line| parse(line).expect_err(line);
        assert!(error("/is broken").contains("Pleural Effusion"));
        assert!(error("/correct edema").contains("neither + nor -"));
        assert!(error("/correct").contains("needs findings"));
        assert!(error("/region leg").contains("mediastinum"));
        assert!(error("/nothing").contains("/help"));
        assert!(error("/why fever").contains("not one of the 14"));
    }
}
