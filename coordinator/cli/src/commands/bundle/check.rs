//! `radialog bundle check`: an acceptance test of imported weights against the release's own outputs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use radialog_models::bundle::acceptance::{Acceptance, Distance, Projector};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::checkpoint::embeddings::StoredEmbeddings;
use radialog_models::preprocess::{ImageLimits, Preprocessed, SHORT_SIDE};
use radialog_schemas::system_files::is_system_file;
use radialog_schemas::{Finding, Stage};

use crate::bundle_source;
use crate::exit::{UsageError, usage};
use crate::named_path;
use crate::predictions;

/// A probability that is as near to the threshold as this may fall on its other side by rounding: the published predictions were
/// computed in half precision.
const NEAR: f64 = 0.005;

/// Findings that are predicted are more probable than this.
const THRESHOLD: f64 = 0.5;

/// Folders in folders that are searched for images.
const DEEPEST: usize = 6;

/// Compare what a bundle makes of images with a release's own embeddings and predictions
///
/// One line a component says whether they agree and by how much; also which alignment projector fits. Example: radialog bundle
/// check /bundles/radialog-v1 --images files/p10 --embeddings embs/stage1_embeddings_test.pkl --predictions
/// predictions/structured_preds_chexpert_log_weighting_test_macro.json
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Bundle to check
    bundle: PathBuf,
    /// Folder of images whose names are the ids in the release's files
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Embeddings of the release, a pickle of arrays by image id
    #[arg(long, value_name = "PICKLE")]
    embeddings: Option<PathBuf>,
    /// Predictions of the release, names of findings by image id
    #[arg(long, value_name = "JSON")]
    predictions: Option<PathBuf>,
    /// Images to compare at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let stages: Vec<Stage> = [
        args.embeddings.is_some().then_some(Stage::Embedding),
        args.predictions.is_some().then_some(Stage::Findings),
    ]
    .into_iter()
    .flatten()
    .collect();
    if stages.is_empty() {
        let hint = "name what to compare with: --embeddings, --predictions or both";
        return Err(UsageError(hint.into()).into());
    }
    let stored = args
        .embeddings
        .as_deref()
        .map(StoredEmbeddings::open)
        .transpose()
        .map_err(usage)?;
    let predictions = args
        .predictions
        .as_deref()
        .map(predictions::read)
        .transpose()
        .map_err(usage)?;
    let embedded: Option<BTreeSet<&str>> = stored.as_ref().map(|stored| {
        let arrays = stored.arrays().iter();
        arrays.map(|array| array.image.as_str()).collect()
    });
    let predicted: Option<BTreeSet<&str>> = predictions
        .as_ref()
        .map(|all| all.keys().map(String::as_str).collect());
    // An image that only one of two files knows would leave the other uncompared.
    let ids = match (embedded, predicted) {
        (Some(embedded), Some(predicted)) => &embedded & &predicted,
        (embedded, predicted) => embedded.or(predicted).unwrap_or_default(),
    };
    if ids.is_empty() {
        let hint = "no image id is in all files to compare with: give files of one split, or one file at a time";
        return Err(UsageError(hint.into()).into());
    }
    named_path::require(&args.images, "--images is the folder of the images")?;
    let mut images = BTreeMap::new();
    find_images(&args.images, 0, &ids, &mut images)?;
    let images: Vec<(String, PathBuf)> = images.into_iter().take(args.limit as usize).collect();
    if images.is_empty() {
        let message = format!(
            "no image below '{}' is called like one of the {} ids: give the folder of the data set that they are of",
            args.images.display(),
            ids.len()
        );
        return Err(UsageError(message).into());
    }
    let bundle = Bundle::open_with(
        &bundle_source::named(&args.bundle)?,
        &stages,
        &HashCache::user(),
    )?;
    let acceptance = Acceptance::load(&bundle, &stages)?;
    let mut embedding = EmbeddingCheck::default();
    let mut findings = FindingsCheck::default();
    for (id, path) in &images {
        let bytes = fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
        let image = Preprocessed::from_bytes(&bytes, &ImageLimits::default(), SHORT_SIDE)
            .with_context(|| format!("'{}'", path.display()))?;
        if let Some(stored) = &stored {
            embedding.add(id, &acceptance, &image, stored)?;
        }
        if let Some(expected) = predictions.as_ref().and_then(|all| all.get(id)) {
            findings.add(&acceptance, &image, expected)?;
        }
    }
    let mut agree = true;
    if stored.is_some() {
        agree &= embedding.print();
    }
    if predictions.is_some() {
        agree &= findings.print();
    }
    Ok(match agree {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The worst distance under each projector.
#[derive(Default)]
struct EmbeddingCheck {
    images: usize,
    worst: Vec<(Projector, Distance)>,
}

impl EmbeddingCheck {
    fn add(
        &mut self,
        id: &str,
        acceptance: &Acceptance,
        image: &Preprocessed,
        stored: &StoredEmbeddings,
    ) -> anyhow::Result<()> {
        let Some(array) = stored.arrays().iter().find(|array| array.image == id) else {
            return Ok(());
        };
        let expected = stored.read(array)?;
        self.images += 1;
        for (projector, found) in acceptance.embeddings(image)? {
            let Some(distance) = Distance::between(&found, &expected) else {
                bail!(
                    "'{id}': the bundle gives {} numbers and the release {} (shape {:?}): they are of different systems",
                    found.len(),
                    expected.len(),
                    array.shape
                );
            };
            match self.worst.iter_mut().find(|(other, _)| *other == projector) {
                // One that disagrees outweighs all that agree, however far these are off.
                Some((_, worst)) => {
                    let rank = |distance: &Distance| (!distance.agrees(), distance.mean);
                    if rank(worst).partial_cmp(&rank(&distance)) == Some(Ordering::Less) {
                        *worst = distance;
                    }
                }
                None => self.worst.push((projector, distance)),
            }
        }
        Ok(())
    }

    fn print(&self) -> bool {
        let Some((_, own)) = self.worst.first() else {
            outln!("embedding: NOT COMPARED, no image has a stored embedding");
            return false;
        };
        let by_how_much = |distance: &Distance| {
            format!(
                "mean difference {:.2e}, largest {:.2e}, spread {:.2}",
                distance.mean, distance.largest, distance.spread
            )
        };
        let agrees = own.agrees();
        let fits: Vec<String> = self
            .worst
            .iter()
            .filter(|(_, distance)| distance.agrees())
            .map(|(projector, _)| projector.to_string())
            .collect();
        let others: Vec<String> = self
            .worst
            .iter()
            .map(|(projector, distance)| format!("{projector}: {}", by_how_much(distance)))
            .collect();
        outln!(
            "embedding: {}: {} images, {}; fits: {} ({})",
            if agrees { "agrees" } else { "DOES NOT AGREE" },
            self.images,
            by_how_much(own),
            if fits.is_empty() {
                "no projector".to_owned()
            } else {
                fits.join(", ")
            },
            others.join("; ")
        );
        agrees
    }
}

/// Labels that are the same and not.
#[derive(Default)]
struct FindingsCheck {
    images: usize,
    equal: usize,
    labels: usize,
    near: usize,
    different: BTreeMap<&'static str, usize>,
}

impl FindingsCheck {
    fn add(
        &mut self,
        acceptance: &Acceptance,
        image: &Preprocessed,
        expected: &[Finding],
    ) -> anyhow::Result<()> {
        let (mut near, mut different) = (0, 0);
        for (finding, probability) in acceptance.findings(image)? {
            self.labels += 1;
            if (probability > THRESHOLD) == expected.contains(&finding) {
                continue;
            }
            if (probability - THRESHOLD).abs() <= NEAR {
                near += 1;
            } else {
                different += 1;
                *self.different.entry(finding.name()).or_default() += 1;
            }
        }
        self.images += 1;
        self.near += near;
        self.equal += usize::from(near + different == 0);
        Ok(())
    }

    fn print(&self) -> bool {
        if self.images == 0 {
            outln!("findings: NOT COMPARED, no image has a prediction");
            return false;
        }
        let different: usize = self.different.values().sum();
        let which: Vec<String> = self
            .different
            .iter()
            .map(|(finding, count)| format!("{finding} {count}"))
            .collect();
        outln!(
            "findings: {}: {} of {} images have the same labels; of {} labels {} differ at the threshold, by rounding, and \
             {different} beyond{}",
            if different == 0 {
                "agrees"
            } else {
                "DOES NOT AGREE"
            },
            self.equal,
            self.images,
            self.labels,
            self.near,
            if which.is_empty() {
                String::new()
            } else {
                format!(" ({})", which.join(", "))
            }
        );
        different == 0
    }
}

/// Images whose names are among the ids, but for a system's own files.
fn find_images(
    dir: &Path,
    depth: usize,
    ids: &BTreeSet<&str>,
    found: &mut BTreeMap<String, PathBuf>,
) -> anyhow::Result<()> {
    let list = || format!("cannot list '{}'", dir.display());
    for entry in fs::read_dir(dir).with_context(list)? {
        let entry = entry.with_context(list)?;
        if is_system_file(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() && depth < DEEPEST {
            find_images(&path, depth + 1, ids, found)?;
            continue;
        }
        let end = path
            .extension()
            .map(|end| end.to_string_lossy().to_lowercase());
        let image = end.is_some_and(|end| ["jpg", "jpeg", "png"].contains(&end.as_str()));
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        if let Some(stem) = stem.filter(|stem| image && ids.contains(stem.as_str())) {
            found.insert(stem, path);
        }
    }
    Ok(())
}
