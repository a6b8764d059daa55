//! Files that lie between images and were put there by no person: by operating systems, network storage, download tools.
//! One rule for whatever reads a folder, so that no file is a study in one place and left out in another.

/// Names of files and folders, in lower case.
const NAMES: [&str; 10] = [
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    // The icon that a person gives a folder in Finder.
    "icon\r",
    // The listing of a folder that `wget --recursive` keeps, one in each folder of a PhysioNet download.
    "index.html",
];

/// Says whether the file or folder of this name is one of a system's own. Hidden ones are (a leading dot), which Finder's
/// `._NAME` and `.DS_Store` are among.
pub fn is_system_file(name: &str) -> bool {
    let is_hidden = name.starts_with('.') && ![".", ".."].contains(&name);
    is_hidden || NAMES.contains(&name.to_lowercase().as_str())
}

/// Says whether a path, parts between slashes, leads to or through a system's own file.
pub fn is_below_system_file(path: &str) -> bool {
    path.split('/').any(is_system_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_person_put_there_is_known_by_its_name_in_any_case() {
        for path in [
            "a/._1.jpg",
            ".DS_Store",
            "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
            "THUMBS.DB",
            "a/Icon\r",
            "p10/index.html",
            "__MACOSX/1.png",
        ] {
            assert!(is_below_system_file(path), "{path}");
        }
        for path in ["1.jpg", "a/../1.jpg", "a.b/eaDir/1.png", "index.png", ""] {
            assert!(!is_below_system_file(path), "{path}");
        }
    }
}
