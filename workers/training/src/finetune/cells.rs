//! Labels as people write them in their tables: numbers, words, and several names in one cell.

use radialog_schemas::table::{self, plain_name as plain};
use radialog_schemas::{Finding, Label};

use crate::prepare::{FindingLabels, nih_class};

/// What stands between the names of a cell.
const SEPARATORS: [char; 3] = ['|', ';', ','];
/// What stands around the names of a list as Python writes it.
const LIST: [char; 5] = ['[', ']', '\'', '"', ' '];
/// What a name or a word may have beside letters and white space. Any other mark may doubt or deny what it stands beside.
const PLAIN_MARKS: [char; 4] = ['_', '-', '.', '+'];
/// Words that say that nothing was found.
const NORMAL: [&str; 3] = ["normal", "nofinding", "nofindings"];

/// The label of a cell of one finding: 1, 0, -1 or nothing, with a decimal point or comma, or a word that means one of them.
///
/// # Errors
/// What the cell is, and what it may be.
pub fn label(cell: &str) -> Result<Label, String> {
    if let Ok(label) = cell.replace(',', ".").parse() {
        return Ok(label);
    }
    let word = match is_marked(cell) {
        true => String::new(),
        false => plain(cell),
    };
    match word.as_str() {
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
/// A name of no finding, or one with a mark of doubt or denial; no name at all.
pub fn labels(cell: &str) -> Result<FindingLabels, String> {
    let mut labels = [Label::Blank; Finding::ALL.len()];
    let Some(cell) = table::cell(cell) else {
        return Ok(labels);
    };
    labels = [Label::Negative; Finding::ALL.len()];
    let names = cell
        .split(SEPARATORS)
        .map(|name| name.trim().trim_matches(LIST));
    let mut names = names.filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        return Err(format!(
            "'{cell}' names nothing: an image without any finding has the name 'No Finding', one of which nothing is known an \
             empty cell"
        ));
    }
    for name in names {
        let bare = name.trim_matches(|letter: char| !letter.is_alphanumeric());
        let finding = finding(bare);
        if finding.is_none() && nih_class(bare).is_none() {
            return Err(format!(
                "'{name}' is none of the 14 findings; an image without any has the name 'No Finding'"
            ));
        }
        if is_marked(name) {
            return Err(format!(
                "'{name}' has a mark that doubts or denies, or may: what is named here is there, so write the name alone, leave \
                 it out, or give the finding a column with 0 or -1"
            ));
        }
        if let Some(finding) = finding {
            labels[finding as usize] = Label::Positive;
        }
    }
    Ok(labels)
}

/// Whether a name or a word has a mark that may say that it is doubtful or not so, as in `Edema?`, `-Edema` or `Edema (-)`. They
/// are compared by their letters, which would have all of these stated.
fn is_marked(name: &str) -> bool {
    let is_plain = |letter: char| {
        letter.is_alphanumeric() || letter.is_whitespace() || PLAIN_MARKS.contains(&letter)
    };
    let mut between = name.split(char::is_alphanumeric);
    let mut ends = [between.next(), between.next_back()].into_iter().flatten();
    !name.chars().all(is_plain) || ends.any(|end| end.contains('-'))
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
            ["1", "1.0", "1,0", "Yes", "TRUE", " present "].map(read),
            [Some(Label::Positive); 6]
        );
        assert_eq!(
            ["0", "0,0", "no", "Negative"].map(read),
            [Some(Label::Negative); 4]
        );
        assert_eq!(
            ["-1", "-1.0", "-1,0", "uncertain"].map(read),
            [Some(Label::Uncertain); 4]
        );
        assert_eq!(
            ["", "nan", "NA", "unknown"].map(read),
            [Some(Label::Blank); 4]
        );
        assert_eq!(["2", "0.5", "0,5", "perhaps not"].map(read), [None; 4]);
        assert_eq!(["yes?", "?", "no?", "!present"].map(read), [None; 4]);
        assert_eq!(["-yes", "(yes)", "✗ present"].map(read), [None; 3]);
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
        assert_eq!(
            found("['Edema', 'Effusion']"),
            [Finding::Edema, Finding::PleuralEffusion],
            "as Python writes a list"
        );
        for nothing in ["[]", " ; "] {
            assert!(labels(nothing).unwrap_err().contains("names nothing"));
        }
    }

    #[test]
    fn a_name_that_is_doubted_or_denied_is_not_taken_for_what_is_there() {
        for name in [
            "Edema?",
            "? Edema",
            "-Edema",
            "Edema (-)",
            "~Edema",
            "['Edema?']",
            "✗ Edema",
            "∅ Edema",
            "× Edema",
            "— Edema",
            "Edema (-/+)",
            "(Edema)",
            "Edema -+",
            "Hernia?",
        ] {
            let refused = labels(&format!("Cardiomegaly; {name}")).unwrap_err();
            assert!(refused.contains("doubts or denies"), "{name}: {refused}");
        }
        for plain in [
            "Pleural-Effusion",
            "Pleural_Thickening",
            "Effusion.",
            "+Edema",
        ] {
            assert!(labels(plain).is_ok(), "{plain}");
        }
        let other = labels("COVID-19?").unwrap_err();
        assert!(other.contains("is none of the 14"), "{other}");
    }
}
