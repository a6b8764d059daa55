//! Where METEOR's data comes from: the jar or a folder that the user names. Nothing of it is shipped, since its licence (LGPL)
//! is not ours.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::{DeflateDecoder, GzDecoder};

use super::normalize::Abbreviations;
use super::paraphrases::{Paraphrases, TableError};
use super::synonyms::Synonyms;

const FUNCTION_WORDS: &str = "function/english.words";
const ABBREVIATIONS: &str = "nonbreaking/english.prefixes";
const SYNSETS: &str = "synonym/english.synsets";
const EXCEPTIONS: &str = "synonym/english.exceptions";
const PARAPHRASES: &str = "paraphrase-en.gz";

/// METEOR's lists for English: function words, abbreviations, synonyms and paraphrases.
#[derive(Default)]
pub struct MeteorData {
    /// Words that count less.
    pub(super) function_words: HashSet<String>,
    pub(super) abbreviations: Abbreviations,
    pub(super) synonyms: Synonyms,
    pub(super) paraphrases: Paraphrases,
    /// The files that it was read from, with their sizes and when they were changed.
    pub(super) identity: String,
}

/// Why METEOR's data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MeteorDataError {
    /// A file is missing or cannot be read.
    #[error(
        "METEOR data: cannot read {path}: {source}; name meteor-1.5.jar with data/paraphrase-en.gz beside it, or a folder that has both"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("METEOR data: {path}: {reason}; take the file of METEOR 1.5")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TableError {
    fn at(self, path: PathBuf) -> MeteorDataError {
        match self {
            Self::Read(source) => MeteorDataError::Read { path, source },
            Self::Content(reason) => MeteorDataError::Content { path, reason },
        }
    }
}

impl MeteorData {
    /// Reads the data of METEOR 1.5. `place` is `meteor-1.5.jar` or a folder with it (or with its folders `function`,
    /// `nonbreaking` and `synonym` unpacked); the paraphrases
    /// lie in `paraphrase-en.gz` beside it or in `data`, as in METEOR's own folder and in pycocoevalcap's.
    ///
    /// # Errors
    ///
    /// Names the file that is missing or not readable.
    pub fn read(place: &Path) -> Result<Self, MeteorDataError> {
        let (folder, jar) = if place.is_dir() {
            (place.to_owned(), place.join("meteor-1.5.jar"))
        } else {
            let parent = place.parent().unwrap_or(Path::new("."));
            (parent.to_owned(), place.to_owned())
        };
        let mut identity = String::new();
        let mut text = |name: &str| {
            let loose = folder.join(name);
            let (file, path, read) = match loose.is_file() {
                true => (&loose, loose.clone(), fs::read_to_string(&loose)),
                false => (&jar, jar.join(name), from_jar(&jar, name)),
            };
            let read = read.map_err(|source| MeteorDataError::Read { path, source })?;
            identity += &state_of(file)?;
            Ok(read)
        };
        let function_words = text(FUNCTION_WORDS)?;
        let function_words = function_words.split_ascii_whitespace().map(str::to_owned);
        let abbreviations = Abbreviations::parse(&text(ABBREVIATIONS)?);
        let synonyms = Synonyms::parse(&text(SYNSETS)?, &text(EXCEPTIONS)?);
        let synonyms = synonyms.map_err(|reason| MeteorDataError::Content {
            path: PathBuf::from(SYNSETS),
            reason,
        })?;
        let beside = folder.join(PARAPHRASES);
        let path = if beside.is_file() {
            beside
        } else {
            folder.join("data").join(PARAPHRASES)
        };
        let file = File::open(&path).map_err(|source| MeteorDataError::Read {
            path: path.clone(),
            source,
        })?;
        identity += &state_of(&path)?;
        let paraphrases = Paraphrases::read(GzDecoder::new(BufReader::new(file)))
            .map_err(|error| error.at(path))?;
        Ok(Self {
            function_words: function_words.collect(),
            abbreviations,
            synonyms,
            paraphrases,
            identity,
        })
    }
}

/// A file's place, its size, and when it was changed.
fn state_of(path: &Path) -> Result<String, MeteorDataError> {
    let state = || {
        let (place, metadata) = (fs::canonicalize(path)?, fs::metadata(path)?);
        let (length, changed) = (metadata.len(), metadata.modified()?);
        std::io::Result::Ok(format!("{} {length} {changed:?}\n", place.display()))
    };
    state().map_err(|source| MeteorDataError::Read {
        path: path.to_owned(),
        source,
    })
}

fn from_jar(jar: &Path, name: &str) -> std::io::Result<String> {
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(jar)?))?;
    let index = archive
        .index_for_name(name)
        .ok_or(std::io::ErrorKind::NotFound)?;
    // The archive's reader is built without decompression, which flate2 does.
    let packed = archive.by_index_raw(index)?;
    let is_stored = packed.compression() == zip::CompressionMethod::Stored;
    let mut text = String::new();
    if is_stored {
        BufReader::new(packed).read_to_string(&mut text)?;
    } else {
        DeflateDecoder::new(BufReader::new(packed)).read_to_string(&mut text)?;
    }
    Ok(text)
}
