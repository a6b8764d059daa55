//! The Pod Security Standard *restricted*, which the namespace enforces, and what else every pod is held to.

use serde_json::{Value, json};

use super::manifests::{Manifests, Workload, fixture, folder, kustomizations};

/// The volumes that the standard allows.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What the standard refuses about a pod.
fn violations(workload: Workload<'_>) -> Vec<String> {
    let pod = workload.pod();
    let mut found = Vec::new();
    let mut require = |what: &str, holds: bool| {
        if !holds {
            found.push(format!("{}: {what}", workload.name()));
        }
    };
    require(
        "runs as root",
        pod["securityContext"]["runAsNonRoot"] == true,
    );
    require(
        "is uid 0",
        pod["securityContext"]["runAsUser"].as_u64() != Some(0),
    );
    let seccomp = &pod["securityContext"]["seccompProfile"]["type"];
    require("has no seccomp profile", seccomp == "RuntimeDefault");
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        require(shared, pod[shared] != true);
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys();
        let mut kinds = kinds.filter(|key| *key != "name");
        require(
            "has a forbidden volume",
            kinds.all(|kind| VOLUMES.contains(&kind.as_str())),
        );
    }
    for container in workload.containers() {
        let context = &container["securityContext"];
        require(
            "may gain privileges",
            context["allowPrivilegeEscalation"] == false,
        );
        require(
            "has capabilities",
            context["capabilities"] == json!({"drop": ["ALL"]}),
        );
        require("is privileged", context["privileged"] != true);
        let ports = container["ports"].as_array().into_iter().flatten();
        let mut ports = ports.map(|port| &port["hostPort"]);
        require("has a port of the host", ports.all(Value::is_null));
    }
    found
}

#[test]
fn no_pod_violates_the_restricted_standard_that_the_namespace_enforces() {
    let namespace =
        Manifests::of("base").get("Namespace", "radialog")["metadata"]["labels"].clone();
    assert_eq!(
        namespace["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let mut pods = 0;
    for name in kustomizations() {
        for workload in Manifests::of(&name).workloads() {
            let found = violations(workload);
            assert!(found.is_empty(), "{name}: {found:?}");
            pods += 1;
        }
    }
    assert!(pods > 0);
}

#[test]
fn the_readmes_pod_for_files_is_one_that_the_namespace_takes_and_the_user_of_the_others() {
    let name = fixture("files");
    let text = std::fs::read_to_string(folder().join(&name).join("pod.yaml")).unwrap();
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    assert!(readme.contains(&text), "{text}");
    let manifests = Manifests::of(&name);
    let pod = manifests.get("Pod", "files");
    let found = violations(Workload {
        object: pod,
        template: pod,
    });
    assert!(found.is_empty(), "{found:?}");
    let run = Manifests::of(&fixture("volumes"));
    let of_run = &run.workloads()[0].pod()["securityContext"];
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(pod["spec"]["securityContext"][field], of_run[field]);
    }
}

#[test]
fn no_pod_can_write_to_its_image_gets_a_token_or_variables_of_services() {
    for name in kustomizations() {
        for workload in Manifests::of(&name).workloads() {
            let (pod, at) = (workload.pod(), format!("{name}: {}", workload.name()));
            assert_eq!(pod["enableServiceLinks"], false, "{at}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{at}");
            for container in workload.containers() {
                assert_eq!(
                    container["securityContext"]["readOnlyRootFilesystem"], true,
                    "{at}"
                );
                let mounts = container["volumeMounts"].as_array().into_iter().flatten();
                let mounts: Vec<&Value> = mounts.map(|mount| &mount["mountPath"]).collect();
                assert!(mounts.contains(&&json!("/tmp")), "{at}");
                if workload.is_radialog() {
                    assert!(mounts.contains(&&json!("/cache")), "{at}");
                }
            }
        }
    }
}

#[test]
fn bundles_are_mounted_so_that_no_pod_changes_them() {
    let mut mounted = 0;
    for (name, volume) in [
        (fixture("volumes"), "bundles"),
        (fixture("others"), "bundles"),
        (fixture("others"), "bundle"),
        (fixture("image"), "bundle"),
    ] {
        let manifests = Manifests::of(&name);
        let workloads = manifests.workloads().into_iter();
        for workload in workloads.filter(Workload::is_radialog) {
            let of = |list: &Value| -> Vec<Value> {
                let entries = list.as_array().into_iter().flatten();
                let named = entries.filter(|entry| entry["name"] == volume);
                named.cloned().collect()
            };
            let at = format!("{name}: {}", workload.name());
            for mount in of(&workload.container()["volumeMounts"]) {
                assert_eq!(mount["readOnly"], true, "{at}");
                mounted += 1;
            }
            for source in of(&workload.pod()["volumes"]) {
                let claim = &source["persistentVolumeClaim"];
                let is_read = source["image"].is_object() || claim["readOnly"] == true;
                assert!(is_read, "{at}: {source}");
            }
        }
    }
    assert!(mounted >= 4, "{mounted}");
}
