//! The rooms of the house: which crate may know what. Read from `cargo metadata`, so that a new dependency in the wrong
//! crate fails here and not in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Direct, non-dev dependencies of each workspace crate.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
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
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
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
    let arrows = |name: &str| ours(&dependencies[name]);
    assert_eq!(arrows("radialog-schemas"), Vec::<&str>::new());
    assert_eq!(arrows("radialog-runtime"), ["schemas"]);
    assert_eq!(arrows("radialog-models"), ["schemas"]);
    assert_eq!(arrows("radialog-workers"), ["models", "runtime", "schemas"]);
    assert_eq!(arrows("radialog-training"), ["models", "schemas"]);
    assert_eq!(arrows("radialog-coordinator"), ["runtime", "schemas"]);
    assert_eq!(
        dependencies.len(),
        8,
        "a ninth crate needs a room in the design"
    );
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
            "radialog-models must not depend on {name}"
        );
    }
}

#[test]
fn the_coordinator_knows_no_candle() {
    for name in dependencies()["radialog-coordinator"].iter() {
        assert!(
            !name.starts_with("candle"),
            "radialog-coordinator must not depend on {name}"
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
            assert!(!names.contains(name), "{package} must not depend on {name}");
        }
    }
}
