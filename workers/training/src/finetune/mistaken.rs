//! Columns that hold something else than they were taken for: files or names of findings where texts should be, what a spreadsheet
//! has put in the place of a text or an id, reports of another language. All of it would be learned from in silence.

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

/// A cell that has something, and where its row begins.
pub(super) type FilledCell<'a> = (u64, &'a str);

/// What is wrong with a column of reports, each with the line that shows it first. What a user has named as one may hold the
/// names of findings, as one-word reports do.
pub(super) fn reports(
    cells: &[FilledCell<'_>],
    column: &str,
    is_named: bool,
) -> Vec<(u64, String)> {
    let mut faults: Vec<(u64, String)> = failed_formulas(cells, column).into_iter().collect();
    let Some(&(line, first)) = cells.first() else {
        return faults;
    };
    let are_all = |is_one: fn(&str) -> bool| cells.iter().all(|(_, cell)| is_one(cell));
    if are_all(is_file_name) {
        faults.push((
            line,
            format!(
                "column '{column}' names files, as '{first}', where reports should be: put their texts into the table, or name \
                 another column with --report"
            ),
        ));
    } else if !is_named && are_all(|cell| cells::labels(cell).is_ok()) {
        faults.push((
            line,
            format!(
                "column '{column}' was taken for the reports, and has nothing but names of findings, as '{first}': name it with \
                 --labels, or with --report if these are the reports"
            ),
        ));
    }
    faults
}

/// What is wrong with a column of patients, or of studies that stand for them, each with the line that shows it first: several
/// patients are one by ids that a spreadsheet has shortened, and by the days of their studies.
pub(super) fn patients(
    cells: &[FilledCell<'_>],
    column: &str,
    are_studies: bool,
) -> Vec<(u64, String)> {
    let shortened = first_of(cells, is_shortened).map(|(line, first, count)| {
        let fault = format!(
            "{count} ids of '{column}' are numbers that a spreadsheet has shortened, the first '{first}', so that several patients \
             may be one: export the column as text, or name another with --patient"
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
/// left.
fn failed_formulas(cells: &[FilledCell<'_>], column: &str) -> Option<(u64, String)> {
    let (line, first, count) = first_of(cells, is_failed_formula)?;
    let fault = format!(
        "{count} cells of '{column}' are errors of a spreadsheet, the first '{first}', which has taken what stood there for a \
         formula: export the column as text"
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

/// `#NAME?` and the like, in any language; `#N/A` is a missing cell.
fn is_failed_formula(cell: &str) -> bool {
    let is_of_one = |letter: char| !letter.is_whitespace() && !letter.is_lowercase();
    cell.len() > 2
        && cell.starts_with('#')
        && cell.ends_with(['?', '!'])
        && cell.chars().all(is_of_one)
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

/// `2026-03-01`, `1.3.2026`, `03/01/2026`.
fn is_date(cell: &str) -> bool {
    const BETWEEN: [char; 3] = ['-', '.', '/'];
    let is_of_one = |letter: char| letter.is_ascii_digit() || BETWEEN.contains(&letter);
    let digits: Vec<usize> = cell.split(BETWEEN).map(str::len).collect();
    cell.chars().all(is_of_one) && matches!(digits[..], [4, 1..=2, 1..=2] | [1..=2, 1..=2, 4])
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
            let faults = reports(&numbered(cells), "findings", is_named);
            let words = faults.into_iter().map(|(_, words)| words);
            words.collect::<Vec<_>>().join("\n")
        };
        for is_named in [true, false] {
            let files = found(&["s1.txt", "p10/s2.txt"], is_named);
            assert!(files.contains("names files, as 's1.txt'"), "{files}");
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
        let faults = reports(&errors, "report", true);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let (line, words) = &faults[0];
        assert!(
            *line == 3 && words.contains("2 cells of 'report'"),
            "{words}"
        );
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
        let days = numbered(&["2026-03-01", "1.3.2026", "03/01/2026"]);
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
        let ids = ["12-34-56", "2026-03-0001", "s-2026-03-01", "s1"];
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
