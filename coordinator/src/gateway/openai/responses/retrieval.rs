//! Queries of responses: every field is done or refused with its name.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use radialog_schemas::http::ProblemCode;

use crate::gateway::app_state::AppState;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::query::{openai_pairs, parsed, unsupported};

/// How a response is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Retrieval {
    /// As events.
    pub(super) stream: bool,
    /// The sequence number of the last event that was read.
    pub(super) starting_after: Option<u64>,
}

impl FromRequestParts<AppState> for Retrieval {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        Self::read(openai_pairs(&parts.uri)?)
    }
}

impl Retrieval {
    fn read(pairs: Vec<(String, String)>) -> ApiResult<Self> {
        let mut retrieval = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "stream" => retrieval.stream = parsed(&name, &value, "true or false")?,
                "starting_after" => {
                    let what = "the sequence number of an event";
                    retrieval.starting_after = Some(parsed(&name, &value, what)?);
                }
                "include_obfuscation" if value == "false" => {}
                _ => return Err(unsupported(&name)),
            }
        }
        if retrieval.starting_after.is_some() && !retrieval.stream {
            let detail = "'starting_after' is only for 'stream=true'";
            let error = ApiError::new(ProblemCode::InvalidRequest, detail);
            return Err(error.at("starting_after"));
        }
        Ok(retrieval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &[(&str, &str)]) -> ApiResult<Retrieval> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Retrieval::read(query.iter().map(owned).collect())
    }

    #[test]
    fn a_stream_begins_at_its_beginning_or_after_an_event() {
        let resumed = read(&[("stream", "true"), ("starting_after", "7")]).unwrap();
        let expected = Retrieval {
            stream: true,
            starting_after: Some(7),
        };
        assert_eq!(resumed, expected);
        assert_eq!(read(&[]).unwrap(), Retrieval::default());
        for (query, param) in [
            (&[("starting_after", "7")][..], "starting_after"),
            (
                &[("stream", "true"), ("starting_after", "-1")],
                "starting_after",
            ),
            (&[("stream", "maybe")], "stream"),
            (&[("include[]", "reasoning.encrypted_content")], "include[]"),
            (&[("include_obfuscation", "true")], "include_obfuscation"),
        ] {
            assert_eq!(read(query).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
