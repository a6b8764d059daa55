//! An S3 server over a temporary directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::runtime;
use listing::{ListedFiles, ListedNames};
use rights::Rights;

mod listing;
mod rights;

/// The public part of the only key that the server knows.
pub const ACCESS_KEY_ID: &str = "radialog-tests";
/// Its secret part.
pub const SECRET_ACCESS_KEY: &str = "not-a-secret";

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
        let key = SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY);
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
    let mut builder = S3ServiceBuilder::new(ListedFiles { files, names });
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
