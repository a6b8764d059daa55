//! The files of the page, by the path they are served under. A test holds the table and the folder together.

/// A file of the page: path, media type, content.
pub(super) type Asset = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file that keeps its name.
macro_rules! asset {
    ($media_type:expr, $name:literal) => {
        (
            concat!("/assets/", $name),
            $media_type,
            include_bytes!(concat!("../ui/", $name)),
        )
    };
}

/// Every file under `ui/`.
pub(super) const ASSETS: &[Asset] = &[
    ("/", HTML, include_bytes!("../ui/index.html")),
    ("/docs", HTML, include_bytes!("../ui/docs.html")),
    asset!(SCRIPT, "announce.js"),
    asset!(SCRIPT, "api.js"),
    asset!(SCRIPT, "app.js"),
    asset!(SCRIPT, "clipboard.js"),
    asset!(SCRIPT, "composer.js"),
    asset!(SCRIPT, "conversation.js"),
    asset!(SCRIPT, "dialogs.js"),
    asset!(CSS, "docs.css"),
    asset!(SCRIPT, "docs.js"),
    asset!(SCRIPT, "dom.js"),
    asset!(SCRIPT, "errors.js"),
    asset!(SCRIPT, "events.js"),
    asset!(SVG, "favicon.svg"),
    asset!(SCRIPT, "findings.js"),
    asset!(SCRIPT, "icons.js"),
    asset!(SCRIPT, "image_file.js"),
    asset!(SCRIPT, "images.js"),
    asset!(CSS, "layout.css"),
    asset!(SCRIPT, "list.js"),
    asset!(SCRIPT, "menu.js"),
    asset!(SCRIPT, "models.js"),
    asset!(CSS, "palette.css"),
    asset!(SCRIPT, "pixels.js"),
    asset!(SCRIPT, "report.js"),
    asset!(SCRIPT, "schema.js"),
    asset!(SCRIPT, "speech.js"),
    asset!(SCRIPT, "start.js"),
    asset!(SCRIPT, "stated.js"),
    asset!(SCRIPT, "store.js"),
    asset!(CSS, "style.css"),
    asset!(SCRIPT, "tasks.js"),
    asset!(SCRIPT, "theme.js"),
    asset!(SCRIPT, "turn.js"),
    asset!(SCRIPT, "viewer.js"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::ASSETS;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui");
        let files = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name());
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
