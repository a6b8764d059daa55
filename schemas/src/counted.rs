//! Counts in sentences.

use std::fmt::Display;

/// A count with its noun, or with the first words of what is said of it: "1 study", "2 studies"; "1 row has", "0 rows have".
pub fn counted<N>(count: N, one: &str, several: &str) -> String
where
    N: Copy + Display + PartialEq + From<u8>,
{
    let words = if count == N::from(1) { one } else { several };
    format!("{count} {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_as_one_and_all_other_counts_as_several() {
        let studies = |count: u64| counted(count, "study", "studies");
        let told = [0, 1, 2, 11, 101].map(studies);
        let expected = [
            "0 studies",
            "1 study",
            "2 studies",
            "11 studies",
            "101 studies",
        ];
        assert_eq!(told, expected);
    }
}
