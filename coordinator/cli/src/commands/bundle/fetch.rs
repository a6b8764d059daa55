//! `radialog bundle fetch`: the published files of a system, downloaded and imported.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use radialog_files::folder_lock::{FolderLock, FolderLockError};
use radialog_models::bundle::import::{Import, SourceFile};
use radialog_models::free_space::{SpaceNeeded, same_file_system};
use tokio::task::block_in_place;

use super::import::{self, ImportArgs};
use crate::bundle_source;
use crate::exit::UsageError;

mod download;
mod places;
mod records;
mod unpack;

use download::{Downloaded, Downloader, bytes_there};
use places::{Place, Places, Shards, System};
use records::Records;

/// Held while files are downloaded into the folder.
const LOCK: &str = ".fetch.lock";

/// Download the published files of a system, and import them
///
/// A download that was interrupted goes on where it was. Proxies are taken from HTTPS_PROXY and NO_PROXY, a mirror of the model
/// hub from HF_ENDPOINT, a token for it from HF_TOKEN. Example: radialog bundle fetch radialog-v1 /weights/v1 --bundle
/// /bundles/radialog-v1
#[derive(Args)]
pub(crate) struct FetchArgs {
    /// System whose files are wanted, e.g. radialog-v1 or radialog-v2
    system: String,
    /// Folder for the downloaded files
    dir: PathBuf,
    /// Bundle to import them into
    #[arg(long, value_name = "BUNDLE", required_unless_present = "download_only", value_parser = bundle_source::new_bundle())]
    bundle: Option<PathBuf>,
    /// Download without importing
    #[arg(long, conflicts_with = "bundle")]
    download_only: bool,
    /// Address of the model hub or of a mirror of it
    #[arg(
        long,
        env = "HF_ENDPOINT",
        default_value = "https://huggingface.co",
        value_name = "URL"
    )]
    hub: String,
    /// Address of the host of releases or of a mirror of it
    #[arg(long, default_value = "https://github.com", value_name = "URL")]
    releases: String,
    /// Token for the model hub
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Other places of the files, in the form of the list that this program brings, where those have moved
    #[arg(long, value_name = "FILE")]
    places: Option<PathBuf>,
}

pub(crate) async fn run(args: FetchArgs) -> anyhow::Result<ExitCode> {
    let places = block_in_place(|| Places::read(args.places.as_deref()))?;
    let Some(system) = places.system(&args.system) else {
        let names = places.names().join(", ");
        let hint = format!(
            "there is no system '{}' to fetch: take {names}",
            args.system
        );
        return Err(UsageError(hint).into());
    };
    if let Some(bundle) = &args.bundle {
        if block_in_place(|| is_made_of(bundle, &args.dir, system))? {
            let dir = args.dir.display();
            outln!(
                "{} is there already, made of the files in {dir}",
                bundle.display()
            );
            return Ok(ExitCode::SUCCESS);
        }
        Import::check_place(bundle)?;
    }
    outln!("{}", system.about);
    let downloader = Downloader::new(&args.hub, &args.releases, args.token.as_deref())?;
    // Held to the end, so that nobody changes what is being imported.
    let _lock = block_in_place(|| take_folder(&args.dir))?;
    let mut records = block_in_place(|| Records::open(&args.dir))?;
    let mut waiting: Vec<Place> = system.files.iter().rev().cloned().collect();
    while let Some(place) = waiting.pop() {
        let (place, file) = fetch(&downloader, &mut records, &args.dir, place).await?;
        if place.shards {
            let shards = block_in_place(|| {
                let shards = place.shards_in(&file)?;
                check_space(&shards, &args.dir, args.bundle.as_deref())?;
                Ok::<_, anyhow::Error>(shards)
            })?;
            waiting.extend(shards.places.into_iter().rev());
        }
        if let Some(folder) = &place.unpack {
            let folder = args.dir.join(folder);
            let unpacked = tokio::task::spawn_blocking(move || unpack::unpack(&file, &folder));
            unpacked.await.context("unpacking was interrupted")??;
        }
    }
    let Some(bundle) = args.bundle else {
        outln!("all files are in {}", args.dir.display());
        return Ok(ExitCode::SUCCESS);
    };
    let import = ImportArgs::of_folder(bundle, args.dir, args.system);
    let imported = tokio::task::spawn_blocking(move || import::run(import));
    imported.await.context("the import was interrupted")?
}

/// Whether a bundle is what an earlier call with the same arguments has made: a Job that is begun again has nothing left to do.
fn is_made_of(bundle: &Path, dir: &Path, system: &System) -> anyhow::Result<bool> {
    let Some(sources) = Import::sources(bundle) else {
        return Ok(false);
    };
    let records = Records::open(dir)?;
    let is_fetched = |source: &SourceFile| {
        let file = source.file.strip_prefix(dir);
        file.is_ok_and(|file| {
            system.has(file) && records.agree(&file.to_string_lossy(), &source.entry.sha256)
        })
    };
    Ok(!sources.is_empty() && sources.iter().all(is_fetched))
}

/// Checks that there is room for shards, by far the most of what is downloaded, and for the bundle, which is as large as they
/// are. An index that does not tell their size leaves it to the check before each file.
fn check_space(shards: &Shards, dir: &Path, bundle: Option<&Path>) -> anyhow::Result<()> {
    let Some(bytes) = shards.bytes else {
        return Ok(());
    };
    let paths = shards.places.iter().map(|place| dir.join(&place.path));
    let there: u64 = paths.map(|path| bytes_there(&path)).sum();
    let rest = bytes.saturating_sub(there);
    let together = bundle.is_some_and(|bundle| same_file_system(dir, bundle));
    let needed = if together {
        rest.saturating_add(bytes)
    } else {
        rest
    };
    SpaceNeeded::look(dir, needed).check()?;
    if let (Some(bundle), false) = (bundle, together) {
        SpaceNeeded::look(bundle, bytes).check()?;
    }
    Ok(())
}

/// Makes the folder of downloads, where one process at a time may work: two would write into the same parts of files.
fn take_folder(dir: &Path) -> anyhow::Result<FolderLock> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create '{}'", dir.display()))?;
    let path = dir.join(LOCK);
    FolderLock::take(&path).map_err(|error| match error {
        FolderLockError::Held(holder) => anyhow!(
            "'{}' is being downloaded into already ({holder}): wait for its end, or name another folder",
            dir.display()
        ),
        FolderLockError::Io(error) => anyhow!("cannot lock '{}': {error}", path.display()),
    })
}

/// Downloads one file unless it is there, and holds it to the hash that is known: the published one, or the one that its first
/// download had. Returns the place where it was found.
async fn fetch(
    downloader: &Downloader,
    records: &mut Records,
    dir: &Path,
    place: Place,
) -> anyhow::Result<(Place, PathBuf)> {
    let mut tried = place.clone();
    loop {
        let path = dir.join(&tried.path);
        if block_in_place(|| records.is_whole(&tried, &path))? {
            outln!("{}: there already", tried.path);
            return Ok((tried, path));
        }
        match downloader.download(&tried, &path).await? {
            Downloaded::Whole => {
                let known = block_in_place(|| records.record(&tried, &path))?;
                outln!("{}: {known}", tried.path);
                return Ok((tried, path));
            }
            Downloaded::NotThere(url) => match tried.other() {
                Some(other) => tried = other,
                None => anyhow::bail!(
                    "'{url}' is not there: the file has moved. Download it by hand into '{}' and run this again, or name its \
                     new place with --places",
                    path.display()
                ),
            },
        }
    }
}
