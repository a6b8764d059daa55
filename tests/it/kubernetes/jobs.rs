//! Jobs: what goes with them, what stays, and who sees their metrics.

use std::collections::BTreeSet;

use serde_json::Value;

use super::manifests::{Manifests, Workload, kustomizations};

/// The claims that a workload's pods mount.
fn claims(workload: Workload<'_>) -> Vec<&str> {
    let volumes = workload.pod()["volumes"].as_array().into_iter().flatten();
    volumes
        .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
        .collect()
}

#[test]
fn a_jobs_folder_deletes_the_job_and_its_settings_and_nothing_that_it_has_filled() {
    let (mut folders, mut mounted, mut made) = (0, BTreeSet::new(), BTreeSet::new());
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        for claim in manifests.kind("PersistentVolumeClaim") {
            made.insert(claim["metadata"]["name"].as_str().unwrap().to_owned());
        }
        if manifests.kind("Job").next().is_none() {
            continue;
        }
        folders += 1;
        for object in manifests.all() {
            let kind = object["kind"].as_str().unwrap();
            assert!(["Job", "ConfigMap"].contains(&kind), "{name}: {kind}");
        }
        for workload in manifests.workloads() {
            mounted.extend(claims(workload).into_iter().map(str::to_owned));
        }
    }
    assert!(folders >= 5, "{folders}");
    assert_eq!(mounted, made);
}

#[test]
fn whatever_serves_metrics_is_scraped_the_run_of_a_job_as_well() {
    let production = Manifests::of("overlays/production");
    let monitor = &production.get("PodMonitor", "radialog")["spec"];
    let endpoints = monitor["podMetricsEndpoints"].as_array().unwrap();
    let scraped: Vec<&Value> = endpoints.iter().map(|endpoint| &endpoint["port"]).collect();
    let labels = monitor["selector"]["matchLabels"].as_object().unwrap();
    let base = Manifests::of("base");
    let mut seen = BTreeSet::new();
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        let roles = manifests.workloads().into_iter();
        for workload in roles.filter(Workload::is_radialog) {
            let (role, at) = (workload.args()[0], workload.name());
            let ports = workload.container()["ports"]
                .as_array()
                .into_iter()
                .flatten();
            let port = ports
                .filter(|port| scraped.contains(&&port["name"]))
                .find_map(|port| port["containerPort"].as_u64());
            let has_server = ["worker", "coordinator", "gateway", "batch"].contains(&role);
            let served = has_server.then(|| {
                let address = workload.variable(&base, "RADIALOG_HEALTH_ADDRESS").unwrap();
                let address: std::net::SocketAddr = address.parse().unwrap();
                u64::from(address.port())
            });
            assert_eq!(port, served, "{name}: {at}");
            for (label, value) in labels {
                assert_eq!(
                    workload.template["metadata"]["labels"][label], *value,
                    "{name}: {at}"
                );
            }
            seen.insert(role.to_owned());
        }
    }
    assert!(
        seen.contains("batch") && seen.contains("bundle"),
        "{seen:?}"
    );
}
