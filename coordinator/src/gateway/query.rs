//! Queries of operations: every field is done or refused with its name.

use axum::extract::Query;
use axum::http::Uri;
use radialog_schemas::http::ProblemCode;

use super::problem::{ApiError, ApiResult};

/// What clients of OpenAI's API say of their own version, at any path; no answer depends on it.
const VERSIONS: [&str; 2] = ["api-version", "client_version"];

/// Reads the fields of a query in order.
pub(super) fn pairs(uri: &Uri) -> ApiResult<Vec<(String, String)>> {
    let read = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let read = read.map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error))?;
    Ok(read.0)
}

/// Reads the fields of a query of one of OpenAI's operations in order, other than what its clients send everywhere.
pub(super) fn openai_pairs(uri: &Uri) -> ApiResult<Vec<(String, String)>> {
    let mut pairs = pairs(uri)?;
    pairs.retain(|(name, _)| !VERSIONS.contains(&name.as_str()));
    Ok(pairs)
}

/// Refuses the query of an operation that has none, other than what `is_openais` clients send everywhere.
pub(super) fn refuse(uri: &Uri, is_openais: bool) -> ApiResult<()> {
    let read = if is_openais { openai_pairs } else { pairs };
    match read(uri)?.into_iter().next() {
        Some((name, _)) => {
            let detail = format!("'{name}' is not supported here: there is no query; leave it out");
            Err(ApiError::new(ProblemCode::InvalidRequest, detail).at(&name))
        }
        None => Ok(()),
    }
}

/// Parses a field's value.
pub(super) fn parsed<T: std::str::FromStr>(name: &str, value: &str, what: &str) -> ApiResult<T> {
    value.parse().map_err(|_| {
        let detail = format!("'{name}' is not {what}");
        ApiError::new(ProblemCode::InvalidRequest, detail).at(name)
    })
}

/// Says that a field is not known, or has a value that cannot be done.
pub(super) fn unsupported(name: &str) -> ApiError {
    let detail = format!("'{name}' is not supported here with this value; leave it out");
    ApiError::new(ProblemCode::InvalidRequest, detail).at(name)
}

/// Which page of a list is wanted: how many of it, in which order, behind which one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    after: Option<String>,
    /// From 1.
    pub(super) limit: usize,
    ascending: bool,
}

impl PageQuery {
    /// Reads the query. `other` takes what a list has besides, and says whether it knows it.
    pub(super) fn read(
        pairs: Vec<(String, String)>,
        default: usize,
        largest: usize,
        mut other: impl FnMut(&str, &str) -> bool,
    ) -> ApiResult<Self> {
        let mut query = Self {
            after: None,
            limit: default,
            ascending: false,
        };
        for (name, value) in pairs {
            match (name.as_str(), value.as_str()) {
                ("after", _) => query.after = Some(value),
                ("limit", _) => {
                    let what = format!("from 1 to {largest}");
                    query.limit = parsed(&name, &value, &what)?;
                    if !(1..=largest).contains(&query.limit) {
                        let detail = format!("'limit' is not {what}");
                        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at(&name));
                    }
                }
                ("order", "asc") => query.ascending = true,
                ("order", "desc") => query.ascending = false,
                (name, value) if other(name, value) => {}
                _ => return Err(unsupported(&name)),
            }
        }
        Ok(query)
    }

    /// What of `all`, the oldest first, comes from the page's beginning on; `id` is the name by which clients know one.
    pub(super) fn rest<T>(&self, mut all: Vec<T>, id: impl Fn(&T) -> String) -> ApiResult<Vec<T>> {
        if !self.ascending {
            all.reverse();
        }
        let Some(after) = &self.after else {
            return Ok(all);
        };
        let place = all.iter().position(|one| id(one) == *after);
        let place = place.ok_or_else(|| {
            let detail = "there is no such entry; 'last_id' of a page names its last one";
            ApiError::new(ProblemCode::InvalidRequest, detail).at("after")
        })?;
        Ok(all.split_off(place + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> ApiResult<PageQuery> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        PageQuery::read(fields.iter().map(owned).collect(), 2, 5, |_, _| false)
    }

    #[test]
    fn an_operation_without_a_query_refuses_one_but_for_a_version_of_openais_clients() {
        let refused = |uri: &'static str, is_openais| {
            let uri = Uri::from_static(uri);
            refuse(&uri, is_openais).err().and_then(|error| error.param)
        };
        for uri in ["/v1/models", "/v1/models?", "/v1/models?api-version=1"] {
            assert_eq!(refused(uri, true), None, "{uri}");
        }
        for is_openais in [true, false] {
            let limit = refused("/v1/models?limt=1", is_openais);
            assert_eq!(limit.as_deref(), Some("limt"));
        }
        let version = refused("/v1/conversations?api-version=1", false);
        assert_eq!(version.as_deref(), Some("api-version"));
    }

    #[test]
    fn a_page_begins_behind_an_entry_in_its_order() {
        let all = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let rest = |fields: &[(&str, &str)]| read(fields).unwrap().rest(all(), Clone::clone);
        assert_eq!(rest(&[]).unwrap(), ["c", "b", "a"]);
        assert_eq!(rest(&[("after", "b")]).unwrap(), ["a"]);
        assert_eq!(rest(&[("after", "b"), ("order", "asc")]).unwrap(), ["c"]);
        assert_eq!(
            rest(&[("after", "d")]).unwrap_err().param.as_deref(),
            Some("after")
        );
    }

    #[test]
    fn limits_and_unknown_fields_are_refused_by_name() {
        assert_eq!(read(&[]).unwrap().limit, 2);
        assert_eq!(read(&[("limit", "5")]).unwrap().limit, 5);
        for (field, value) in [
            ("limit", "0"),
            ("limit", "6"),
            ("limit", "x"),
            ("order", "up"),
            ("x", "y"),
        ] {
            assert_eq!(
                read(&[(field, value)]).unwrap_err().param.as_deref(),
                Some(field)
            );
        }
    }
}
