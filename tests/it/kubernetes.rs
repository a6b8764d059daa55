//! The manifests as they are applied: what they render to fits the schemas, the program, and a namespace that restricts pods.

use radialog_coordinator::gateway::{GatewayConfig, MOST_CONNECTIONS};
use radialog_schemas::Stage;
use radialog_training::TrainingError;
use radialog_training::recipe::FindingsRecipe;
use serde_json::{Value, json};

use manifests::{Manifests, Workload, fixture, folder, kustomizations, render};

mod arguments;
mod group;
mod image;
mod jobs;
mod manifests;
mod monitoring;
mod network;
mod restricted;
mod scaling;

#[test]
fn every_kustomization_renders_and_fits_the_schemas_of_its_kinds() {
    let kustomizations = kustomizations();
    assert!(kustomizations.len() >= 9, "{kustomizations:?}");
    for name in kustomizations {
        assert!(!Manifests::of(&name).all().is_empty(), "{name}");
    }
}

#[test]
fn a_field_that_a_kind_has_not_is_a_fault_of_every_kind() {
    let faults = render(&[fixture("wrong")]).unwrap_err().to_string();
    for kind in [
        "Service service",
        "ScaledObject scaled",
        "PrometheusRule rule",
        "HTTPRoute route",
    ] {
        assert!(faults.contains(kind), "{kind}: {faults}");
    }
}

#[test]
fn every_component_is_listed_by_a_kustomization_that_is_checked_and_by_the_readme() {
    let kustomization = |name: &String| {
        std::fs::read_to_string(folder().join(name).join("kustomization.yaml")).unwrap()
    };
    let all: String = kustomizations().iter().map(kustomization).collect();
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for component in std::fs::read_dir(folder().join("components")).unwrap() {
        let name = component.unwrap().file_name().into_string().unwrap();
        assert!(all.contains(&format!("components/{name}\n")), "{name}");
        assert!(readme.contains(&format!("`components/{name}`")), "{name}");
    }
}

#[test]
fn what_the_readme_applies_is_there() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let applied = readme.split(" -k k8s/").skip(1);
    let applied = applied.map(|rest| rest.split([' ', '`', '\n']).next().unwrap());
    let names = kustomizations();
    let mut count = 0;
    for name in applied {
        assert!(names.iter().any(|known| known == name), "k8s/{name}");
        count += 1;
    }
    assert!(count >= 5);
}

/// Each patch as it stands in the README, among those of a kustomization that is rendered and checked with all others.
#[test]
fn the_patches_of_the_readme_are_checked_and_do_what_it_says() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let fixtures = ["site", "proxy", "claim", "retry", "group"].map(fixture);
    let patches = fixtures.clone().map(|name| {
        let file = folder().join(name).join("kustomization.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        text.split_once("patches:\n").unwrap().1.to_owned()
    });
    for patches in &patches {
        assert!(readme.contains(patches.as_str()), "{patches}");
    }
    let [site, proxy, claim, retry, group] = fixtures.map(|name| Manifests::of(&name));
    assert!(retry.workloads()[0].args().ends_with(&["--retry-failed"]));
    assert!(
        group.workloads()[0]
            .args()
            .ends_with(&["--worker-group", "v2"])
    );
    let volumes = &site.get("StatefulSet", "gateway")["spec"]["volumeClaimTemplates"];
    assert_eq!(volumes[0]["spec"]["storageClassName"], "standard");
    for workload in site.workloads() {
        let secrets = &workload.pod()["imagePullSecrets"];
        assert_eq!(
            *secrets,
            json!([{"name": "registry"}]),
            "{}",
            workload.name()
        );
        let mounts = workload.container()["volumeMounts"].to_string();
        assert!(mounts.contains("\"/ca\""), "{}: {mounts}", workload.name());
    }
    for kind in ["PodMonitor", "PrometheusRule"] {
        let labels = &site.get(kind, "radialog")["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}");
    }
    let outside = &site.get("NetworkPolicy", "outside")["spec"]["egress"][0];
    assert_eq!(outside["to"].as_array().unwrap().len(), 2);
    let fetch = &proxy.workload("weights").pod()["initContainers"][0];
    assert_eq!(fetch["env"][0]["name"], "HTTPS_PROXY");
    let mounts = fetch["volumeMounts"].to_string();
    assert!(mounts.contains("\"/ca\""), "{mounts}");
    let claim = claim.get("PersistentVolumeClaim", "bundles");
    assert_eq!(claim["spec"]["storageClassName"], "shared");
}

/// The image of a bundle has its files where the pods look for them.
#[test]
fn the_readme_says_how_the_image_of_a_bundle_is_made() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for words in ["FROM scratch", "COPY . /", "components/bundle-image"] {
        assert!(readme.contains(words), "{words}");
    }
}

#[test]
fn the_bundles_image_and_the_results_claim_are_parameters_of_who_lists_their_components() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (name, tag) in [("others", 1), ("image", 2)] {
        let manifests = Manifests::of(&fixture(name));
        let file = folder().join(fixture(name)).join("kustomization.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        let (_, generator) = text.split_once("configMapGenerator:\n").unwrap();
        let generator = generator.replace(&format!("v1:{tag}"), "v1:1");
        assert!(readme.contains(&generator), "{generator}");
        // The overlays have that line, and a second one would replace what is below the first.
        assert!(!readme.contains("\nconfigMapGenerator:"));
        let mut count = 0;
        for workload in manifests
            .workloads()
            .iter()
            .filter(|workload| workload.is_radialog())
        {
            let mut volumes = workload.pod()["volumes"].as_array().unwrap().iter();
            let image = volumes.rfind(|volume| volume["image"].is_object());
            let reference = format!("registry.example.org/radialog-v1:{tag}");
            let at = workload.name();
            assert_eq!(image.unwrap()["image"]["reference"], reference, "{at}");
            count += 1;
        }
        assert!(count > 0);
        // It is there for the components alone.
        assert!(
            manifests
                .kind("ConfigMap")
                .all(|map| map["data"]["reference"].is_null())
        );
    }
    let claims = Manifests::of("overlays/production/results");
    let claim = claims.get("PersistentVolumeClaim", "results");
    let run = Manifests::of(&fixture("image"));
    let pod = run.workloads()[0].pod().clone();
    let mut volumes = pod["volumes"].as_array().unwrap().iter();
    let results = volumes.find(|volume| volume["name"] == "results").unwrap();
    let named = &results["persistentVolumeClaim"]["claimName"];
    assert_eq!(*named, claim["metadata"]["name"]);
    assert_eq!(claim["metadata"]["namespace"], "radialog");
}

#[test]
fn the_readme_waits_for_every_kind_that_a_trial_starts() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let (_, waited) = readme.split_once("rollout status ").unwrap();
    let waited = waited.split(' ').next().unwrap().split(',');
    let mut waited: Vec<String> = waited.map(str::to_owned).collect();
    let dev = Manifests::of("overlays/dev");
    let kinds = dev.workloads().into_iter();
    let mut kinds: Vec<String> = kinds
        .map(|workload| workload.object["kind"].as_str().unwrap().to_lowercase())
        .collect();
    for names in [&mut waited, &mut kinds] {
        names.sort();
        names.dedup();
    }
    assert_eq!(waited, kinds);
}

#[test]
fn every_stage_has_a_deployment_of_its_role_and_no_replicas_that_an_apply_would_reset() {
    let base = Manifests::of("base");
    for stage in Stage::ALL {
        let workload = base.workload(stage.name());
        assert_eq!(workload.args(), ["worker", stage.name()]);
        assert_eq!(workload.object["spec"]["replicas"], Value::Null, "{stage}");
    }
    assert_eq!(base.workload("coordinator").args(), ["coordinator"]);
    let gateway = base.workload("gateway");
    assert_eq!(gateway.args(), ["gateway", "--listen", "0.0.0.0:7860"]);
    let service = base.get(
        "Service",
        gateway.object["spec"]["serviceName"].as_str().unwrap(),
    );
    assert_eq!(
        service["spec"]["clusterIP"], "None",
        "a StatefulSet's Service is headless"
    );
}

#[test]
fn selectors_find_the_pods_they_are_meant_for_and_no_others() {
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        for service in manifests.kind("Service") {
            let selector = service["spec"]["selector"].as_object().unwrap();
            let selected = manifests.workloads().into_iter().filter(|workload| {
                let labels = &workload.template["metadata"]["labels"];
                selector
                    .iter()
                    .all(|(label, value)| labels[label] == *value)
            });
            assert_eq!(
                selected.count(),
                1,
                "{name}: {}",
                service["metadata"]["name"]
            );
        }
    }
}

#[test]
fn dev_runs_the_demo_bundle_over_its_own_services_with_a_key_of_its_own() {
    let dev = Manifests::of("overlays/dev");
    for stage in Stage::ALL {
        let worker = dev.workload(stage.name());
        assert_eq!(
            worker.variable(&dev, "RADIALOG_BUNDLE"),
            None,
            "no bundle is the demo bundle"
        );
    }
    for secret in ["radialog-services", "radialog-keys"] {
        dev.get("Secret", secret);
    }
    for service in ["rabbitmq", "redis", "minio"] {
        dev.get("Service", service);
        dev.workload(service);
    }
    // The README names the key.
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    assert!(readme.contains("rd-trial"));
    let hash = radialog_schemas::ContentHash::of(b"rd-trial");
    let component =
        std::fs::read_to_string(folder().join("components/dev-services/kustomization.yaml"))
            .unwrap();
    assert!(component.contains(&format!("RADIALOG_GATEWAY_KEYS=trial:{hash}")));
}

#[test]
fn a_gateways_memory_is_what_its_settings_can_make_it_take() {
    let base = Manifests::of("base");
    let gateway = base.workload("gateway");
    let limit = gateway.container()["resources"]["limits"]["memory"]
        .as_str()
        .unwrap();
    let (number, unit) = limit.split_at(limit.len() - 2);
    let bytes = number.parse::<u64>().unwrap()
        << match unit {
            "Gi" => 30,
            "Mi" => 20,
            other => panic!("{other}"),
        };
    for changed in ["CONNECTIONS", "BODY_MEMORY_MIB", "MAX_IMAGE_MIB"] {
        let changed = gateway.variable(&base, &format!("RADIALOG_GATEWAY_{changed}"));
        assert_eq!(changed, None, "this test reckons with the defaults");
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
fn a_pods_grace_is_longer_than_pause_and_grace_of_the_process_in_it() {
    for name in ["overlays/dev", "overlays/production"] {
        let manifests = Manifests::of(name);
        let roles = manifests.workloads().into_iter();
        for workload in roles.filter(Workload::is_radialog) {
            let seconds = |variable| -> u64 {
                let value = workload.variable(&manifests, variable);
                value.unwrap().parse().unwrap()
            };
            let area = match workload.name() {
                "gateway" => "GATEWAY",
                _ => "WORKER",
            };
            let pause = seconds("RADIALOG_SHUTDOWN_PAUSE");
            let own = pause + seconds(&format!("RADIALOG_{area}_GRACE"));
            assert!(
                pause > 0,
                "requests would be refused while the news spreads"
            );
            let pods = workload.pod()["terminationGracePeriodSeconds"].as_u64();
            assert!(
                pods > Some(own),
                "{name}: {}: {pods:?} against {own} s",
                workload.name()
            );
        }
    }
}

#[test]
fn a_training_is_a_job_whose_next_pod_goes_on_from_the_last_checkpoint() {
    let training = Manifests::of("training");
    let job = training.workload("train-findings");
    assert_eq!(
        job.args(),
        [
            "train",
            "findings",
            "/recipe/recipe.toml",
            "--out",
            "/runs/findings",
            "--resume=auto"
        ]
    );
    assert_eq!(
        job.object["spec"]["podReplacementPolicy"], "Failed",
        "two pods would write to one folder"
    );
    let container = job.container();
    assert_eq!(container["image"], "radialog:cuda");
    assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], 1);
    assert_eq!(
        job.pod()["tolerations"],
        json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
    );
    let device = job.variable(&training, "RADIALOG_DEVICE");
    assert_eq!(device.as_deref(), Some("cuda:0"));
    let Err(TrainingError::Recipe { faults, .. }) =
        FindingsRecipe::read(&folder().join("training/recipe.toml"))
    else {
        panic!("the volumes of the Job are not here");
    };
    assert!(
        faults.iter().all(|fault| fault.contains("/data/")),
        "{faults:?}"
    );
}

#[test]
fn only_pods_with_a_gpu_take_the_image_that_needs_its_driver() {
    let production = Manifests::of("overlays/production");
    let mut gpus = 0;
    for workload in production.workloads() {
        let container = workload.container();
        let has_gpu = container["resources"]["limits"]["nvidia.com/gpu"] == 1;
        let image = container["image"].as_str().unwrap();
        assert_eq!(
            image.ends_with("-cuda"),
            has_gpu,
            "{}: {image}",
            workload.name()
        );
        let device = workload.variable(&production, "RADIALOG_DEVICE");
        assert_eq!(
            device.as_deref() == Some("cuda:0"),
            has_gpu,
            "{}",
            workload.name()
        );
        assert_eq!(
            workload.pod()["tolerations"].is_array(),
            has_gpu,
            "{}",
            workload.name()
        );
        assert_eq!(
            workload.pod()["nodeSelector"].is_object(),
            has_gpu,
            "{}",
            workload.name()
        );
        // A pod beside the old ones would need a GPU that nobody has.
        let rolling = &workload.object["spec"]["strategy"]["rollingUpdate"];
        let in_place = *rolling == json!({"maxSurge": 0, "maxUnavailable": 1});
        assert_eq!(in_place, has_gpu, "{}: {rolling}", workload.name());
        gpus += usize::from(has_gpu);
    }
    assert_eq!(gpus, 3);
    for name in ["overlays/production/score", "overlays/production/weights"] {
        for workload in Manifests::of(name).workloads() {
            let image = workload.container()["image"].as_str().unwrap();
            assert!(!image.ends_with("-cuda"), "{name}: {image}");
        }
    }
}

#[test]
fn a_pod_may_take_long_to_load_its_weights_and_has_room_to_keep_them() {
    let base = Manifests::of("base");
    for workload in base.workloads() {
        let (container, at) = (workload.container(), workload.name());
        // Neither counts the time of a start: the one only keeps requests away, the other asks whether the start stands still.
        assert_eq!(
            container["readinessProbe"]["httpGet"]["path"], "/readyz",
            "{at}"
        );
        assert_eq!(
            container["livenessProbe"]["httpGet"]["path"], "/healthz",
            "{at}"
        );
        assert_eq!(container["startupProbe"], Value::Null, "{at}");
        if workload.object["kind"] == "Deployment" {
            let deadline = workload.object["spec"]["progressDeadlineSeconds"].as_u64();
            assert!(deadline >= Some(3600), "{at}");
        }
        let storage = container["resources"]["requests"]["ephemeral-storage"].as_str();
        assert!(storage.is_some(), "{at}");
    }
    // 13.6 GiB are published.
    let language = base.workload("language").container();
    assert_eq!(
        language["resources"]["requests"]["ephemeral-storage"],
        "20Gi"
    );
}

#[test]
fn a_score_job_writes_to_the_store_or_a_volume_and_goes_on_after_a_lost_pod() {
    for (name, bundle, out) in [
        ("overlays/dev/score", "", "s3://"),
        (
            "overlays/production/score",
            "s3://bundles/radialog-v1",
            "s3://",
        ),
        (&fixture("volumes"), "/bundles/radialog-v1", "/results/"),
    ] {
        let manifests = Manifests::of(name);
        let [job] = manifests.workloads()[..] else {
            panic!("{name} is one Job")
        };
        let args = job.args();
        assert!(
            args[0] == "batch" && args[1].starts_with("s3://"),
            "{args:?}"
        );
        assert!(args[2] == "--out" && args[3].starts_with(out), "{args:?}");
        // Deleted and applied again it resumes: whatever decides what is computed, and where, stays the same.
        assert_eq!(args[4..], ["--progress", "lines"]);
        assert!(job.object["metadata"]["name"].is_string(), "{name}");
        let environment = &job.container()["env"];
        assert_eq!(
            environment,
            &json!([{"name": "RADIALOG_BUNDLE", "value": bundle}])
        );
        let spec = &job.object["spec"];
        assert_eq!(
            spec["podReplacementPolicy"], "Failed",
            "two pods would write one table"
        );
        let rules = spec["podFailurePolicy"]["rules"].to_string();
        assert!(
            rules.contains("DisruptionTarget") && rules.contains("[64,65]"),
            "{rules}"
        );
        let labels = &job.template["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/component"], "score");
        // What only carries parameters is not applied.
        assert_eq!(
            manifests.all().len(),
            1,
            "deleting the folder would delete more than the Job"
        );
    }
    let volumes = fixture("volumes");
    let manifests = Manifests::of(&volumes);
    let mounts = manifests.workloads()[0].container()["volumeMounts"].to_string();
    assert!(
        mounts.contains("/results") && mounts.contains("/bundles"),
        "{mounts}"
    );
}

#[test]
fn a_run_and_the_workers_of_an_overlay_have_one_bundle() {
    for name in ["overlays/dev", "overlays/production"] {
        let overlay = Manifests::of(name);
        let of_workers: Vec<&str> = overlay
            .kind("ConfigMap")
            .filter_map(|settings| settings["data"]["RADIALOG_BUNDLE"].as_str())
            .collect();
        let run = Manifests::of(&format!("{name}/score"));
        let of_run = run.workloads()[0].container()["env"][0]["value"].clone();
        assert_eq!(of_run, of_workers.join(" "), "{name}");
    }
}

#[test]
fn published_weights_are_fetched_onto_a_claim_and_go_on_into_the_store_that_workers_read() {
    let weights = Manifests::of("overlays/production/weights");
    let job = weights.workload("weights");
    let containers = job.containers();
    let [fetch, upload] = containers[..] else {
        panic!("{containers:?}")
    };
    assert_eq!(
        fetch["args"],
        json!([
            "bundle",
            "fetch",
            "radialog-v1",
            "/bundles/files",
            "--bundle",
            "/bundles/radialog-v1"
        ])
    );
    let production = Manifests::of("overlays/production");
    let bundle = production
        .workload("language")
        .variable(&production, "RADIALOG_BUNDLE")
        .unwrap();
    assert_eq!(
        upload["args"],
        json!(["bundle", "upload", "/bundles/radialog-v1", bundle])
    );
    assert_eq!(
        fetch["envFrom"],
        Value::Null,
        "published files need no secret"
    );
    let claims = Manifests::of("overlays/production/bundles");
    claims.get("PersistentVolumeClaim", "bundles");
}

#[test]
fn pods_of_a_role_spread_and_a_drained_node_takes_few_of_them_at_a_time() {
    let production = Manifests::of("overlays/production");
    for workload in production.workloads() {
        let constraints = workload.pod()["topologySpreadConstraints"]
            .as_array()
            .unwrap();
        let keys: Vec<&Value> = constraints
            .iter()
            .map(|constraint| &constraint["topologyKey"])
            .collect();
        assert_eq!(
            keys,
            ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        );
        for constraint in constraints {
            let labels = constraint["labelSelector"]["matchLabels"]
                .as_object()
                .unwrap();
            for (label, value) in labels {
                assert_eq!(workload.template["metadata"]["labels"][label], *value);
            }
        }
    }
    let workers = &production.get("PodDisruptionBudget", "workers")["spec"]["selector"];
    assert_eq!(
        workers["matchExpressions"][0]["values"],
        json!(Stage::ALL.map(Stage::name))
    );
    // Of workers some at a time, however many there are; of gateways one.
    for (name, most) in [("workers", json!("25%")), ("gateway", json!(1))] {
        let budget = &production.get("PodDisruptionBudget", name)["spec"];
        assert_eq!(budget["maxUnavailable"], most, "{name}");
    }
}
