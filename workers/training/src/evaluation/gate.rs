//! How well the input gate tells frontal chest X-rays from other pictures: shares that pass, by group.

use std::collections::BTreeMap;

use radialog_models::input_gate::InputGate;
use radialog_schemas::ImageKind;

use crate::data::gate_pictures::{MeasuredPicture, stacked};
use crate::error::TrainingError;

/// Pictures that are computed at a time.
const AT_A_TIME: usize = 256;

/// What the gate says of the pictures of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupCounts {
    /// The pictures.
    pub pictures: usize,
    /// Those of them that do not pass, so that they have a warning.
    pub warned: usize,
    /// Those of them that look like what they are.
    pub named_right: usize,
    /// Whether pictures of the group are upright frontal X-rays, so that each warning is a false one.
    pub are_frontal: bool,
    /// Names of those on which the gate is wrong.
    pub wrong: Vec<String>,
}

/// The shares of each of [`ImageKind::ALL`] of pictures.
///
/// # Errors
/// None but the network's.
pub fn shares<'a>(
    gate: &InputGate,
    levels: impl ExactSizeIterator<Item = &'a [f32]>,
) -> Result<Vec<Vec<f32>>, TrainingError> {
    let levels: Vec<&[f32]> = levels.collect();
    let mut shares = Vec::with_capacity(levels.len());
    for some in levels.chunks(AT_A_TIME) {
        shares.extend(gate.shares(&stacked(some.iter().copied())?)?);
    }
    Ok(shares)
}

/// What the gate says of each group.
///
/// # Errors
/// None but the network's.
pub fn counts(
    gate: &InputGate,
    pictures: &[MeasuredPicture],
) -> Result<BTreeMap<String, GroupCounts>, TrainingError> {
    let shares = shares(
        gate,
        pictures.iter().map(|picture| picture.levels.as_slice()),
    )?;
    let mut groups: BTreeMap<String, GroupCounts> = BTreeMap::new();
    for (picture, shares) in pictures.iter().zip(shares) {
        let verdict = gate.verdict(&shares);
        let is_frontal = picture.kind == ImageKind::Frontal;
        let group = groups.entry(picture.group.clone()).or_default();
        group.are_frontal = is_frontal;
        group.pictures += 1;
        group.warned += usize::from(!verdict.passed);
        group.named_right += usize::from(verdict.looks_like == picture.kind);
        if verdict.passed != is_frontal {
            group.wrong.push(picture.name.clone());
        }
    }
    Ok(groups)
}

/// The largest threshold, of at most one half, with which no more than this share of frontal X-rays is warned about.
pub fn threshold(frontal: &[f32], false_warnings: f64) -> f32 {
    let mut sorted = frontal.to_vec();
    sorted.sort_by(f32::total_cmp);
    let allowed = (false_warnings * sorted.len() as f64) as usize;
    sorted.get(allowed).map_or(0.5, |share| share.min(0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_warns_about_no_more_than_the_share_and_is_never_over_one_half() {
        let shares: Vec<f32> = (0..200).map(|index| index as f32 / 400.0).collect();
        for (share, expected) in [(0.0, 0.0), (0.005, 1.0 / 400.0), (0.02, 4.0 / 400.0)] {
            let threshold = threshold(&shares, share);
            assert_eq!(threshold, expected);
            let warned = shares.iter().filter(|share| **share < threshold).count();
            assert_eq!(warned, (share * 200.0) as usize);
        }
        assert_eq!(threshold(&[0.9, 0.99], 0.0), 0.5);
    }
}
