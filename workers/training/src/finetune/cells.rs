//! Labels as people write them in their tables: numbers, words, and several names in one cell.

use radialog_schemas::table::{self, plain_name as plain};
use radialog_schemas::{Finding, Label};

use crate::prepare::{FindingLabels, nih_class};

/// What stands between the names of a cell.
const SEPARATORS: [char; 3] = ['|', ';', ','];
/// Words that say that nothing was found.
const NORMAL: [&str; 3] = ["normal", "nofinding", "nofindings"];

/// The label of a cell of one finding: 1, 0, -1 or nothing, or a word that means one of them.
///
/// # Errors
/// What the cell is, and what it may be.
pub fn label(cell: &str) -> Result<Label, String> {
    if let Ok(label) = cell.parse() {
        return Ok(label);
    }
    match plain(cell).as_str() {
        "yes" | "y" | "true" | "present" | "positive" | "pos" => Ok(Label::Positive),
        "no" | "n" | "false" | "absent" | "negative" | "neg" => Ok(Label::Negative),
        "uncertain" | "possible" | "maybe" | "equivocal" => Ok(Label::Uncertain),
        "unknown" | "blank" => Ok(Label::Blank),
        _ => Err(format!(
            "'{}' is not a label: use 1, 0, -1 or nothing, or yes, no, uncertain",
            cell.trim()
        )),
    }
}

/// The labels of a cell that names what is there, e.g. `Effusion|Cardiomegaly`; what it does not name is absent. All are blank
/// where it is empty.
///
/// # Errors
/// A name of no finding.
pub fn labels(cell: &str) -> Result<FindingLabels, String> {
    let mut labels = [Label::Blank; Finding::ALL.len()];
    let Some(cell) = table::cell(cell) else {
        return Ok(labels);
    };
    labels = [Label::Negative; Finding::ALL.len()];
    for name in cell
        .split(SEPARATORS)
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        match finding(name) {
            Some(finding) => labels[finding as usize] = Label::Positive,
            None if nih_class(name).is_some() => {}
            None => {
                return Err(format!(
                    "'{name}' is none of the 14 findings; an image without any has the name 'No Finding'"
                ));
            }
        }
    }
    Ok(labels)
}

/// The finding of a name in whatever spelling, CheXpert's or that of NIH's classes.
pub fn finding(name: &str) -> Option<Finding> {
    let wanted = plain(name);
    if NORMAL.contains(&wanted.as_str()) {
        return Some(Finding::NoFinding);
    }
    let is_one = |finding: &Finding| plain(finding.name()) == wanted;
    Finding::ALL
        .into_iter()
        .find(is_one)
        .or_else(|| nih_class(name).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_people_write_them() {
        let read = |cell: &str| label(cell).ok();
        assert_eq!(
            ["1", "1.0", "Yes", "TRUE", " present "].map(read),
            [Some(Label::Positive); 5]
        );
        assert_eq!(
            ["0", "no", "Negative"].map(read),
            [Some(Label::Negative); 3]
        );
        assert_eq!(
            ["-1", "-1.0", "uncertain"].map(read),
            [Some(Label::Uncertain); 3]
        );
        assert_eq!(
            ["", "nan", "NA", "unknown"].map(read),
            [Some(Label::Blank); 4]
        );
        assert_eq!(["2", "0.5", "perhaps not"].map(read), [None; 3]);
    }

    #[test]
    fn a_cell_may_name_several_findings_in_either_vocabulary() {
        let found = |cell: &str| {
            let labels = labels(cell).unwrap();
            Finding::ALL
                .into_iter()
                .filter(|finding| labels[*finding as usize] == Label::Positive)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found("Effusion|Pleural_Thickening; cardiomegaly"),
            [
                Finding::Cardiomegaly,
                Finding::PleuralEffusion,
                Finding::PleuralOther
            ]
        );
        assert_eq!(found("no finding"), [Finding::NoFinding]);
        assert_eq!(
            labels("normal").unwrap()[Finding::Edema as usize],
            Label::Negative
        );
        assert_eq!(found("Hernia"), [], "a class without a counterpart");
        assert_eq!(labels(" ").unwrap(), [Label::Blank; 14]);
        assert!(labels("Edema, COVID-19").unwrap_err().contains("COVID-19"));
    }
}
