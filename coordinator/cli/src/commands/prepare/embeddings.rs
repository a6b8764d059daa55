//! `radialog prepare embeddings`: the image tokens of a whole table, which the language model is trained on.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Args;
use futures::stream::{self, StreamExt};
use radialog_coordinator::archive::{SplitOfTable, open_image_table};
use radialog_coordinator::run::embedded_by_another_release;
use radialog_coordinator::run::pipeline::OutputKeys;
use radialog_models::image_tokens;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::{ContentHash, Generation, Source, Stage, StudyRecord, counted};
use radialog_training::prepare::{SplitTable, TensorFileHeader, import_embeddings};
use tokio::task::block_in_place;

use super::run::{Finished, Job, Results, RunArgs, Session, refuse_empty};
use crate::archive_source;
use crate::exit::EXIT_INTERRUPTED;
use crate::named_path;

/// Objects fetched side by side.
const FETCHES: usize = 16;

/// Image tokens of every image of a table: one safetensors file, a tensor [32, 768] an image, named
/// by its id
///
/// Runs the bundle's embedding component through the queue and the workers, in this process or, with
/// --amqp, --s3 and --redis, elsewhere. Run the same command again to resume. Images that cannot be
/// read are told and left out.
///
/// The id is the column dicom_id, else study_id, else the image's name. Several rows may have one
/// image.
///
/// Examples:
///   radialog prepare embeddings --images pairs.csv --allow-outside --split train --bundle runs/alignment/best --out e.safetensors
///   radialog prepare embeddings --images nih/labels.csv --folder nih/images --bundle DIR --out embeddings.safetensors
///   radialog prepare embeddings --images sectioned.csv --folder mimic-cxr-jpg/2.0.0 --split train \
///       --split-table mimic-cxr-2.0.0-split.csv.gz --bundle DIR --out embeddings.safetensors
///   radialog prepare embeddings --from stage1_embeddings_train.pkl stage1_embeddings_test.pkl --out embeddings.safetensors
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct EmbeddingsArgs {
    #[command(flatten)]
    table: TableArgs,
    /// The original's pickle files, e.g. one a split, instead of images and a bundle
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "images")]
    from: Vec<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

/// The images that are embedded.
#[derive(Args)]
pub(super) struct TableArgs {
    /// CSV with a column image, and perhaps split and an id, or what `radialog prepare sections` has written: a file, or
    /// s3://bucket/table.csv
    #[arg(long, value_name = "TABLE", required_unless_present = "from")]
    images: Option<String>,
    /// Folder that the images' names are relative to; the table's own without it
    #[arg(long, value_name = "DIR", requires = "images")]
    folder: Option<PathBuf>,
    /// Only rows of this split: train, validate or test
    #[arg(long, requires = "images")]
    split: Option<String>,
    /// mimic-cxr-2.0.0-split.csv (.gz), where the table has no column split
    #[arg(long, value_name = "FILE", requires = "split")]
    split_table: Option<PathBuf>,
    /// Also read images outside of that folder, which rows with absolute paths or .. and links can name. The tables of
    /// `radialog prepare pairs` have absolute paths
    #[arg(long, requires = "images")]
    allow_outside: bool,
}

impl TableArgs {
    /// The rows of a split, by the column of the table or by the table of splits.
    fn split_of(&self, split: &str) -> anyhow::Result<SplitOfTable> {
        let name = split.to_owned();
        let Some(path) = &self.split_table else {
            let description = name.clone();
            return Ok(SplitOfTable {
                name,
                description,
                of_images: None,
            });
        };
        named_path::require(path, "--split-table is a CSV with dicom_id and split")?;
        let content =
            std::fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
        Ok(SplitOfTable {
            description: format!("{name} by {}", ContentHash::of(&content).short()),
            name,
            of_images: Some(Arc::new(SplitTable::read(path)?.into_images())),
        })
    }

    /// The run over these images.
    pub(super) async fn run(
        &self,
        session: Session<'_>,
        stages: &'static [Stage],
    ) -> anyhow::Result<Option<Finished>> {
        let images = self
            .images
            .as_deref()
            .context("--images TABLE is missing")?;
        let input = archive_source::input(images, &session.config).await?;
        let outside = archive_source::outside(self.allow_outside, images)?;
        let split = self.split.as_deref();
        let split = split.map(|split| block_in_place(|| self.split_of(split)));
        let archive =
            open_image_table(&input, self.folder.as_deref(), split.transpose()?, outside).await?;
        let advice = "no row has an image: name a table of images with --images, and a split that has rows with --split";
        refuse_empty(&*archive, advice).await?;
        let bundle = session.bundle(stages).await?;
        session
            .run(
                &bundle,
                Job {
                    archive,
                    source: Source::Image,
                    stages,
                    generation: Generation::default(),
                },
            )
            .await
    }
}

pub(crate) async fn run(args: EmbeddingsArgs) -> anyhow::Result<ExitCode> {
    if !args.from.is_empty() {
        let count = import_embeddings(&args.from, &args.out)?;
        let count = counted(count, "embedding", "embeddings");
        outln!("{count} written to {}", args.out.display());
        return Ok(ExitCode::SUCCESS);
    }
    let session = Session::configure(&args.run, &args.out)?;
    let Some(finished) = args.table.run(session, &[Stage::Embedding]).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let mut results = finished.results().await?;
    let Some(first) = results.next().await? else {
        results.tell_failures();
        bail!("no image of the table could be read: there is nothing to write");
    };
    let shape = tokens(&fetch(&finished, &first).await?)?.1;
    let origin = finished.bundle.manifest().origin(Stage::Embedding);
    let mut names = TensorFileHeader::create_made_by(&args.out, &shape, origin.as_ref())?;
    names.add(first.study.as_str())?;
    while let Some(record) = results.next().await? {
        names.add(record.study.as_str())?;
    }
    results.tell_failures();

    let mut rows = names.rows()?;
    let mut count = 0;
    let mut fetched = Box::pin(contents(&finished, finished.results().await?));
    while let Some(content) = fetched.next().await {
        let (values, found) = tokens(&content?)?;
        ensure!(
            found == shape,
            "an embedding has the shape {found:?} and another {shape:?}: they are of two bundles"
        );
        rows.add(&values)?;
        count += 1;
    }
    rows.finish()?;
    outln!(
        "{} {shape:?} written to {}",
        counted(count, "embedding", "embeddings"),
        args.out.display()
    );
    Ok(finished.exit())
}

/// The stored outputs in the order of the table.
fn contents(
    finished: &Finished,
    results: Results,
) -> impl stream::Stream<Item = anyhow::Result<Bytes>> {
    let records = stream::unfold(results, |mut results: Results| async move {
        let record = results.next().await.transpose()?;
        Some((record, results))
    });
    records
        .map(move |record| async move { fetch(finished, &record?).await })
        .buffered(FETCHES)
}

/// The stored image tokens of a record. Where another release has begun the run, they may be that one's, which differ from those
/// that this one makes of the other images.
async fn fetch(finished: &Finished, record: &StudyRecord) -> anyhow::Result<Bytes> {
    let (spec, objects) = (&finished.spec, &*finished.backends.objects);
    let again = format!(
        "delete the run's folder '{}', or name another with --run, and run the same command again",
        finished.folder.display()
    );
    let Some(input) = &record.input else {
        bail!("the run's folder is from an earlier version: {again}");
    };
    let keys = OutputKeys::of(spec, input, None);
    let missing = match objects.get(keys.output(Stage::Embedding)).await {
        Err(missing @ ObjectError::NotFound(_)) => missing,
        stored => return Ok(stored?),
    };
    let Some(theirs) = embedded_by_another_release(objects, spec, record).await? else {
        return Err(missing).with_context(|| format!("what the run has made is gone: {again}"));
    };
    bail!(
        "the run was begun with another release of radialog, whose image tokens differ (revision {theirs} of the embedding \
         stage, this release has {}): {again}",
        Stage::REVISIONS.get(Stage::Embedding)
    )
}

/// Values and shape.
fn tokens(content: &[u8]) -> anyhow::Result<(Vec<f32>, Vec<usize>)> {
    let tensor =
        image_tokens::decode(content).context("an embedding in the object store is damaged")?;
    Ok((tensor.flatten_all()?.to_vec1()?, tensor.dims().to_vec()))
}
