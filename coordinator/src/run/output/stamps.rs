//! `inputs.jsonl`: what each image file was when it was read (size, times, inode; in a bucket its version), one line a study, so
//! that a later session sees without reading the archive which files may be others now. Nothing but time is lost with a line:
//! a file without one is read.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use radialog_schemas::StudyId;
use serde::{Deserialize, Serialize};

use crate::CoordinatorError;

/// The name of the file that has the stamps of image files.
pub(crate) const STAMPS_FILE: &str = "inputs.jsonl";

/// One line.
#[derive(Serialize, Deserialize)]
struct StampLine {
    study_id: StudyId,
    stamp: String,
}

/// The stamps that earlier sessions have noted, in 16 bytes a study.
#[derive(Default)]
pub(crate) struct Stamps(Vec<(u64, u64)>);

/// The file, open for appending.
pub(crate) struct StampFile {
    path: PathBuf,
    file: Option<File>,
}

impl Stamps {
    /// Reads the file; what is no line of it tells nothing.
    pub(crate) fn read(dir: &Path) -> Result<Self, CoordinatorError> {
        let path = dir.join(STAMPS_FILE);
        let failed = || CoordinatorError::output(&path);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            file => file.map_err(failed())?,
        };
        let (mut reader, mut line) = (BufReader::with_capacity(1 << 18, file), Vec::new());
        let mut stamps = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(failed())? == 0 {
                break;
            }
            if let Ok(StampLine { study_id, stamp }) = serde_json::from_slice(&line) {
                stamps.push((digest(study_id.as_str()), digest(&stamp)));
            }
        }
        // Stable: of a study with several, the newest is the last.
        stamps.sort_by_key(|&(study, _)| study);
        Ok(Self(stamps))
    }

    /// Whether the newest stamp of the study's file is this one.
    pub(crate) fn has(&self, study: &StudyId, stamp: &str) -> bool {
        let wanted = digest(study.as_str());
        let end = self.0.partition_point(|&(study, _)| study <= wanted);
        let newest = self.0[..end].last();
        newest.is_some_and(|&(study, noted)| study == wanted && noted == digest(stamp))
    }
}

impl StampFile {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(STAMPS_FILE),
            file: None,
        }
    }

    /// Adds stamps of studies.
    pub(crate) fn append<'a>(
        &mut self,
        stamps: impl Iterator<Item = (&'a StudyId, &'a str)>,
    ) -> Result<(), CoordinatorError> {
        let mut text = Vec::new();
        for (study, stamp) in stamps {
            let line = StampLine {
                study_id: study.clone(),
                stamp: stamp.to_owned(),
            };
            serde_json::to_writer(&mut text, &line).expect("a stamp has string keys only");
            text.push(b'\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        let failed = || CoordinatorError::output(&self.path);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path).map_err(failed())?),
        };
        file.write_all(&text).map_err(failed())
    }
}

/// Opens the file behind its last line; what a killed process has left of one is closed, and no line.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).read(true).append(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stamp_of_a_study_counts_and_half_a_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let id = |name: &str| StudyId(name.into());
        let note = |stamps: &[(&str, &str)]| {
            let stamps: Vec<_> = stamps
                .iter()
                .map(|(name, stamp)| (id(name), *stamp))
                .collect();
            let stamps = stamps.iter().map(|(id, stamp)| (id, *stamp));
            StampFile::new(dir.path()).append(stamps).unwrap();
        };
        assert!(!Stamps::read(dir.path()).unwrap().has(&id("a"), "1"));
        note(&[("a", "1"), ("b", "1")]);
        let path = dir.path().join(STAMPS_FILE);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        note(&[("a", "2"), ("c", "3")]);
        let stamps = Stamps::read(dir.path()).unwrap();
        let known = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "3"), ("d", "3")];
        let known = known.map(|(name, stamp)| stamps.has(&id(name), stamp));
        assert_eq!(known, [false, true, false, true, false]);
    }
}
