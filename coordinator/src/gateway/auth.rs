//! Who asks. With keys configured it is the owner of the bearer token; without, everybody on this machine is `local`, and
//! then the requests must come from this machine's own pages, or any web page could ask through its visitor's browser.

use std::sync::Arc;

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;
use subtle::ConstantTimeEq;

use super::config::{ApiKey, GatewayConfig};
use super::problem::{ApiError, ApiResult};
use super::quota::CallerQuota;

/// Owner of conversations where there are no keys.
const LOCAL: &str = "local";

/// Finds out who sends a request.
pub(super) struct Authenticator {
    keys: Vec<(ApiKey, Caller)>,
    local: Caller,
    origins: Vec<String>,
}

/// The sender of a request, and what is left of the sender's quota.
#[derive(Clone)]
pub(super) struct Caller {
    /// Conversations belong to this name.
    pub(super) owner: Arc<str>,
    pub(super) quota: Arc<CallerQuota>,
}

impl Authenticator {
    pub(super) fn new(config: &GatewayConfig) -> Self {
        let caller = |name: &str, quota| Caller {
            owner: name.into(),
            quota: Arc::new(quota),
        };
        let known = |key: &ApiKey| (key.clone(), caller(&key.name, CallerQuota::of(config)));
        Self {
            keys: config.keys.iter().map(known).collect(),
            local: caller(LOCAL, CallerQuota::none()),
            origins: config.origins.clone(),
        }
    }

    pub(super) fn caller(&self, headers: &HeaderMap) -> ApiResult<Caller> {
        if self.keys.is_empty() {
            return self.is_local(headers).then(|| self.local.clone()).ok_or_else(|| {
                ApiError::new(
                    ProblemCode::ForbiddenOrigin,
                    "without API keys the gateway answers only its own page and programs on this machine; \
                     open it as http://127.0.0.1 or http://localhost, or set gateway.origins",
                )
            });
        }
        let missing = || {
            ApiError::new(
                ProblemCode::Unauthorized,
                "send your key as `Authorization: Bearer KEY`; the operator has it",
            )
        };
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(missing)?;
        let (scheme, key) = value.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        let digest = ContentHash::of(key.trim().as_bytes());
        // All keys are compared whole, so that the time tells nothing about any of them.
        let mut found = None;
        for (known, caller) in &self.keys {
            if bool::from(
                known
                    .sha256
                    .as_str()
                    .as_bytes()
                    .ct_eq(digest.as_str().as_bytes()),
            ) {
                found = Some(caller.clone());
            }
        }
        found.ok_or_else(|| {
            ApiError::new(
                ProblemCode::Unauthorized,
                "this API key is not known; ask the operator for one",
            )
        })
    }

    /// The address that was asked is this machine's own name, and the page that asks, if one does, is ours or listed.
    /// The first stops pages that point their own name at 127.0.0.1, the second all others.
    fn is_local(&self, headers: &HeaderMap) -> bool {
        let text = |name| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap_or_default())
        };
        let Some(host) = text(header::HOST).and_then(|host| host.parse::<Authority>().ok()) else {
            return false;
        };
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let own = name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        own && text(header::ORIGIN).is_none_or(|origin| {
            let from = origin
                .parse::<Uri>()
                .ok()
                .and_then(|uri| uri.authority().cloned());
            from.is_some_and(|from| from == host)
                || self.origins.iter().any(|listed| listed == origin)
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn code(authenticator: &Authenticator, pairs: &[(&str, &str)]) -> Option<ProblemCode> {
        authenticator
            .caller(&headers(pairs))
            .err()
            .map(|error| error.problem.code)
    }

    #[test]
    fn a_key_is_its_owner_and_anything_else_is_nobody() {
        let key = ApiKey {
            name: "ward".into(),
            sha256: ContentHash::of(b"rd-secret"),
        };
        let authenticator = Authenticator::new(&GatewayConfig {
            keys: vec![key],
            ..GatewayConfig::default()
        });
        let owner = authenticator
            .caller(&headers(&[("authorization", "Bearer rd-secret")]))
            .unwrap()
            .owner;
        assert_eq!(&*owner, "ward");
        assert_eq!(
            code(&authenticator, &[("authorization", "bearer rd-secret")]),
            None,
            "the scheme's case is free"
        );
        for wrong in ["Bearer rd-secre", "Bearer ", "Basic rd-secret", "rd-secret"] {
            assert_eq!(
                code(&authenticator, &[("authorization", wrong)]),
                Some(ProblemCode::Unauthorized),
                "{wrong}"
            );
        }
        assert_eq!(code(&authenticator, &[]), Some(ProblemCode::Unauthorized));
    }

    #[test]
    fn without_keys_only_this_machine_and_its_own_pages_may_ask() {
        let config = GatewayConfig {
            origins: vec!["https://viewer.example".into()],
            ..GatewayConfig::default()
        };
        let authenticator = Authenticator::new(&config);
        for good in [
            &[("host", "127.0.0.1:7860")][..],
            &[("host", "localhost:7860")],
            &[("host", "[::1]:7860")],
            &[
                ("host", "localhost:7860"),
                ("origin", "http://localhost:7860"),
            ],
            &[
                ("host", "localhost:7860"),
                ("origin", "https://viewer.example"),
            ],
        ] {
            assert_eq!(code(&authenticator, good), None, "{good:?}");
        }
        for bad in [
            &[][..],
            &[("host", "evil.example")],
            &[("host", "127.0.0.1.evil.example")],
            &[
                ("host", "localhost:7860"),
                ("origin", "https://evil.example"),
            ],
            &[
                ("host", "localhost:7860"),
                ("origin", "http://localhost:1234"),
            ],
            &[("host", "localhost:7860"), ("origin", "null")],
        ] {
            assert_eq!(
                code(&authenticator, bad),
                Some(ProblemCode::ForbiddenOrigin),
                "{bad:?}"
            );
        }
    }
}
