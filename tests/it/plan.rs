//! `radialog plan`: what a run will take, said without changing anything.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::{RoleProcess, radialog};
use radialog_tests::services::{Environment, Services};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn succeeded(arguments: &[&str], output: Output) -> String {
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The program in a folder of its own, over a store where there is one.
fn run_in(folder: &Path, environment: &Environment, arguments: &[&str]) -> Output {
    let mut command = radialog(arguments).unwrap();
    command.envs(environment.variables()).current_dir(folder);
    command.output_in_time().unwrap()
}

fn refused(arguments: &[&str], words: &str) {
    let output = radialog(arguments).unwrap().output_in_time().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
    assert!(text.contains(words), "{arguments:?}: {text}");
}

#[test]
fn a_plan_says_what_remains_and_where_the_pool_waits() {
    let (dir, archive) = (tempfile::tempdir().unwrap(), xrays());
    let (archive, out) = (
        archive.display().to_string(),
        dir.path().display().to_string(),
    );
    let says = |arguments: &[&str]| -> serde_json::Value {
        let plan = [&["plan", "--json"], arguments].concat();
        let text = succeeded(&plan, radialog(&plan).unwrap().output_in_time().unwrap());
        serde_json::from_str(&text).unwrap()
    };
    let probed = says(&[&archive, "--probe", "2", "--max-new-tokens", "4"]);
    assert_eq!(probed["plan"]["studies"], 10);
    for stage in probed["stages"].as_array().unwrap() {
        assert_eq!(
            (&stage["remaining"], &stage["measured"]),
            (&10.into(), &2.into())
        );
        assert!(
            stage["seconds_per_study"].as_f64().unwrap() > 0.0,
            "{stage}"
        );
    }
    let batch = [
        "batch", &archive, "--out", &out, "--stages", "findings", "--limit", "6",
    ];
    succeeded(&batch, radialog(&batch).unwrap().output_in_time().unwrap());
    let rest = says(&[
        &archive,
        "--out",
        &out,
        "--seconds",
        "findings=3",
        "--stages",
        "findings",
    ]);
    assert_eq!(
        (&rest["plan"]["written"], &rest["seconds"]),
        (&6.into(), &12.0.into())
    );
    let seconds = "--seconds=embedding=1,findings=1,language=8,scoring=1";
    let pool = says(&[
        "--studies",
        "800",
        seconds,
        "--workers",
        "language=4",
        "--price",
        "language=9",
    ]);
    assert_eq!(pool["bottleneck"], "language");
    // 800 studies of 8 s on four workers, and the first one's way in and the last one's out.
    assert!(
        (1600.0..1615.0).contains(&pool["seconds"].as_f64().unwrap()),
        "{pool}"
    );
    assert!(
        (16.0..16.2).contains(&pool["cost"].as_f64().unwrap()),
        "{pool}"
    );
}

#[test]
fn a_plan_says_what_weights_all_workers_hold() {
    let seconds = "--seconds=embedding=1,findings=1,language=8,scoring=1";
    let one = ["plan", "--studies", "800", seconds];
    let two = "--workers=embedding=2,findings=2,language=2,scoring=2";
    let says = |arguments: &[&str]| {
        succeeded(
            arguments,
            radialog(arguments).unwrap().output_in_time().unwrap(),
        )
    };
    let bytes = |arguments: &[&str]| {
        let plan: Value = serde_json::from_str(&says(&[arguments, &["--json"]].concat())).unwrap();
        for stage in plan["stages"].as_array().unwrap() {
            assert!(stage["weights_bytes"].as_u64() > Some(0), "{stage}");
        }
        plan["weights_bytes"].as_u64().unwrap()
    };
    let of_two = bytes(&[&one[..], &[two]].concat());
    assert_eq!(of_two, 2 * bytes(&one));
    let words = says(&[&one[..], &[two]].concat());
    let held = format!(
        "All workers hold {:.1} GiB of weights",
        of_two as f64 / f64::from(1 << 30)
    );
    assert!(words.contains(&held), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_reads_results_in_a_store_as_the_dry_run_does_and_writes_nothing() {
    let bucket = Services::shared().await.unwrap().s3().bucket().unwrap();
    let environment = Environment::default().bucket(&bucket);
    let name = bucket.rsplit('/').next().unwrap();
    let out = format!("s3://{name}/results/x");
    let (archive, folder) = (xrays().display().to_string(), tempfile::tempdir().unwrap());
    let run = |arguments: &[&str]| run_in(folder.path(), &environment, arguments);
    let batch = [
        "batch", &archive, "--out", &out, "--stages", "findings", "--limit", "6",
    ];
    succeeded(&batch, run(&batch));
    let planned = [
        "plan",
        &archive,
        "--out",
        &out,
        "--measured",
        &out,
        "--stages",
        "findings",
        "--json",
    ];
    let plan: Value = serde_json::from_str(&succeeded(&planned, run(&planned))).unwrap();
    assert_eq!(
        (&plan["plan"]["written"], &plan["stages"][0]["measured"]),
        (&6.into(), &6.into())
    );
    let dry = [
        "batch",
        &archive,
        "--out",
        &out,
        "--stages",
        "findings",
        "--dry-run",
    ];
    assert!(succeeded(&dry, run(&dry)).contains('6'));
    let own = format!("s3://{name}/images");
    for of in [
        &["batch", &archive, "--out", &own][..],
        &["plan", &archive, "--out", &own],
    ] {
        let output = run(of);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains("name another prefix"), "{text}");
    }
    // Folders that are not there, with no store: neither command makes one.
    let nowhere = Environment::default();
    let plan = [
        "plan",
        &archive,
        "--out",
        "new",
        "--stages",
        "findings",
        "--seconds",
        "findings=1",
    ];
    succeeded(&plan, run_in(folder.path(), &nowhere, &plan));
    let dry = [
        "batch",
        &archive,
        "--out",
        "new",
        "--stages",
        "findings",
        "--dry-run",
    ];
    succeeded(&dry, run_in(folder.path(), &nowhere, &dry));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_plan_of_nothing_says_so_and_what_cannot_be_planned_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    refused(&["plan", &empty], "there is no image in");
    for (arguments, words) in [
        (["--seconds", "language=1e308"], "from 0.000001 to 1000000"),
        (["--seconds", "language=1e-320"], "from 0.000001 to 1000000"),
        (["--seconds", "language=NaN"], "from 0.000001 to 1000000"),
        (["--price", "language=1e308"], "from 0 to 1000000000"),
        (["--price", "language=-1"], "from 0 to 1000000000"),
        (["--workers", "language=0"], "from 1 to 1000000"),
        (["--workers", "language=4294967295"], "from 1 to 1000000"),
        (["--measured", "S3://bucket/x"], "small letters"),
        (
            ["--measured", "s3://bucket/a/../b"],
            "'a/../b' is no prefix",
        ),
        (["--measured", "s3://bucket/a"], "--s3"),
    ] {
        refused(
            &["plan", "--studies", "5", arguments[0], arguments[1]],
            words,
        );
    }
    refused(&["plan", "--studies", "18446744073709551615"], "10000000");
    refused(
        &["batch", &empty, "--out", "S3://bucket/x"],
        "small letters",
    );
}

#[test]
fn results_that_are_being_written_are_measured_up_to_their_last_whole_line() {
    let (folder, archive) = (tempfile::tempdir().unwrap(), xrays().display().to_string());
    let out = folder.path().join("out").display().to_string();
    let batch = [
        "batch", &archive, "--out", &out, "--stages", "findings", "--limit", "3",
    ];
    succeeded(&batch, radialog(&batch).unwrap().output_in_time().unwrap());
    let file = folder.path().join("out/results.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 10]).unwrap();
    for measured in [out, file.display().to_string()] {
        let plan = [
            "plan",
            "--studies",
            "5",
            "--stages",
            "findings",
            "--json",
            "--measured",
            &measured,
        ];
        let text = succeeded(&plan, radialog(&plan).unwrap().output_in_time().unwrap());
        let plan: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(plan["stages"][0]["measured"], 2);
    }
}

#[test]
fn a_plan_that_is_stopped_while_it_measures_leaves_no_image_behind() {
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        let entries = || {
            fs::read_dir(&temporary)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        };
        let mut command = radialog(&["plan", &xrays().display().to_string()]).unwrap();
        command.env("TMPDIR", &temporary);
        let mut plan = RoleProcess::start(&mut command, &folder.path().join("log")).unwrap();
        let begun = Instant::now();
        while !entries().any(|entry| entry.join("objects/images").is_dir()) {
            assert!(begun.elapsed() < LIMIT, "it does not measure");
            assert!(plan.0.try_wait().unwrap().is_none(), "it ended before");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = plan.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(plan.ended().unwrap().code(), Some(130));
        assert_eq!(entries().collect::<Vec<_>>(), [""; 0].map(Path::new));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_studies_whose_outputs_are_all_stored_says_so_and_names_no_bottleneck() {
    let folder = tempfile::tempdir().unwrap();
    let archive = xrays().display().to_string();
    let environment = Environment::default();
    let run = |arguments: &[&str]| {
        let more = ["--stages", "findings", "--limit", "3"];
        let arguments = [arguments, &more[..]].concat();
        succeeded(&arguments, run_in(folder.path(), &environment, &arguments))
    };
    run(&["batch", &archive, "--out", "first"]);
    // Another run, which has none of the first one's lines.
    let plan = [
        "plan",
        &archive,
        "--out",
        "second",
        "--objects",
        "first/objects",
    ];
    let said = run(&plan);
    assert!(
        said.contains("3 remain") && said.contains("only writes their lines"),
        "{said}"
    );
    assert!(!said.contains("waits for"), "{said}");
    let json: Value = serde_json::from_str(&run(&[&plan[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["bottleneck"], Value::Null, "{json}");
    assert_eq!(json["stages"][0]["remaining"], 0, "{json}");
}
