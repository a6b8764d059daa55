//! The lines of a batch's input, one after another, of which only a few are in memory.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai_batches::{
    BatchEndpoint, BatchLine, BatchLineError, BatchLineFault,
};
use radialog_schemas::{ContentHash, ErrorCode, ObjectKey};
use serde::Deserialize;
use tracing::warn;

use crate::gateway::body;
use crate::gateway::body_memory::{BodyMemory, HeldMemory};
use crate::gateway::config::COPIES;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::request_store::batches::InputPlace;
use crate::request_store::files::PART;

/// The most lines of a batch.
const MOST_LINES: u64 = 50_000;
/// The most faults that are told of a batch's input.
const MOST_FAULTS: usize = 100;
/// The longest name of a request, in characters.
const LONGEST_CUSTOM_ID: usize = 512;
/// How much is parsed at a time.
const PARSED_AT_ONCE: usize = 4 << 20;
/// A line of so many bytes holds memory for bodies. Shorter ones are among what a gateway has for itself.
const LARGE: usize = 4 << 20;

/// A line that says something.
pub(super) struct InputLine {
    /// From 1.
    pub(super) number: u64,
    /// None where it is longer than a request may be.
    pub(super) content: Option<Bytes>,
    /// Where the next one begins.
    pub(super) end: InputPlace,
    /// What it holds of the memory for bodies, where it is large.
    pub(super) memory: Option<HeldMemory>,
}

impl InputLine {
    /// Its bytes in memory.
    pub(super) fn size(&self) -> usize {
        self.content.as_ref().map_or(0, Bytes::len)
    }
}

/// A file of requests that is read line by line.
pub(super) struct InputLines {
    objects: Arc<dyn Objects>,
    owner: ContentHash,
    file: String,
    parts: u32,
    /// The next part.
    part: u32,
    /// What has been read and not been taken.
    buffer: BytesMut,
    /// Where the buffer begins.
    place: InputPlace,
    /// Bytes of the next part that were taken before.
    skipped: usize,
    /// How long a line may be, in bytes.
    longest: usize,
    bodies: Arc<BodyMemory>,
    /// What the line that is being read holds, where it is large.
    memory: Option<HeldMemory>,
}

impl InputLines {
    /// Begins at this place.
    pub(super) fn at(
        objects: Arc<dyn Objects>,
        bodies: Arc<BodyMemory>,
        owner: &ContentHash,
        (file, parts): (&str, u32),
        place: InputPlace,
        longest: u64,
    ) -> Self {
        let part = place.offset / PART as u64;
        Self {
            objects,
            owner: owner.clone(),
            file: file.to_owned(),
            parts,
            part: u32::try_from(part).unwrap_or(u32::MAX),
            buffer: BytesMut::new(),
            place,
            skipped: (place.offset % PART as u64) as usize,
            longest: usize::try_from(longest).unwrap_or(usize::MAX),
            bodies,
            memory: None,
        }
    }

    /// The next line that is not blank; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<InputLine>, ObjectError> {
        loop {
            self.pass_over_blank_lines().await;
            let mut is_long = false;
            let mut looked_at = 0;
            let end = loop {
                let new = &self.buffer[looked_at..];
                if let Some(at) = new.iter().position(|byte| *byte == b'\n') {
                    break looked_at + at + 1;
                }
                looked_at = self.buffer.len();
                if looked_at > self.longest {
                    // Its beginning is of no use, and need not be held.
                    is_long = true;
                    self.skip(looked_at);
                    looked_at = 0;
                }
                if self.memory.is_none() && self.buffer.len() >= LARGE {
                    let longest = self.longest as u64;
                    self.memory = Some(HeldMemory::wait(&self.bodies, longest).await);
                }
                if !self.read_part().await? {
                    break self.buffer.len();
                }
            };
            if end == 0 && !is_long {
                return Ok(None);
            }
            let (line, memory) = (self.buffer.split_to(end).freeze(), self.memory.take());
            self.place.offset += end as u64;
            self.place.line += 1;
            let mut content = line.as_ref().trim_ascii();
            if self.place.line == 1 {
                content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
            }
            if content.is_empty() && !is_long {
                continue;
            }
            let is_long = is_long || content.len() > self.longest;
            return Ok(Some(InputLine {
                number: self.place.line,
                content: (!is_long).then(|| line.slice_ref(content)),
                end: self.place,
                memory,
            }));
        }
    }

    /// Goes past the whole blank lines at the buffer's beginning, all at once: a file may have millions.
    async fn pass_over_blank_lines(&mut self) {
        let is_blank = |byte: &u8| byte.is_ascii_whitespace();
        let blank = self.buffer.iter().take_while(|byte| is_blank(byte)).count();
        let is_end = |byte: &u8| *byte == b'\n';
        let whole = self.buffer[..blank].iter().rposition(is_end);
        let whole = whole.map_or(0, |end| end + 1);
        if whole > 0 {
            let ends = self.buffer[..whole].iter().filter(|byte| is_end(byte));
            self.place.line += ends.count() as u64;
            self.skip(whole);
            tokio::task::yield_now().await;
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.place.offset += bytes as u64;
    }

    /// False where there is no further part.
    async fn read_part(&mut self) -> Result<bool, ObjectError> {
        if self.part >= self.parts {
            return Ok(false);
        }
        let key = ObjectKey::request_file_part(&self.owner, &self.file, self.part, None);
        let content = self.objects.get(&key).await?;
        let skipped = std::mem::take(&mut self.skipped).min(content.len());
        self.buffer.extend_from_slice(&content[skipped..]);
        self.part += 1;
        Ok(true)
    }
}

/// Parses one line and checks what every line must be.
pub(super) fn parse(content: Option<&[u8]>, endpoint: BatchEndpoint) -> ApiResult<BatchLine> {
    let content = content.ok_or_else(|| {
        let detail = "the line is longer than a request may be; send less";
        ApiError::new(ProblemCode::BodyTooLarge, detail)
    })?;
    let line: BatchLine = body::parse(content)?;
    let wrong =
        |param: &str, detail: String| ApiError::new(ProblemCode::InvalidRequest, detail).at(param);
    if !(1..=LONGEST_CUSTOM_ID).contains(&line.custom_id.chars().count()) {
        let detail = format!("'custom_id' has 1 to {LONGEST_CUSTOM_ID} characters");
        return Err(wrong("custom_id", detail));
    }
    if line.method != "POST" {
        return Err(wrong("method", "'method' is POST".to_owned()));
    }
    if line.url != endpoint.path() {
        let detail = format!("'url' is the batch's endpoint, {}", endpoint.path());
        return Err(wrong("url", detail));
    }
    if !line.body.is_object() {
        return Err(wrong("body", "'body' is an object".to_owned()));
    }
    Ok(line)
}

/// What is wrong with a batch whose file of requests is not there, or not whole.
pub(super) fn gone() -> Vec<BatchLineFault> {
    let error = ApiError::new(
        ProblemCode::NotFound,
        "the file of requests was deleted, is damaged, or its time is over; upload it again",
    );
    vec![fault(&error, None)]
}

/// What is wrong with a batch whose file of requests is not there any more, or is denied for good; the error where it may be
/// read later.
pub(super) fn unreadable(error: ObjectError) -> Result<Vec<BatchLineFault>, ObjectError> {
    match error {
        ObjectError::NotFound(_) => Ok(gone()),
        ObjectError::Refused { .. } => {
            warn!(%error, "a file of requests cannot be read");
            Ok(refused())
        }
        error => Err(error),
    }
}

/// What is told of a line that is refused because its holders vanish.
pub(super) fn deadly_line(killed: u32) -> BatchLineError {
    BatchLineError {
        code: ErrorCode::Crash.as_str().to_owned(),
        message: format!(
            "the {killed} gateways that had this request went away without getting on with it, the last of them with no other one: it \
             may be what kills them; the others of its batch go on"
        ),
    }
}

/// What is wrong with a batch whose holders vanish one after the other. `next` is the number of its first line without an
/// answer, where the lines have been checked.
pub(super) fn deadly(killed: u32, next: Option<u64>) -> Vec<BatchLineFault> {
    let place = match next {
        Some(line) => format!("a line from {line} on"),
        None => "a line of its file".to_owned(),
    };
    vec![BatchLineFault {
        code: ErrorCode::Crash.as_str(),
        message: format!(
            "the {killed} gateways that had this batch went away without getting on with it; {place} may be what kills them: \
             send what has no answer in smaller batches"
        ),
        param: None,
        line: next,
    }]
}

/// What is wrong with a batch of whose files the store refuses one for good.
pub(super) fn refused() -> Vec<BatchLineFault> {
    vec![BatchLineFault {
        code: ErrorCode::ObjectRefused.as_str(),
        message: "the store refuses a file of this batch, and answers for others: ask the operator, whose log has the store's \
                  words, and make another batch then"
            .to_owned(),
        param: None,
        line: None,
    }]
}

/// The caller's name of a request that cannot be read otherwise; empty where that cannot be read either, and of a list, which
/// has no names.
pub(super) fn custom_id(content: Option<&[u8]>) -> String {
    #[derive(Deserialize)]
    struct Named {
        custom_id: String,
    }
    let content = content.filter(|content| !content.trim_ascii_start().starts_with(b"["));
    let named = content.and_then(|content| serde_json::from_slice::<Named>(content).ok());
    named.map(|line| line.custom_id).unwrap_or_default()
}

/// Reads the whole input; returns the number of its lines, or what is wrong with them.
pub(super) async fn check(
    mut lines: InputLines,
    endpoint: BatchEndpoint,
) -> ApiResult<Result<u64, Vec<BatchLineFault>>> {
    let mut known: HashSet<ContentHash> = HashSet::new();
    let mut faults = Vec::new();
    let mut count = 0;
    loop {
        let (mut some, mut size) = (Vec::new(), 0);
        let mut is_last = false;
        while size < PARSED_AT_ONCE && count + some.len() as u64 <= MOST_LINES {
            let line = match lines.next().await {
                Ok(line) => line,
                Err(error) => return Ok(Err(unreadable(error)?)),
            };
            let Some(line) = line else {
                is_last = true;
                break;
            };
            size += line.size();
            some.push(line);
        }
        count += some.len() as u64;
        // They are parsed one after another.
        let largest = some.iter().map(InputLine::size).max().unwrap_or(0);
        let _memory = HeldMemory::wait(&lines.bodies, largest as u64 * COPIES).await;
        let parsed = body::beside(move || {
            let parse = |line: InputLine| {
                let parsed = parse(line.content.as_deref(), endpoint);
                (
                    line.number,
                    parsed.map(|line| ContentHash::of(line.custom_id.as_bytes())),
                )
            };
            Ok(some.into_iter().map(parse).collect::<Vec<_>>())
        });
        for (number, custom_id) in parsed.await? {
            let custom_id = custom_id.and_then(|id| match known.insert(id) {
                true => Ok(()),
                false => {
                    let detail = "an earlier line has this 'custom_id', too; give each its own";
                    Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("custom_id"))
                }
            });
            if let Err(error) = custom_id {
                faults.push(fault(&error, Some(number)));
            }
        }
        if count > MOST_LINES {
            let detail = format!("the file has more than {MOST_LINES} requests; send several");
            faults.push(fault(
                &ApiError::new(ProblemCode::InvalidRequest, detail),
                None,
            ));
        }
        if is_last || count > MOST_LINES || faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if count == 0 {
        let detail = "the file has no requests";
        faults.push(fault(
            &ApiError::new(ProblemCode::InvalidRequest, detail),
            None,
        ));
    }
    faults.truncate(MOST_FAULTS);
    Ok(match faults.is_empty() {
        true => Ok(count),
        false => Err(faults),
    })
}

/// An error as a batch tells it.
pub(super) fn fault(error: &ApiError, line: Option<u64>) -> BatchLineFault {
    BatchLineFault {
        code: error.problem.code.as_str(),
        message: error.problem.detail.clone(),
        param: error.param.clone(),
        line,
    }
}

#[cfg(test)]
mod tests {
    use radialog_runtime::objects::filesystem::FilesystemObjects;

    use super::*;
    use crate::request_store::files;

    /// A file of these parts, and where a reader of it begins.
    async fn lines(
        folder: &std::path::Path,
        parts: &[&[u8]],
        place: InputPlace,
        longest: u64,
    ) -> InputLines {
        let objects: Arc<dyn Objects> = Arc::new(FilesystemObjects::open(folder).unwrap());
        let owner = ContentHash::of(b"ward");
        for (number, part) in (0..).zip(parts) {
            let content = part.to_vec().into();
            files::put_part(&*objects, &owner, "file", number, content)
                .await
                .unwrap();
        }
        let count = u32::try_from(parts.len()).unwrap();
        let bodies = Arc::new(BodyMemory::of(1 << 30));
        InputLines::at(objects, bodies, &owner, ("file", count), place, longest)
    }

    async fn all(mut lines: InputLines) -> Vec<(u64, Option<String>)> {
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            let content = line
                .content
                .map(|content| String::from_utf8(content.to_vec()).unwrap());
            read.push((line.number, content));
        }
        read
    }

    fn text(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn the_name_of_a_request_is_found_where_the_rest_is_wrong() {
        let id = |line: &str| custom_id(Some(line.as_bytes()));
        assert_eq!(id(r#"{"custom_id": "a", "method": 7}"#), "a");
        assert_eq!(
            [
                id(r#"{"custom_id": 1}"#),
                id("["),
                id(r#" ["a"]"#),
                custom_id(None)
            ],
            [""; 4]
        );
    }

    #[tokio::test]
    async fn blank_lines_are_counted_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let blank = b"\n".repeat(1 << 16);
        let parts = [&blank[..], b" \r\na\n\n", b"\nb"];
        let read = all(lines(folder.path(), &parts, InputPlace::default(), 100).await).await;
        let before = 1 << 16;
        assert_eq!(read, [text(before + 2, "a"), text(before + 5, "b")]);
    }

    #[tokio::test]
    async fn lines_may_begin_in_one_part_and_end_in_another() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [&b"\xef\xbb\xbfone\ntw"[..], b"", b"o\r\n", b"\n \nthree"];
        let read = all(lines(folder.path(), &parts, InputPlace::default(), 100).await).await;
        assert_eq!(read, [text(1, "one"), text(2, "two"), text(5, "three")]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_no_other_lines_fault() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [&b"aaaaaa"[..], b"aaaaaa", b"aaa\nb\ncccccc"];
        let read = all(lines(folder.path(), &parts, InputPlace::default(), 5).await).await;
        assert_eq!(read, [(1, None), text(2, "b"), (3, None)]);
    }

    #[tokio::test]
    async fn reading_goes_on_at_every_place_that_a_line_has_told() {
        let folder = tempfile::tempdir().unwrap();
        // Whole parts, as an upload makes them; a line lies across their border.
        let line = |letter: u8| [vec![letter; PART / 2 + 7], b"\n".to_vec()].concat();
        let content = [b'a', b'b', b'c'].map(line).concat();
        let parts: Vec<&[u8]> = content.chunks(PART).collect();
        let longest = PART as u64;
        let mut from_start = lines(folder.path(), &parts, InputPlace::default(), longest).await;
        let mut count = 0;
        while let Some(line) = from_start.next().await.unwrap() {
            count += 1;
            let rest = all(lines(folder.path(), &parts, line.end, longest).await).await;
            assert_eq!(rest.len(), 3 - count);
            assert!(
                rest.first()
                    .is_none_or(|(number, _)| *number == line.number + 1)
            );
        }
        assert_eq!(count, 3);
    }
}
