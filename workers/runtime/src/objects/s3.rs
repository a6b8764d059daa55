//! Objects in an S3 bucket, on AWS or on any server that speaks its protocol.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use radialog_schemas::{ContentHash, ObjectKey};
use secrecy::ExposeSecret;

use super::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use crate::config::S3Config;
use crate::start::{StartError, until_started};
use refusals::Right;

mod parts;
mod refusals;

/// A server that does not answer within it is not there; requests that are under way have a timeout of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The protocol's own limit of one listing, in objects.
const MAX_KEYS: usize = 1000;
/// The name of the metadata that holds an output's SHA-256.
const HASH: &str = "sha256";
/// Where rights are tried. No object lies there.
const RIGHTS: &str = "radialog-rights";
/// The error codes by which servers say that a write does not fit.
const STORE_FULL_CODES: [&str; 5] = [
    "XMinioStorageFull",
    "InsufficientStorage",
    "InsufficientCapacity",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
];

/// An object store in a bucket, or in a folder of one.
pub struct S3Objects {
    client: Client,
    bucket: String,
    /// The prefix of all keys, empty or with a slash at its end.
    prefix: String,
}

impl S3Objects {
    /// Connects and sees to it that the bucket is there; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where the store did not answer in that time, refuses the key, or has no such bucket.
    pub async fn connect(config: &S3Config, start_timeout: Duration) -> Result<Self, ObjectError> {
        let prefix = if config.prefix.is_empty() {
            String::new()
        } else {
            format!("{}/", config.prefix)
        };
        let store = Self {
            client: client(config),
            bucket: config.bucket.clone(),
            prefix,
        };
        let failed = |reason: String| ObjectError::Store {
            key: format!("s3://{}", config.bucket),
            reason,
        };
        let place = config.endpoint.as_deref().unwrap_or("AWS");
        let address = config.further.as_ref();
        let address = address.map_or("--s3 (RADIALOG_S3_URL)".to_owned(), |url| {
            format!("'{url}'")
        });
        let head = || async {
            let head = store.client.head_bucket().bucket(&store.bucket).send();
            let Err(error) = head.await else {
                return Ok(());
            };
            Err(match status(&error) {
                Some(404) => StartError::Never(failed(format!(
                    "there is no bucket '{}'; create it, or check {address}",
                    config.bucket
                ))),
                Some(403) if config.credentials.is_none() => StartError::Never(failed(
                    "the store refuses requests without a key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                     (s3.access_key_id, s3.secret_access_key)"
                        .into(),
                )),
                Some(403) => StartError::Never(failed(
                    "the store refuses this key, or its right to list the bucket; check AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY (s3.access_key_id, s3.secret_access_key)"
                        .into(),
                )),
                _ => StartError::Later(failed(format!(
                    "{place}: {}; check --s3 (RADIALOG_S3_URL), and that the store runs",
                    description_of(&error)
                ))),
            })
        };
        let no_answer = || {
            let seconds = start_timeout.as_secs_f64();
            failed(format!(
                "{place}: no answer within {seconds} s; check --s3 (RADIALOG_S3_URL), and that the store runs"
            ))
        };
        until_started("opening the bucket", start_timeout, no_answer, head).await?;
        Ok(store)
    }

    /// Sees to it that objects may be read, written and deleted here, without leaving one: what is asked for does not exist,
    /// and what is written would replace a version that nothing has.
    ///
    /// # Errors
    /// Where the store refuses one of them. Any other answer is left to those who need the store.
    pub async fn require_rights(&self) -> Result<(), ObjectError> {
        let path = format!("{}{RIGHTS}", self.prefix);
        let get = self.client.get_object().bucket(&self.bucket).key(&path);
        let read = get
            .send()
            .await
            .err()
            .is_some_and(|error| is_refused(&error));
        let put = self.client.put_object().bucket(&self.bucket).key(&path);
        let put = put.if_match(super::NO_VERSION).send().await;
        let write = put.as_ref().err().is_some_and(is_refused);
        let delete = self.client.delete_object().bucket(&self.bucket).key(&path);
        let deleted = delete.send().await.err();
        let delete = deleted.is_some_and(|error| is_refused(&error));
        let refused = [(read, "read"), (write, "write"), (delete, "delete")];
        let refused: Vec<&str> = (refused.iter())
            .filter_map(|(is_refused, right)| is_refused.then_some(*right))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(ObjectError::Store {
            key: format!("s3://{}/{}", self.bucket, self.prefix),
            reason: format!(
                "this key may not {} objects there; give the key in AWS_ACCESS_KEY_ID (s3.access_key_id) the right to read, \
                 write, list and delete, or name another bucket with --s3 (RADIALOG_S3_URL)",
                refused.join(", ")
            ),
        })
    }

    fn path(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What an answer means; whether one that refuses does so for this object alone is for [`S3Objects::unless_refused`].
    fn error<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        key: &ObjectKey,
        error: &SdkError<E>,
    ) -> ObjectError {
        match error.code() {
            Some("NoSuchKey" | "NotFound") => ObjectError::NotFound(key.clone()),
            Some(code) if STORE_FULL_CODES.contains(&code) => {
                ObjectError::Full(format!("s3://{}/{}", self.bucket, self.path(key)))
            }
            // The answer to HEAD has no code.
            _ if is_refused(error) => ObjectError::Refused {
                key: self.path(key),
                reason: description_of(error),
            },
            _ => ObjectError::Store {
                key: self.path(key),
                reason: description_of(error),
            },
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        content: Bytes,
        hash: Option<ContentHash>,
    ) -> Result<(), ObjectError> {
        let metadata =
            hash.map(|hash| HashMap::from([(HASH.to_owned(), hash.as_str().to_owned())]));
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.path(key))
            .set_metadata(metadata)
            .body(ByteStream::from(content))
            .send()
            .await;
        put.map(drop).map_err(|error| self.error(key, &error))
    }

    /// Reads the object, and the hash in its metadata.
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<String>,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.path(key))
            .set_range(range);
        let answer = match request.send().await {
            Ok(answer) => answer,
            // A range that begins past the end.
            Err(error) if error.code() == Some("InvalidRange") => return Ok((Bytes::new(), None)),
            Err(error) => return Err(self.error(key, &error)),
        };
        let hash = answer
            .metadata()
            .and_then(|metadata| metadata.get(HASH))
            .and_then(|hash| ContentHash::from_hex(hash));
        let content = answer.body.collect().await;
        content
            .map(|content| (content.into_bytes(), hash))
            .map_err(|error| self.broken_off(key, error))
    }

    fn broken_off(&self, key: &ObjectKey, error: impl std::fmt::Display) -> ObjectError {
        ObjectError::Store {
            key: self.path(key),
            reason: format!("the content broke off: {error}"),
        }
    }

    fn version_of(&self, key: &ObjectKey, tag: Option<&str>) -> Result<Version, ObjectError> {
        let tag = tag.ok_or_else(|| ObjectError::Store {
            key: self.path(key),
            reason: "the store names no ETag, by which writers are kept apart".into(),
        });
        tag.map(|tag| Version(tag.to_owned()))
    }
}

#[async_trait]
impl Objects for S3Objects {
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.unless_refused(key, Right::Write, || self.write(key, content.clone(), None))
            .await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<(), ObjectError> {
        let write = || self.write_file(key, file, Condition::None);
        self.unless_refused(key, Right::Write, write)
            .await
            .map(drop)
    }

    async fn version(&self, key: &ObjectKey) -> Result<Option<Version>, ObjectError> {
        let looked_up = self.unless_refused(key, Right::Read, || async {
            let head = self.client.head_object().bucket(&self.bucket);
            match head.key(self.path(key)).send().await {
                Ok(head) => self.version_of(key, head.e_tag()).map(Some),
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(self.error(key, &error)),
            }
        });
        looked_up.await
    }

    async fn put_file_if(
        &self,
        key: &ObjectKey,
        file: &Path,
        expected: Option<&Version>,
    ) -> Result<bool, ObjectError> {
        let write = || self.write_file(key, file, Condition::of(expected));
        self.unless_refused(key, Right::Write, write).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError> {
        let written = self.unless_refused(key, Right::Write, || async {
            let request = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(self.path(key))
                .body(ByteStream::from(content.clone()));
            let (matches, none_matches) = Condition::of(expected).headers();
            let request = request
                .set_if_match(matches)
                .set_if_none_match(none_matches);
            match request.send().await {
                Ok(answer) => self.version_of(key, answer.e_tag()).map(Some),
                Err(error) if is_unmet(&error) => Ok(None),
                Err(error) if is_not_known(&error) => Err(ObjectError::NoConditions {
                    key: self.path(key),
                    reason: description_of(&error),
                }),
                Err(error) => Err(self.error(key, &error)),
            }
        });
        written.await
    }

    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError> {
        let asked = self.unless_refused(key, Right::Read, || async {
            let request = self.client.get_object().bucket(&self.bucket);
            let answer = request.key(self.path(key)).send().await;
            answer.map_err(|error| self.error(key, &error))
        });
        let answer = asked.await?;
        let version = self.version_of(key, answer.e_tag())?;
        let content = answer.body.collect().await;
        let content = content.map_err(|error| self.broken_off(key, error))?;
        Ok((content.into_bytes(), version))
    }

    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        let hashing = {
            let content = content.clone();
            tokio::task::spawn_blocking(move || ContentHash::of(&content))
        };
        let hash = hashing.await.map_err(|error| ObjectError::Store {
            key: self.path(key),
            reason: format!("its hash was not computed: {error}"),
        })?;
        let write = || self.write(key, content.clone(), Some(hash.clone()));
        self.unless_refused(key, Right::Write, write).await
    }

    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        self.unless_refused(key, Right::Read, || self.read(key, None))
            .await
    }

    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        self.get_output(key).await.map(|(content, _)| content)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, ObjectError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let read = || {
            let range = format!("bytes={}-{}", range.start, range.end - 1);
            self.read(key, Some(range))
        };
        let read = self.unless_refused(key, Right::Read, read).await;
        read.map(|(content, _)| content)
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError> {
        let looked_up = self.unless_refused(key, Right::Read, || async {
            let head = self.client.head_object().bucket(&self.bucket);
            match head.key(self.path(key)).send().await {
                Ok(head) => Ok(Some(
                    head.content_length()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                )),
                // The answer to HEAD has no body, and so no code.
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(self.error(key, &error)),
            }
        });
        looked_up.await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        match self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.path(key))
            .send()
            .await
        {
            Err(error) => match self.error(key, &error) {
                ObjectError::NotFound(_) => Ok(()),
                ObjectError::Refused { key, reason } => Err(refusals::of_all(key, &reason)),
                other => Err(other),
            },
            Ok(_) => Ok(()),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError> {
        let broken = |reason: String| ObjectError::Listing {
            prefix: format!("{}{prefix}", self.prefix),
            reason,
        };
        let mut page = ObjectPage::default();
        let mut room = limit.max(1);
        let mut last = after.map(|cursor| cursor.name().to_owned());
        let mut token: Option<String> = None;
        loop {
            // The token goes on where the server stopped, even where it sent no name that could say so.
            let start = match &token {
                None => last.as_ref().map(|last| format!("{}{last}", self.prefix)),
                Some(_) => None,
            };
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_start_after(start)
                .set_continuation_token(token.clone())
                .encoding_type(EncodingType::Url)
                .max_keys(i32::try_from(room.min(MAX_KEYS)).unwrap_or(i32::MAX))
                .send()
                .await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let key = format!("s3://{}/{}{prefix}", self.bucket, self.prefix);
                    let (is_refused, reason) = (is_refused(&error), description_of(&error));
                    return Err(match is_refused {
                        true => self.refused_listing(key, &reason).await,
                        false => ObjectError::Store { key, reason },
                    });
                }
            };
            let encoded = answer.encoding_type() == Some(&EncodingType::Url);
            for object in answer.contents() {
                let Some(key) = object.key() else { continue };
                let key = if encoded {
                    decoded(key)
                } else {
                    key.to_owned()
                };
                let Some(name) = key.strip_prefix(&self.prefix) else {
                    continue;
                };
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let modified = object
                    .last_modified()
                    .and_then(|time| SystemTime::try_from(*time).ok())
                    // As if it were new: what has no age must not be taken for old.
                    .unwrap_or_else(SystemTime::now);
                page.add(name, size.unwrap_or(0), modified);
                room = room.saturating_sub(1);
                if last.as_deref().is_some_and(|last| last >= name) {
                    return Err(broken(format!(
                        "the store lists '{}' after '{}': its listings do not go on in order",
                        name.escape_debug(),
                        last.unwrap_or_default().escape_debug()
                    )));
                }
                last = Some(name.to_owned());
            }
            if !answer.is_truncated().unwrap_or(false) {
                return Ok(page);
            }
            if room == 0 {
                page.next = last.map(ListCursor::behind);
                return Ok(page);
            }
            let next = answer.next_continuation_token().map(str::to_owned);
            if next.is_none() || next == token {
                return Err(broken(
                    "the store says that there is more to list, and not where to go on".into(),
                ));
            }
            token = next;
        }
    }
}

/// What must be stored for a write to happen.
#[derive(Clone, Copy)]
enum Condition<'a> {
    None,
    Absent,
    Version(&'a Version),
}

impl<'a> Condition<'a> {
    fn of(expected: Option<&'a Version>) -> Self {
        expected.map_or(Self::Absent, Self::Version)
    }

    /// `If-Match` and `If-None-Match`.
    fn headers(self) -> (Option<String>, Option<String>) {
        match self {
            Self::None => (None, None),
            Self::Absent => (None, Some("*".to_owned())),
            Self::Version(Version(tag)) => (Some(tag.clone()), None),
        }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    let response = error.raw_response();
    response.map(|response| response.status().as_u16())
}

/// Whether the condition of a write was not met: another version is stored, none at all, or two write at once.
fn is_unmet<E>(error: &SdkError<E>) -> bool {
    matches!(status(error), Some(412 | 404 | 409))
}

/// Whether the store does not know the condition.
fn is_not_known<E>(error: &SdkError<E>) -> bool {
    status(error) == Some(501)
}

/// A name as servers write it where they are asked for `encoding-type=url`: XML cannot hold every character of a key.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'%', &[high, low, ref behind @ ..])
                if let (Some(high), Some(low)) = (digit(high), digit(low)) =>
            {
                bytes.push((high * 16 + low) as u8);
                rest = behind;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn client(config: &S3Config) -> Client {
    let attempts = RetryConfig::standard().with_max_attempts(config.attempts.max(1));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(config.timeout)
        .build();
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .force_path_style(config.path_style)
        .retry_config(attempts)
        .timeout_config(timeouts)
        // Servers other than AWS' know the newer checksums only in part; ours are content-addressed anyway.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    builder.set_endpoint_url(config.endpoint.clone());
    builder = match &config.credentials {
        Some(key) => {
            let secret = key.secret_access_key.expose_secret();
            builder.credentials_provider(Credentials::new(
                &key.access_key_id,
                secret,
                None,
                None,
                "configuration",
            ))
        }
        None => builder.allow_no_auth(),
    };
    Client::from_conf(builder.build())
}

fn is_refused<E>(error: &SdkError<E>) -> bool {
    let answer = error.raw_response();
    answer.is_some_and(|answer| answer.status().as_u16() == 403)
}

/// The server's own code and message, where it sent them.
fn description_of<E: ProvideErrorMetadata + std::error::Error + 'static>(
    error: &SdkError<E>,
) -> String {
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => causes(error),
    }
}

/// An error with those that it comes from, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
