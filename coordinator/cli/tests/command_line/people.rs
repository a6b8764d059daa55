//! What people look at: one image's report, a page of all studies, how far a run is, which settings are in force.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::patience::InTime;
use super::{radialog, radialog_command, text};

pub(crate) const XRAYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");

/// Three X-rays in a folder of their own, one of them broken.
fn archive(dir: &Path) -> String {
    let archive = dir.join("archive");
    std::fs::create_dir(&archive).unwrap();
    for name in ["00001300_000.jpg", "00001680_000.jpg"] {
        std::fs::copy(Path::new(XRAYS).join(name), archive.join(name)).unwrap();
    }
    std::fs::write(archive.join("broken.png"), "no image").unwrap();
    archive.to_str().unwrap().to_owned()
}

#[test]
fn one_image_is_reported_in_words_or_as_its_record() {
    let image = format!("{XRAYS}/00001300_000.jpg");
    let output = radialog(&["report", &image, "--json", "--max-new-tokens", "20"]);
    assert!(output.status.success(), "{output:?}");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["study_id"], "00001300_000");
    let report = record["report"].as_str().unwrap();
    assert!(!report.is_empty() && !report.starts_with(char::is_whitespace));
    let findings = record["findings"].as_array().unwrap();
    let unknown = findings.iter().filter(|each| each["probability"].is_null());
    let unknown: Vec<_> = unknown.map(|each| each["finding"].clone()).collect();
    let expected = ["Enlarged Cardiomediastinum", "Fracture", "Support Devices"];
    assert_eq!(findings.len(), 14);
    assert_eq!(Value::from(unknown), Value::from(expected.to_vec()));
    let disputed = record["disagreement"].as_array().unwrap();
    assert!(
        expected
            .iter()
            .all(|name| !disputed.contains(&Value::from(*name)))
    );

    let output = radialog(&["report", &image, "--max-new-tokens", "20"]);
    let words = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        words.contains("Report:") && words.contains("not a medical device"),
        "{words}"
    );
    assert_eq!(words.matches("not assessed").count(), 3, "{words}");

    // A store that is set for other commands is left alone, and one that is asked for is refused.
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("objects");
    let mut set = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let set = set.args(["report", &image, "--max-new-tokens", "2"]);
    let output = set
        .env("RADIALOG_OBJECTS_DIRECTORY", &objects)
        .output_in_time();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!objects.exists(), "something is kept");
    for (flag, value) in [
        ("--objects", objects.to_str().unwrap()),
        ("--s3", "http://127.0.0.1:1/bucket"),
    ] {
        let output = radialog(&["report", &image, flag, value]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains(flag) && said.contains("nothing is kept of a report"),
            "{said}"
        );
    }
    assert!(!objects.exists(), "something is made");

    let document = dir.path().join("README.md");
    std::fs::write(&document, "no image").unwrap();
    for (place, words) in [
        (dir.path().join("nope.jpg"), "there is no file"),
        (document, "no image"),
    ] {
        let output = radialog(&["report", place.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains(words) && said.contains("give a PNG or JPEG file"),
            "{said}"
        );
        assert!(!said.contains("archive"), "{said}");
    }
    // A value that cannot be meant is told as one, and not as a flag.
    let output = radialog(&["report", &image, "--temperature", "-1"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("--temperature -1 is not over 0"), "{said}");

    let folder = radialog(&["report", XRAYS]);
    assert_eq!(folder.status.code(), Some(64), "{folder:?}");
    assert!(
        text(&folder.stderr).contains("radialog batch"),
        "{folder:?}"
    );
}

#[test]
fn a_home_that_cannot_be_written_is_told_once() {
    // Nobody can make a folder there, root included.
    let image = format!("{XRAYS}/00001300_000.jpg");
    let mut report = Command::new(env!("CARGO_BIN_EXE_radialog"));
    let report = report.args(["report", &image, "--max-new-tokens", "2"]);
    let report = report.env("HOME", "/proc/nobody");
    let report = report.env_remove("XDG_CACHE_HOME");
    let output = report
        .env_remove("RADIALOG_CACHE")
        .output_in_time()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert_eq!(
        said.matches("hashes are not remembered").count(),
        1,
        "{said}"
    );
    assert!(said.contains("RADIALOG_CACHE"), "{said}");
}

#[test]
fn a_run_has_a_page_and_its_folder_knows_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let archive = archive(dir.path());
    let folder = out.to_str().unwrap();
    let run = radialog(&[
        "batch",
        &archive,
        "--out",
        folder,
        "--stages",
        "findings",
        "--progress",
        "off",
        "--html",
    ]);
    assert_eq!(run.status.code(), Some(65), "{run:?}");
    assert!(text(&run.stdout).contains("results.html"), "{run:?}");
    let page = std::fs::read_to_string(out.join("results.html")).unwrap();
    let mode = std::fs::metadata(out.join("results.html")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600, "it has the images");
    assert_eq!(page.matches("<article ").count(), 3);
    assert_eq!(page.matches("data:image/png;base64,").count(), 2);
    assert!(
        page.contains("data-kinds=\"failed\"") && !page.contains("http"),
        "needs nothing else"
    );
    let order = ["00001300_000", "00001680_000", "broken"];
    let places = order.map(|study| page.find(&format!("<h2>{study}<")).unwrap());
    assert!(places.is_sorted(), "{places:?}");
    let table = std::fs::read_to_string(out.join("results.csv")).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .skip(1)
        .filter_map(|row| row.split(',').next())
        .collect();
    assert_eq!(rows, order);

    let status = radialog(&["status", folder, "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (&status["total"], &status["done"], &status["failed"]),
        (&Value::from(3), &Value::from(2), &Value::from(1))
    );
    let words = text(&radialog(&["status", folder]).stdout);
    assert!(
        words.contains("3 of 3 studies; 2 done, 1 failed"),
        "{words}"
    );
}

#[test]
fn settings_and_checks_are_shown_to_programs_too() {
    let amqp = "amqp://ward:hidden@127.0.0.1:1/x";
    let shown = radialog(&["config", "show", "--json", "--amqp", amqp]);
    let settings: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let settings = settings.as_array().unwrap();
    let setting = |name: &str| settings.iter().find(|each| each["name"] == name).unwrap();
    assert_eq!(
        setting("amqp.url")["value"],
        "amqp://ward:***@127.0.0.1:1/x"
    );
    assert_eq!(setting("amqp.url")["source"], "--amqp");
    assert_eq!(setting("gateway.listen")["value"], "127.0.0.1:7860");
    assert_eq!(setting("gateway.listen")["source"], Value::Null);
    assert_eq!(setting("gateway.keys")["value"], Value::Null);
    assert_eq!(setting("objects.directory")["value"], Value::Null);
    assert_ne!(setting("gateway.max_waiting_per_key")["value"], "***");
    assert!(!text(&shown.stdout).contains("hidden"));
    let words = text(&radialog(&["config", "show"]).stdout);
    let line = |name: &str| words.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("gateway.rate ").ends_with(" 50  (default)"), "{words}");
    assert!(
        line("gateway.keys ").ends_with(" none  (default)"),
        "{words}"
    );

    let checked = radialog(&["doctor", "--json", "--redis", "redis://127.0.0.1:1/0"]);
    assert_eq!(checked.status.code(), Some(1));
    let beside = text(&checked.stderr);
    assert!(
        !beside.contains("ERROR") && !beside.contains("WARN"),
        "{beside}"
    );
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let checks = report["checks"].as_array().unwrap();
    let state = checks
        .iter()
        .find(|check| check["name"] == "state")
        .unwrap();
    let said = state["text"].as_str().unwrap();
    assert!(said.starts_with("nobody listens at that address"), "{said}");
}

#[test]
fn what_was_tolerated_of_a_file_stands_in_its_record_and_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, out) = (dir.path().join("archive"), dir.path().join("out"));
    std::fs::create_dir(&archive).unwrap();
    let whole = std::fs::read(Path::new(XRAYS).join("00001300_000.jpg")).unwrap();
    let (data, _end_marker) = whole.split_at(whole.len() - 2);
    std::fs::write(archive.join("cut.jpg"), data).unwrap();
    std::fs::write(archive.join("whole.jpg"), &whole).unwrap();
    let folders = [&archive, &out].map(|path| path.to_str().unwrap());
    let run = radialog(&[
        "batch",
        folders[0],
        "--out",
        folders[1],
        "--stages",
        "findings",
        "--progress",
        "off",
    ]);
    assert!(run.status.success(), "{run:?}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let warning = "the JPEG file has no end marker; its data are complete";
    let (lines, table) = (read("results.jsonl"), read("results.csv"));
    assert_eq!((lines.lines().count(), table.lines().count()), (2, 3));
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let study = record["study_id"].as_str().unwrap();
        let is_cut = study == "cut";
        let warnings = is_cut.then(|| Value::from(vec![warning]));
        assert_eq!(record.get("warnings"), warnings.as_ref(), "{line}");
        let row = table
            .lines()
            .find(|row| row.split(',').next() == Some(study));
        assert_eq!(
            row.unwrap().contains(&format!(",{warning},")),
            is_cut,
            "{table}"
        );
    }
}

#[test]
fn a_picture_that_is_no_chest_xray_is_warned_of_before_anything_is_said_of_it() {
    let square = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/other-images/red-square.png"
    );
    let output = radialog(&["report", square, "--max-new-tokens", "5", "--json"]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = record["report"].as_str().unwrap();
    assert!(!report.is_empty(), "{record}");
    let output = radialog(&["report", square, "--max-new-tokens", "5"]);
    let words = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        words.starts_with("warning: this does not look like a frontal chest X-ray (it looks like no chest X-ray at all)"),
        "{words}"
    );
    assert!(
        words.contains("are shown by --all")
            && !words.contains('%')
            && !words.contains("Report:")
            && !words.contains(report),
        "{words}"
    );
    let mut chat = radialog_command(&["chat", square, "--max-new-tokens", "5"]);
    chat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut chat = chat.spawn().unwrap();
    let mut typed = chat.stdin.take().unwrap();
    typed.write_all(b"/show\n/quit\n").unwrap();
    drop(typed);
    let output = chat.output_in_time().unwrap();
    let words = text(&output.stdout);
    // The answer to /show begins with the findings.
    let (first, asked) = words.split_once(" % ").unwrap();
    for said in [
        "this does not look like a frontal chest X-ray",
        "its findings are shown by /show",
        "its report is shown by /show",
    ] {
        assert!(first.contains(said), "{said} in {words}");
    }
    assert!(
        !first.contains(report) && asked.contains(report),
        "{report} in {words}"
    );

    let dir = tempfile::tempdir().unwrap();
    let (archive, out) = (dir.path().join("archive"), dir.path().join("out"));
    std::fs::create_dir(&archive).unwrap();
    std::fs::copy(square, archive.join("square.png")).unwrap();
    let xray = Path::new(XRAYS).join("00001300_000.jpg");
    std::fs::copy(xray, archive.join("xray.jpg")).unwrap();
    let folders = [&archive, &out].map(|path| path.to_str().unwrap());
    let run = radialog(&[
        "batch",
        folders[0],
        "--out",
        folders[1],
        "--stages",
        "findings",
        "--progress",
        "off",
        "--html",
    ]);
    assert!(run.status.success(), "{run:?}");
    let said = text(&run.stdout);
    assert!(
        said.contains("1 image does not look like a frontal chest X-ray"),
        "{said}"
    );
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(
        (&summary["warned"], &summary["not_frontal"]),
        (&Value::from(1), &Value::from(1))
    );
    for line in read("results.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let is_square = record["study_id"] == "square";
        assert_eq!(record["input_gate"]["passed"], !is_square, "{line}");
        assert!(record["findings"].is_array(), "{line}");
        assert_eq!(record.get("warnings").is_some(), is_square, "{line}");
        let kind = if is_square { "other" } else { "frontal" };
        assert_eq!(record["input_gate"]["looks_like"], kind, "{line}");
    }
    let table = read("results.csv");
    let mut rows = table.lines();
    let header: Vec<&str> = rows.next().unwrap().split(',').collect();
    let column = header
        .iter()
        .position(|name| *name == "looks_like")
        .unwrap();
    assert_eq!(header[column - 1], "warnings");
    let square = rows.find(|row| row.starts_with("square,")).unwrap();
    assert!(square.contains(",other,"), "{square}");
    let page = read("results.html");
    let article = &page[page.find("<h2>square<").unwrap()..];
    let places = ["class=\"warning\"", "<details>", "<ul>", "</details>"];
    let places = places.map(|part| article.find(part).unwrap());
    assert!(places.is_sorted(), "findings are folded below the warning");
    assert!(page.contains("1 with warnings about the image"));
}
