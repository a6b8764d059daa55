//! What tells a client that something of its request has no part in the answer, or that its image is none that the models read:
//! the header `radialog-warning`, and beside the answer of a batch's line the same text. Of its image a stream's header says
//! nothing, since it is sent before anybody has looked at that.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::{FindingsReport, GateVerdict};

/// The header that tells it.
pub(in crate::gateway) const HEADER: HeaderName = HeaderName::from_static("radialog-warning");
/// Messages that are named.
const MOST_NAMED: usize = 10;

/// What of a request is not used, and what is wrong with its image.
#[derive(Default)]
pub(super) struct Unused {
    /// The tools that were offered.
    pub(super) tools: usize,
    /// The field that has the messages.
    pub(super) list: &'static str,
    /// The places there of messages whose words are not used.
    pub(super) places: Vec<usize>,
    /// Those of messages whose `name` is not used.
    pub(super) named: Vec<usize>,
    /// Those of messages whose list of attached files is not used.
    pub(super) files: Vec<usize>,
    /// What people are told of an image that does not look like a frontal chest X-ray.
    pub(super) of_image: Option<String>,
}

/// What people are told of an image with these findings, where it does not look like a frontal chest X-ray.
pub(super) fn of_image(findings: &FindingsReport) -> Option<String> {
    findings.input_gate.as_ref().and_then(GateVerdict::warning)
}

/// The same of a conversation's image, where that is prepared.
pub(super) fn of_conversation(snapshot: &ConversationSnapshot) -> Option<String> {
    match &snapshot.prepared {
        Some(Ok(findings)) => of_image(findings),
        _ => None,
    }
}

impl Unused {
    /// The words that tell it; none where all is used, and the image is as it should be.
    pub(super) fn warning(&self) -> Option<String> {
        let tools = (self.tools > 0).then(|| "not used: tools; the model calls none".to_owned());
        let unused = tools.into_iter().chain(self.words());
        let unused = unused.chain(self.names()).chain(self.file_lists());
        let parts: Vec<String> = self.of_image.clone().into_iter().chain(unused).collect();
        (!parts.is_empty()).then(|| parts.join(". "))
    }

    /// Tells it with an answer.
    pub(super) fn tell(&self, answer: &mut Response) {
        let warning = self.warning();
        if let Some(warning) = warning.and_then(|text| HeaderValue::try_from(text).ok()) {
            answer.headers_mut().insert(HEADER, warning);
        }
    }

    fn words(&self) -> Option<String> {
        let places = self.listed(&self.places, "")?;
        Some(format!(
            "not used: {places}; the model has one system text of its own, and dialogs that a user begins"
        ))
    }

    fn names(&self) -> Option<String> {
        let places = self.listed(&self.named, ".name")?;
        Some(format!("not used: {places}; the model knows two sides"))
    }

    fn file_lists(&self) -> Option<String> {
        let places = self.listed(&self.files, ".content")?;
        Some(format!(
            "not used: the attached files that are listed in {places}; the model reads the image alone"
        ))
    }

    /// A field of messages at these places; none where there is no place.
    fn listed(&self, places: &[usize], field: &str) -> Option<String> {
        let named = places.iter().take(MOST_NAMED);
        let named: Vec<String> = named
            .map(|place| format!("{}[{place}]{field}", self.list))
            .collect();
        let more = match places.len() > MOST_NAMED {
            true => " and others",
            false => "",
        };
        (!named.is_empty()).then(|| named.join(", ") + more)
    }
}
