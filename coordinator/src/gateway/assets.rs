//! The files of the page, by the path they are served under. A test holds the table and the folder together.

/// Path, media type, content.
pub(super) type Asset = (&'static str, &'static str, &'static [u8]);

/// Every file under `ui/`.
pub(super) const ASSETS: &[Asset] = &[];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::path::Path;

    use super::ASSETS;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui");
        let files = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let files: BTreeSet<String> = files.map(|name| name.into_string().unwrap()).collect();
        let name = |path: &str| match path {
            "/" => "index.html".to_owned(),
            "/docs" => "docs.html".to_owned(),
            path => path.trim_start_matches("/assets/").to_owned(),
        };
        let served: BTreeSet<String> = ASSETS.iter().map(|(path, ..)| name(path)).collect();
        assert_eq!(served, files);
    }
}
