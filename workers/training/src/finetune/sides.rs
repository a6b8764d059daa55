//! Which patients train, which choose the best checkpoint, and which are held out to say what came of it.

use std::collections::{BTreeMap, BTreeSet};

use radialog_schemas::counted;

use super::table::FinetuneRow;
use crate::error::TrainingError;
use crate::random::Random;

/// Share of the patients who are held out where the table has none.
const TEST: f64 = 0.2;
/// Share of the others who choose the best checkpoint.
const VALIDATE: f64 = 0.15;
/// Fewest patients of a division.
const FEWEST: usize = 3;

/// Images and patients of each side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideCounts(pub BTreeMap<&'static str, (usize, usize)>);

/// Gives every row a side: the table's own where it names one. Patients without a side train, but for sides that no row names: each is
/// a share of those without a side and of those who train, the former first; all images of a patient go together. Says what was
/// done.
///
/// # Errors
/// Fewer than three patients, nobody to train on, or sides that cannot be filled.
pub fn divide(
    rows: &mut [FinetuneRow],
    seed: u64,
) -> Result<(SideCounts, Vec<String>), TrainingError> {
    let mut notes = Vec::new();
    let named: BTreeSet<&str> = rows.iter().filter_map(|row| row.side).collect();
    let of_side = |rows: &[FinetuneRow], side: Option<&str>| -> Vec<String> {
        let of = rows.iter().filter(|row| row.side == side);
        of.map(|row| row.patient.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let mut sided: BTreeMap<String, &'static str> = BTreeMap::new();
    for row in rows.iter() {
        if let Some(side) = row.side {
            sided.insert(row.patient.clone(), side);
        }
    }
    let is_free = |patient: &String| !sided.contains_key(patient);
    let mut free: Vec<String> = of_side(rows, None).into_iter().filter(is_free).collect();
    let unsided = rows.iter().filter(|row| row.side.is_none()).count();
    let all: BTreeSet<&String> = rows.iter().map(|row| &row.patient).collect();
    if all.len() < FEWEST {
        return Err(TrainingError::Empty(format!(
            "{} too few to train, to choose the best and to hold out: there must be {FEWEST}",
            counted(all.len(), "patient is", "patients are")
        )));
    }
    if free.is_empty() && !named.contains("train") {
        return Err(TrainingError::Empty(
            "the table has no row of the split 'train', and none without a split".to_owned(),
        ));
    }
    let mut random = Random::stream(seed, "sides");
    random.shuffle(&mut free);
    for (side, share) in [("test", TEST), ("validate", VALIDATE)] {
        if named.contains(side) {
            continue;
        }
        let train = sided.iter().filter(|(_, side)| **side == "train");
        let mut train: Vec<String> = train.map(|(patient, _)| patient.clone()).collect();
        let pool = free.len() + train.len();
        let count = ((pool as f64 * share).round() as usize).max(1);
        if pool <= count {
            return Err(TrainingError::Empty(format!(
                "the table has no split '{side}', and {} too few to take one from",
                counted(pool, "patient is", "patients are")
            )));
        }
        let of_free = count.min(free.len());
        if of_free < count {
            random.shuffle(&mut train);
        }
        let drawn = free.drain(..of_free).chain(train.drain(..count - of_free));
        sided.extend(drawn.map(|patient| (patient, side)));
        let from = match (of_free, count - of_free) {
            (_, 0) if named.is_empty() => String::new(),
            (_, 0) => " from those without a split".to_owned(),
            (0, _) => " from train".to_owned(),
            (free, train) => format!(", {free} from those without a split and {train} from train"),
        };
        notes.push(format!(
            "the table has no split '{side}': {} drawn{from} (seed {seed})",
            counted(count, "patient", "patients")
        ));
    }
    sided.extend(free.into_iter().map(|patient| (patient, "train")));
    if unsided > 0 && !named.is_empty() {
        notes.push(format!(
            "{} with the patient, or train",
            counted(
                unsided,
                "row without a split goes",
                "rows without a split go"
            )
        ));
    }
    let mut counts: BTreeMap<&'static str, (usize, BTreeSet<String>)> = BTreeMap::new();
    for row in rows.iter_mut() {
        let side = sided.get(&row.patient).copied().unwrap_or("train");
        row.side = Some(side);
        let (images, patients) = counts.entry(side).or_default();
        *images += 1;
        patients.insert(row.patient.clone());
    }
    let counts = counts
        .into_iter()
        .map(|(side, (images, patients))| (side, (images, patients.len())));
    Ok((SideCounts(counts.collect()), notes))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use radialog_schemas::Label;

    use super::*;

    fn rows(patients: usize, side: impl Fn(usize) -> Option<&'static str>) -> Vec<FinetuneRow> {
        let row = |number: usize| FinetuneRow {
            line: number as u64 + 2,
            name: format!("{number}.png"),
            image: PathBuf::new(),
            // Two images a patient.
            patient: format!("p{}", number / 2),
            side: side(number / 2),
            report: String::new(),
            labels: [Label::Blank; 14],
            groups: Default::default(),
        };
        (0..2 * patients).map(row).collect()
    }

    fn divided(mut rows: Vec<FinetuneRow>, seed: u64) -> (Vec<FinetuneRow>, SideCounts) {
        let (counts, _) = divide(&mut rows, seed).unwrap();
        let mut sides: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for row in &rows {
            sides
                .entry(row.patient.clone())
                .or_default()
                .extend(row.side);
        }
        assert!(sides.values().all(|sides| sides.len() == 1), "{sides:?}");
        (rows, counts)
    }

    #[test]
    fn patients_are_divided_by_the_seed_and_stay_together() {
        let (first, counts) = divided(rows(20, |_| None), 1);
        let expected = [("test", (8, 4)), ("train", (28, 14)), ("validate", (4, 2))];
        assert_eq!(counts, SideCounts(expected.into()));
        assert_eq!(first, divided(rows(20, |_| None), 1).0);
        assert_ne!(first, divided(rows(20, |_| None), 2).0);
    }

    #[test]
    fn the_sides_of_a_table_stay_and_what_is_missing_is_taken_from_training_patients() {
        let own = |patient: usize| Some(if patient < 5 { "test" } else { "train" });
        let (rows, counts) = divided(rows(20, own), 1);
        assert_eq!(counts.0["test"], (10, 5));
        assert_eq!(counts.0["validate"], (4, 2));
        assert!(rows.iter().take(10).all(|row| row.side == Some("test")));
    }

    #[test]
    fn a_few_rows_without_a_split_are_divided_with_the_training_patients() {
        let blank = |blank: usize| move |patient: usize| (patient >= blank).then_some("train");
        let divided = |free: usize| {
            let mut rows = rows(40, blank(free));
            let (counts, notes) = divide(&mut rows, 1).unwrap();
            let counts = ["test", "validate", "train"].map(|side| counts.0[side].1);
            (counts, notes.join("\n"))
        };
        let (counts, notes) = divided(1);
        assert_eq!(counts, [8, 5, 27]);
        assert!(
            notes.contains("8 patients drawn, 1 from those without a split and 7 from train"),
            "{notes}"
        );
        let (counts, notes) = divided(10);
        assert_eq!(counts, [8, 5, 27]);
        assert!(
            notes.contains("'test': 8 patients drawn from those without a split"),
            "{notes}"
        );
        // A side that the table names stays, and what is blank trains.
        let named =
            |patient: usize| [None, Some("test"), Some("validate"), Some("train")][patient.min(3)];
        let (_, counts) = self::divided(rows(10, named), 1);
        assert_eq!(counts.0["train"].1, 8);
    }

    #[test]
    fn a_table_without_training_rows_is_refused() {
        let error = divide(&mut rows(9, |_| Some("test")), 1).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no row of the split 'train'"), "{error}");
    }

    #[test]
    fn too_few_patients_are_refused() {
        let error = divide(&mut rows(2, |_| None), 1).unwrap_err().to_string();
        assert!(error.contains("2 patients are too few"), "{error}");
    }
}
