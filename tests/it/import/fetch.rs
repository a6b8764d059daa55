//! `radialog bundle fetch` against a server of this machine: a download that breaks goes on where it was, hashes are recorded or
//! held to, what is not there is named, and what is whole is imported.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use radialog_files::folder_lock::FolderLock;
use radialog_models::bundle::{Bundle, Geometry};
use radialog_schemas::ContentHash;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::release::{Release, write_release};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Bytes after which the server ends the first answer for each large file.
const BREAK: usize = 20_000;

/// The index of the release's base.
const INDEX: &str = "pytorch_model.bin.index.json";

/// The path of a request, and the range that it asks for.
type Request = (String, Option<String>);

/// Files over HTTP, with ranges. The first answer with a large file breaks off.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(files: BTreeMap<String, PathBuf>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no failure of the server.
                drop(answer(stream, &files, &seen));
            }
        });
        Ok(Self { address, requests })
    }

    /// Path and range of each request so far.
    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, PathBuf>,
    seen: &Mutex<Vec<Request>>,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("range: bytes=") {
            range = Some(value.trim_end_matches('-').to_owned());
        }
    }
    let first = {
        let mut seen = seen.lock().unwrap();
        let first = !seen.iter().any(|(known, _)| *known == path);
        seen.push((path.clone(), range.clone()));
        first
    };
    let Some(content) = files.get(&path).and_then(|file| fs::read(file).ok()) else {
        stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        return Ok(());
    };
    let length = content.len();
    let begin: usize = range.as_deref().unwrap_or("0").parse()?;
    let status = match begin {
        0 => "200 OK".to_owned(),
        begin => format!(
            "206 Partial Content\r\nContent-Range: bytes {begin}-{}/{length}",
            length - 1
        ),
    };
    let rest = length - begin;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"{length}\"\r\nContent-Length: {rest}\r\nConnection: close\r\n\r\n"
    )?;
    let end = match first && length > 2 * BREAK {
        true => begin + BREAK,
        false => length,
    };
    stream.write_all(&content[begin..end])?;
    Ok(stream.flush()?)
}

/// A tiny release on a server, and the list of its places.
struct Published {
    dir: TempDir,
    server: Server,
    places: PathBuf,
}

/// Where the server has the files of the release.
const HUB: &str = "/people/model/resolve/main/";

impl Published {
    fn new(change: impl FnOnce(&mut Vec<Value>)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let release = dir.path().join("release");
        write_release(Release::V2, Geometry::Tiny, &release)?;
        let mut files = BTreeMap::new();
        list(&release, &release, &mut files)?;
        let mut places: Vec<Value> = Vec::new();
        for path in files.keys() {
            // The index brings its shards.
            if !path.contains("-of-") {
                let shards = path.ends_with("index.json");
                places.push(
                    json!({"path": path, "hub": "people/model", "file": path, "shards": shards}),
                );
            }
        }
        change(&mut places);
        let server = Server::start(
            files
                .into_iter()
                .map(|(path, file)| (format!("{HUB}{path}"), file))
                .collect(),
        )?;
        let list = dir.path().join("places.json");
        let system = json!({"tiny": {"about": "A tiny release", "files": places}});
        fs::write(&list, system.to_string())?;
        Ok(Self {
            dir,
            server,
            places: list,
        })
    }

    fn fetch(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = radialog(&["bundle", "fetch", "tiny"])?;
        command
            .arg(self.downloads())
            .arg("--places")
            .arg(&self.places)
            .env("HF_ENDPOINT", &self.server.address)
            .env_remove("HF_TOKEN")
            .args(arguments);
        for proxy in [
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(proxy);
        }
        Ok(command.output_in_time()?)
    }

    fn downloads(&self) -> PathBuf {
        self.dir.path().join("downloads")
    }
}

/// All files below a folder by their paths in it.
fn list(root: &Path, dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, files)?;
        } else {
            files.insert(path.strip_prefix(root)?.display().to_string(), path);
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_release_is_downloaded_over_broken_connections_and_imported() -> Result<()> {
    let published = Published::new(|_| {})?;
    let bundle = published.dir.path().join("bundle");
    let path = bundle.display().to_string();
    let output = published.fetch(&["--bundle", &path])?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    ensure!(
        text(&output.stdout)
            .contains("no hash of it was published; that of this download is recorded")
    );
    Bundle::open_with(
        &bundle,
        &[
            radialog_schemas::Stage::Embedding,
            radialog_schemas::Stage::Language,
        ],
        &radialog_models::bundle::HashCache::user(),
    )?;
    let requests = published.server.requests();
    let resumed = requests
        .iter()
        .filter(|(_, range)| range.as_deref() == Some("20000"));
    ensure!(resumed.count() > 3, "{requests:?}");
    let left = fs::read_dir(published.downloads())?.flatten();
    let left: Vec<_> = left
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "partial"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");

    for arguments in [&["--download-only"][..], &["--bundle", &path]] {
        let again = published.fetch(arguments)?;
        ensure!(again.status.success(), "{}", text(&again.stderr));
        ensure!(text(&again.stdout).contains("there already"));
    }
    ensure!(
        published.server.requests().len() == requests.len(),
        "a file was asked for again"
    );
    Ok(())
}

#[test]
fn shards_that_do_not_fit_are_refused_before_the_first_is_asked_for() -> Result<()> {
    let published = Published::new(|places| {
        places.retain(|place| {
            place["path"]
                .as_str()
                .is_some_and(|path| path.ends_with("index.json"))
        });
    })?;
    let release = published.dir.path().join("release");
    let mut files = BTreeMap::new();
    list(&release, &release, &mut files)?;
    let mut indices = files.values().filter(|path| path.ends_with(INDEX));
    let index = indices.next().context("no index")?;
    let mut content: Value = serde_json::from_slice(&fs::read(index)?)?;
    content["metadata"] = json!({"total_size": 4_000_000_000_000_000_u64});
    fs::write(index, content.to_string())?;
    let output = published.fetch(&["--download-only"])?;
    let message = text(&output.stderr);
    ensure!(!output.status.success(), "{message}");
    for words in ["downloads' needs 4000000000000000 bytes", "free"] {
        ensure!(message.contains(words), "{words}: {message}");
    }
    let requests = published.server.requests();
    ensure!(
        requests.iter().all(|(path, _)| path.ends_with(INDEX)),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn the_second_fetch_into_a_folder_is_told_who_downloads() -> Result<()> {
    let published = Published::new(|places| {
        places.retain(|place| place["path"] == "radialog/config.json");
    })?;
    fs::create_dir_all(published.downloads())?;
    let lock = FolderLock::take(&published.downloads().join(".fetch.lock"))?;
    let output = published.fetch(&["--download-only"])?;
    let message = text(&output.stderr);
    let holder = format!("process {}", std::process::id());
    ensure!(
        !output.status.success() && message.contains(&holder) && message.contains("already"),
        "{message}"
    );
    ensure!(published.server.requests().is_empty());
    drop(lock);
    ensure!(published.fetch(&["--download-only"])?.status.success());
    Ok(())
}

#[test]
fn a_file_that_was_changed_since_its_download_is_named() -> Result<()> {
    let published = Published::new(|places| {
        places.retain(|place| place["path"] == "radialog/config.json");
    })?;
    ensure!(published.fetch(&["--download-only"])?.status.success());
    let file = published.downloads().join("radialog/config.json");
    fs::write(&file, "{}")?;
    let output = published.fetch(&["--download-only"])?;
    let message = text(&output.stderr);
    ensure!(
        !output.status.success() && message.contains("is not what was downloaded first"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_file_without_its_published_hash_is_refused_and_one_that_has_moved_is_named() -> Result<()> {
    let hashed = Published::new(|places| {
        places.retain(|place| place["path"] == "radialog/config.json");
        places[0]["md5"] = json!("d41d8cd98f00b204e9800998ecf8427e");
    })?;
    let output = hashed.fetch(&["--download-only"])?;
    let message = text(&output.stderr);
    ensure!(
        !output.status.success() && message.contains("and the published file d41d8cd9"),
        "{message}"
    );

    for (key, wrong) in [
        ("size", json!(1)),
        ("sha256", json!(ContentHash::of(b"another file"))),
    ] {
        let known = Published::new(|places| {
            places.retain(|place| place["path"] == "radialog/config.json");
            places[0][key] = wrong;
        })?;
        let output = known.fetch(&["--download-only"])?;
        let message = text(&output.stderr);
        ensure!(
            !output.status.success() && message.contains("and the published file"),
            "{key}: {message}"
        );
    }

    let moved = Published::new(|places| {
        places.retain(|place| place["path"] == "radialog/config.json");
        places[0]["file"] = json!("elsewhere.json");
    })?;
    let output = moved.fetch(&["--download-only"])?;
    let message = text(&output.stderr);
    ensure!(!output.status.success(), "{message}");
    for words in [
        "elsewhere.json' is not there",
        "--places",
        "radialog/config.json",
    ] {
        ensure!(message.contains(words), "{message}");
    }
    let first = text(&output.stdout);
    first.lines().next().context("nothing was said")?;
    Ok(())
}
