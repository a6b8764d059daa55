//! Names of the sides of a data set, which publishers spell differently.

/// The names that stand for each of the three sides, in lower case. The first one is what it is called here.
const SIDES: [&[&str]; 3] = [
    &["train", "training"],
    &["validate", "validation", "valid", "val", "dev"],
    &["test", "testing"],
];

/// The side that a table's cell, or a flag, names: `train`, `validate` or `test` in whatever spelling, e.g. `val`, `Valid` or
/// `TRAIN`. Another name stays as it is.
pub fn split_name(name: &str) -> &str {
    let name = name.trim();
    let is_one = |spelling: &&str| spelling.eq_ignore_ascii_case(name);
    SIDES
        .into_iter()
        .find(|spellings| spellings.iter().any(is_one))
        .map_or(name, |spellings| spellings[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_known_by_each_of_its_names_and_others_stay() {
        let names = ["val", " Valid ", "VALIDATION", "dev", "validate"];
        assert_eq!(names.map(split_name), ["validate"; 5]);
        assert_eq!(
            ["Train", "training", "TEST", "held_out", ""].map(split_name),
            ["train", "train", "test", "held_out", ""]
        );
    }
}
