//! What the manifests have the program do, done by the program: each command line parses, and a missing setting is told.

use std::process::Output;

use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;

use super::manifests::{Manifests, Workload, kustomizations, strings};

fn run(arguments: &[&str]) -> Output {
    radialog(arguments).unwrap().output_in_time().unwrap()
}

/// All containers of RaDialog, with the folder and the workload that they are of.
fn each_container(mut visit: impl FnMut(&str, Workload<'_>, Vec<&str>)) {
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        for workload in manifests.workloads() {
            if workload.is_radialog() {
                for container in workload.containers() {
                    visit(&name, workload, strings(&container["args"]));
                }
            }
        }
    }
}

#[test]
fn every_command_line_of_the_manifests_is_one_that_the_program_takes() {
    let mut seen = std::collections::BTreeSet::new();
    each_container(|name, workload, args| {
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        if !seen.insert(args.clone()) {
            return;
        }
        // What is before it is parsed, and nothing is done.
        let mut asked: Vec<&str> = args.iter().map(String::as_str).collect();
        asked.push("--help");
        let output = run(&asked);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{name}: {}: {asked:?}: {text}",
            workload.name()
        );
    });
    assert!(seen.len() >= 9, "{seen:?}");
}

#[test]
fn a_role_without_the_secret_of_its_services_ends_with_64_and_names_what_is_missing() {
    for name in ["overlays/dev", "overlays/dev/score"] {
        let manifests = Manifests::of(name);
        for workload in manifests
            .workloads()
            .into_iter()
            .filter(Workload::is_radialog)
        {
            let output = run(&workload.args());
            let text = String::from_utf8_lossy(&output.stderr);
            let at = workload.name();
            assert_eq!(output.status.code(), Some(64), "{at}: {text}");
            assert!(
                text.contains("--amqp") || text.contains("--s3"),
                "{at}: {text}"
            );
            // A gateway lacks its keys, too, and says both.
            let errors = text.lines().filter(|line| line.starts_with("error: "));
            assert_eq!(errors.count(), 1, "{at}: {text}");
        }
    }
}

#[test]
fn every_setting_of_the_manifests_is_one_that_the_program_reads() {
    for name in kustomizations() {
        let manifests = Manifests::of(&name);
        for settings in manifests.kind("ConfigMap") {
            let Some(data) = settings["data"].as_object() else {
                continue;
            };
            // The roles without their services: what is unknown is told first.
            let mut gateway = radialog(&["gateway", "--listen", "0.0.0.0:7860"]).unwrap();
            for (variable, value) in data
                .iter()
                .filter(|(name, _)| name.starts_with("RADIALOG_"))
            {
                gateway.env(variable, value.as_str().unwrap());
            }
            let output = gateway.output_in_time().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(
                text.contains("a gateway works on what all roles share"),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn gateways_of_each_overlay_may_score_archives_of_its_store() {
    for name in ["overlays/dev", "overlays/production"] {
        let overlay = Manifests::of(name);
        let gateway = overlay.workload("gateway");
        let archives = gateway.variable(&overlay, "RADIALOG_GATEWAY_ARCHIVES");
        let archives = archives.unwrap_or_default();
        assert!(archives.starts_with("s3://"), "{name}: {archives:?}");
        let run = Manifests::of(&format!("{name}/score"));
        let archive = run.workloads()[0].args()[1].to_owned();
        assert!(archive.starts_with(&archives), "{name}: {archive}");
    }
}
