//! `[s3]`: where the object store is and who we are there.

use std::time::Duration;

use secrecy::SecretString;

use super::reader::ConfigReader;

/// Where AWS itself puts a bucket whose region nobody names.
const DEFAULT_REGION: &str = "us-east-1";

/// `[s3]`: an S3 bucket, or a folder of one, and how it is reached.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The server, e.g. `http://localhost:9000`; none is AWS itself.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// Put before every key, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key; without one requests are anonymous, which public buckets allow.
    pub credentials: Option<S3Credentials>,
    /// The bucket's name is a part of the path, as self-hosted stores want it, instead of the host's name.
    pub path_style: bool,
    /// The time that one attempt of a request may take.
    pub timeout: Duration,
    /// The number of times that a request is tried.
    pub attempts: u32,
    /// The address by which a command names a bucket of the same store, e.g. an archive; none where the bucket is `s3.url`'s.
    pub further: Option<String>,
}

/// A static access key.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// The public part of the key.
    pub access_key_id: String,
    /// The secret part of the key.
    pub secret_access_key: SecretString,
}

impl S3Config {
    pub(super) fn read(reader: &mut ConfigReader) -> Option<Self> {
        let url = reader.text("s3", "url");
        let endpoint = reader.text_or_foreign("s3", "endpoint", "AWS_ENDPOINT_URL");
        reader.note_default("s3", "region", DEFAULT_REGION);
        let region = reader
            .text_or_foreign("s3", "region", "AWS_REGION")
            .unwrap_or_else(|| DEFAULT_REGION.into());
        let access_key_id = reader.text_or_foreign("s3", "access_key_id", "AWS_ACCESS_KEY_ID");
        let secret_access_key =
            reader.text_or_foreign("s3", "secret_access_key", "AWS_SECRET_ACCESS_KEY");
        let path_style = reader.choice("s3", "path_style", ["true", "false"]);
        let timeout = reader.seconds("s3", "timeout", Duration::from_secs(30));
        let attempts = reader.parsed_or("s3", "attempts", 3);

        reader.note_default("s3", "path_style", endpoint.is_some());
        let url = url?;
        let parsed = parse_url(&url, endpoint);
        if parsed.is_none() {
            reader.fault(
                "s3",
                "url",
                "write s3://bucket/prefix, or http://host:9000/bucket/prefix",
            );
        }
        let (endpoint, bucket, prefix) = parsed.unwrap_or_default();
        reader.note_default("s3", "path_style", endpoint.is_some());
        let credentials = match (access_key_id, secret_access_key) {
            (Some(access_key_id), Some(secret)) => Some(S3Credentials {
                access_key_id,
                secret_access_key: secret.into(),
            }),
            (None, None) => None,
            _ => {
                reader.fault(
                    "s3",
                    "access_key_id",
                    "set both access_key_id and secret_access_key (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), or neither",
                );
                None
            }
        };
        let path_style = path_style.map_or(endpoint.is_some(), |word| word == "true");
        Some(Self {
            endpoint,
            bucket,
            prefix,
            region,
            credentials,
            path_style,
            timeout,
            attempts,
            further: None,
        })
    }
}

/// Splits endpoint, bucket and prefix of `s3://bucket/prefix` or `http://host:9000/bucket/prefix`.
fn parse_url(url: &str, endpoint: Option<String>) -> Option<(Option<String>, String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (endpoint, path) = match scheme {
        "s3" => (endpoint, rest),
        "http" | "https" => {
            let (host, path) = rest.split_once('/')?;
            (Some(format!("{scheme}://{host}")), path)
        }
        _ => return None,
    };
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let named = !bucket.is_empty()
        && endpoint.as_deref() != Some("http://")
        && endpoint.as_deref() != Some("https://");
    named.then(|| {
        (
            endpoint,
            bucket.to_owned(),
            prefix.trim_matches('/').to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_bucket_are_understood() {
        let local = Some("http://localhost:9000".to_owned());
        let expected = (local.clone(), "data".to_owned(), "a/b".to_owned());
        assert_eq!(
            parse_url("http://localhost:9000/data/a/b/", None),
            Some(expected.clone())
        );
        assert_eq!(parse_url("s3://data/a/b", local), Some(expected));
        assert_eq!(
            parse_url("s3://data", None),
            Some((None, "data".to_owned(), String::new()))
        );
        for wrong in [
            "data",
            "s3://",
            "http://localhost:9000",
            "http:///data",
            "ftp://x/y",
        ] {
            assert_eq!(parse_url(wrong, None), None, "{wrong}");
        }
    }
}
