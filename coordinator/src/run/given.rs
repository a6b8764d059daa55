//! Outputs of the image stages that are given with a run instead of being computed, as the original's `--use_embs` does: a
//! file of embeddings, a file of predictions. Each goes to the store under a key of its own content, so that what follows
//! from it is never mistaken for what follows from a computed one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use radialog_schemas::record::{GivenFile, GivenOutput};
use radialog_schemas::{ContentHash, Failure, ObjectKey, Stage, StageSet};

use crate::CoordinatorError;
use crate::archive::{Archive, StudyEntry};

/// Files that stand in for stages.
pub trait GivenOutputs: Send + Sync {
    /// Names the files that stand in for each stage.
    fn files(&self) -> BTreeMap<Stage, Vec<GivenFile>>;

    /// Reads what the files give for an image as the output of a stage, as the stage itself would store it, with the file
    /// that it is from; none where none of them knows the image. It may wait for a disk.
    ///
    /// # Errors
    /// An entry that is there and cannot be used.
    fn output(&self, stage: Stage, image: &str) -> Result<Option<(Bytes, GivenFile)>, Failure>;
}

/// The outputs that are given for one study, with their content.
pub(super) type StudyOutputs = BTreeMap<Stage, (GivenOutput, Bytes)>;

/// The files of a run, and which names in them are no names in its archive.
#[derive(Clone)]
pub(crate) struct ArchiveOutputs {
    outputs: Arc<dyn GivenOutputs>,
    /// Names that images of several studies have: an entry of that name may be any of theirs.
    shared: Arc<HashSet<String>>,
}

impl ArchiveOutputs {
    /// Looks through the archive once for names that several studies share.
    ///
    /// # Errors
    /// When the whole archive is unusable.
    pub(crate) async fn of(
        outputs: Arc<dyn GivenOutputs>,
        archive: &dyn Archive,
    ) -> Result<Self, CoordinatorError> {
        // Hashes, since an archive may have a million names.
        let mut studies: HashMap<u64, u64> = HashMap::new();
        let mut shared = HashSet::new();
        let mut entries = archive.entries().await?;
        while let Some(entry) = entries.next().await {
            let Ok(entry) = entry else { continue };
            let study = hash(entry.study.as_str());
            for name in names(&entry) {
                if *studies.entry(hash(&name)).or_insert(study) != study {
                    shared.insert(name);
                }
            }
        }
        let shared = Arc::new(shared);
        Ok(Self { outputs, shared })
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether these files leave no stage of the run that reads an image.
pub(super) fn spare_images(files: &BTreeMap<Stage, Vec<GivenFile>>, stages: &StageSet) -> bool {
    let mut image_stages = stages.iter().filter(|stage| stage.needs().is_empty());
    !files.is_empty() && image_stages.all(|stage| files.contains_key(&stage))
}

/// Reads what is given for a study.
///
/// # Errors
/// A file has no entry for it, or one that cannot be used.
pub(super) async fn of_study(
    given: &ArchiveOutputs,
    entry: &StudyEntry,
) -> Result<StudyOutputs, Failure> {
    let (given, names) = (given.clone(), names(entry));
    let read = move || {
        let stages = given.outputs.files().into_iter();
        stages
            .map(|(stage, files)| Ok((stage, find(&given, stage, &files, &names)?)))
            .collect()
    };
    let reading = tokio::task::spawn_blocking(read);
    reading.await.unwrap_or_else(|_| {
        let message = "reading what is given for this study failed; see the log";
        Err(Failure::new(radialog_schemas::ErrorCode::Crash, message))
    })
}

/// The names that a study's image may have in a file: the image's own without its ending, as the release has it, and the
/// study's, as tables have it.
fn names(entry: &StudyEntry) -> Vec<String> {
    let stem = Path::new(&entry.file).file_stem();
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    let study = entry.study.as_str().to_owned();
    match stem {
        Some(stem) if stem != study => vec![stem, study],
        _ => vec![study],
    }
}

fn find(
    given: &ArchiveOutputs,
    stage: Stage,
    files: &[GivenFile],
    names: &[String],
) -> Result<(GivenOutput, Bytes), Failure> {
    let (shared, own): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| given.shared.contains(*name));
    for name in own {
        if let Some((content, file)) = given.outputs.output(stage, name)? {
            let object = ObjectKey::given(stage, &ContentHash::of(&content));
            return Ok((GivenOutput { object, file }, content));
        }
    }
    let files: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let mut message = format!(
        "{} has no entry '{}' to stand in for the {stage} stage",
        files.join(", "),
        names.join("' or '")
    );
    if let Some(shared) = shared.first() {
        message += &format!(
            " that is this study's alone: images of several studies are called '{shared}', so call its entry by the study's id"
        );
    }
    Err(Failure::new(
        radialog_schemas::ErrorCode::GivenMissing,
        message,
    ))
}

#[cfg(test)]
mod tests {
    use radialog_schemas::ErrorCode;

    use super::*;

    struct Known;

    impl GivenOutputs for Known {
        fn files(&self) -> BTreeMap<Stage, Vec<GivenFile>> {
            let file = GivenFile {
                name: "e.pkl".into(),
                sha256: ContentHash::of(b"e"),
            };
            BTreeMap::from([(Stage::Embedding, vec![file])])
        }

        fn output(&self, stage: Stage, image: &str) -> Result<Option<(Bytes, GivenFile)>, Failure> {
            let file = self.files()[&stage][0].clone();
            Ok((image == "dicom" || image == "study")
                .then(|| (Bytes::from(image.to_owned()), file)))
        }
    }

    #[tokio::test]
    async fn the_images_own_name_counts_before_the_studys_and_none_is_a_failure_that_names_both() {
        let given = ArchiveOutputs {
            outputs: Arc::new(Known),
            shared: Arc::default(),
        };
        let entry = |study, file: &str| {
            StudyEntry::new(
                study,
                file,
                Err(Failure::new(ErrorCode::ImageMissing, "gone")),
            )
        };
        let found = |outputs: StudyOutputs| outputs[&Stage::Embedding].1.clone();
        let own = of_study(&given, &entry("study", "p10/s1/dicom.jpg")).await;
        assert_eq!(found(own.unwrap()), "dicom");
        let of_study_id = of_study(&given, &entry("study", "p10/s1/other.jpg")).await;
        assert_eq!(found(of_study_id.unwrap()), "study");
        let failure = of_study(&given, &entry("b", "a.png")).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::GivenMissing);
        assert!(
            failure.message.contains("e.pkl has no entry 'a' or 'b'"),
            "{failure}"
        );
    }

    #[test]
    fn images_are_spared_only_where_no_stage_is_left_that_reads_them() {
        let all = StageSet::all();
        let file = Known.files();
        assert!(!spare_images(&file, &all));
        assert!(spare_images(&file, &StageSet::closure(&[Stage::Embedding])));
        let mut both = file.clone();
        both.insert(Stage::Findings, Vec::new());
        assert!(spare_images(&both, &all));
        assert!(!spare_images(&BTreeMap::new(), &all));
    }
}
