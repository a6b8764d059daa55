//! Subgroups of patients and images, as columns of a table name them: by sex, age, view and source.

use crate::error::TrainingError;
use crate::prepare::TableFile;

/// The kinds of subgroups, and the names of their columns, whatever their case, spaces and underscores.
pub(crate) const GROUPS: [(&str, &[&str]); 4] = [
    ("sex", &["sex", "gender", "patientsex", "patientgender"]),
    ("age", &["age", "patientage"]),
    ("view", &["view", "viewposition"]),
    (
        "source",
        &["source", "dataset", "hospital", "site", "institution"],
    ),
];
/// Ages at which another group begins.
const AGES: [u32; 3] = [40, 60, 80];
/// No person is older.
const OLDEST: f64 = 120.0;
/// Words, in lower case, that say that nobody knows.
const UNKNOWN: [&str; 6] = ["-", "?", "u", "unknown", "unspecified", "other/unknown"];

/// One subgroup. They are in order: by kind, and ages from the youngest on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subgroup {
    kind: &'static str,
    place: usize,
    name: String,
}

impl Subgroup {
    /// The subgroup of a cell; none where it does not say. An age may have a letter behind it, as in DICOM, and a
    /// decimal comma.
    pub(crate) fn of(kind: &'static str, cell: &str) -> Option<Self> {
        let cell = cell.trim();
        if is_unknown(cell) {
            return None;
        }
        let (place, name) = match kind {
            "age" => age(cell)?,
            "sex" => (0, sex(cell)),
            "view" => (0, cell.to_uppercase()),
            _ => (0, cell.to_owned()),
        };
        Some(Self { kind, place, name })
    }

    /// Whether a cell says something, and nothing that its kind can be, as a date of birth where ages are.
    pub(crate) fn is_misread(kind: &'static str, cell: &str) -> bool {
        !is_unknown(cell.trim()) && Self::of(kind, cell).is_none()
    }

    /// Its kind and its name, as `sex F`.
    pub(crate) fn words(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// The column of each kind, where the table has one.
///
/// # Errors
/// It has several of one name.
pub(crate) fn columns(table: &TableFile) -> Result<[Option<usize>; GROUPS.len()], TrainingError> {
    let mut columns = [None; GROUPS.len()];
    for (column, (_, names)) in columns.iter_mut().zip(GROUPS) {
        *column = table.recognised(names)?;
    }
    Ok(columns)
}

fn is_unknown(cell: &str) -> bool {
    cell.is_empty() || UNKNOWN.contains(&&*cell.to_lowercase())
}

/// `M`, `Male` and `m` are one.
fn sex(cell: &str) -> String {
    match cell.to_lowercase().as_str() {
        "m" | "male" | "man" => "M".to_owned(),
        "f" | "female" | "woman" => "F".to_owned(),
        "o" | "other" => "other".to_owned(),
        _ => cell.to_uppercase(),
    }
}

fn age(cell: &str) -> Option<(usize, String)> {
    let digits = cell.trim_end_matches(|end: char| !end.is_ascii_digit());
    let unit = &cell[digits.len()..];
    let age = digits.replace(',', ".").parse::<f64>().ok()?;
    // Months, weeks and days of a child's age.
    let age = match unit {
        "" | "Y" | "y" => age,
        "M" | "W" | "D" => 0.0,
        _ => return None,
    };
    if !(0.0..=OLDEST).contains(&age) {
        return None;
    }
    let next = AGES.iter().position(|begin| age < f64::from(*begin));
    let place = next.unwrap_or(AGES.len());
    let name = match place {
        0 => format!("under {}", AGES[0]),
        place if place == AGES.len() => format!("{} and over", AGES[place - 1]),
        place => format!("{} to {}", AGES[place - 1], AGES[place] - 1),
    };
    Some((place, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: &'static str, cells: &[&str]) -> Vec<Option<String>> {
        let of = |cell: &&str| Subgroup::of(kind, cell).map(|group| group.name);
        cells.iter().map(of).collect()
    }

    #[test]
    fn ages_are_grouped_by_twenties_whatever_their_unit() {
        let cells = ["39", "40", "079Y", "80.5", "80,5", "11M", "120"];
        let groups = [
            "under 40",
            "40 to 59",
            "60 to 79",
            "80 and over",
            "80 and over",
            "under 40",
            "80 and over",
        ];
        assert_eq!(
            named("age", &cells),
            groups.map(|group| Some(group.to_owned()))
        );
        assert_eq!(
            named("age", &["unknown", "-1", "999", "old"]),
            [const { None }; 4]
        );
        let misread = |cell: &&str| Subgroup::is_misread("age", cell);
        let cells = ["1956-03-12", "-1", "old", "unknown", "", "40"];
        let are_misread: Vec<bool> = cells.iter().map(misread).collect();
        assert_eq!(are_misread, [true, true, true, false, false, false]);
        let mut sorted: Vec<Subgroup> = ["80", "70", "50", "30"]
            .iter()
            .filter_map(|cell| Subgroup::of("age", cell))
            .collect();
        sorted.sort();
        let sorted: Vec<String> = sorted.iter().map(Subgroup::words).collect();
        assert_eq!(
            sorted,
            [
                "age under 40",
                "age 40 to 59",
                "age 60 to 79",
                "age 80 and over"
            ]
        );
    }

    #[test]
    fn one_sex_and_one_view_have_one_name_and_who_is_unknown_is_in_no_group() {
        let of = |kind, cells: &[&str], name: &str| {
            let expected = vec![Some(name.to_owned()); cells.len()];
            assert_eq!(named(kind, cells), expected);
        };
        of("sex", &["M", "m", "Male", " MALE "], "M");
        of("sex", &["F", "f", "female", "Woman"], "F");
        of("view", &["AP", "ap"], "AP");
        of("source", &["St. Mary"], "St. Mary");
        assert_eq!(
            named("sex", &["", "-", "unknown", "U", "?"]),
            [const { None }; 5]
        );
    }

    #[test]
    fn columns_are_found_by_usual_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        let names = "image,Patient Gender,ViewPosition,Hospital";
        std::fs::write(&path, format!("{names}\n")).unwrap();
        let table = TableFile::open(&path).unwrap();
        assert_eq!(columns(&table).unwrap(), [Some(1), None, Some(2), Some(3)]);
        std::fs::write(&path, format!("{names},view position\n")).unwrap();
        let error = columns(&TableFile::open(&path).unwrap()).unwrap_err();
        assert!(error.to_string().contains("3 and 5"), "{error}");
    }
}
