//! A further worker group: the workers of a second bundle beside those of the first.

use std::collections::BTreeSet;

use radialog_schemas::Stage;
use serde_json::{Value, json};

use super::manifests::Manifests;

#[test]
fn a_further_group_is_the_stages_once_more_with_a_bundle_queues_and_selectors_of_its_own() {
    let (production, group) = (
        Manifests::of("overlays/production"),
        Manifests::of("overlays/production/group"),
    );
    for stage in Stage::ALL {
        let name = format!("{stage}-v2");
        let (base, own) = (production.workload(stage.name()), group.workload(&name));
        assert_eq!(own.args(), ["worker", stage.name(), "--worker-group", "v2"]);
        let bundle = json!({"name": "RADIALOG_BUNDLE", "value": "s3://bundles/radialog-v2"});
        let environment = own.container()["env"].as_array().unwrap();
        assert!(environment.contains(&bundle), "{name}: {environment:?}");
        for part in [
            "image",
            "resources",
            "securityContext",
            "envFrom",
            "readinessProbe",
        ] {
            assert_eq!(
                own.container()[part],
                base.container()[part],
                "{name}: {part}"
            );
        }
        let (mut pod, mut of_base) = (own.pod().clone(), base.pod().clone());
        for pod in [&mut pod, &mut of_base] {
            pod["containers"] = json!([]);
        }
        assert_eq!(pod, of_base, "{name}");
        assert!(pod["topologySpreadConstraints"].is_array(), "{name}");
        // An autoscaler whose pods another one counts, too, stands still.
        for (of, pods) in [(base, own), (own, base)] {
            let selector = of.object["spec"]["selector"]["matchLabels"].as_object();
            let labels = &pods.template["metadata"]["labels"];
            let mut pairs = selector.unwrap().iter();
            assert!(
                pairs.any(|(label, value)| labels[label] != *value),
                "{name}"
            );
        }
        let scaled = &group.get("ScaledObject", &name)["spec"];
        assert_eq!(scaled["scaleTargetRef"]["name"], *name);
        let expected = &production.get("ScaledObject", stage.name())["spec"]["triggers"];
        let mut expected: Value = expected.clone();
        for trigger in expected.as_array_mut().unwrap() {
            if let Some(queue) = trigger["metadata"].get_mut("queueName") {
                *queue = json!(format!("{}@v2", queue.as_str().unwrap()));
            }
            if let Some(query) = trigger["metadata"].get_mut("query") {
                let of_group = query
                    .as_str()
                    .unwrap()
                    .replace("worker_group=\"\"", "worker_group=\"v2\"");
                *query = json!(of_group);
            }
        }
        assert_eq!(scaled["triggers"], expected, "{name}");
    }
    let kinds: BTreeSet<&str> = group
        .all()
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, BTreeSet::from(["Deployment", "ScaledObject"]));
}
