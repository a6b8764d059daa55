//! Each stage is scaled by its own queue, up at once and down slowly.

use radialog_schemas::{Stage, queues};
use serde_json::Value;

use super::manifests::{Manifests, folder, kustomizations};

/// The queues that a ScaledObject looks at.
fn watched(object: &Value) -> Vec<&str> {
    let triggers = object["spec"]["triggers"].as_array().unwrap().iter();
    triggers
        .filter_map(|trigger| trigger["metadata"]["queueName"].as_str())
        .collect()
}

#[test]
fn every_stage_is_scaled_by_its_own_queue_counting_unacknowledged_messages() {
    let production = Manifests::of("overlays/production");
    assert_eq!(production.kind("ScaledObject").count(), Stage::ALL.len());
    for stage in Stage::ALL {
        let object = production.get("ScaledObject", stage.name());
        assert_eq!(object["spec"]["scaleTargetRef"]["name"], stage.name());
        assert_eq!(watched(object)[0], queues::work(stage), "{stage}");
        for trigger in object["spec"]["triggers"].as_array().unwrap() {
            if trigger["type"] == "rabbitmq" {
                let protocol = &trigger["metadata"]["protocol"];
                assert_eq!(protocol, "http", "{stage}: amqp counts ready messages only");
            }
        }
    }
}

#[test]
fn the_brokers_management_is_told_to_the_scaler_and_to_no_pod() {
    let production = Manifests::of("overlays/production");
    let told = production.get("TriggerAuthentication", "rabbitmq-management");
    let told = &told["spec"]["secretTargetRef"][0];
    assert_eq!(told["key"], "RABBITMQ_MANAGEMENT_URL");
    let secret = told["name"].as_str().unwrap();
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        for workload in manifests.workloads() {
            let pod = workload.pod().to_string();
            assert!(!pod.contains(secret), "{name}: {}", workload.name());
        }
        for other in manifests.kind("Secret") {
            let is_told = other["data"].get("RABBITMQ_MANAGEMENT_URL").is_some();
            assert_eq!(is_told, other["metadata"]["name"] == secret, "{name}");
        }
    }
    // The README makes each secret by name.
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let (_, made) = readme
        .split_once(&format!("secret generic {secret} "))
        .unwrap();
    let made = made.split("secret generic").next().unwrap();
    assert!(made.contains("RABBITMQ_MANAGEMENT_URL="), "{made}");
}

#[test]
fn the_language_stage_starts_for_turns_and_for_images_whose_reports_come_next() {
    let production = Manifests::of("overlays/production");
    let language = production.get("ScaledObject", "language");
    let embedding = queues::work(Stage::Embedding);
    assert_eq!(
        watched(language),
        [queues::work(Stage::Language), queues::CHAT, embedding]
    );
}

#[test]
fn cheap_stages_keep_a_worker_and_none_goes_in_a_hurry() {
    let production = Manifests::of("overlays/production");
    for stage in Stage::ALL {
        let spec = &production.get("ScaledObject", stage.name())["spec"];
        let least = u64::from(stage != Stage::Language);
        assert_eq!(spec["minReplicaCount"].as_u64(), Some(least), "{stage}");
        let behavior = &spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
        let window = behavior["scaleDown"]["stabilizationWindowSeconds"]
            .as_u64()
            .unwrap();
        assert!(window >= 300, "{stage}");
        assert!(spec["cooldownPeriod"].as_u64().unwrap() > window, "{stage}");
        assert!(behavior["scaleDown"]["policies"].is_array(), "{stage}");
    }
}

#[test]
fn with_prometheus_seconds_of_waiting_work_count_and_the_queue_only_wakes() {
    let production = Manifests::of("overlays/production");
    for stage in Stage::ALL {
        let triggers = &production.get("ScaledObject", stage.name())["spec"]["triggers"];
        let query = triggers[1]["metadata"]["query"].as_str().unwrap();
        // And no work of a further bundle's workers, which have objects of their own.
        let own = format!("worker_group=\"\",stage=\"{stage}\"");
        assert_eq!(query.matches(&own).count(), 2, "{query}");
        assert_eq!(triggers[0]["metadata"]["value"], "100000", "{stage}");
    }
}
