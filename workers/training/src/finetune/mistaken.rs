//! Columns that hold something else than they were taken for: files or names of findings where texts should be, what a spreadsheet
//! has put in the place of a text or an id, reports of another language. All of it would be learned from in silence.

use radialog_schemas::counted;

use super::cells;

/// Words of which an English report hardly lacks all.
const ENGLISH: [&str; 18] = [
    "the",
    "is",
    "of",
    "and",
    "are",
    "with",
    "there",
    "seen",
    "within",
    "evidence",
    "acute",
    "disease",
    "abnormality",
    "chest",
    "lung",
    "lungs",
    "heart",
    "clear",
];

/// A spreadsheet's `#N/A` in other languages, as far as it does not end as its other errors do.
const NOT_AVAILABLE: [&str; 5] = ["#NV", "#N/D", "#N/B", "#I/T", "#YOK"];

/// A cell that has something, and where its row begins.
pub(super) type FilledCell<'a> = (u64, &'a str);

/// Why a column has no reports.
#[derive(Debug)]
pub(super) struct NoReports {
    /// The line that shows it first.
    pub(super) line: u64,
    /// What it has.
    pub(super) what: String,
    /// What a user may do.
    pub(super) advice: &'static str,
}

/// Whether a column of reports has something else. What a user has named as one may hold the names of findings, as one-word
/// reports do.
pub(super) fn no_reports(
    cells: &[FilledCell<'_>],
    column: &str,
    is_named: bool,
) -> Option<NoReports> {
    let &(line, first) = cells.first()?;
    let are_all = |is_one: fn(&str) -> bool| cells.iter().all(|(_, cell)| is_one(cell));
    if are_all(is_file_name) {
        return Some(NoReports {
            line,
            what: format!("column '{column}' names files, as '{first}', where reports should be"),
            advice: "put their texts into the table, or name another column with --report, or leave this one out or rename it",
        });
    }
    let are_names = !is_named && are_all(|cell| cells::labels(cell).is_ok());
    are_names.then(|| NoReports {
        line,
        what: format!(
            "column '{column}' was taken for the reports, and has nothing but names of findings, as '{first}'"
        ),
        advice: "name it with --labels, or with --report if these are the reports, or leave it out or rename it",
    })
}

/// What is wrong with a column of patients, or of studies that stand for them, each with the line that shows it first: several
/// patients are one by ids that a spreadsheet has shortened, and by the days of their studies.
pub(super) fn patients(
    cells: &[FilledCell<'_>],
    column: &str,
    are_studies: bool,
) -> Vec<(u64, String)> {
    let shortened = first_of(cells, is_shortened).map(|(line, first, count)| {
        let one = format!("id of '{column}' is a number");
        let several = format!("ids of '{column}' are numbers");
        let fault = format!(
            "{} that a spreadsheet has shortened, the first '{first}', so that several patients may be one: export the column as \
             text, or name another with --patient",
            counted(count, &one, &several)
        );
        (line, fault)
    });
    let days = first_of(cells, is_date)
        .filter(|(_, _, count)| are_studies && *count == cells.len())
        .map(|(line, first, _)| {
            let fault = format!(
                "column '{column}' has dates, as '{first}', by which patients would be told apart: name the column of patients with \
                 --patient, or rename this one"
            );
            (line, fault)
        });
    failed_formulas(cells, column)
        .into_iter()
        .chain(shortened)
        .chain(days)
        .collect()
}

/// How many of these reports have none of the words that English ones have; none where most have one.
pub(super) fn not_english(cells: &[FilledCell<'_>]) -> Option<usize> {
    let is_english = |text: &str| {
        let mut words = text.split(|letter: char| !letter.is_alphabetic());
        words.any(|word| ENGLISH.iter().any(|known| known.eq_ignore_ascii_case(word)))
    };
    let others = cells.iter().filter(|(_, text)| !is_english(text)).count();
    (others * 2 > cells.len()).then_some(others)
}

/// The cells that a spreadsheet took for a formula, as it does with a text that begins with a dash, and of which its error is
/// left, and those of a formula that found nothing.
pub(super) fn failed_formulas(cells: &[FilledCell<'_>], column: &str) -> Option<(u64, String)> {
    let (line, first, count) = first_of(cells, is_failed_formula)?;
    let fault = format!(
        "errors of a spreadsheet in {} of '{column}', the first '{first}', which has taken what stood there for a formula, or \
         whose formula found nothing: export the column as text, or empty these cells",
        counted(count, "cell", "cells")
    );
    Some((line, fault))
}

/// The cells of which something is true: the first with its line, and how many there are.
fn first_of<'a>(
    cells: &[FilledCell<'a>],
    is_one: fn(&str) -> bool,
) -> Option<(u64, &'a str, usize)> {
    let mut of = cells.iter().filter(|(_, cell)| is_one(cell));
    let &(line, first) = of.next()?;
    Some((line, first, 1 + of.count()))
}

/// `#NAME?` and the like, in any language; `#N/A` is a missing cell, and what it is called elsewhere is none.
fn is_failed_formula(cell: &str) -> bool {
    let is_of_one = |letter: char| !letter.is_whitespace() && !letter.is_lowercase();
    let is_marked = cell.len() > 2
        && cell.starts_with('#')
        && cell.ends_with(['?', '!'])
        && cell.chars().all(is_of_one);
    is_marked || NOT_AVAILABLE.contains(&cell)
}

/// `1.23457E+11`.
fn is_shortened(cell: &str) -> bool {
    let is_number = |text: &str| {
        let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        !text.is_empty() && are_digits
    };
    cell.split_once(['E', 'e'])
        .is_some_and(|(digits, exponent)| {
            let exponent = exponent.strip_prefix('+').unwrap_or_default();
            is_number(&digits.replacen(['.', ','], "", 1)) && is_number(exponent)
        })
}

/// `2026-03-01`, `1.3.2026`, `3/1/26`, perhaps with a time behind it.
fn is_date(cell: &str) -> bool {
    let (day, time) = cell.split_once([' ', 'T']).unwrap_or((cell, ""));
    let is_of_time = |letter: char| letter.is_ascii_digit() || " :.+-ZAPMapm".contains(letter);
    let is_time = time.contains(':') && time.chars().all(is_of_time);
    if !time.is_empty() && !is_time {
        return false;
    }
    let parts: Vec<&str> = day.split(['-', '.', '/']).collect();
    let &[first, second, third] = parts.as_slice() else {
        return false;
    };
    let are_digits = parts
        .iter()
        .all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    // Numbers of a place, a patient and a visit have two digits at their end, and dashes.
    let is_shortened = !day.contains('-');
    let [day, month] = match [first.len(), second.len(), third.len()] {
        [4, 1..=2, 1..=2] => [second, third],
        [1..=2, 1..=2, 4] => [first, second],
        [1..=2, 1..=2, 2] if is_shortened => [first, second],
        _ => return false,
    };
    let number = |part: &str| part.parse().unwrap_or(0_u8);
    let [day, month] = [number(day), number(month)];
    are_digits && (1..=12).contains(&day.min(month)) && day.max(month) <= 31
}

/// A name that ends as files do, without white space.
fn is_file_name(cell: &str) -> bool {
    cell.rsplit_once('.').is_some_and(|(stem, end)| {
        let is_end = (2..=4).contains(&end.len()) && end.bytes().all(|b| b.is_ascii_alphanumeric());
        is_end && !stem.is_empty() && !cell.contains(char::is_whitespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered<'a>(cells: &[&'a str]) -> Vec<FilledCell<'a>> {
        (2..).zip(cells.iter().copied()).collect()
    }

    #[test]
    fn files_and_names_of_findings_are_no_reports() {
        let found = |cells: &[&str], is_named| {
            let found = no_reports(&numbered(cells), "findings", is_named);
            found.map_or_else(String::new, |no| format!("{}: {}", no.what, no.advice))
        };
        for is_named in [true, false] {
            let files = found(&["s1.txt", "p10/s2.txt"], is_named);
            assert!(files.contains("names files, as 's1.txt'"), "{files}");
            assert!(files.ends_with("or leave this one out or rename it"));
        }
        let names = ["Edema|Effusion", "No Finding", "Cardiomegaly"];
        let said = found(&names, false);
        assert!(
            said.contains("--labels") && said.contains("'Edema|Effusion'"),
            "{said}"
        );
        assert_eq!(found(&names, true), "");
        let texts = ["Normal.", "No edema.", "The heart is large.CT advised."];
        assert_eq!(found(&texts, false), "");
        assert_eq!(found(&[], false), "");
    }

    #[test]
    fn what_a_spreadsheet_has_put_in_place_of_a_cell_is_told_with_the_first_and_their_number() {
        let errors = numbered(&["No edema.", "#NAME?", "#1 is a drain!", "#WERT!"]);
        let (line, words) = failed_formulas(&errors, "report").unwrap();
        assert!(
            line == 3 && words.contains("2 cells of 'report'"),
            "{words}"
        );
        let (_, words) = failed_formulas(&numbered(&["#NV", "#N/D", "7"]), "pid").unwrap();
        assert!(words.contains("2 cells of 'pid'"), "{words}");
        let ids = numbered(&[
            "1.23457E+11",
            "1,2e+15",
            "3E5",
            "12E+",
            "E+7",
            "#NAME?",
            "7",
        ]);
        let faults = patients(&ids, "pid", true);
        let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [7, 2], "{faults:?}");
        assert!(faults[1].1.contains("2 ids of 'pid'"), "{faults:?}");
        assert!(patients(&numbered(&["1", "p2", "4E+x"]), "pid", true).is_empty());
    }

    #[test]
    fn days_tell_no_patients_apart_where_a_column_of_studies_was_recognised() {
        let days = numbered(&[
            "2026-03-01",
            "1.3.2026",
            "03/01/2026",
            "3/1/26",
            "01.03.26",
            "2026-03-01 10:00",
            "2026-03-01T10:00:00Z",
            "3/1/2026 10:00 AM",
        ]);
        let faults = patients(&days, "study", true);
        let words = faults
            .iter()
            .map(|(line, words)| format!("{line}: {words}"));
        let words: Vec<String> = words.collect();
        assert!(
            words.len() == 1 && words[0].starts_with("2: column 'study' has dates"),
            "{words:?}"
        );
        assert!(patients(&days, "study", false).is_empty(), "it was named");
        let ids = [
            "12-34-56",
            "1-12-01",
            "40.1.26",
            "2026-03-0001",
            "2026-03-01 7",
            "s-2026-03-01",
            "s1",
        ];
        for id in ids {
            let some = numbered(&[id, "2026-03-01"]);
            assert!(patients(&some, "study", true).is_empty(), "{id}");
        }
    }

    #[test]
    fn reports_of_another_language_are_noticed_where_they_are_the_most() {
        let german = [
            "Kein Pneumothorax.",
            "Herz vergrößert.",
            "Unauffälliger Befund.",
        ];
        assert_eq!(not_english(&numbered(&german)), Some(3));
        let english = ["Heart size normal.", "No edema.", "LUNGS CLEAR"];
        assert_eq!(not_english(&numbered(&english)), None);
        assert_eq!(not_english(&[]), None);
    }
}
