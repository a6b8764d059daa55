//! `If-Match` (RFC 9110, 13.1.1): who changes what people write says which version is replaced, and replaces that one or nothing, so
//! that nobody's words go unseen.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use radialog_runtime::conversations::Replaces;
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;

use super::app_state::AppState;
use super::problem::{ApiError, ApiResult};

/// The header, where it is given.
pub(super) struct IfMatch(Option<Versions>);

/// The versions that may be replaced.
#[derive(Debug, PartialEq)]
enum Versions {
    Any,
    /// Those with these tags, quotes included.
    Tagged(Vec<String>),
}

/// The tag of a text that may be there, as it stands in headers.
pub(super) fn tag(text: Option<&str>) -> String {
    let parts = [
        text.map_or(b"none".as_slice(), |_| b"text"),
        text.unwrap_or_default().as_bytes(),
    ];
    format!("\"{}\"", ContentHash::of_parts(parts).short())
}

impl FromRequestParts<AppState> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let mut lines = Vec::new();
        for line in parts.headers.get_all(header::IF_MATCH) {
            lines.push(line.to_str().map_err(|_| unreadable())?);
        }
        match lines.is_empty() {
            true => Ok(Self(None)),
            false => Ok(Self(Some(parse(&lines.join(","))?))),
        }
    }
}

impl IfMatch {
    /// What may be replaced of what is there; what is wanted may be there already. Without the header, anything.
    pub(super) fn replaces<'a>(
        &self,
        there: Option<&'a str>,
        wanted: Option<&str>,
    ) -> ApiResult<Replaces<'a>> {
        match &self.0 {
            Some(Versions::Tagged(tags)) if !tags.contains(&tag(there)) && there != wanted => {
                Err(self.refusal())
            }
            Some(Versions::Tagged(_)) => Ok(Replaces::Only(there)),
            Some(Versions::Any) | None => Ok(Replaces::Anything),
        }
    }

    /// As [`IfMatch::replaces`], but without the header only nothing, and what is wanted itself.
    pub(super) fn replaces_named<'a>(
        &self,
        there: Option<&'a str>,
        wanted: Option<&str>,
    ) -> ApiResult<Replaces<'a>> {
        match &self.0 {
            None if there.is_some() && there != wanted => Err(self.refusal()),
            None => Ok(Replaces::Only(there)),
            Some(_) => self.replaces(there, wanted),
        }
    }

    /// Says that another version is there.
    pub(super) fn refusal(&self) -> ApiError {
        match &self.0 {
            None => ApiError::new(
                ProblemCode::PreconditionRequired,
                "a person's version is there: send the tag of the one that you have seen ('edit_tag' of the turn) as If-Match, or \
                 If-Match: * to replace any",
            ),
            Some(_) => ApiError::new(
                ProblemCode::PreconditionFailed,
                "it was changed since you have seen it, and nothing is replaced; look at it again, and send its tag of now as If-Match",
            ),
        }
    }
}

/// Reads the header: `*`, or tags in quotes. A weak one is the tag of no version.
fn parse(text: &str) -> ApiResult<Versions> {
    let text = text.trim();
    if text == "*" {
        return Ok(Versions::Any);
    }
    let (mut tags, mut rest) = (Vec::new(), text);
    loop {
        let weak = rest.strip_prefix("W/");
        let quoted = weak.unwrap_or(rest).strip_prefix('"');
        let (tag, after) = quoted
            .and_then(|quoted| quoted.split_once('"'))
            .ok_or_else(unreadable)?;
        if weak.is_none() {
            tags.push(format!("\"{tag}\""));
        }
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(Versions::Tagged(tags));
        }
        rest = rest.strip_prefix(',').ok_or_else(unreadable)?.trim_start();
    }
}

fn unreadable() -> ApiError {
    let detail = "If-Match is * or tags in quotes, as 'edit_tag' and 'title_tag' have them";
    ApiError::new(ProblemCode::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_stars_are_read_and_nothing_else() {
        let tagged = |tags: &[&str]| Versions::Tagged(tags.iter().map(|&tag| tag.into()).collect());
        for (text, versions) in [
            (" * ", Versions::Any),
            (r#""a""#, tagged(&[r#""a""#])),
            (r#""a" ,"b,c""#, tagged(&[r#""a""#, r#""b,c""#])),
            (r#"W/"a", """#, tagged(&[r#""""#])),
        ] {
            assert_eq!(parse(text).unwrap(), versions, "{text}");
        }
        for text in ["", "a", r#""a"#, r#""a" "b""#, r#""a","#, r#"*, "a""#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_version_that_was_named_is_replaced() {
        let code = |replaced: ApiResult<Replaces<'_>>| replaced.unwrap_err().problem.code;
        let (mine, theirs) = (Some("mine"), Some("theirs"));
        let of = |text: Option<&str>| IfMatch(Some(Versions::Tagged(vec![tag(text)])));
        for there in [None, mine] {
            let replaced = of(there).replaces(there, theirs).unwrap();
            assert_eq!(replaced, Replaces::Only(there));
        }
        let failed = ProblemCode::PreconditionFailed;
        assert_eq!(code(of(None).replaces(theirs, mine)), failed);
        assert_eq!(code(of(mine).replaces(None, Some("x"))), failed);
        // An empty text is a version, and none is another.
        assert_ne!(tag(Some("")), tag(None));
        // Repeated, since its answer was lost.
        assert!(of(None).replaces(mine, mine).is_ok());
        let any = IfMatch(Some(Versions::Any));
        assert_eq!(any.replaces(theirs, mine).unwrap(), Replaces::Anything);
        let unnamed = IfMatch(None);
        assert_eq!(unnamed.replaces(theirs, mine).unwrap(), Replaces::Anything);
        let required = ProblemCode::PreconditionRequired;
        assert_eq!(code(unnamed.replaces_named(theirs, None)), required);
        let first = unnamed.replaces_named(None, mine).unwrap();
        assert_eq!(first, Replaces::Only(None));
    }
}
