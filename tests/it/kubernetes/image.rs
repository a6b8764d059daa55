//! The image: what can be said of it without building it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use radialog_schemas::ContentHash;
use serde_json::{Value, json};

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

/// What `k8s/image/pin` makes of a copy of the Containerfile, with a registry that answers so for every image.
fn pinned(dir: &Path, registry: &str, arguments: &[&str]) -> std::process::Output {
    let path = std::env::var("PATH").unwrap();
    let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/registry");
    let mut pin = Command::new(folder().join("image/pin"));
    pin.args(arguments).arg(dir.join("Containerfile"));
    pin.env("PATH", format!("{programs}:{path}"))
        .env("RADIALOG_TEST_REGISTRY", registry);
    pin.output().unwrap()
}

#[test]
fn bases_are_pinned_to_what_their_tags_are_now_or_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Containerfile");
    fs::write(&file, containerfile()).unwrap();
    let bases = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("_IMAGE="));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = bases(&containerfile());
    assert!(
        before
            .iter()
            .filter(|line| line.starts_with("ARG "))
            .count()
            == 2
    );

    // A registry that does not answer, or answers nothing, is no reason to write half of it.
    let away = pinned(dir.path(), "exit 1", &[]);
    assert!(!away.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), containerfile());

    for content in ["one", "two"] {
        let registry = format!("printf {content}");
        let output = pinned(dir.path(), &registry, &[]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let text = fs::read_to_string(&file).unwrap();
        let digest = ContentHash::of(content.as_bytes());
        let expected = before.iter().map(|line| match line.starts_with("ARG ") {
            true => format!(
                "{}@sha256:{digest}",
                line.split('@').next().unwrap_or_default()
            ),
            false => line.clone(),
        });
        assert_eq!(bases(&text), expected.collect::<Vec<_>>());
        assert_eq!(text.lines().count(), containerfile().lines().count());
        assert!(pinned(dir.path(), &registry, &["--check"]).status.success());
    }
    let stale = pinned(dir.path(), "printf three", &["--check"]);
    assert!(!stale.status.success(), "the tag has moved on");
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "the copy alone");
}

/// Docker may be there without buildx, as Debian's is.
#[test]
fn where_nothing_can_ask_a_registry_that_is_said_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Containerfile");
    fs::write(&file, containerfile()).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for (program, name) in [
        ("bash", "bash"),
        ("cp", "cp"),
        ("dirname", "dirname"),
        ("false", "docker"),
        ("mktemp", "mktemp"),
        ("rm", "rm"),
        ("sed", "sed"),
    ] {
        let mut files = std::env::split_paths(&path).map(|folder| folder.join(program));
        let found = files.find(|file| file.exists()).unwrap();
        symlink(found, dir.path().join(name)).unwrap();
    }
    let mut pin = Command::new(folder().join("image/pin"));
    let output = pin.arg(&file).env("PATH", dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("neither skopeo nor docker buildx is here"),
        "{errors}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), containerfile());
}

#[test]
fn an_image_may_say_which_commit_it_is_of() {
    let text = containerfile();
    assert!(text.contains("RADIALOG_COMMIT=\"${COMMIT}\""));
    let (cook, commit) = (text.find("cargo chef cook"), text.find("ARG COMMIT"));
    assert!(
        cook.unwrap() < commit.unwrap(),
        "another commit must not compile the dependencies again"
    );
}

#[test]
fn the_bill_of_materials_has_every_crate_of_the_binary_and_none_of_the_tests() {
    let output = Command::new(folder().join("image/sbom")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let bill: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&json!("CycloneDX"), &json!("1.5"))
    );
    assert_eq!(bill["metadata"]["component"]["name"], "radialog");
    let components = bill["components"].as_array().unwrap();
    let find = |name: &str| components.iter().find(|one| one["name"] == name);
    for name in [
        "lapin",
        "redis",
        "aws-sdk-s3",
        "candle-core",
        "radialog-runtime",
    ] {
        assert!(find(name).is_some(), "{name}");
    }
    for name in ["s3s-fs", "radialog-tests"] {
        assert!(find(name).is_none(), "{name}");
    }
    for component in components {
        let name = component["name"].as_str().unwrap();
        assert!(component["licenses"].is_array(), "{name}");
        let is_ours = name.starts_with("radialog");
        assert_eq!(component.get("hashes").is_none(), is_ours, "{name}");
    }
    let of_all = bill["dependencies"].as_array().unwrap();
    assert_eq!(of_all.len(), components.len() + 1);
}
