//! Where METEOR's data comes from: the jar or a folder that the user names. Nothing of it is shipped but the list of function
//! words, which is a parameter of the score.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::{DeflateDecoder, GzDecoder};

use super::paraphrases::Paraphrases;
use super::synonyms::Synonyms;

/// Words that count less: METEOR's list for English, the most frequent ones.
const FUNCTION_WORDS: &str = "the , . to of and a in that for \" is on 's it with was as said at he by be from have has are \
    his but an this not i will ’ they ) -rrb- ( -lrb- who their had we which were been more or s its would about new one \
    after you : also up when there than $ all out her people she year two - can if last first “ over other ” into some what \
    so -- no time years could ? 't — '";
const SYNSETS: &str = "synonym/english.synsets";
const EXCEPTIONS: &str = "synonym/english.exceptions";
const PARAPHRASES: &str = "paraphrase-en.gz";

pub(super) fn is_function_word(word: &str) -> bool {
    static WORDS: std::sync::LazyLock<std::collections::HashSet<&str>> =
        std::sync::LazyLock::new(|| FUNCTION_WORDS.split_ascii_whitespace().collect());
    WORDS.contains(word)
}

/// METEOR's synonyms and paraphrases.
pub struct MeteorData {
    pub(super) synonyms: Synonyms,
    pub(super) paraphrases: Paraphrases,
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

impl MeteorData {
    /// Reads the data of METEOR 1.5. `place` is `meteor-1.5.jar` or a folder with it (or with the unpacked `synonym`); the
    /// paraphrases lie in `paraphrase-en.gz` beside it or in `data`, as in METEOR's own folder and in pycocoevalcap's.
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
        let text = |name: &str| {
            let loose = folder.join(name);
            let (path, read) = if loose.is_file() {
                (loose.clone(), fs::read_to_string(&loose))
            } else {
                (jar.join(name), from_jar(&jar, name))
            };
            read.map_err(|source| MeteorDataError::Read { path, source })
        };
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
        let mut table = String::new();
        File::open(&path)
            .and_then(|file| GzDecoder::new(BufReader::new(file)).read_to_string(&mut table))
            .map_err(|source| MeteorDataError::Read {
                path: path.clone(),
                source,
            })?;
        let paraphrases = Paraphrases::parse(&table)
            .map_err(|reason| MeteorDataError::Content { path, reason })?;
        Ok(Self {
            synonyms,
            paraphrases,
        })
    }
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
