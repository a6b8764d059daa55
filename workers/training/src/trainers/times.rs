//! How long each epoch took: a file of its own, since two trainings of the same recipe end with the same bytes in all others.

use std::path::{Path, PathBuf};

use radialog_files::durable;

use crate::error::TrainingError;
use crate::prepare::TableFile;

/// The columns of the file.
const COLUMNS: [&str; 2] = ["epoch", "seconds"];

/// The seconds that each epoch took, in `times.csv`.
#[derive(Debug)]
pub(super) struct EpochTimes {
    path: PathBuf,
    rows: Vec<(u64, String)>,
}

impl EpochTimes {
    /// The times of the first `epochs`, as far as the file has them.
    pub(super) fn open(path: &Path, epochs: u64) -> Result<Self, TrainingError> {
        let mut rows = Vec::new();
        if epochs > 0 && path.is_file() {
            let mut table = TableFile::open(path)?;
            let [epoch, seconds] = [table.column(COLUMNS[0])?, table.column(COLUMNS[1])?];
            while let Some(row) = table.next_row()? {
                let number = row.cell(epoch).and_then(|cell| cell.parse().ok());
                let seconds = row.cell(seconds).unwrap_or_default().to_owned();
                rows.extend(
                    number
                        .filter(|epoch| *epoch <= epochs)
                        .map(|epoch| (epoch, seconds)),
                );
            }
        }
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }

    /// Adds an epoch's and writes the file anew.
    pub(super) fn add(&mut self, epoch: u64, seconds: f64) -> Result<(), TrainingError> {
        self.rows.push((epoch, format!("{seconds:.3}")));
        let mut text = COLUMNS.join(",") + "\n";
        for (epoch, seconds) in &self.rows {
            text += &format!("{epoch},{seconds}\n");
        }
        let path = &self.path;
        durable::replace(path, text.as_bytes()).map_err(TrainingError::io("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_training_keeps_the_times_of_the_epochs_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("times.csv");
        let mut times = EpochTimes::open(&path, 0).unwrap();
        (1..=3).for_each(|epoch| times.add(epoch, epoch as f64).unwrap());
        EpochTimes::open(&path, 2).unwrap().add(3, 9.0).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "epoch,seconds\n1,1.000\n2,2.000\n3,9.000\n");
    }
}
