//! The command line's contract: help that teaches, exit codes, errors that say what to do.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

mod archives;
mod data_sets;
mod finetune;
mod interruptions;
mod learning;
#[allow(unreachable_pub, reason = "a module of a library, too")]
#[path = "../../../../tests/src/patience.rs"]
mod patience;
mod people;
mod services;
mod serving;
mod terminal;
mod usage;
mod version;

use patience::InTime;

/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn radialog(arguments: &[&str]) -> Output {
    radialog_command(arguments).output_in_time().unwrap()
}

/// The program without what variables say of services.
fn radialog_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    command.args(arguments).env("RADIALOG_START_TIMEOUT", "1");
    for service in [
        "RADIALOG_AMQP_URL",
        "RADIALOG_S3_URL",
        "RADIALOG_REDIS_URL",
        "RADIALOG_CONFIG",
    ] {
        command.env_remove(service);
    }
    command
}

/// Waits until the condition holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10));
    }
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
        &["report"],
        &["config", "show"],
        &["plan"],
        &["worker"],
        &["coordinator"],
        &["status"],
        &["dlq", "list"],
        &["dlq", "show"],
        &["dlq", "retry"],
        &["purge"],
        &["doctor"],
        &["chaos"],
        &["bundle", "random"],
        &["bundle", "import"],
        &["bundle", "fetch"],
        &["bundle", "check"],
        &["bundle", "calibrate"],
        &["evaluate", "report"],
        &["evaluate", "text"],
        &["evaluate", "bundle"],
        &["evaluate", "text"],
        &["rexrank"],
        &["prepare", "answers"],
        &["prepare", "embeddings"],
        &["prepare", "findings"],
        &["prepare", "labels"],
        &["prepare", "sections"],
        &["prepare", "reports"],
        &["prepare", "instruct"],
        &["prepare", "openi"],
        &["prepare", "nih"],
        &["prepare", "pairs"],
        &["prepare", "tokenizer"],
        &["prepare", "tasks"],
        &["finetune"],
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
    for arguments in [
        ["worker", "radiology"],
        ["batch", "--no-such-flag"],
        ["dlq", "burn"],
    ] {
        let output = radialog(&arguments);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn what_is_named_and_not_there_is_usage() {
    let dir = tempfile::tempdir().unwrap();
    let (file, table) = (dir.path().join("file"), dir.path().join("table.csv"));
    std::fs::write(&file, "text").unwrap();
    std::fs::write(&table, "study_id,picture\n").unwrap();
    let [file, table] = [&file, &table].map(|path| path.to_str().unwrap());
    let xrays = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let batch = |more: &[&str]| radialog(&[&["batch", "--out", out], more].concat());
    for (output, says) in [
        (batch(&["/no/such/archive"]), "there is no archive"),
        (batch(&[table]), "no column 'image'"),
        (batch(&[xrays, "--bundle", file]), "is not a bundle"),
        (
            radialog(&["serve", "--bundle", "/no/such"]),
            "is not a bundle",
        ),
    ] {
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert!(errors.contains(says), "{errors}");
    }
}

#[test]
fn an_option_that_a_workers_stage_cannot_honour_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().to_str().unwrap();
    for (option, words) in [
        (
            ["--precision", "q8_0"],
            "the findings stage computes in f32 or bf16 only",
        ),
        (
            ["--precision", "findings=f16"],
            "the findings stage computes in f32 or bf16 only",
        ),
        (["--precision", "fp16"], "is no precision"),
        (
            ["--speculate", "4"],
            "only the language stage drafts tokens",
        ),
        (["--speculate", "99"], "99 is not in 0..=15"),
        (
            ["--cache-gib", "16"],
            "only the language stage has such a cache",
        ),
        (["--cache-gib", "0"], "0 is not in 1..=4096"),
    ] {
        let services = ["--amqp", "amqp://127.0.0.1:1", "--objects", objects];
        let arguments = [&["worker", "findings"][..], &services, &option].concat();
        let output = radialog(&arguments);
        let error = text(&output.stderr);
        assert!(error.contains(words), "{error}");
        assert_eq!(output.status.code(), Some(64), "{error}");
    }
}

#[test]
fn an_option_for_models_that_are_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [objects, out] = ["objects", "out"].map(|name| dir.path().join(name));
    std::fs::create_dir(&objects).unwrap();
    let config = dir.path().join("c.toml");
    std::fs::write(&config, "").unwrap();
    let (objects, out) = (objects.to_str().unwrap(), out.to_str().unwrap());
    let image = format!("{}/00001300_000.jpg", people::XRAYS);
    let services = [
        "--amqp",
        "amqp://127.0.0.1:1",
        "--redis",
        "redis://127.0.0.1:1",
    ];
    let batch = [
        &["batch", &image, "--out", out, "--objects", objects][..],
        &services,
    ]
    .concat();
    let chat = ["chat", &image, "--url", "http://127.0.0.1:1"];
    let of_models = [
        ["--speculate", "4"],
        ["--cache-gib", "16"],
        ["--batch-size", "4"],
        ["--device", "cuda:9"],
        ["--device", "cpu"],
    ];
    let others = [
        ["--bundle", "demo"],
        ["--precision", "f32,language=bf16"],
        ["--config", config.to_str().unwrap()],
        ["--amqp", "amqp://127.0.0.1:1"],
        ["--s3", "s3://bucket/a"],
        ["--redis", "redis://127.0.0.1:1"],
        ["--objects", objects],
        ["--worker-group", "a"],
    ];
    let of_batch = of_models
        .iter()
        .map(|option| (&batch[..], option, "are elsewhere"));
    let options = of_models.iter().chain(&others);
    let of_chat = options.map(|option| (&chat[..], option, "with --url"));
    // What a variable says is meant for other commands; a flag that says something else is meant.
    let other = dir.path().join("other.toml");
    std::fs::write(&other, "").unwrap();
    let with_variables = |arguments: &[&str]| {
        radialog_command(arguments)
            .env("RADIALOG_BUNDLE", "/nowhere")
            .env("RADIALOG_PRECISION", "f32,language=q8_0")
            .env("RADIALOG_DEVICE", "cuda:8")
            .env("RADIALOG_CONFIG", &other)
            .env("NO_PROXY", "127.0.0.1")
            .output_in_time()
            .unwrap()
    };
    for (command, option, words) in of_batch.chain(of_chat) {
        let arguments = [command, &option[..]].concat();
        for output in [radialog(&arguments), with_variables(&arguments)] {
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{option:?}: {error}");
            assert!(
                error.contains(option[0]) && error.contains(words),
                "{error}"
            );
        }
    }
    let output = with_variables(&chat);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("does not answer"), "{error}");
    let output = radialog(&[&batch[..], &["--device", "tpu"]].concat());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("'tpu' is not a device"), "{error}");
}

#[test]
fn an_archive_that_is_not_there_is_named() {
    let out = tempfile::tempdir().unwrap();
    let output = radialog(&[
        "batch",
        "no/such/folder",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("no/such/folder"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_archive_without_images_takes_no_folder_for_its_results() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let (empty, out) = (place("empty"), place("out"));
    std::fs::create_dir(&empty).unwrap();
    let output = radialog(&["batch", &empty, "--out", &out, "--stages", "findings"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert!(errors.contains("there is no image in"), "{errors}");
    // So that the right name may have it.
    let run = std::path::Path::new(&out).join("run.json");
    assert!(!run.exists(), "the folder belongs to a run");
}

#[test]
fn an_output_that_cannot_be_written_says_what_to_set_before_any_work() {
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let batch = |more: &[&str], cache: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        let command = command.args(["batch", archive]).args(more);
        let output = command
            .env("RADIALOG_CACHE", cache)
            .output_in_time()
            .unwrap();
        assert_ne!(output.status.code(), Some(0));
        text(&output.stderr)
    };
    // A folder below a file can be made by nobody, root included.
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("below").display().to_string();
    let out = batch(&["--out", &below], "/tmp");
    assert!(out.contains(&below) && out.contains("--out"), "{out}");
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("out").display().to_string();
    let cache = batch(&["--out", &good], &below);
    assert!(cache.contains("with RADIALOG_CACHE"), "{cache}");
    let store = batch(&["--out", "s3://results/a"], "/tmp");
    assert!(store.contains("--s3"), "{store}");
    let work = batch(&["--out", &good, "--work", "/tmp"], "/tmp");
    assert!(work.contains("--work"), "{work}");
}

#[test]
fn an_unknown_bundle_is_refused_before_any_work() {
    let out = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let output = radialog(&[
        "batch",
        archive,
        "--out",
        out.path().to_str().unwrap(),
        "--bundle",
        "no/such/bundle",
    ]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("no/such/bundle"),
        "{}",
        text(&output.stderr)
    );
    assert!(!out.path().join("results.jsonl").exists());
}

#[test]
fn studies_that_failed_are_named_and_the_exit_code_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    std::fs::write(archive.join("broken.png"), "no image").unwrap();
    let out = dir.path().join("out");
    let batch = |more: &[&str]| {
        let paths = [archive.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let flags = ["--stages", "findings", "--progress", "off"];
        radialog(&[&["batch"], &paths[..], &flags, more].concat())
    };
    // The second one has nothing to do, and the study has failed all the same.
    for _ in 0..2 {
        let output = batch(&[]);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        let said = text(&output.stdout);
        for words in [
            "complete",
            "1 study failed",
            "broken: image_",
            "--retry-failed",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    let xrays = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let whole = std::fs::read_dir(xrays).unwrap().flatten();
    let mut whole = whole.map(|entry| entry.path());
    let whole = whole
        .find(|path| path.extension().is_some_and(|end| end == "jpg"))
        .unwrap();
    std::fs::copy(&whole, archive.join("whole.jpg")).unwrap();
    let some = batch(&[]);
    assert_eq!(some.status.code(), Some(65), "{some:?}");
    // The mended study is the same one by its name.
    std::fs::remove_file(archive.join("broken.png")).unwrap();
    std::fs::copy(&whole, archive.join("broken.jpg")).unwrap();
    let mended = batch(&["--retry-failed"]);
    assert_eq!(mended.status.code(), Some(0), "{mended:?}");
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
    let findings = radialog_schemas::Finding::ALL
        .map(|finding| finding.name())
        .join(",");
    let rows = "00001300_000.jpg,val,1,0,,,,,,,,,,,,\n00001680_000.jpg,val,0,1,,,,,,,,,,,,\nnone.jpg,train,1,0,,,,,,,,,,,,\n";
    std::fs::write(
        path("labels.csv"),
        format!("image,split,{findings}\n{rows}"),
    )
    .unwrap();
    assert!(
        radialog(&["bundle", "random", &path("bundle"), "--seed", "7"])
            .status
            .success()
    );
    let (bundle, out, table) = (path("bundle"), path("quality.json"), path("labels.csv"));
    // A flag names a split as tables do.
    let common = [
        "evaluate", "bundle", "--split", "val", "--bundle", &bundle, "--out", &out,
    ];
    let output = radialog(&[&common[..], &["--nih", &table, images]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(
        printed.contains("split 'validate'")
            && printed.contains("Findings of images")
            && printed.contains("Reports from images"),
        "{printed}"
    );
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert!(
        // Of one image with a finding and one without, there is no interval.
        written["parts"]["findings"]["tables"][0]["rows"][0]["scores"]["macro AUC"].is_number(),
        "{written}"
    );

    let output = radialog(&[&common[..], &["--nih", &table, images, "--only", "report"]].concat());
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("--openi"),
        "{}",
        text(&output.stderr)
    );
}

/// Runs a command whose standard output cannot be written.
fn radialog_into(output: std::fs::File, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    command.args(arguments).stdout(output);
    command.stderr(std::process::Stdio::piped());
    command.spawn().unwrap().output_in_time().unwrap()
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    std::fs::write(archive.join("broken.png"), "no image").unwrap();
    let out = dir.path().join("out");
    let batch = |out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        command.args(["batch", archive.to_str().unwrap(), "--out", out]);
        command
            .args(["--stages", "findings"])
            .env("RUST_LOG", "debug");
        command
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = batch(out.to_str().unwrap());
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let ended = command.stderr(full.unwrap()).spawn().unwrap();
    let ended = ended.output_in_time().unwrap();
    assert_eq!(ended.status.code(), Some(65), "{ended:?}");
    let nowhere = batch("").output_in_time().unwrap();
    assert_eq!(nowhere.status.code(), Some(64), "{nowhere:?}");
}

#[test]
fn a_reader_that_has_gone_ends_nothing_and_a_full_disk_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let path = bundle.to_str().unwrap();
    let made = radialog(&[
        "bundle",
        "random",
        path,
        "--geometry",
        "tiny",
        "--seed",
        "7",
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for arguments in [
        &["bundle", "show", path][..],
        &["bundle", "verify", path],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = radialog_into(
            std::fs::File::from(std::os::fd::OwnedFd::from(writer)),
            arguments,
        );
        assert!(
            closed.status.success(),
            "{arguments:?}: {}",
            text(&closed.stderr)
        );
        assert_eq!(text(&closed.stderr), "", "{arguments:?}");
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let full = radialog_into(full, arguments);
        assert_eq!(full.status.code(), Some(1), "{arguments:?}");
        let said = text(&full.stderr);
        assert!(
            said.contains("cannot write the output") && !said.contains("panicked"),
            "{said}"
        );
    }
}
