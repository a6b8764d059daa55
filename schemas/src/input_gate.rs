//! What an image looks like: whether it is what the models have learned from, a frontal chest X-ray.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of picture that the input gate tells apart.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A frontal chest X-ray, upright, bones bright.
    Frontal,
    /// A lateral chest X-ray.
    Lateral,
    /// A frontal chest X-ray that lies on its side or stands on its head.
    Turned,
    /// A frontal chest X-ray whose bones are dark.
    Inverted,
    /// No chest X-ray.
    Other,
}

impl ImageKind {
    /// All kinds, in the order of the gate's outputs.
    pub const ALL: [ImageKind; 5] = [
        ImageKind::Frontal,
        ImageKind::Lateral,
        ImageKind::Turned,
        ImageKind::Inverted,
        ImageKind::Other,
    ];

    /// The one word for the kind, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ImageKind::Frontal => "frontal",
            ImageKind::Lateral => "lateral",
            ImageKind::Turned => "turned",
            ImageKind::Inverted => "inverted",
            ImageKind::Other => "other",
        }
    }

    /// What people are told that an image of the kind looks like.
    fn words(self) -> &'static str {
        match self {
            ImageKind::Frontal => "it may be one",
            ImageKind::Lateral => "it looks like a lateral one",
            ImageKind::Turned => "it looks turned: on its side or upside down",
            ImageKind::Inverted => "it looks inverted: black and white are exchanged",
            ImageKind::Other => "it looks like no chest X-ray at all",
        }
    }
}

/// The input gate's verdict on an image. It is no part of what the models read: findings and report are those of any image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateVerdict {
    /// Whether the image counts as an upright frontal chest X-ray. Where it does not, the first of the warnings says so.
    pub passed: bool,
    /// The kind that it looks most like; of an image that did not pass, among the others.
    pub looks_like: ImageKind,
    /// The share of the gate's confidence in a frontal chest X-ray, 0 to 1. It is no probability in any population.
    pub frontal: f32,
}

impl GateVerdict {
    /// What people are told of an image that did not pass.
    pub fn warning(&self) -> Option<String> {
        (!self.passed).then(|| {
            let words = self.looks_like.words();
            format!(
                "this does not look like a frontal chest X-ray ({words}): findings and report may mean nothing"
            )
        })
    }

    /// Whether it looks like no chest X-ray at all: what is said of such a picture, people see only when they ask for it.
    pub fn is_no_xray(&self) -> bool {
        !self.passed && self.looks_like == ImageKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_that_did_not_pass_has_a_warning_and_kinds_are_named_as_in_json() {
        let verdict = |passed| GateVerdict {
            passed,
            looks_like: ImageKind::Lateral,
            frontal: 0.25,
        };
        assert_eq!(verdict(true).warning(), None);
        assert_eq!(
            verdict(false).warning().as_deref(),
            Some(
                "this does not look like a frontal chest X-ray (it looks like a lateral one): findings and report may mean nothing"
            )
        );
        let other = |passed| GateVerdict {
            looks_like: ImageKind::Other,
            ..verdict(passed)
        };
        assert!(other(false).is_no_xray());
        assert!(!other(true).is_no_xray() && !verdict(false).is_no_xray());
        for (place, kind) in ImageKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert_eq!(serde_json::to_value(kind).ok(), Some(kind.name().into()));
        }
    }
}
