//! What scores of texts are sums of, a row of numbers a text, in a file that has no name and goes with the process: memory does not
//! grow with the texts, however often they are drawn.

use std::io;

use super::bootstrap::{Bootstrap, Estimate};
use super::number_rows::{NumberRows, NumberRowsWriter};

/// Rows that are being stored, all as wide.
pub struct SummedRows(NumberRowsWriter);

impl SummedRows {
    /// No rows yet, of so many numbers each.
    ///
    /// # Errors
    /// No file can be created in the system's folder of temporary files, or rows have no number.
    pub fn new(width: usize) -> io::Result<Self> {
        NumberRowsWriter::new(width).map(Self)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// The number of numbers of a row.
    pub fn width(&self) -> usize {
        self.0.width()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// There is no room, or the row has another width.
    pub fn add(&mut self, row: &[f64]) -> io::Result<()> {
        self.0.add(row)
    }

    /// Computes scores of the sum of all rows, with their intervals; none where they are NaN. The items of the bootstrap are the
    /// rows.
    ///
    /// # Errors
    /// The file cannot be written or read, or the bootstrap is of another number of rows.
    pub fn estimates(
        self,
        bootstrap: &Bootstrap,
        scores: impl Fn(&[f64]) -> Vec<f64> + Sync,
    ) -> io::Result<Vec<Option<Estimate>>> {
        if bootstrap.items() != self.rows() {
            return Err(io::Error::other("a bootstrap of another number of rows"));
        }
        let width = self.width();
        let rows = self.0.finish()?;
        bootstrap.estimates_of_blocks(|weights| {
            let sums = sums(&rows, width, weights)?;
            Ok(sums.iter().map(|sums| scores(sums)).collect())
        })
    }
}

/// The sums of the rows, each of which counts as often as its weight says, for each of these weights.
fn sums(rows: &NumberRows, width: usize, weights: &[Vec<u32>]) -> io::Result<Vec<Vec<f64>>> {
    let mut sums = vec![vec![0.0; width]; weights.len()];
    for block in rows.blocks() {
        let (begin, numbers) = block?;
        for (place, row) in (begin..).zip(numbers.chunks_exact(width)) {
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = weights[place];
                if weight == 0 {
                    continue;
                }
                let weight = f64::from(weight);
                for (sum, number) in sums.iter_mut().zip(row) {
                    *sum += weight * number;
                }
            }
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::bootstrap::Resampling;

    #[test]
    fn estimates_of_stored_rows_are_those_of_rows_in_memory() {
        // More than are read at a time.
        let rows: Vec<[f64; 3]> = (0..5000)
            .map(|row| [1.0, f64::from(row), f64::from(row % 7)])
            .collect();
        let mut stored = SummedRows::new(3).unwrap();
        rows.iter().for_each(|row| stored.add(row).unwrap());
        assert!(stored.add(&[1.0]).is_err());
        let groups: Vec<usize> = (0..rows.len()).map(|row| row / 4).collect();
        let resampling = Resampling {
            seed: 3,
            repeats: 20,
        };
        let bootstrap = Bootstrap::of_streams(&groups, resampling);
        let scores = |sums: &[f64]| vec![sums[1] / sums[0], sums[2] / sums[0]];
        let estimates = stored.estimates(&bootstrap, scores).unwrap();
        let expected = bootstrap.estimates(|weights| {
            let mut sums = [0.0; 3];
            for (row, weight) in rows.iter().zip(weights) {
                for (sum, number) in sums.iter_mut().zip(row) {
                    *sum += f64::from(*weight) * number;
                }
            }
            scores(&sums)
        });
        assert_eq!(estimates, expected);
        let empty = SummedRows::new(3).unwrap();
        assert!(empty.estimates(&bootstrap, scores).is_err());
    }
}
