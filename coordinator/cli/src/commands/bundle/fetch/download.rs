//! One file over HTTP: into `FILE.partial`, from where an earlier try has ended, and under its name when it is whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use radialog_files::durable;
use radialog_models::free_space::SpaceNeeded;
use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE, TRANSFER_ENCODING};
use reqwest::{Client, Response, StatusCode};
use tokio::fs::{self, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::task::block_in_place;

use super::places::Place;
use crate::exit::UsageError;
use crate::print;

/// Tries in a row without a byte, after which a download gives up.
const TRIES: u32 = 5;
/// The wait before the second try; it doubles.
const WAIT: Duration = Duration::from_secs(1);
/// The end of the name of a file that is not whole.
const PARTIAL: &str = "partial";
/// The longest time without a byte.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Downloader {
    http: Client,
    hub: String,
    releases: String,
    token: Option<String>,
}

/// How a download ended.
pub(super) enum Downloaded {
    /// The file is in its place.
    Whole,
    /// The server has no such file.
    NotThere(String),
}

/// What one request has added.
enum Step {
    Whole,
    NotThere,
    /// So many bytes, and what ended it.
    Broken(u64, String),
}

impl Downloader {
    pub(super) fn new(hub: &str, releases: &str, token: Option<&str>) -> anyhow::Result<Self> {
        for (flag, url) in [("--hub", hub), ("--releases", releases)] {
            let parsed = reqwest::Url::parse(url).ok();
            if !parsed.is_some_and(|url| ["http", "https"].contains(&url.scheme())) {
                let reason =
                    format!("{flag} {url}: give an address, as in https://mirror.example.org");
                return Err(UsageError(reason).into());
            }
        }
        let http = Client::builder()
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE)
            .user_agent(concat!("radialog/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            http: http.build().context("cannot make HTTPS connections")?,
            hub: hub.trim_end_matches('/').to_owned(),
            releases: releases.trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()).map(str::to_owned),
        })
    }

    /// Downloads a file into its place.
    pub(super) async fn download(&self, place: &Place, path: &Path) -> anyhow::Result<Downloaded> {
        let (url, of_hub) = place.url(&self.hub, &self.releases);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)
                .await
                .with_context(|| format!("cannot create '{}'", dir.display()))?;
        }
        let bar = bar(place);
        let (mut tries, mut longest) = (0, 0);
        let mut wait = WAIT;
        loop {
            match self.step(&url, of_hub, path, &bar).await? {
                Step::Whole => break,
                Step::NotThere => return Ok(Downloaded::NotThere(url)),
                Step::Broken(bytes, reason) => {
                    // A server that always begins anew and breaks off makes no progress.
                    let have = fs::metadata(partial(path, PARTIAL)).await;
                    let have = have.map_or(0, |meta| meta.len());
                    let further = bytes > 0 && have > longest;
                    longest = longest.max(have);
                    tries = if further { 1 } else { tries + 1 };
                    if further {
                        wait = WAIT;
                    }
                    if tries >= TRIES {
                        bail!("'{url}': {reason}; what is there is kept, run this again to go on");
                    }
                    errln!(
                        "{}: {reason}; trying again in {} s",
                        place.path,
                        wait.as_secs()
                    );
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }
        bar.finish_and_clear();
        let partial = partial(path, PARTIAL);
        block_in_place(|| durable::rename(&partial, path))
            .with_context(|| format!("cannot rename '{}'", partial.display()))?;
        drop(fs::remove_file(self::partial(path, "etag")).await);
        Ok(Downloaded::Whole)
    }

    async fn step(
        &self,
        url: &str,
        of_hub: bool,
        path: &Path,
        bar: &ProgressBar,
    ) -> anyhow::Result<Step> {
        let (file, tag) = (partial(path, PARTIAL), partial(path, "etag"));
        let have = fs::metadata(&file)
            .await
            .map(|meta| meta.len())
            .unwrap_or_default();
        let known = fs::read_to_string(&tag).await.ok();
        let mut request = self.http.get(url);
        // Without a tag nobody could tell whether the file has changed since.
        let resumed = have > 0 && known.is_some();
        if let (true, Some(known)) = (resumed, &known) {
            request = request
                .header(RANGE, format!("bytes={have}-"))
                .header(IF_RANGE, known);
        }
        if let (true, Some(token)) = (of_hub, &self.token) {
            request = request.bearer_auth(token);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Step::Broken(0, print::chain(&error.into()))),
        };
        let (begin, total) = match response.status() {
            StatusCode::OK => (0, response.content_length()),
            StatusCode::PARTIAL_CONTENT => match range(&response) {
                Some((begin, total)) if begin == have => (begin, Some(total)),
                _ => bail!("'{url}': the server sends another part than was asked for"),
            },
            // What is there is as long as the file, or longer.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                fs::remove_file(&file).await?;
                return Ok(Step::Broken(
                    0,
                    "the part that is there does not fit".into(),
                ));
            }
            StatusCode::NOT_FOUND => return Ok(Step::NotThere),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => bail!(
                "'{url}': {status}: accept its terms on the page of its repository, and set HF_TOKEN"
            ),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(Step::Broken(0, format!("the server answers {status}")));
            }
            status => bail!("'{url}': the server answers {status}"),
        };
        // Without a length, only the end of chunks tells a whole file from one that broke off.
        let ends = total.is_some() || response.headers().contains_key(TRANSFER_ENCODING);
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|tag| tag.to_str().ok());
        // Weak tags cannot say that bytes are the same.
        let etag = etag.filter(|tag| !tag.starts_with("W/"));
        // The part that is there goes before the tag of another one comes, or both would be taken together after a kill.
        if begin == 0 {
            drop(fs::remove_file(&tag).await);
            drop(fs::remove_file(&file).await);
        }
        let rest = total.unwrap_or_default().saturating_sub(begin);
        let folder = path.parent().unwrap_or(Path::new("."));
        block_in_place(|| SpaceNeeded::look(folder, rest).check())
            .with_context(|| format!("'{url}'"))?;
        bar.set_length(total.unwrap_or_default());
        bar.set_position(begin);
        let write_error = || format!("cannot write '{}'", file.display());
        let mut out = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(begin == 0)
            .append(begin > 0)
            .open(&file)
            .await
            .with_context(write_error)?;
        match etag {
            Some(etag) => fs::write(&tag, etag).await?,
            None => drop(fs::remove_file(&tag).await),
        }
        let mut added = 0;
        let mut stream = response.bytes_stream();
        let mut broken = None;
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => {
                    out.write_all(&piece).await.with_context(write_error)?;
                    added += piece.len() as u64;
                    bar.inc(piece.len() as u64);
                }
                Err(error) => {
                    broken = Some(print::chain(&error.into()));
                    break;
                }
            }
        }
        out.flush().await.with_context(write_error)?;
        out.sync_all().await.with_context(write_error)?;
        match (broken, total) {
            (Some(reason), _) => Ok(Step::Broken(added, reason)),
            (None, Some(total)) if begin + added < total => Ok(Step::Broken(
                added,
                format!("the connection ended at {} of {total} bytes", begin + added),
            )),
            (None, None) if !ends => bail!("'{url}': the server does not say how long the file is"),
            _ => {
                let length = fs::metadata(&file).await.with_context(write_error)?.len();
                if length != begin + added {
                    bail!("'{}' is written by another process, too", file.display());
                }
                Ok(Step::Whole)
            }
        }
    }
}

/// Bytes of a file that are there, whole or in part.
pub(super) fn bytes_there(path: &Path) -> u64 {
    let lengths = [path.to_owned(), partial(path, PARTIAL)].map(std::fs::metadata);
    lengths.into_iter().flatten().map(|meta| meta.len()).sum()
}

fn partial(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

/// First byte and length of the whole file, of `bytes 10-19/20`.
fn range(response: &Response) -> Option<(u64, u64)> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    Some((begin.parse().ok()?, total.parse().ok()?))
}

fn bar(place: &Place) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:40} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {msg}",
    );
    let bar =
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(place.path.to_string());
    bar
}
