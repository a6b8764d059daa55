//! The radiologists' reports that a run's archive had: they lie in the store of the run, and its lines name them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use radialog_runtime::backends::Backends;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey};
use radialog_training::evaluation::corpus::{PredictionFile, TextStore};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::commands::prepare::run::RunArgs;
use crate::commands::verify::store_of;

/// Texts that are fetched at a time.
const FETCHES: usize = 16;

/// Fetches the references of a run's studies. What the store does not have is named.
pub(super) async fn fetch(
    predictions: &mut PredictionFile,
    texts: &mut TextStore,
    args: &RunArgs,
) -> anyhow::Result<()> {
    if !predictions.has_stored_references {
        return Ok(());
    }
    let folder = predictions.path.parent().unwrap_or(Path::new("."));
    let objects = store(args, folder).await?;
    let objects = objects.as_deref();
    let fetch = |key: ObjectKey| async move {
        match objects {
            Some(objects) => text(objects, &key).await,
            None => Ok(None),
        }
    };
    let runtime = Handle::current();
    let fetch_all = |keys: Vec<ObjectKey>| {
        let fetched = stream::iter(keys).map(fetch).buffered(FETCHES);
        runtime.block_on(fetched.try_collect::<Vec<Option<String>>>())
    };
    block_in_place(|| predictions.take_references(texts, fetch_all))
}

/// The run's store: the one that is configured, else that of its folder; none where there is none.
async fn store(args: &RunArgs, folder: &Path) -> anyhow::Result<Option<Arc<dyn Objects>>> {
    let mut config = args.configuration()?;
    let directory = config
        .objects
        .directory
        .get_or_insert_with(|| store_of(folder));
    // A store that is not there is made nowhere, by somebody who only reads.
    if config.s3.is_none() && !directory.is_dir() {
        return Ok(None);
    }
    Ok(Some(Backends::objects(&config).await?))
}

/// A stored text; none where it is gone or damaged.
async fn text(objects: &dyn Objects, key: &ObjectKey) -> anyhow::Result<Option<String>> {
    let content = match objects.get(key).await {
        Ok(content) => content,
        Err(ObjectError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error).context("cannot read a reference of the run"),
    };
    let is_whole = ObjectKey::reference(&ContentHash::of(&content)) == *key;
    Ok(String::from_utf8(content.into()).ok().filter(|_| is_whole))
}
