//! A file as an object, part by part: a file of results may be larger than memory, and larger than what one request may
//! bring.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use radialog_schemas::ObjectKey;

use super::{Condition, S3Objects, is_unmet};
use crate::blocking;
use crate::objects::{ObjectError, unreadable};

/// Bytes of a part: more than the protocol's least (5 MiB), and with 10,000 parts enough for 156 GiB.
const PART: u64 = 16 << 20;

impl S3Objects {
    /// Stores a file whole or not at all, under this condition; says whether it was met.
    pub(super) async fn write_file(
        &self,
        key: &ObjectKey,
        file: &Path,
        condition: Condition<'_>,
    ) -> Result<bool, ObjectError> {
        let path = file.to_owned();
        let opened = blocking::io(move || {
            let mut file = File::open(path)?;
            let first = read_part(&mut file)?;
            Ok((file, first))
        });
        let (open, first) = opened
            .await
            .map_err(|error| unreadable(key, file, &error))?;
        if (first.len() as u64) < PART {
            return self.write_small(key, first, condition).await;
        }
        let create = self.client.create_multipart_upload().bucket(&self.bucket);
        let created = create.key(self.path(key)).send().await;
        let created = created.map_err(|error| self.error(key, &error))?;
        let upload = created.upload_id().unwrap_or_default();
        let whole = async {
            let parts = self.write_parts(key, file, open, first, upload).await?;
            self.complete(key, parts, upload, condition).await
        };
        let stored = whole.await;
        if !matches!(stored, Ok(true)) {
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket);
            // What is left takes room in the store and no name; the first error is the one to tell.
            drop(abort.key(self.path(key)).upload_id(upload).send().await);
        }
        stored
    }

    async fn write_parts(
        &self,
        key: &ObjectKey,
        file: &Path,
        mut open: File,
        mut content: Bytes,
        upload: &str,
    ) -> Result<Vec<CompletedPart>, ObjectError> {
        let mut parts = Vec::new();
        for number in 1.. {
            let put = self.client.upload_part().bucket(&self.bucket);
            let put = put.key(self.path(key)).upload_id(upload);
            let put = put.part_number(number).body(ByteStream::from(content));
            let put = put.send().await.map_err(|error| self.error(key, &error))?;
            let part = CompletedPart::builder().part_number(number);
            parts.push(part.set_e_tag(put.e_tag().map(str::to_owned)).build());
            let read = blocking::io(move || {
                let content = read_part(&mut open)?;
                Ok((open, content))
            });
            (open, content) = read.await.map_err(|error| unreadable(key, file, &error))?;
            if content.is_empty() {
                break;
            }
        }
        Ok(parts)
    }

    async fn complete(
        &self,
        key: &ObjectKey,
        parts: Vec<CompletedPart>,
        upload: &str,
        condition: Condition<'_>,
    ) -> Result<bool, ObjectError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket);
        let complete = complete.key(self.path(key)).upload_id(upload);
        let (matches, none_matches) = condition.headers();
        let complete = complete
            .set_if_match(matches)
            .set_if_none_match(none_matches);
        let completed = complete.multipart_upload(parts.build()).send().await;
        self.was_met(key, completed, condition)
    }

    async fn write_small(
        &self,
        key: &ObjectKey,
        content: Bytes,
        condition: Condition<'_>,
    ) -> Result<bool, ObjectError> {
        let put = self.client.put_object().bucket(&self.bucket);
        let put = put.key(self.path(key)).body(ByteStream::from(content));
        let (matches, none_matches) = condition.headers();
        let put = put.set_if_match(matches).set_if_none_match(none_matches);
        self.was_met(key, put.send().await, condition)
    }

    fn was_met<T, E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        key: &ObjectKey,
        answer: Result<T, SdkError<E>>,
        condition: Condition<'_>,
    ) -> Result<bool, ObjectError> {
        match answer {
            Ok(_) => Ok(true),
            Err(error) if !matches!(condition, Condition::None) && is_unmet(&error) => Ok(false),
            Err(error) => Err(self.error(key, &error)),
        }
    }
}

fn read_part(file: &mut File) -> io::Result<Bytes> {
    let mut content = Vec::new();
    file.take(PART).read_to_end(&mut content)?;
    Ok(content.into())
}
