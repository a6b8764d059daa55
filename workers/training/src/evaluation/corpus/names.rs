//! By which names a study and a row of a table are one: ids, and paths of images and reports, of which one side may have more folders
//! than the other.
//!
//! A whole name of the one side may be the end of a path of the other (`patient/study/view.jpg` and `train/patient/study/view`). That
//! two paths end alike makes them one in no other case: `p1/frontal` is not `p2/frontal`.

use super::{comparable, without_suffix};

/// The ends of a path that begin behind one of its folders, the longest first.
pub(super) fn ends(path: &str) -> impl Iterator<Item = &str> {
    let path = without_suffix(path);
    let folders = path.match_indices(['/', '\\']);
    folders.map(move |(at, _)| comparable(&path[at + 1..]))
}

/// A path as the whole of it is compared: without the suffix of an image's or report's name, and without a beginning that says
/// nothing.
pub(super) fn whole(path: &str) -> &str {
    let path = without_suffix(path.trim());
    let path = path.strip_prefix("./").unwrap_or(path);
    comparable(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_paths_are_without_suffix_and_the_longest_comes_first() {
        let ends: Vec<&str> = ends("files/p10/s50414267.txt").collect();
        assert_eq!(ends, ["p10/s50414267", "50414267"]);
        assert_eq!(whole(" ./a/b.jpg "), "a/b");
        assert_eq!(whole("/a/1.2.840"), "a/1.2.840");
        assert_eq!(super::ends("a").count(), 0);
    }
}
