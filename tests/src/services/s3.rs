//! An S3 server over a temporary directory, and another implementation where one is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, ensure};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::runtime;
use key_locks::KeyLocks;
use listing::{ListedFiles, ListedNames};
use rights::Rights;

mod key_locks;
mod listing;
mod rights;

/// Names a bucket of another S3 implementation, e.g. `http://host:3900/bucket`.
const VARIABLE: &str = "RADIALOG_TEST_S3";
/// `0` where that implementation does not know conditional writes, `small` where it knows them in a single request only.
const CONDITIONAL_VARIABLE: &str = "RADIALOG_TEST_S3_CONDITIONAL";

/// The only key of the tests' stores.
pub struct S3Key {
    /// Its public part.
    pub id: String,
    /// Its secret part.
    pub secret: String,
}

impl S3Key {
    /// The key of the store that the environment names, as everywhere in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; our
    /// own server takes the same one, or a fixed one.
    pub fn of_tests() -> Self {
        let given = |variable| {
            std::env::var(VARIABLE).ok()?;
            std::env::var(variable).ok()
        };
        Self {
            id: given("AWS_ACCESS_KEY_ID").unwrap_or_else(|| "radialog-tests".into()),
            secret: given("AWS_SECRET_ACCESS_KEY").unwrap_or_else(|| "not-a-secret".into()),
        }
    }
}

/// A bucket of another S3 implementation, in which each test has a folder.
pub struct GivenStore {
    url: String,
    folders: AtomicUsize,
    knows_conditional_writes: bool,
    knows_conditional_parts: bool,
}

impl GivenStore {
    pub(super) fn named() -> Result<Option<Self>> {
        let Ok(url) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        let url = url.trim_end_matches('/').to_owned();
        let conditional = std::env::var(CONDITIONAL_VARIABLE);
        ensure!(
            url.matches('/').count() == 3,
            "{VARIABLE} is '{url}': write http://host:port/bucket"
        );
        Ok(Some(Self {
            url,
            folders: AtomicUsize::new(0),
            knows_conditional_writes: conditional.as_deref() != Ok("0"),
            knows_conditional_parts: !matches!(conditional.as_deref(), Ok("0" | "small")),
        }))
    }

    /// The address of a folder that nobody has used before.
    pub(super) fn folder(&self) -> String {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        let began = began.unwrap_or_default().as_millis();
        format!("{}/{began}-{}-{number}", self.url, std::process::id())
    }

    /// Whether it does a write only over the version that is expected there.
    pub fn knows_conditional_writes(&self) -> bool {
        self.knows_conditional_writes
    }

    /// Whether it does so, too, with an object that comes in parts.
    pub fn knows_conditional_parts(&self) -> bool {
        self.knows_conditional_parts
    }
}

/// A running server; its buckets are folders.
pub struct S3Server {
    endpoint: String,
    directory: TempDir,
    buckets: AtomicUsize,
    names: ListedNames,
    rights: Rights,
}

impl S3Server {
    /// Starts a server on a free port, for as long as the process lives.
    pub async fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let names = ListedNames::default();
        let key = S3Key::of_tests();
        let key = SimpleAuth::from_single(key.id, key.secret);
        let rights = Rights::default();
        let service = service(directory.path(), names.clone(), key, rights.clone())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        runtime().spawn(serve(listener, service));
        Ok(Self {
            endpoint,
            directory,
            buckets: AtomicUsize::new(0),
            names,
            rights,
        })
    }

    /// Refuses these operations, called as in the protocol, on a bucket from now on, e.g. `PutObject`.
    pub fn refuse(&self, bucket_url: &str, operations: &[&'static str]) {
        self.rights.refuse(name(bucket_url), operations);
    }

    /// Refuses every operation on this object from now on, as a policy that denies it does.
    pub fn refuse_object(&self, bucket_url: &str, key: &str) {
        self.rights.refuse_object(name(bucket_url), key);
    }

    /// How many requests on a bucket were refused so far.
    pub fn refusals(&self, bucket_url: &str) -> usize {
        self.rights.refusals(name(bucket_url))
    }

    /// The address, e.g. `http://127.0.0.1:9000`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address of a new bucket that no other caller gets, e.g. `http://127.0.0.1:9000/bucket0`.
    pub fn bucket(&self) -> Result<String> {
        let name = format!("bucket{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.directory.path().join(&name))?;
        Ok(format!("{}/{name}", self.endpoint))
    }

    /// The folder in which the objects of a bucket lie as files.
    pub fn folder(&self, bucket_url: &str) -> PathBuf {
        self.directory.path().join(name(bucket_url))
    }

    /// Adds empty objects under these names to the bucket's listings, e.g. folder markers and names that no file can have.
    pub fn list_also(&self, bucket_url: &str, names: impl IntoIterator<Item = String>) {
        let mut listed = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = listed.entry(name(bucket_url).to_owned()).or_default();
        bucket.extend(names);
    }
}

/// Serves the folders of a directory as buckets at an address, e.g. `0.0.0.0:9000`, to whoever has the key, until the process
/// ends: the store of a cluster that has no image of one at hand (`tests/kube`).
///
/// # Errors
///
/// The directory cannot be opened, or the address is taken.
pub async fn serve_directory(
    directory: &Path,
    address: &str,
    access_key_id: &str,
    secret_access_key: &str,
) -> Result<()> {
    let key = SimpleAuth::from_single(access_key_id, secret_access_key);
    let service = service(directory, ListedNames::default(), key, Rights::default())?;
    serve(TcpListener::bind(address).await?, service).await;
    Ok(())
}

fn service(
    directory: &Path,
    names: ListedNames,
    key: SimpleAuth,
    rights: Rights,
) -> Result<S3Service> {
    let files = FileSystem::new(directory).map_err(|error| anyhow!("no S3 server: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(ListedFiles {
        files: Arc::new(files),
        names,
        locks: KeyLocks::default(),
    });
    builder.set_auth(key);
    builder.set_access(rights);
    Ok(builder.build())
}

fn name(bucket_url: &str) -> &str {
    bucket_url.rsplit('/').next().unwrap_or_default()
}

async fn serve(listener: TcpListener, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        // Without this every answer waits 40 ms for the client's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            // A client that goes away is no matter.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}
