//! The rooms of the architecture: which crate may know what, read from `cargo metadata`, and which modules of a crate need
//! each other, read from its sources. A new dependency in the wrong place fails here and not in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use radialog_tests::module_circles;
use serde_json::Value;

/// The page with the rooms and their reasons, for whoever a test stops.
const PAGE: &str = "see the rooms in .github/ARCHITECTURE.md";

/// The workspace's crates as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Direct, non-dev dependencies of each workspace crate.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    packages()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

fn ours(names: &BTreeSet<String>) -> Vec<&str> {
    names
        .iter()
        .filter_map(|name| name.strip_prefix("radialog-"))
        .collect()
}

#[test]
fn arrows_between_the_crates_point_one_way() {
    let dependencies = dependencies();
    let rooms: [(&str, &[&str]); 7] = [
        ("radialog-schemas", &[]),
        ("radialog-files", &[]),
        ("radialog-runtime", &["files", "schemas"]),
        ("radialog-models", &["files", "schemas"]),
        (
            "radialog-workers",
            &["files", "models", "runtime", "schemas"],
        ),
        ("radialog-training", &["files", "models", "schemas"]),
        ("radialog-coordinator", &["files", "runtime", "schemas"]),
    ];
    for (name, allowed) in rooms {
        assert_eq!(
            ours(&dependencies[name]),
            allowed,
            "crates of ours that {name} depends on: {PAGE}"
        );
    }
    assert_eq!(dependencies.len(), 9, "a tenth crate needs a room: {PAGE}");
}

#[test]
fn models_know_no_async_runtime_queue_or_network() {
    let models = &dependencies()["radialog-models"];
    for name in [
        "tokio",
        "async-trait",
        "futures",
        "lapin",
        "redis",
        "aws-sdk-s3",
        "axum",
        "hyper",
        "reqwest",
    ] {
        assert!(
            !models.contains(name),
            "radialog-models must not depend on {name}: {PAGE}"
        );
    }
}

#[test]
fn the_coordinator_knows_no_candle() {
    for name in dependencies()["radialog-coordinator"].iter() {
        assert!(
            !name.starts_with("candle"),
            "radialog-coordinator must not depend on {name}: {PAGE}"
        );
    }
}

#[test]
fn only_the_runtime_names_the_broker_the_store_the_state_and_the_metrics() {
    for (package, names) in dependencies()
        .iter()
        .filter(|(package, _)| *package != "radialog-runtime")
    {
        for name in ["lapin", "aws-sdk-s3", "redis", "prometheus"] {
            assert!(
                !names.contains(name),
                "{package} must not depend on {name}: {PAGE}"
            );
        }
    }
}

#[test]
fn no_modules_of_a_crate_need_each_other_in_a_circle() {
    let mut told = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let src = manifest.parent().unwrap().join("src");
        for circle in module_circles::circles(&src).unwrap() {
            let needs: Vec<String> = circle.iter().map(|need| format!("  {need}")).collect();
            let name = package["name"].as_str().unwrap();
            told.push(format!("a circle in {name}:\n{}", needs.join("\n")));
        }
    }
    assert!(
        told.is_empty(),
        "{}\nMove what both need into a module of its own, or the code to where it is used: {PAGE}",
        told.join("\n")
    );
}

/// The Rust files below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "rs"))
        .collect()
}

#[test]
fn only_models_has_unsafe_code_as_the_security_policy_says() {
    let mut found = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let src = manifest.parent().unwrap().join("src");
        if package["name"] == "radialog-models" {
            continue;
        }
        let sources = rust_files(&src).into_iter();
        found.extend(sources.filter(|file| {
            let code = fs::read_to_string(file).unwrap();
            code.contains("unsafe_code")
        }));
    }
    assert!(
        found.is_empty(),
        "{found:?} may not have unsafe code: see *Code* in .github/SECURITY.md"
    );
}

#[test]
fn the_script_that_a_benchmark_compares_with_is_in_the_repository() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let overhead = fs::read_to_string(benches.join("overhead.rs")).unwrap();
    let peer = "peers/task_queue.py";
    assert!(overhead.contains(&format!("\"benches/{peer}\"")));
    assert!(benches.join(peer).is_file(), "benches/{peer} is gone");
}

#[test]
fn each_suite_of_integration_tests_has_its_row() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("README.md")).unwrap();
    let (_, table) = page.split_once("\n## Suites\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let main = fs::read_to_string(here.join("it/main.rs")).unwrap();
    let suites = main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let missing: Vec<&str> = suites
        .filter(|suite| !table.contains(&format!("`{suite}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "no row in tests/README.md, *Suites*: {missing:?}"
    );
}

#[test]
fn each_file_of_the_command_line_has_its_row() {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/cli");
    let page = fs::read_to_string(crate_.join("README.md")).unwrap();
    let mut missing = Vec::new();
    for (folder, before) in [
        ("src", ""),
        ("src/commands", "commands/"),
        ("src/chaos", ""),
    ] {
        for entry in fs::read_dir(crate_.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != "main.rs"
                && name.ends_with(".rs")
                && !page.contains(&format!("`{before}{name}`"))
            {
                missing.push(format!("{folder}/{name}"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "no row in coordinator/cli/README.md: {missing:?}"
    );
}
