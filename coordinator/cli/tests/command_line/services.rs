//! Services and their configuration: what is missing, wrong or not there is said at once.

use std::process::Command;

use super::patience::InTime;
use super::{radialog, text};

#[test]
fn chaos_refuses_places_that_others_may_use() {
    let output = radialog(&[
        "chaos",
        "--studies",
        "2",
        "--amqp",
        "amqp://guest:guest@127.0.0.1:1/%2f",
        "--redis",
        "redis://127.0.0.1:1/0",
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    for place in ["virtual host", "database", "--objects"] {
        assert!(errors.contains(place), "{place}: {errors}");
    }
    let output = radialog(&["chaos", "--objects", "somewhere"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert!(errors.contains("--amqp and --redis"), "{errors}");
}

#[test]
fn a_worker_without_a_broker_says_what_to_give() {
    let output = radialog(&["worker", "scoring"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("--amqp"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_gateway_without_its_services_says_what_to_give_and_what_else_to_run() {
    let output = radialog(&["gateway"]);
    assert_eq!(output.status.code(), Some(64));
    let error = text(&output.stderr);
    assert!(
        error.contains("--amqp") && error.contains("radialog serve"),
        "{error}"
    );
}

#[test]
fn an_api_key_is_shown_once_with_its_entry_for_the_configuration() {
    let output = radialog(&["gateway", "new-key", "ward-3"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let key = printed
        .split_whitespace()
        .find(|word| word.starts_with("rd-"))
        .unwrap();
    let entry = printed
        .split_whitespace()
        .find(|word| word.starts_with("ward-3:"))
        .unwrap();
    let hash = radialog_schemas::ContentHash::of(key.as_bytes());
    assert_eq!(entry, format!("ward-3:{hash}"));
    assert_ne!(
        text(&radialog(&["gateway", "new-key", "ward-3"]).stdout),
        printed,
        "keys are random"
    );
    assert_eq!(
        radialog(&["gateway", "new-key", "ward 3"]).status.code(),
        Some(64)
    );
}

#[test]
fn all_faults_of_the_configuration_are_told_at_once() {
    let output = radialog(&[
        "worker", "scoring", "--amqp", "http://x", "--redis", "ftp://y",
    ]);
    assert_eq!(output.status.code(), Some(64));
    let error = text(&output.stderr);
    assert!(error.contains("amqp") && error.contains("redis"), "{error}");
}

#[test]
fn an_unreachable_broker_is_an_error_after_the_stated_time() {
    let out = tempfile::tempdir().unwrap();
    let objects = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let services = [
        "--amqp",
        "amqp://127.0.0.1:9",
        "--redis",
        "redis://127.0.0.1:9",
        "--objects",
        objects.path().to_str().unwrap(),
    ];
    let begun = std::time::Instant::now();
    let output = radialog(
        &[
            &["batch", archive, "--out", out.path().to_str().unwrap()],
            services.as_slice(),
        ]
        .concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("--amqp") || error.contains("--redis"),
        "{error}"
    );
    assert!(begun.elapsed().as_secs() < 30, "took {:?}", begun.elapsed());
}

#[test]
fn variables_of_a_kubernetes_service_called_like_us_are_not_read_and_a_typing_error_is_refused() {
    let coordinator = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        let command = command.arg("coordinator").env(name, value);
        for service in ["RADIALOG_AMQP_URL", "RADIALOG_REDIS_URL", "RUST_LOG"] {
            command.env_remove(service);
        }
        text(&command.output_in_time().unwrap().stderr)
    };
    let link = coordinator("RADIALOG_GATEWAY_PORT", "tcp://10.0.0.1:80");
    // The next thing that is wrong.
    assert!(link.contains("give --amqp URL"), "{link}");
    assert!(
        link.contains("RADIALOG_GATEWAY_PORT") && link.contains("enableServiceLinks"),
        "{link}"
    );
    let typing_error = coordinator("RADIALOG_GATEWAY_PORT", "7860");
    assert!(typing_error.contains("no such field"), "{typing_error}");
}

#[test]
fn an_empty_variable_is_one_that_is_not_set_for_flags_too() {
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let plan = command.args(["plan", archive, "--seconds"]);
    let plan = plan.arg("embedding=1,findings=1,language=1,scoring=1");
    for variable in [
        "RADIALOG_CONFIG",
        "RADIALOG_BUNDLE",
        "RADIALOG_PRECISION",
        "RADIALOG_DEVICE",
        "RADIALOG_AMQP_URL",
        "RADIALOG_S3_URL",
        "RADIALOG_REDIS_URL",
    ] {
        plan.env(variable, "");
    }
    let output = plan.current_dir(dir.path()).output_in_time().unwrap();
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("the demo bundle"), "{errors}");
    // What is set is read as before.
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let wrong = command
        .args(["plan", archive])
        .env("RADIALOG_PRECISION", "f99");
    let output = wrong.output_in_time().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("f99"));
}

#[test]
fn chaos_refuses_a_bundle_that_is_none_at_once_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let wrong = temporary.path().join("wrong");
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let chaos = chaos
        .args(["chaos", "--studies", "2", "--bundle"])
        .arg(&wrong);
    let output = chaos
        .env("TMPDIR", temporary.path())
        .output_in_time()
        .unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert!(errors.contains("wrong"), "{errors}");
    // Services that are not there, too, are said before the undisturbed run, and leave nothing to look at.
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let places = temporary.path().join("objects");
    let chaos = chaos
        .args([
            "chaos",
            "--studies",
            "2",
            "--amqp",
            "amqp://127.0.0.1:1/chaos",
        ])
        .args(["--redis", "redis://127.0.0.1:1/9", "--objects"])
        .arg(&places)
        .env("RADIALOG_START_TIMEOUT", "1")
        .env("TMPDIR", temporary.path());
    let output = chaos.output_in_time().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(!errors.contains("the undisturbed run"), "{errors}");
    let left = std::fs::read_dir(temporary.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name());
    let left = left.filter(|name| name.to_string_lossy().starts_with("radialog-chaos"));
    assert_eq!(left.count(), 0, "{errors}");
}

#[test]
fn a_retention_without_grace_names_the_grace() {
    let mut coordinator = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let coordinator = coordinator
        .arg("coordinator")
        .env("RADIALOG_RETENTION_GRACE", "0");
    let errors = text(&coordinator.output_in_time().unwrap().stderr);
    assert!(
        errors.contains("RADIALOG_RETENTION_GRACE: give more than 0"),
        "{errors}"
    );
    assert!(!errors.contains("interval"), "{errors}");
}

#[test]
fn a_worker_names_all_that_is_wrong_with_its_flags_and_services_at_once() {
    let output = radialog(&[
        "worker",
        "scoring",
        "--device",
        "tpu",
        "--precision",
        "q8_0",
        "--speculate",
        "2",
        "--cache-gib",
        "16",
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    for words in ["--amqp", "tpu", "--precision", "--speculate", "--cache-gib"] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
}

#[test]
fn all_that_is_wrong_in_file_environment_and_flags_is_told_with_what_is_missing_in_one_round() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("radialog.toml");
    std::fs::write(
        &file,
        "[amqp]\nheartbeat = 0\nurl = \"amqp://host\"\n[worker]\nname = \"a\"\nspeed = 3\n",
    )
    .unwrap();
    let roles: [(&[&str], &[&str]); 3] = [
        (
            &[
                "worker",
                "language",
                "--grace",
                "soon",
                "--batch-size",
                "0",
                "--device",
                "tpu",
            ],
            &["--grace", "--batch-size", "tpu", "f99", "nowhere"],
        ),
        (
            &["coordinator", "--retention-grace", "late"],
            &["--retention-grace"],
        ),
        (
            &[
                "gateway",
                "--listen",
                "0.0.0.0:99999",
                "--also",
                "v2=elsewhere",
                "--also",
                "a b=demo",
            ],
            &["--listen", "f99", "nowhere", "elsewhere", "--also: "],
        ),
    ];
    for (role, own) in roles {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        let command = command
            .args(role)
            .args(["--health-address", "here"])
            .env("RADIALOG_CONFIG", &file)
            .env("RADIALOG_BUNDLE", "nowhere")
            .env("RADIALOG_PRECISION", "f99")
            .env("RADIALOG_START_TIMEOUT", "long")
            .env("RUST_LOG", "radialog=loud")
            .current_dir(dir.path());
        for variable in [
            "RADIALOG_REDIS_URL",
            "RADIALOG_S3_URL",
            "RADIALOG_OBJECTS_DIRECTORY",
        ] {
            command.env_remove(variable);
        }
        let output = command.output_in_time().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{errors}");
        let all = [
            "amqp.heartbeat",
            "worker.speed",
            "RADIALOG_START_TIMEOUT",
            "RUST_LOG",
            "--health-address",
            "--redis",
            "--s3",
        ];
        for words in all.iter().chain(own) {
            assert!(errors.contains(words), "{words} for {role:?}: {errors}");
        }
        assert!(
            !errors.contains("give --amqp"),
            "the broker is given: {errors}"
        );
        assert_eq!(errors.matches("error: ").count(), 1, "{errors}");
    }
    // Every other command says at once what it cannot read.
    let output = radialog(&[
        "batch",
        "nowhere",
        "--out",
        "results",
        "--batch-size",
        "0",
        "--precision",
        "f99",
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert!(
        errors.contains("--batch-size") && errors.contains("f99"),
        "{errors}"
    );
    assert!(!errors.contains("nowhere"), "{errors}");
}

#[test]
fn a_folder_of_objects_that_is_not_there_is_named_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let (nope, out) = (place("nope"), place("out"));
    for command in [
        &["export", "corrections", "--out", &out][..],
        &["export", "ratings", "--out", &out],
        &["purge"],
        &["purge", "--dry-run"],
        &["purge", "--conversation", "c"],
    ] {
        let output = radialog(&[command, &["--objects", &nope]].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{command:?}: {errors}");
        assert!(
            errors.contains(&format!("there is no folder '{nope}'")),
            "{errors}"
        );
    }
    let output = radialog(&["doctor", "--objects", &nope]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    let line = said.lines().find(|line| line.starts_with("FAIL  objects"));
    assert!(
        line.is_some_and(|line| line.contains("there is no folder")),
        "{said}"
    );
    assert!(!dir.path().join("nope").exists() && !dir.path().join("out").exists());
}
