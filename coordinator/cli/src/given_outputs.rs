//! Files that stand in for the image stages of a run: embeddings as the original's pickles or as `radialog prepare
//! embeddings` writes them, and predictions as the original's JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use bytes::Bytes;
use radialog_coordinator::run::GivenOutputs;
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::{FindingsComponent, LanguageComponent};
use radialog_models::bundle::hashes::HashCache;
use radialog_models::embedding_files::{EmbeddingFile, EmbeddingFileError};
use radialog_models::findings::TextRule;
use radialog_schemas::record::GivenFile;
use radialog_schemas::{ErrorCode, Failure, Finding, FindingsReport, PredictedFinding, Stage};

use crate::exit::usage;
use crate::predictions;

/// The files of a run, opened and checked.
#[derive(Default)]
pub(crate) struct GivenOutputFiles {
    embeddings: Vec<(GivenFile, EmbeddingFile)>,
    predictions: Vec<(GivenFile, BTreeMap<String, Vec<Finding>>)>,
    /// The rule by which the bundle's prompts name findings.
    rule: TextRule,
}

impl GivenOutputFiles {
    /// Opens the files for a run over this bundle; none where there are none.
    pub(crate) fn open(
        embeddings: &[PathBuf],
        predictions: &[PathBuf],
        bundle: &Bundle,
    ) -> anyhow::Result<Option<Self>> {
        if embeddings.is_empty() && predictions.is_empty() {
            return Ok(None);
        }
        let components = &bundle.manifest().components;
        let mut opened = Self::default();
        if components.contains_key(&Stage::Findings) {
            opened.rule = bundle
                .config::<FindingsComponent>(Stage::Findings)?
                .text_rule;
        }
        let expected = match components.contains_key(&Stage::Language) {
            true => {
                let llama = bundle.config::<LanguageComponent>(Stage::Language)?.llama;
                Some(vec![llama.num_image_tokens, llama.image_dim])
            }
            false => None,
        };
        let mut seen = BTreeMap::new();
        for path in embeddings {
            let file = EmbeddingFile::open(path).map_err(usage)?;
            check_shapes(&file, path, expected.as_deref(), &mut seen)?;
            opened.embeddings.push((given_file(path)?, file));
        }
        let mut seen = BTreeMap::new();
        for path in predictions {
            let file = predictions::read(path).map_err(usage)?;
            for image in file.keys() {
                only_once(image, path, &mut seen)?;
            }
            opened.predictions.push((given_file(path)?, file));
        }
        Ok(Some(opened))
    }

    fn embedding(&self, image: &str) -> Result<Option<(Bytes, GivenFile)>, Failure> {
        for (file, embeddings) in &self.embeddings {
            let unusable = |error: EmbeddingFileError| {
                let message = format!("'{image}' of {} cannot be used: {error}", file.name);
                Failure::new(ErrorCode::ObjectCorrupt, message)
            };
            if let Some(content) = embeddings.object(image).map_err(unusable)? {
                return Ok(Some((content.into(), file.clone())));
            }
        }
        Ok(None)
    }

    fn prediction(&self, image: &str) -> Option<(Bytes, GivenFile)> {
        let found = self
            .predictions
            .iter()
            .find_map(|(file, entries)| Some((file, entries.get(image)?)));
        let (file, present) = found?;
        let findings = Finding::ALL.map(|finding| {
            let present = present.contains(&finding);
            PredictedFinding {
                finding,
                // A list of names says no more than this.
                probability: Some(f32::from(u8::from(present))),
                threshold: None,
                present,
            }
        });
        let report = FindingsReport {
            findings: findings.into(),
            text: self.rule.text(present),
            warnings: Vec::new(),
            input_gate: None,
        };
        let content = serde_json::to_vec(&report).expect("a report has string keys only");
        Some((content.into(), file.clone()))
    }
}

impl GivenOutputs for GivenOutputFiles {
    fn files(&self) -> BTreeMap<Stage, Vec<GivenFile>> {
        let names = |files: Vec<&GivenFile>| files.into_iter().cloned().collect::<Vec<_>>();
        let embeddings = names(self.embeddings.iter().map(|(file, _)| file).collect());
        let predictions = names(self.predictions.iter().map(|(file, _)| file).collect());
        [
            (Stage::Embedding, embeddings),
            (Stage::Findings, predictions),
        ]
        .into_iter()
        .filter(|(_, files)| !files.is_empty())
        .collect()
    }

    fn output(&self, stage: Stage, image: &str) -> Result<Option<(Bytes, GivenFile)>, Failure> {
        match stage {
            Stage::Embedding => self.embedding(image),
            Stage::Findings => Ok(self.prediction(image)),
            Stage::Language | Stage::Scoring => Ok(None),
        }
    }
}

/// Checks shapes, and that no image stands in two files.
fn check_shapes(
    file: &EmbeddingFile,
    path: &Path,
    expected: Option<&[usize]>,
    seen: &mut BTreeMap<String, PathBuf>,
) -> anyhow::Result<()> {
    for (image, shape) in file.shapes() {
        if let Some(expected) = expected.filter(|expected| *expected != shape) {
            bail!(
                "'{image}' of '{}' has the shape {shape:?}, and the bundle's language model takes {expected:?}: the file is of \
                 another model",
                path.display()
            );
        }
        only_once(&image, path, seen)?;
    }
    Ok(())
}

/// Names and hashes a file.
fn given_file(path: &Path) -> anyhow::Result<GivenFile> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(GivenFile {
        name: name.to_string_lossy().into_owned(),
        sha256: HashCache::user().hash(path)?,
    })
}

fn only_once(image: &str, path: &Path, seen: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    match seen.insert(image.to_owned(), path.to_owned()) {
        None => Ok(()),
        Some(other) => bail!(
            "'{image}' is in '{}' and in '{}': leave one of the files out",
            other.display(),
            path.display()
        ),
    }
}
