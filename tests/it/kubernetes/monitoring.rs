//! Rules, dashboards and triggers ask for metrics that the program has, and the rules say what they mean to say.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use radialog_tests::install::{self, Requirement};

use super::manifests::{Manifests, folder};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Words of a text that begin as our metrics do.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let ours = words.filter(|word| word.starts_with("radialog_"));
    ours.map(str::to_owned).collect()
}

/// The names of all metrics, from the files that declare them: a process shows only those that it has samples of.
fn declared() -> BTreeSet<String> {
    let folder = Path::new(HERE).join("../workers/runtime/src");
    let mut sources = vec![folder.join("metrics.rs")];
    for entry in std::fs::read_dir(folder.join("metrics")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("tests.rs") {
            sources.push(path);
        }
    }
    let texts = sources
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    let names = metrics_in(&texts.collect::<String>());
    assert!(names.len() > 20, "{names:?}");
    names
}

/// Asserts that each metric of a query is declared; a histogram is asked for by its parts.
fn assert_declared(query: &str, declared: &BTreeSet<String>) {
    let used = metrics_in(query);
    assert!(!used.is_empty(), "{query}");
    for name in used {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let known = declared.contains(&name) || base.is_some_and(|base| declared.contains(base));
        assert!(known, "there is no metric {name}: {query}");
    }
}

/// Every text below `value` that is under the key `key`.
fn texts<'a>(value: &'a serde_json::Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == key => found.push(text),
                    _ => texts(field, key, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        _ => {}
    }
}

#[test]
fn rules_dashboards_and_triggers_ask_for_metrics_that_the_program_has() {
    let (declared, production) = (declared(), Manifests::of("overlays/production"));
    let mut queries = Vec::new();
    for kind in ["PrometheusRule", "ScaledObject"] {
        let before = queries.len();
        for object in production.kind(kind) {
            texts(object, "expr", &mut queries);
            texts(object, "query", &mut queries);
        }
        assert!(queries.len() > before, "{kind}");
    }
    let dashboard = folder().join("components/dashboards/radialog.json");
    let dashboard = serde_json::from_slice(&std::fs::read(dashboard).unwrap()).unwrap();
    let before = queries.len();
    texts(&dashboard, "expr", &mut queries);
    assert!(queries.len() > before + 10);
    for query in queries {
        assert_declared(query, &declared);
    }
}

#[test]
fn panels_about_workers_tell_their_groups_apart() {
    let dashboard = folder().join("components/dashboards/radialog.json");
    let dashboard: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dashboard).unwrap()).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter();
    let targets = targets.flat_map(|panel| panel["targets"].as_array().unwrap());
    // What only workers tell, or what is told of their queues.
    let of_workers = ["task_", "model_", "chat_", "queue_"].map(|part| format!("radialog_{part}"));
    // Of the gateways, or of all together, whatever it is.
    let of_others = [
        "radialog_chat_republished_total",
        "radialog_queue_reconnects_total",
        "radialog_model_panics_total",
    ];
    let mut told = 0;
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        let is_other = of_others.iter().any(|metric| query.contains(metric));
        if is_other || !of_workers.iter().any(|part| query.contains(part)) {
            continue;
        }
        told += 1;
        let sums = ["sum", "max", "count"].map(|what| format!("{what} by ("));
        let groupings = sums.iter().flat_map(|sum| query.split(sum).skip(1));
        let mut groupings = groupings.map(|rest| rest.split(')').next().unwrap_or_default());
        assert!(
            groupings.all(|labels| labels.contains("worker_group")),
            "{query}"
        );
        assert!(
            query.contains(" by (") && !query.contains("sum ("),
            "{query}"
        );
        let legend = target["legendFormat"].as_str().unwrap();
        assert!(legend.contains("{{worker_group}}"), "{legend}");
    }
    assert!(told > 15, "{told}");
}

#[test]
fn promtool_takes_the_rules_and_each_alert_tells_what_it_is_for() {
    let production = Manifests::of("overlays/production");
    let rules = production.get("PrometheusRule", "radialog");
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    std::fs::write(folder.path().join("rules.json"), rules["spec"].to_string()).unwrap();
    let tests = folder.path().join("rules-test.yaml");
    let source = Path::new(HERE).join("fixtures/kubernetes/rules-test.yaml");
    std::fs::copy(&source, &tests).unwrap();
    let mut alerts = Vec::new();
    texts(&rules["spec"], "alert", &mut alerts);
    let tested = std::fs::read_to_string(source).unwrap();
    for alert in alerts {
        assert!(
            tested.contains(&format!("alertname: {alert}")),
            "{alert} has no test"
        );
    }
    let promtool = install::program(
        &["promtool"],
        "prometheus",
        &Requirement {
            name: "promtool",
            purpose: "tests of the alerting rules",
            source: "the Debian package prometheus",
            variable: "PATH",
            value: "a folder list that has it",
        },
    )
    .unwrap();
    for arguments in [
        ["check", "rules", "rules.json"],
        ["test", "rules", "rules-test.yaml"],
    ] {
        let mut command = Command::new(&promtool);
        let output = command
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
