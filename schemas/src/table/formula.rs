//! Cells that a spreadsheet would run. Excel, LibreOffice and Google Sheets take a cell that begins with `=`, `+`, `-` or `@`
//! for a formula, which can start programs and send the sheet elsewhere; a tab or a line end before it changes nothing.
//! Such cells are written with an apostrophe in front (OWASP, CSV injection), and read without it.

use std::borrow::Cow;

/// What a formula can begin with, full-width forms too.
const STARTS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
const MARK: char = '\'';

/// A cell as it is written into a table for people. Numbers such as `-1.0` stay numbers.
///
/// A cell that would be read as an escaped one is escaped, too, so that [`unescaped`] gives every cell back.
pub fn escaped(cell: &str) -> Cow<'_, str> {
    match could_run(cell.trim_start_matches(MARK)) && !is_number(cell) {
        true => Cow::Owned(format!("{MARK}{cell}")),
        false => Cow::Borrowed(cell),
    }
}

/// The cell that [`escaped`] has written; one that it has not touched is given back as it is.
pub fn unescaped(cell: &str) -> &str {
    match cell.strip_prefix(MARK) {
        Some(behind) if could_run(behind.trim_start_matches(MARK)) => behind,
        _ => cell,
    }
}

fn could_run(cell: &str) -> bool {
    cell.starts_with(STARTS)
}

/// Only digits, so that neither `-inf` nor `-1+1` is one.
fn is_number(cell: &str) -> bool {
    let of_numbers = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    cell.chars().all(of_numbers) && cell.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_run_is_escaped_and_read_back() {
        for cell in [
            "=cmd|' /C calc'!A0",
            "@SUM(1+1)*cmd|' /C calc'!A0",
            "+1+cmd|x",
            "-1+1",
            "-cmd|x",
            "\t=1+1",
            "\r=1+1",
            "\n=1+1",
            "＝1+1",
            "- No pneumothorax.",
            "-inf",
            "=",
            "'=1+1",
            "''-1.0",
            "'-1.0",
        ] {
            let written = escaped(cell);
            assert_eq!(written, format!("'{cell}"));
            assert_eq!(unescaped(&written), cell);
        }
    }

    #[test]
    fn other_cells_stay_as_they_are_in_both_directions() {
        for cell in [
            "", "1.0", "-1.0", "+1", "-1e-5", "'tis", "'", "''", "a=b", " =1", "x-ray", "1-2",
        ] {
            assert_eq!(escaped(cell), cell);
            assert_eq!(unescaped(cell), cell);
        }
    }
}
