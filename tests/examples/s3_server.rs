//! The S3 server of the tests as a program of its own: `tests/kube` runs it in a container.

use std::path::Path;

use anyhow::{Context, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let usage = "usage: s3_server ADDRESS DIRECTORY, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context(usage)?;
    let directory = arguments.next().context(usage)?;
    let key = std::env::var("AWS_ACCESS_KEY_ID").context(usage)?;
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").context(usage)?;
    radialog_tests::services::serve_directory(Path::new(&directory), &address, &key, &secret).await
}
