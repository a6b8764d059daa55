//! The image: what can be said of it without building it.

use super::manifests::folder;

fn containerfile() -> String {
    std::fs::read_to_string(folder().join("image/Containerfile")).unwrap()
}

#[test]
fn the_images_rust_is_the_one_that_the_workspace_asks_for() {
    let workspace = std::fs::read_to_string(folder().join("../Cargo.toml")).unwrap();
    let version = workspace
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.unwrap().trim_matches('"');
    assert!(
        containerfile().contains(&format!("ARG BUILD_IMAGE=rust:{version}.")),
        "{version}"
    );
}

#[test]
fn every_build_is_locked_and_dependencies_have_a_layer_before_the_sources() {
    let text = containerfile();
    let builds = text.lines().filter(|line| {
        ["cargo install", "cargo chef cook", "cargo auditable build"]
            .iter()
            .any(|command| line.contains(command))
    });
    let builds: Vec<&str> = builds.collect();
    assert_eq!(builds.len(), 3, "{builds:?}");
    assert!(
        builds.iter().all(|line| line.contains("--locked")),
        "{builds:?}"
    );
    let (cook, sources) = (
        text.find("cargo chef cook").unwrap(),
        text.rfind("COPY . .").unwrap(),
    );
    assert!(cook < sources);
}

#[test]
fn the_user_of_the_manifests_may_write_to_the_cache_of_the_image() {
    let text = containerfile();
    assert!(text.contains("USER 10001"));
    assert!(text.contains("install -d -o 10001 -g 10001 /cache"));
    assert!(text.contains("RADIALOG_CACHE=/cache"));
}
