//! Stratified selection: all images with findings, as often as there are simulated epochs, and few without.

use radialog_schemas::{Finding, Label};

use crate::prepare::tables::finding_labels::FindingLabels;
use crate::random::Random;

/// Simulated epochs of the data sets.
pub(crate) const EPOCHS: usize = 2;

/// The rows that a data set has, by their position: rows with findings in order, `epochs` times, then rows without, drawn
/// without replacement, about one for 13 of the others.
pub(crate) fn stratified(
    labels: &[FindingLabels],
    epochs: usize,
    random: &mut Random,
) -> Vec<usize> {
    let (mut without, with): (Vec<usize>, Vec<usize>) =
        (0..labels.len()).partition(|&row| is_normal(&labels[row]));
    let mut selected: Vec<usize> = (0..epochs).flat_map(|_| with.iter().copied()).collect();
    let normal = normal_rows(selected.len()).min(without.len());
    random.shuffle(&mut without);
    selected.extend(&without[..normal]);
    selected
}

/// The number of rows without findings that go with `count` rows with them: `int((count * 14 / 13) / 14)`, in the
/// original's floating point and order, which decides where the quotient is whole.
pub(crate) fn normal_rows(count: usize) -> usize {
    ((count as f64 * 14.0 / 13.0) / 14.0) as usize
}

/// A row is normal where "No Finding" is positive or nothing is; support devices alone make a finding.
pub(crate) fn is_normal(labels: &FindingLabels) -> bool {
    let positive = |finding: Finding| labels[finding as usize] == Label::Positive;
    positive(Finding::NoFinding) || !Finding::ALL.into_iter().any(positive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(positive: &[Finding]) -> FindingLabels {
        Finding::ALL.map(|finding| {
            if positive.contains(&finding) {
                Label::Positive
            } else {
                Label::Blank
            }
        })
    }

    #[test]
    fn rows_with_findings_come_twice_in_order_and_one_of_13_has_none() {
        let mut labels = vec![row(&[]), row(&[Finding::NoFinding, Finding::Edema])];
        labels.extend(vec![row(&[Finding::SupportDevices]); 13]);
        let selected = stratified(&labels, 2, &mut Random::stream(1, "s"));
        let finding_rows: Vec<usize> = (2..15).chain(2..15).collect();
        assert_eq!(selected[..26], finding_rows);
        assert_eq!(selected.len(), 28);
        assert!(selected[26..].iter().all(|row| *row < 2) && selected[26] != selected[27]);
    }

    #[test]
    fn the_count_of_normal_rows_is_the_original_formula() {
        let counts: Vec<usize> = [12, 13, 26, 39, 1000, 200_000]
            .into_iter()
            .map(normal_rows)
            .collect();
        assert_eq!(counts, [0, 1, 2, 3, 76, 15_384]);
    }
}
