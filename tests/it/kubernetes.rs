//! The manifests name what the code has: every stage's role, and every stage's queue.

use std::path::{Path, PathBuf};

use radialog_coordinator::gateway::{GatewayConfig, MOST_CONNECTIONS};
use radialog_schemas::{Stage, queues};
use radialog_training::TrainingError;
use radialog_training::recipe::FindingsRecipe;

fn read(path: &str) -> String {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../k8s")
        .join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn every_stage_has_a_deployment_of_its_role() {
    for stage in Stage::ALL {
        let manifest = read(&format!("base/{stage}.yaml"));
        assert!(
            manifest.contains(&format!("args: [worker, {stage}]")),
            "{stage}"
        );
        assert!(
            read("base/kustomization.yaml").contains(&format!("- {stage}.yaml")),
            "{stage}"
        );
    }
}

#[test]
fn every_stage_is_scaled_by_its_own_queue_counting_unacknowledged_messages() {
    let manifest = read("components/keda/scaled-objects.yaml");
    let objects: Vec<&str> = manifest.split("---").collect();
    assert_eq!(objects.len(), Stage::ALL.len());
    for (stage, object) in Stage::ALL.into_iter().zip(objects) {
        assert!(
            object.contains(&format!("scaleTargetRef: {{name: {stage}}}")),
            "{stage}"
        );
        assert!(
            object.contains(&format!("queueName: {},", queues::work(stage))),
            "{stage}"
        );
        assert!(
            object.contains("protocol: http"),
            "{stage}: amqp counts ready messages only"
        );
    }
}

#[test]
fn chat_scales_the_language_stage_too_and_the_gateway_has_its_role() {
    assert!(
        read("components/keda/scaled-objects.yaml")
            .contains(&format!("queueName: {},", queues::CHAT))
    );
    let manifest = read("base/gateway.yaml");
    assert!(manifest.contains("args: [gateway, --listen, \"0.0.0.0:7860\"]"));
    assert!(read("components/network-policies/network-policy.yaml").contains("{port: 7860}"));
    assert!(read("base/kustomization.yaml").contains("- gateway.yaml"));
}

#[test]
fn a_gateways_memory_is_what_its_settings_can_make_it_take() {
    let manifest = read("base/gateway.yaml");
    let limit = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("limits: {memory: "))
        .unwrap();
    let (number, unit) = limit.trim_end_matches('}').split_at(limit.len() - 3);
    let bytes = number.parse::<u64>().unwrap()
        << match unit {
            "Gi" => 30,
            "Mi" => 20,
            other => panic!("{other}"),
        };
    let settings = format!("{manifest}{}", read("base/settings.yaml"));
    for changed in ["CONNECTIONS", "BODY_MEMORY_MIB", "MAX_IMAGE_MIB"] {
        assert!(
            !settings.contains(&format!("RADIALOG_GATEWAY_{changed}")),
            "this test reckons with the defaults"
        );
    }
    // Where a pod may open more files than this process.
    let config = GatewayConfig {
        connections: MOST_CONNECTIONS,
        ..GatewayConfig::default()
    };
    let needed = config.memory_bytes();
    assert!(
        bytes >= needed && bytes < needed + (256 << 20),
        "the limit is {bytes} bytes, a gateway takes up to {needed}"
    );
}

#[test]
fn the_termination_grace_is_longer_than_the_workers_own() {
    let setting = |text: &str, name: &str| -> u32 {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap();
        line.split(':')
            .nth(1)
            .unwrap()
            .trim()
            .trim_matches('"')
            .parse()
            .unwrap()
    };
    let grace = setting(&read("base/settings.yaml"), "RADIALOG_WORKER_GRACE");
    for stage in Stage::ALL {
        assert!(
            setting(
                &read(&format!("base/{stage}.yaml")),
                "terminationGracePeriodSeconds"
            ) > grace,
            "{stage}"
        );
    }
}

#[test]
fn a_training_is_a_job_whose_next_pod_goes_on_from_the_last_checkpoint() {
    let job = read("training/job.yaml");
    assert!(job.contains(
        "args: [train, findings, /recipe/recipe.toml, --out, /runs/findings, --resume=auto]"
    ));
    assert!(
        job.contains("podReplacementPolicy: Failed"),
        "two pods would write to one folder"
    );
    let kustomization = read("training/kustomization.yaml");
    assert!(kustomization.contains("- job.yaml") && kustomization.contains("files: [recipe.toml]"));
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/training/recipe.toml");
    let Err(TrainingError::Recipe { faults, .. }) = FindingsRecipe::read(&recipe) else {
        panic!("the volumes of the Job are not here");
    };
    assert!(
        faults.iter().all(|fault| fault.contains("/data/")),
        "{faults:?}"
    );
}
