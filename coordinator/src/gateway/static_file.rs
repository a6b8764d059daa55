//! A file that comes with the program and changes only with it.

use std::io::Write;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use radialog_schemas::ContentHash;

/// A file with its `ETag`, and once more in fewer bytes.
pub(super) struct StaticFile {
    media_type: HeaderValue,
    content: Bytes,
    /// In the format of gzip, which every browser reads.
    packed: Bytes,
    tag: HeaderValue,
    packed_tag: HeaderValue,
}

impl StaticFile {
    pub(super) fn new(media_type: &'static str, content: Bytes) -> Self {
        let hash = ContentHash::of(&content).short().to_owned();
        let tag = |text: String| {
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
        };
        Self {
            media_type: HeaderValue::from_static(media_type),
            packed: packed(&content),
            content,
            tag: tag(format!("\"{hash}\"")),
            // One tag names one sequence of bytes.
            packed_tag: tag(format!("\"{hash}-gzip\"")),
        }
    }

    /// Answers with the file, or that the browser has it. Browsers ask each time, so that an update shows at once.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let is_packed = takes_gzip(headers) && self.packed.len() < self.content.len();
        let tag = if is_packed {
            &self.packed_tag
        } else {
            &self.tag
        };
        let cache = [
            (header::ETAG, tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if headers.get(header::IF_NONE_MATCH) == Some(tag) {
            return (StatusCode::NOT_MODIFIED, cache).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.media_type.clone())];
        if !is_packed {
            return (cache, kind, self.content.clone()).into_response();
        }
        let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        (cache, kind, encoding, self.packed.clone()).into_response()
    }
}

fn packed(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let packed = encoder.write_all(content).and_then(|()| encoder.finish());
    packed.map_or_else(|_| Bytes::copy_from_slice(content), Bytes::from)
}

/// Whether the client says that it reads gzip, and not that it does not (`gzip;q=0`).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let mut codings = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        matches!(name.trim(), "gzip" | "x-gzip" | "*") && weight.parse::<f32>() != Ok(0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::body::to_bytes;
    use flate2::read::GzDecoder;

    use super::*;

    async fn answer(
        file: &StaticFile,
        accepted: &'static str,
        tag: &str,
    ) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
        headers.insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        let (parts, body) = file.answer(&headers).into_parts();
        let content = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, content.to_vec())
    }

    #[tokio::test]
    async fn a_file_comes_in_fewer_bytes_where_that_is_read_and_each_form_has_its_own_tag() {
        let text = "every word is the same ".repeat(100);
        let file = StaticFile::new("text/plain", Bytes::from(text.clone()));
        let (_, packed, content) = answer(&file, "gzip, deflate, br", "\"\"").await;
        assert_eq!(packed[header::CONTENT_ENCODING], "gzip");
        assert!(content.len() < text.len() / 4);
        let mut read = String::new();
        GzDecoder::new(&*content).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
        for accepted in ["identity", "br", "gzip;q=0, br"] {
            let (_, plain, content) = answer(&file, accepted, "\"\"").await;
            assert!(!plain.contains_key(header::CONTENT_ENCODING));
            assert_eq!(content, text.as_bytes(), "{accepted}");
            assert_ne!(plain[header::ETAG], packed[header::ETAG]);
        }
        let tag = packed[header::ETAG].to_str().unwrap();
        let (status, _, content) = answer(&file, "gzip", tag).await;
        assert_eq!(status, StatusCode::NOT_MODIFIED);
        assert!(content.is_empty());
    }
}
