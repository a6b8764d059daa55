//! What is said of one study's findings beside what is true, as cells of a table.

use radialog_schemas::Finding;

/// The number of findings.
const CLASSES: usize = Finding::ALL.len();

/// The names of the cells of [`cells`].
pub const COLUMNS: [&str; 4] = [
    "label_f1",
    "true_positive",
    "false_positive",
    "false_negative",
];

/// F1 of the findings that are said, as far as they are known; none where neither side has any.
pub fn label_f1(truth: &[Option<bool>; CLASSES], said: &[bool; CLASSES]) -> Option<f64> {
    let (mut agree, mut sizes) = (0_u32, 0_u32);
    for (truth, &said) in truth.iter().zip(said) {
        if let Some(truth) = *truth {
            agree += u32::from(truth && said);
            sizes += u32::from(truth) + u32::from(said);
        }
    }
    (sizes > 0).then(|| f64::from(2 * agree) / f64::from(sizes))
}

/// F1, and the findings that are said rightly, said wrongly and missed, by name.
pub fn cells(truth: &[Option<bool>; CLASSES], said: &[bool; CLASSES]) -> [String; COLUMNS.len()] {
    [
        label_f1(truth, said).map_or_else(String::new, decimal),
        names(|class| truth[class] == Some(true) && said[class]),
        names(|class| truth[class] == Some(false) && said[class]),
        names(|class| truth[class] == Some(true) && !said[class]),
    ]
}

/// The names of the findings that something holds of, in the published order.
pub fn names(holds: impl Fn(usize) -> bool) -> String {
    let names = Finding::ALL.into_iter();
    let names = names.filter(|finding| holds(*finding as usize));
    names.map(Finding::name).collect::<Vec<_>>().join("; ")
}

/// A score as tables of studies have it.
pub fn decimal(value: f64) -> String {
    format!("{value:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_wrong_and_missed_is_named_and_the_unknown_is_neither() {
        let (mut truth, mut said) = ([Some(false); CLASSES], [false; CLASSES]);
        let [right, wrong, missed, unknown] = [
            Finding::Edema,
            Finding::Fracture,
            Finding::Pneumonia,
            Finding::LungOpacity,
        ]
        .map(|finding| finding as usize);
        (truth[right], truth[missed], truth[unknown]) = (Some(true), Some(true), None);
        (said[right], said[wrong], said[unknown]) = (true, true, true);
        let expected = ["0.500000", "Edema", "Fracture", "Pneumonia"];
        assert_eq!(cells(&truth, &said), expected.map(str::to_owned));
        assert_eq!(cells(&[None; CLASSES], &said)[0], "");
    }
}
