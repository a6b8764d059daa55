//! The names of a table's columns.

use std::borrow::Cow;

use thiserror::Error;

use super::plain_name;
use crate::Finding;

/// The most names of columns that a message lists; a header may have a hundred thousand.
const MOST_LISTED: usize = 20;
/// In characters, of each of them.
const LONGEST_LISTED: usize = 80;

/// The columns of a table, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    names: Vec<String>,
    separator: char,
}

/// A column that a table must have and has not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no column '{column}'; it has {found}")]
pub struct MissingColumn {
    /// The wanted name.
    pub column: String,
    /// The names that are there.
    pub found: String,
}

impl Header {
    /// A header of these cells, which stand between commas.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::separated(names, ',')
    }

    pub(super) fn separated(
        names: impl IntoIterator<Item = impl AsRef<str>>,
        separator: char,
    ) -> Self {
        let name = |cell: &str| cell.trim_start_matches('\u{feff}').trim().to_owned();
        Self {
            names: names.into_iter().map(|cell| name(cell.as_ref())).collect(),
            separator,
        }
    }

    /// What stands between two cells of a row: a comma, semicolon or tab.
    pub fn separator(&self) -> char {
        self.separator
    }

    /// The names as they stand, without surrounding spaces.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of cells that a row has to have.
    pub fn width(&self) -> usize {
        self.names.len()
    }

    /// The position of a column, whatever the case of its name. Of two columns that differ in case alone, the one that
    /// is spelled as asked for; else the first.
    pub fn column(&self, name: &str) -> Option<usize> {
        let position = |same: fn(&str, &str) -> bool| {
            let mut names = self.names.iter();
            names.position(|found| same(found, name))
        };
        position(|found, name| found == name)
            .or_else(|| position(|found, name| found.to_lowercase() == name.to_lowercase()))
    }

    /// The positions of the columns among which [`Header::column`] chooses without a reason: two or more of one name, where none
    /// is spelled as asked for but one.
    pub fn namesakes(&self, name: &str) -> Vec<usize> {
        let positions = |same: fn(&str, &str) -> bool| {
            let names = self.names.iter().enumerate();
            let same = names.filter(|(_, found)| same(found, name));
            same.map(|(position, _)| position).collect::<Vec<_>>()
        };
        let mut found = positions(|found, name| found == name);
        if found.is_empty() {
            found = positions(|found, name| found.to_lowercase() == name.to_lowercase());
        }
        match found.len() {
            0 | 1 => Vec::new(),
            _ => found,
        }
    }

    /// The positions of the columns of this plain name ([`plain_name`]), whatever their case, spaces and underscores.
    pub fn alike(&self, plain: &str) -> Vec<usize> {
        let names = self.names.iter().enumerate();
        let alike = names.filter(|(_, name)| plain_name(name) == plain);
        alike.map(|(position, _)| position).collect()
    }

    /// The position of a column that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn required(&self, name: &str) -> Result<usize, MissingColumn> {
        self.column(name).ok_or_else(|| MissingColumn {
            column: name.to_owned(),
            found: self.listed(),
        })
    }

    /// The names for a message: the first ones, and how many more there are.
    pub fn listed(&self) -> String {
        match self.names.iter().all(String::is_empty) {
            true => "none, since its first line names no column".to_owned(),
            false => listed(self.names.iter().map(String::as_str)),
        }
    }

    /// The positions of the 14 findings, in the published order.
    ///
    /// # Errors
    /// The first one that is missing.
    pub fn findings(&self) -> Result<[usize; Finding::ALL.len()], MissingColumn> {
        let mut columns = [0; Finding::ALL.len()];
        for (column, finding) in columns.iter_mut().zip(Finding::ALL) {
            *column = self.required(finding.name())?;
        }
        Ok(columns)
    }
}

/// The first of these names of columns, for a message, and how many more there are; those that are empty are passed over.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter().filter(|name| !name.is_empty());
    let shown: Vec<_> = names.by_ref().take(MOST_LISTED).map(shortened).collect();
    let shown = shown.join(", ");
    match names.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn shortened(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(LONGEST_LISTED) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_lists_the_first_names_in_short_and_says_how_many_more_there_are() {
        let names: Vec<String> = (0..200_002).map(|number| format!("c{number}")).collect();
        let listed = Header::new(&names).listed();
        assert!(
            listed.starts_with("c0, c1, ") && listed.ends_with(", c19 and 199982 more"),
            "{listed}"
        );
        assert_eq!(Header::new(&names[..20]).listed(), names[..20].join(", "));
        let listed = Header::new(["ä".repeat(1 << 19)]).listed();
        assert_eq!(listed, format!("{}…", "ä".repeat(80)));
        for names in [&[""][..], &["", " ", ""]] {
            let missing = Header::new(names).required("image").unwrap_err();
            assert_eq!(
                missing.to_string(),
                "no column 'image'; it has none, since its first line names no column"
            );
        }
    }

    #[test]
    fn columns_of_one_name_are_told_unless_one_is_spelled_as_asked_for() {
        let header = Header::new(["image", "Image", "id", "image", "PATH", "Path", "path"]);
        assert_eq!(header.namesakes("image"), [0, 3]);
        assert_eq!(header.namesakes("Path"), [0_usize; 0]);
        assert_eq!(header.namesakes("pATH"), [4, 5, 6]);
        assert_eq!(header.namesakes("id"), [0_usize; 0]);
        assert_eq!(header.namesakes("none"), [0_usize; 0]);
        assert_eq!(header.alike("image"), [0, 1, 3]);
    }

    #[test]
    fn columns_are_found_whatever_their_case_and_spaces() {
        let header = Header::new(["\u{feff}Study_ID", " image ", "", "PATH", "path"]);
        assert_eq!(header.column("study_id"), Some(0));
        assert_eq!(header.column("Image"), Some(1));
        assert_eq!(
            (header.column("path"), header.column("Path")),
            (Some(4), Some(3))
        );
        let missing = header.required("split").unwrap_err().to_string();
        assert_eq!(
            missing,
            "no column 'split'; it has Study_ID, image, PATH, path"
        );
    }
}
