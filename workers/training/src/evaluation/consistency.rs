//! What a score is worth where the least consistent studies are set aside: if sampled reports agree less where reports are
//! wrong, the score of the rest rises. The agreement of a study is
//! [`Consistency::agreement`](radialog_schemas::Consistency::agreement).

/// The shares of studies that are set aside, beside none.
pub const SHARES: [f64; 3] = [0.05, 0.1, 0.2];

/// The places of the studies that stay, in their order, where this share of them (0 to 1, rounded to whole studies) is set aside:
/// those that agree least. Of two that agree alike, the later one stays.
pub fn kept(agreements: &[f64], share: f64) -> Vec<usize> {
    let aside = (agreements.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let mut places: Vec<usize> = (0..agreements.len()).collect();
    places.sort_by(|one, other| agreements[*one].total_cmp(&agreements[*other]));
    let mut kept = places.split_off(aside);
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_consistent_are_set_aside_and_the_rest_keeps_its_order() {
        let agreements = [0.9, 0.1, 0.5, 0.1, 1.0, 0.7, 0.6, 0.8, 0.2, 0.3];
        assert_eq!(kept(&agreements, 0.1), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(kept(&agreements, 0.2), [0, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(kept(&agreements, 0.0).len(), 10);
        assert!(kept(&agreements, 1.0).is_empty() && kept(&[], 0.2).is_empty());
    }
}
