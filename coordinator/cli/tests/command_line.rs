//! The command line's contract: help that teaches, exit codes, errors that say what to do.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};

fn radialog(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    command.args(arguments).env("RADIALOG_START_TIMEOUT", "1");
    for service in ["RADIALOG_AMQP_URL", "RADIALOG_S3_URL", "RADIALOG_REDIS_URL", "RADIALOG_CONFIG"] {
        command.env_remove(service);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_role_explains_itself_with_an_example() {
    let roles: &[&[&str]] = &[
        &["serve"],
        &["chat"],
        &["export", "corrections"],
        &["gateway"],
        &["gateway", "new-key"],
        &["batch"],
        &["worker"],
        &["coordinator"],
        &["status"],
        &["dlq", "list"],
        &["dlq", "show"],
        &["dlq", "retry"],
        &["doctor"],
        &["bundle", "random"],
        &["evaluate", "run"],
        &["evaluate", "bundle"],
        &["prepare", "embeddings"],
        &["prepare", "findings"],
        &["prepare", "sections"],
        &["prepare", "reports"],
        &["prepare", "instruct"],
        &["train", "findings"],
        &["train", "alignment"],
        &["train", "chexbert"],
        &["completions"],
    ];
    for role in roles {
        let output = radialog(&[*role, &["--help"]].concat());
        assert!(output.status.success(), "{role:?}");
        let help = text(&output.stdout);
        assert!(help.contains("Example"), "{role:?} has no example:\n{help}");
        assert!(help.contains("Usage: radialog"), "{role:?}");
    }
}

#[test]
fn a_wrong_flag_is_usage_and_exits_with_64() {
    for arguments in [["worker", "radiology"], ["batch", "--no-such-flag"], ["dlq", "burn"]] {
        let output = radialog(&arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_worker_without_a_broker_says_what_to_give() {
    let output = radialog(&["worker", "scoring"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--amqp"), "{}", text(&output.stderr));
}

#[test]
fn a_gateway_without_its_services_says_what_to_give_and_what_else_to_run() {
    let output = radialog(&["gateway"]);
    assert_eq!(output.status.code(), Some(64));
    let error = text(&output.stderr);
    assert!(error.contains("--amqp") && error.contains("radialog serve"), "{error}");
}

#[test]
fn an_api_key_is_shown_once_with_its_entry_for_the_configuration() {
    let output = radialog(&["gateway", "new-key", "ward-3"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let key = printed.split_whitespace().find(|word| word.starts_with("rd-")).unwrap();
    let entry = printed.split_whitespace().find(|word| word.starts_with("ward-3:")).unwrap();
    let hash = radialog_schemas::ContentHash::of(key.as_bytes());
    assert_eq!(entry, format!("ward-3:{hash}"));
    assert_ne!(text(&radialog(&["gateway", "new-key", "ward-3"]).stdout), printed, "keys are random");
    assert_eq!(radialog(&["gateway", "new-key", "ward 3"]).status.code(), Some(64));
}

#[test]
fn all_faults_of_the_configuration_are_told_at_once() {
    let output = radialog(&["worker", "scoring", "--amqp", "http://x", "--redis", "ftp://y"]);
    assert_eq!(output.status.code(), Some(64));
    let error = text(&output.stderr);
    assert!(error.contains("amqp") && error.contains("redis"), "{error}");
}

#[test]
fn an_archive_that_is_not_there_is_named() {
    let out = tempfile::tempdir().unwrap();
    let output = radialog(&["batch", "no/such/folder", "--out", out.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no/such/folder"), "{}", text(&output.stderr));
}

#[test]
fn an_unreachable_broker_is_an_error_after_the_stated_time() {
    let out = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let services = ["--amqp", "amqp://127.0.0.1:9", "--redis", "redis://127.0.0.1:9"];
    let begun = std::time::Instant::now();
    let output = radialog(&[&["batch", archive, "--out", out.path().to_str().unwrap()], services.as_slice()].concat());
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("--amqp") || error.contains("--redis"), "{error}");
    assert!(begun.elapsed().as_secs() < 30, "took {:?}", begun.elapsed());
}

#[test]
fn an_unknown_bundle_is_refused_before_any_work() {
    let out = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let output = radialog(&["batch", archive, "--out", out.path().to_str().unwrap(), "--bundle", "no/such/bundle"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no/such/bundle"), "{}", text(&output.stderr));
    assert!(!out.path().join("results.jsonl").exists());
}

#[test]
fn completions_name_the_roles() {
    let output = radialog(&["completions", "bash"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("doctor"));
}

#[test]
fn the_quality_of_a_bundle_is_printed_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let findings = radialog_schemas::Finding::ALL.map(|finding| finding.name()).join(",");
    let rows = "00001300_000.jpg,test,1,0,,,,,,,,,,,,\n00001680_000.jpg,test,0,1,,,,,,,,,,,,\nnone.jpg,train,1,0,,,,,,,,,,,,\n";
    std::fs::write(path("labels.csv"), format!("image,split,{findings}\n{rows}")).unwrap();
    assert!(radialog(&["bundle", "random", &path("bundle"), "--seed", "7"]).status.success());
    let (bundle, out, table) = (path("bundle"), path("quality.json"), path("labels.csv"));
    let common = ["evaluate", "bundle", "--bundle", &bundle, "--out", &out];
    let output = radialog(&[&common[..], &["--nih", &table, images]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("Findings of images") && printed.contains("Reports from images"), "{printed}");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert!(
        written["parts"]["findings"]["tables"][0]["rows"][0]["scores"]["macro AUC"]["value"].is_number(),
        "{written}"
    );

    let output = radialog(&[&common[..], &["--nih", &table, images, "--only", "report"]].concat());
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--openi"), "{}", text(&output.stderr));
}
