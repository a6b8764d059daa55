//! What S3 promises beyond a store of files: listings of at most 1,000 names a page, with opaque tokens, names in
//! `encoding-type=url` where it is asked for, and names that no file can have; and each object read and changed at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, EncodingType, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput,
    UploadPartOutput,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::key_locks::KeyLocks;

/// The most names that S3 puts on a page.
const PAGE: i32 = 1000;

/// Empty objects that are listed beside the files, by bucket.
pub(super) type ListedNames = Arc<Mutex<HashMap<String, Vec<String>>>>;

/// The part of S3 that RaDialog uses.
pub(super) struct ListedFiles {
    pub(super) files: Arc<FileSystem>,
    pub(super) names: ListedNames,
    pub(super) locks: KeyLocks,
}

#[async_trait::async_trait]
impl S3 for ListedFiles {
    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        // Before anybody waits for it: a client may say nothing more. Large objects come in parts.
        if let Some(body) = request.input.body.take() {
            let parts: Result<Vec<Bytes>, _> = body.try_collect().await;
            let parts = parts.map_err(|_| s3_error!(IncompleteBody))?;
            let content = Body::from(parts.concat());
            request.input.body = Some(StreamingBlob::from(content));
        }
        let (files, input) = (self.files.clone(), &request.input);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let put = async move { files.put_object(request).await };
        self.locks.change(&bucket, &key, put).await
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        // Its content is read from the file that is there now, whatever takes its place meanwhile.
        let (bucket, key) = (&request.input.bucket, &request.input.key);
        let _reading = self.locks.reading(bucket, key).await;
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let (bucket, key) = (&request.input.bucket, &request.input.key);
        let _reading = self.locks.reading(bucket, key).await;
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (files, input) = (self.files.clone(), &request.input);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let delete = async move { files.delete_object(request).await };
        self.locks.change(&bucket, &key, delete).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (files, input) = (self.files.clone(), &request.input);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let complete = async move { files.complete_multipart_upload(request).await };
        self.locks.change(&bucket, &key, complete).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(request).await
    }

    async fn list_objects_v2(
        &self,
        mut request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = &mut request.input;
        let wanted = input.max_keys.replace(i32::MAX).unwrap_or(PAGE).min(PAGE);
        let encoding = input.encoding_type.take();
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.start_after.take().unwrap_or_default();
        let token = input.continuation_token.take();
        let after = token.map_or(after, |token| name_of(&token));
        let bucket = input.bucket.clone();

        let mut answer = self.files.list_objects_v2(request).await?;
        let files = answer.output.contents.take().unwrap_or_default();
        let named = files
            .into_iter()
            .map(|file| (file.key.clone().unwrap_or_default(), file));
        let mut objects: BTreeMap<String, Object> = named.collect();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names.get(&bucket).into_iter().flatten() {
            if name.starts_with(&prefix) {
                objects.entry(name.clone()).or_insert_with(|| Object {
                    key: Some(name.clone()),
                    size: Some(0),
                    ..Object::default()
                });
            }
        }
        objects.retain(|name, _| *name > after);
        let page: Vec<(String, Object)> = objects
            .iter()
            .take(usize::try_from(wanted).unwrap_or_default())
            .map(|(name, object)| (name.clone(), object.clone()))
            .collect();
        let is_truncated = page.len() < objects.len();
        let last = page.last().map(|(name, _)| token_of(name));
        let is_encoded = encoding
            .as_ref()
            .is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        let shown = page.into_iter().map(|(name, object)| Object {
            key: Some(if is_encoded { encoded(&name) } else { name }),
            ..object
        });
        answer.output.contents = Some(shown.collect());
        answer.output.is_truncated = Some(is_truncated);
        answer.output.next_continuation_token = last.filter(|_| is_truncated);
        answer.output.encoding_type = encoding;
        answer.output.start_after = None;
        answer.output.key_count = None;
        Ok(answer)
    }
}

/// As forms are encoded, which is what S3 does: a space is `+`.
fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                text.push(char::from(byte));
            }
            b' ' => text.push('+'),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

/// A token that says nothing to a client and stands in XML, whatever the name is.
fn token_of(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn name_of(token: &str) -> String {
    let digits = token.as_bytes().chunks(2);
    let bytes =
        digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect()).unwrap_or_default()
}
