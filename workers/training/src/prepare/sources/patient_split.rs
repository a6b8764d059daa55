//! Which side a patient is on where the publisher does not say: a function of the patient's key alone, so that every data
//! set made from it, today or later, keeps a patient on one side.

use sha2::{Digest, Sha256};

/// Stands in front of the key, so that other divisions of the same patients are independent.
const SALT: &str = "cxr-split-v1:";

/// Upper ends of the sides.
const SIDES: [(f64, &str); 3] = [(0.15, HELD_OUT), (0.27, "test"), (0.37, "validate")];

/// The side that no training and no evaluation of this repository reads: it is for those who judge the demo bundle.
const HELD_OUT: &str = "held_out";

/// Uniform in [0, 1): the first 12 hex digits of SHA-256.
pub(crate) fn share(key: &str) -> f64 {
    let digest = Sha256::digest(format!("{SALT}{key}"));
    let number = digest
        .iter()
        .take(6)
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    number as f64 / (1_u64 << 48) as f64
}

/// The side of a patient, e.g. of `openi:12` or `nih:61`.
pub(crate) fn side(key: &str) -> &'static str {
    let share = share(key);
    SIDES
        .into_iter()
        .find(|(end, _)| share < *end)
        .map_or("train", |(_, side)| side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_are_those_of_the_shipped_data() {
        // CXR2 and CXR3 are test studies there.
        assert_eq!([side("openi:2"), side("openi:3")], ["test", "test"]);
        let train = (0..10_000)
            .filter(|number| side(&format!("x:{number}")) == "train")
            .count();
        assert!((6_150..6_450).contains(&train), "{train}");
    }
}
