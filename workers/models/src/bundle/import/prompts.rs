//! The published prompt file: the request for a report under a key, with the image's placeholders written out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::error::ImportError;
use crate::prompt::Prompts;

/// The prompt that reports are asked for with.
const KEY: &str = "img_matching_examples_ig2_noexamples_IMG_findings";

/// How an image is written in a prompt: v1's placeholders, repeated, or v2's marker.
const IMAGES: [&str; 2] = ["<IMG>", "<image>"];

/// Prompts with the request for a report of a prompt file.
pub(super) fn read(path: &Path, prompts: Prompts) -> Result<Prompts, ImportError> {
    let fault = |reason: String| ImportError::unusable(path)(reason);
    let text = fs::read(path).map_err(ImportError::unusable(path))?;
    let file: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(ImportError::unusable(path))?;
    let report = file.get(KEY).and_then(serde_json::Value::as_str);
    let report = report.ok_or_else(|| fault(format!("it has no text under '{KEY}'")))?;
    let mut report = report.to_owned();
    for image in IMAGES {
        if let Some(at) = report.find(image) {
            let rest = &report[at..];
            let run = rest.len() - rest.trim_start_matches(image).len();
            let count = run / image.len();
            if image == IMAGES[0] && count != prompts.image_tokens {
                let reason = format!(
                    "its prompt has {count} placeholders and an image has {} tokens: it is of another model",
                    prompts.image_tokens
                );
                return Err(fault(reason));
            }
            report.replace_range(at..at + run, "{image}");
        }
    }
    for slot in ["{image}", "{findings}"] {
        if report.matches(slot).count() != 1 {
            return Err(fault(format!(
                "its prompt has not one place for {slot}: '{report}'"
            )));
        }
    }
    Ok(Prompts { report, ..prompts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_the_image_and_a_prompt_of_another_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vicuna_prompts.json");
        let read_with = |prompt: &str| {
            let file = serde_json::json!({ KEY: prompt });
            fs::write(&path, file.to_string()).unwrap();
            read(&path, Prompts::default())
        };
        let published = Prompts::default();
        let written = published.report.replace("{image}", &"<IMG>".repeat(32));
        assert_eq!(read_with(&written).unwrap(), published);
        let fault = |prompt: &str| read_with(prompt).unwrap_err().to_string();
        assert!(fault("<IMG><IMG> {findings}").contains("2 placeholders"));
        assert!(fault(&written.replace("{findings}", "")).contains("{findings}"));
        assert!(fault("Write a report.").contains("{image}"));
    }
}
