//! Network policies allow what the roles need, and no other host; what stands before the gateway passes its streams on.

use radialog_coordinator::gateway::GatewayConfig;
use serde_json::{Value, json};

use super::manifests::{Manifests, Workload, fixture, kustomizations};

/// Whether a peer is more than some: a block of addresses that is wider than an institution's, or a selector that asks for
/// nothing.
fn is_anybody(peer: &Value) -> bool {
    if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
        let bits = cidr
            .rsplit_once('/')
            .and_then(|(_, bits)| bits.parse().ok());
        return bits.is_none_or(|bits: u32| bits < 8);
    }
    let asks = |selector: &str| {
        let asked = ["matchLabels", "matchExpressions"].map(|kind| &peer[selector][kind]);
        asked.into_iter().any(|asked| match asked {
            Value::Object(labels) => !labels.is_empty(),
            Value::Array(expressions) => !expressions.is_empty(),
            _ => false,
        })
    };
    // Pods alone are those of the policy's own namespace.
    !(asks("podSelector") || asks("namespaceSelector"))
}

#[test]
fn peers_that_ask_for_nothing_are_anybody() {
    for peer in [
        json!({}),
        json!({"namespaceSelector": {}}),
        json!({"podSelector": {"matchLabels": {}}}),
        json!({"ipBlock": {"cidr": "::/0"}}),
        json!({"ipBlock": {"cidr": "0.0.0.0/1"}}),
    ] {
        assert!(is_anybody(&peer), "{peer}");
    }
    for peer in [
        json!({"ipBlock": {"cidr": "192.0.2.0/24"}}),
        json!({"podSelector": {"matchLabels": {"app": "rabbitmq"}}}),
    ] {
        assert!(!is_anybody(&peer), "{peer}");
    }
}

#[test]
fn no_policy_allows_any_host_but_that_of_the_job_that_downloads() {
    let production = Manifests::of("overlays/production");
    for policy in production.kind("NetworkPolicy") {
        let name = policy["metadata"]["name"].as_str().unwrap();
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in policy["spec"][direction].as_array().into_iter().flatten() {
                let peers = rule[peers]
                    .as_array()
                    .unwrap_or_else(|| panic!("{name}: {rule}"));
                assert!(
                    !peers.is_empty() && rule["ports"].is_array(),
                    "{name}: {rule}"
                );
                let everybody = peers.iter().any(is_anybody);
                assert_eq!(everybody, name == "weights", "{name}: {rule}");
            }
        }
    }
}

#[test]
fn every_pod_of_radialog_has_the_label_that_the_policies_select() {
    let production = Manifests::of("overlays/production");
    let selected =
        &production.get("NetworkPolicy", "radialog")["spec"]["podSelector"]["matchLabels"];
    assert_eq!(*selected, json!({"app.kubernetes.io/name": "radialog"}));
    for name in kustomizations() {
        for workload in Manifests::of(&name).workloads() {
            let labels = &workload.template["metadata"]["labels"];
            let ours = workload
                .containers()
                .iter()
                .any(|container| container["image"].as_str().unwrap().contains("radialog"));
            assert_eq!(Workload::is_radialog(&workload), ours, "{name}: {labels}");
            assert_ne!(labels["app.kubernetes.io/component"], Value::Null, "{name}");
        }
    }
}

#[test]
fn a_policy_names_only_ports_that_the_pods_have() {
    let production = Manifests::of("overlays/production");
    for (policy, workload, port) in [
        ("gateway", "gateway", "http"),
        ("radialog", "language", "metrics"),
    ] {
        let rule = &production.get("NetworkPolicy", policy)["spec"]["ingress"][0];
        assert_eq!(rule["ports"], json!([{"port": port}]));
        let workload = production.workload(workload);
        let ports = workload.container()["ports"].to_string();
        assert!(ports.contains(&format!("\"{port}\"")), "{ports}");
    }
}

#[test]
fn what_stands_before_the_gateway_neither_buffers_streams_nor_ends_silent_ones() {
    let (production, others) = (Manifests::of("overlays/production"), fixture("others"));
    let others = Manifests::of(&others);
    let ingress = others.get("Ingress", "gateway");
    // That of the cluster.
    assert_eq!(ingress["spec"].get("ingressClassName"), None);
    let annotations = &ingress["metadata"]["annotations"];
    assert_eq!(
        annotations["nginx.ingress.kubernetes.io/proxy-buffering"],
        "off"
    );
    let size = &annotations["nginx.ingress.kubernetes.io/proxy-body-size"];
    let size = size.as_str().unwrap().trim_end_matches('m');
    // A file of requests has 200 MiB at most, and a form around it.
    assert!(size.parse::<u64>().unwrap() > 200, "{size}");
    let silence = &annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"];
    let silence: u64 = silence.as_str().unwrap().parse().unwrap();
    assert!(silence > GatewayConfig::default().heartbeat.as_secs());
    let route = production.get("HTTPRoute", "gateway");
    let timeouts = &route["spec"]["rules"][0]["timeouts"];
    assert_eq!(*timeouts, json!({"request": "0s", "backendRequest": "0s"}));
    let backend = &route["spec"]["rules"][0]["backendRefs"][0];
    let service = production.get("Service", backend["name"].as_str().unwrap());
    assert_eq!(service["spec"]["ports"][0]["port"], backend["port"]);
}
