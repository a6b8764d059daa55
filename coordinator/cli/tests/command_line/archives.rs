//! What a run makes of an archive that is not what it was, or that cannot be read whole.
#![expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::patience::InTime;
use super::people::XRAYS;
use super::{radialog, text};

/// An archive, and a place for the results of its runs.
struct Archive {
    dir: TempDir,
}

impl Archive {
    /// One with these X-rays, each under another name.
    fn of(files: &[(&str, &str)]) -> Self {
        let archive = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, xray) in files {
            let file = archive.file(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::copy(Path::new(XRAYS).join(xray), file).unwrap();
        }
        archive
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("archive").join(name)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn arguments<'a>(input: &'a str, out: &'a str) -> Vec<&'a str> {
        let flags = ["--stages", "findings", "--progress", "off"];
        [&["batch", input, "--out", out][..], &flags].concat()
    }

    fn run(&self, input: &str) -> Output {
        let (input, out) = (self.file(input), self.out());
        radialog(&Self::arguments(
            input.to_str().unwrap(),
            out.to_str().unwrap(),
        ))
    }

    /// The lines, by study.
    fn lines(&self) -> Vec<Value> {
        let lines = fs::read_to_string(self.out().join("results.jsonl")).unwrap();
        let mut lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines.sort_by_key(|line| line["study_id"].to_string());
        lines
    }

    fn summary(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out().join("summary.json")).unwrap()).unwrap()
    }
}

const A: &str = "00001300_000.jpg";
const B: &str = "00001680_000.jpg";
const C: &str = "00004344_036.jpg";

fn probabilities(line: &Value) -> Vec<Value> {
    let findings = line["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|each| each["probability"].clone())
        .collect()
}

#[test]
fn a_replaced_image_is_computed_again_and_what_is_the_same_is_not() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
    assert!(archive.run("").status.success());
    let before = archive.lines();

    // The same bytes in another file, and a time alone, are the same image.
    fs::copy(archive.file("b.jpg"), archive.file("c.jpg")).unwrap();
    fs::rename(archive.file("c.jpg"), archive.file("b.jpg")).unwrap();
    let again = archive.run("");
    assert!(again.status.success());
    assert_eq!(archive.lines(), before);
    assert_eq!(archive.summary()["session"]["changed"], 0);

    // Another image with the size and the time of the first one.
    let old = fs::metadata(archive.file("a.jpg")).unwrap();
    let other = fs::read(Path::new(XRAYS).join(C)).unwrap();
    let longest = other.len().max(usize::try_from(old.len()).unwrap());
    fs::write(archive.file("a.jpg"), &other).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(archive.file("a.jpg"))
        .unwrap();
    file.set_modified(old.modified().unwrap()).unwrap();
    assert!(longest >= other.len());
    let dry = radialog(
        &[
            Archive::arguments(
                archive.file("").to_str().unwrap(),
                archive.out().to_str().unwrap(),
            ),
            vec!["--dry-run"],
        ]
        .concat(),
    );
    let said = text(&dry.stdout);
    assert!(said.contains("2 studies, of which 1 is complete"), "{said}");
    let replaced = archive.run("");
    assert!(replaced.status.success(), "{replaced:?}");
    let said = text(&replaced.stderr) + &text(&replaced.stdout);
    assert!(said.contains("run again"), "{said}");
    let after = archive.lines();
    assert_eq!((after.len(), &after[1]), (2, &before[1]));
    assert_ne!(after[0]["input"], before[0]["input"]);
    assert_ne!(probabilities(&after[0]), probabilities(&before[0]));
    assert_eq!(archive.summary()["session"]["changed"], 1);

    // Without what was noted of the files, they are read.
    fs::remove_file(archive.out().join("inputs.jsonl")).unwrap();
    assert!(archive.run("").status.success());
    assert_eq!(archive.lines(), after);
    assert_eq!(archive.summary()["session"]["changed"], 0);

    // One that is gone leaves no report under its name.
    fs::write(archive.file("b.jpg"), "no image").unwrap();
    let gone = archive.run("");
    assert_eq!(gone.status.code(), Some(65), "{gone:?}");
    assert_eq!(archive.lines()[1]["status"], "failed");
}

#[test]
fn a_row_that_says_something_else_now_is_run_again() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
    let table = |rows: &str| {
        let text = format!("study_id,image,split,reference\n{rows}");
        fs::write(archive.file("t.csv"), text).unwrap();
        let run = archive.run("t.csv");
        assert!(run.status.success(), "{run:?}");
        (
            archive.lines(),
            archive.summary()["session"]["changed"].clone(),
        )
    };
    let (first, _) = table("1,a.jpg,train,Clear.\n2,b.jpg,train,Edema.\n");
    let (same, changed) = table("1,a.jpg,train,Clear.\n2,b.jpg,train,Edema.\n");
    assert_eq!((&same, changed), (&first, Value::from(0)));
    for (rows, field) in [
        ("1,b.jpg,train,Clear.\n2,b.jpg,train,Edema.\n", "input"),
        ("1,b.jpg,test,Clear.\n2,b.jpg,train,Edema.\n", "split"),
        (
            "1,b.jpg,test,No edema.\n2,b.jpg,train,Edema.\n",
            "reference",
        ),
    ] {
        let before = archive.lines();
        let (after, changed) = table(rows);
        assert_eq!(changed, 1, "{field}");
        assert_ne!(after[0][field], before[0][field], "{field}");
        assert_eq!((after.len(), &after[1]), (2, &first[1]));
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_listed_and_the_exit_code_says_so() {
    let archive = Archive::of(&[("a.jpg", A), ("closed/b.jpg", B)]);
    let closed = archive.file("closed");
    let open_for = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    };
    open_for(0o000);
    let (input, out) = (archive.file(""), archive.out());
    let arguments = Archive::arguments(input.to_str().unwrap(), out.to_str().unwrap());
    // Root may read everything unless it gives that up.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_radialog")).args(arguments);
    let output = command.output_in_time();
    open_for(0o755);
    if matches!(&output, Err(error) if error.kind() == ErrorKind::NotFound) {
        eprintln!("skipped: there is no setpriv");
        return;
    }
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(text(&output.stdout).contains("studies may be missing"));
    let problems = fs::read_to_string(out.join("problems.jsonl")).unwrap();
    let problem: Value = serde_json::from_str(problems.trim()).unwrap();
    assert_eq!(problem["failure"]["code"], "archive_unreadable");
    assert!(problem["place"].as_str().unwrap().ends_with("/closed/"));
    assert_eq!(archive.summary()["unread_count"], 1);
    assert_eq!(archive.lines().len(), 1);

    // Mended, the same command is complete.
    let mended = archive.run("");
    assert!(mended.status.success(), "{mended:?}");
    assert_eq!(archive.lines().len(), 2);
    assert!(!out.join("problems.jsonl").exists());
}

#[test]
fn a_disk_that_is_not_mounted_takes_no_result_away() {
    let archive = Archive::of(&[("disk/a.jpg", A), ("disk/b.jpg", B), ("c.jpg", C)]);
    fs::write(
        archive.file("t.csv"),
        "study_id,image\n1,disk/a.jpg\n2,disk/b.jpg\n3,c.jpg\n",
    )
    .unwrap();
    assert!(archive.run("t.csv").status.success());
    let before = archive.lines();
    fs::rename(archive.file("disk"), archive.file("away")).unwrap();
    let (table, out) = (archive.file("t.csv"), archive.out());
    let (table, out) = (table.to_str().unwrap(), out.to_str().unwrap());
    let dry = radialog(&[&Archive::arguments(table, out)[..], &["--dry-run"]].concat());
    assert_eq!(dry.status.code(), Some(65), "{dry:?}");
    let said = text(&dry.stdout);
    assert!(
        said.contains("3 studies, of which 3 are complete")
            && said.contains("2 complete studies cannot be compared")
            && said.contains("image_missing 2"),
        "{said}"
    );
    let away = archive.run("t.csv");
    assert_eq!(away.status.code(), Some(65), "{away:?}");
    let said = text(&away.stdout);
    assert!(
        said.contains("2 studies could not be compared  (image_missing 2)")
            && said.contains("'disk/a.jpg'")
            && said.contains("What was done for them stays"),
        "{said}"
    );
    assert_eq!(archive.lines(), before);
    fs::rename(archive.file("away"), archive.file("disk")).unwrap();
    let back = archive.run("t.csv");
    assert!(back.status.success(), "{back:?}");
    assert_eq!(archive.lines(), before);
    assert_eq!(archive.summary()["not_compared"]["studies"], 0);
}

#[test]
fn a_linked_folder_that_is_away_or_not_allowed_takes_no_result_away() {
    let archive = Archive::of(&[("a.jpg", A)]);
    let [ward, away] = ["ward", "away"].map(|name| archive.dir.path().join(name));
    fs::create_dir(&ward).unwrap();
    fs::copy(Path::new(XRAYS).join(B), ward.join("b.jpg")).unwrap();
    std::os::unix::fs::symlink(&ward, archive.file("ward")).unwrap();
    let (input, out) = (archive.file(""), archive.out());
    let arguments = Archive::arguments(input.to_str().unwrap(), out.to_str().unwrap());
    let run = |flags: &[&str]| radialog(&[&arguments[..], flags].concat()).status.code();
    let table = || fs::read_to_string(out.join("results.csv")).unwrap();
    let allowed = ["--allow-outside"];
    assert_eq!(run(&allowed), Some(0));
    let (lines, rows) = (archive.lines(), table().lines().count());
    let is_as_before = || {
        let summary = archive.summary();
        assert_eq!(archive.lines(), lines);
        assert_eq!(table().lines().count(), rows);
        assert_eq!(summary["done"], 2);
        assert_eq!(summary["not_in_archive"], 0);
        assert_eq!(summary["unread_count"], 1);
    };
    assert_eq!(run(&["--dry-run"]), Some(65));
    assert_eq!(run(&["--html"]), Some(65));
    is_as_before();
    let page = fs::read_to_string(out.join("results.html")).unwrap();
    assert_eq!(page.matches("<article").count(), 2, "{page}");
    fs::rename(&ward, &away).unwrap();
    assert_eq!(run(&allowed), Some(65));
    is_as_before();
    fs::rename(&away, &ward).unwrap();
    assert_eq!(run(&allowed), Some(0));
    assert_eq!(archive.lines(), lines);
}

#[test]
fn a_study_that_is_gone_from_the_archive_is_left_out_and_told() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
    assert!(archive.run("").status.success());
    fs::remove_file(archive.file("a.jpg")).unwrap();
    let run = archive.run("");
    assert!(run.status.success(), "{run:?}");
    let said = text(&run.stdout);
    assert!(
        said.lines()
            .any(|line| line.split_whitespace().take(3).eq(["left", "out", "1"])),
        "{said}"
    );
    let table = fs::read_to_string(archive.out().join("results.csv")).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    let summary = archive.summary();
    assert_eq!(
        (&summary["studies"], &summary["not_in_archive"]),
        (&1.into(), &1.into())
    );
    assert_eq!(archive.lines().len(), 2);
    let status = radialog(&["status", archive.out().to_str().unwrap()]);
    let said = text(&status.stdout);
    assert!(
        said.contains("1 of 1 study") && said.contains("1 of these lines"),
        "{said}"
    );
}

#[test]
fn a_study_that_is_gone_is_left_out_also_where_entries_have_no_id_or_that_of_another() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B), ("c.jpg", C)]);
    let table = archive.file("t.csv");
    let out = archive.out();
    let arguments = Archive::arguments(table.to_str().unwrap(), out.to_str().unwrap());
    let run = |rows: &str, options: &[&str]| {
        fs::write(&table, format!("study_id,image\n{rows}")).unwrap();
        let run = radialog(&[&arguments[..], options].concat());
        run.status.code()
    };
    assert_eq!(run("a,a.jpg\nb,b.jpg\nc,c.jpg\n", &[]), Some(0));
    let rows = "a,a.jpg\na,b.jpg\n,c.jpg\nb,b.jpg\n";
    let all = format!("{rows}c,c.jpg\n");
    let cases: [(&str, &[&str]); 2] = [(rows, &[]), (all.as_str(), &["--limit", "2"])];
    for (rows, options) in cases {
        assert_eq!(run(rows, options), Some(65), "{rows}");
        let table = fs::read_to_string(out.join("results.csv")).unwrap();
        assert_eq!(table.lines().count(), 3, "{table}");
        let summary = archive.summary();
        assert_eq!(summary["studies"], 2, "{rows}");
        assert_eq!(summary["not_in_archive"], 1, "{rows}");
        assert_eq!(summary["unread_count"], 2, "{rows}");
        assert_eq!(archive.lines().len(), 3);
    }
}

#[test]
fn a_study_whose_image_lies_under_a_name_that_nobody_can_use_keeps_its_line() {
    let folder = "p10/p10000032/s50414267";
    let archive = Archive::of(&[(&format!("{folder}/a.jpg"), A), ("b.jpg", B)]);
    assert_eq!(archive.run("").status.code(), Some(0));
    let folder = archive.file(folder);
    let unusable = folder.join(OsStr::from_bytes(b"a\xe9.jpg"));
    fs::rename(folder.join("a.jpg"), unusable).unwrap();
    assert_eq!(archive.run("").status.code(), Some(65));
    let table = fs::read_to_string(archive.out().join("results.csv")).unwrap();
    assert!(table.contains("s50414267"), "{table}");
    assert_eq!(archive.summary()["not_in_archive"], 0);
}

#[test]
fn a_study_that_is_gone_is_left_out_also_where_an_image_beside_it_has_a_name_that_nobody_can_use() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B), ("c.jpg", C)]);
    let unusable = archive.file("").join(OsStr::from_bytes(b"caf\xe9.jpg"));
    fs::rename(archive.file("c.jpg"), unusable).unwrap();
    assert_eq!(archive.run("").status.code(), Some(65));
    fs::remove_file(archive.file("b.jpg")).unwrap();
    assert_eq!(archive.run("").status.code(), Some(65));
    let table = fs::read_to_string(archive.out().join("results.csv")).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    let summary = archive.summary();
    assert_eq!(summary["studies"], 1);
    assert_eq!(summary["not_in_archive"], 1);
    assert_eq!(summary["unread_count"], 1);
}

#[test]
fn a_refused_run_makes_nothing_in_a_folder_of_somebody_else() {
    let archive = Archive::of(&[("a.jpg", A)]);
    fs::create_dir(archive.out()).unwrap();
    fs::write(archive.out().join("results.jsonl"), "mine\n").unwrap();
    let run = archive.run("");
    assert_eq!(run.status.code(), Some(64), "{run:?}");
    let left = fs::read_dir(archive.out()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["results.jsonl"]);
}

#[test]
fn pictures_that_the_store_has_damaged_are_taken_from_the_archive_again_or_told() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
    fs::write(archive.file("t.csv"), "study_id,image\n1,a.jpg\n2,b.jpg\n").unwrap();
    let (table, out) = (archive.file("t.csv"), archive.out());
    let arguments = Archive::arguments(table.to_str().unwrap(), out.to_str().unwrap());
    let run = || radialog(&[&arguments[..], &["--html"]].concat());
    let damage = || {
        for image in fs::read_dir(out.join("objects/images")).unwrap() {
            fs::write(image.unwrap().path(), b"").unwrap();
        }
    };
    let pictures = || {
        let page = fs::read_to_string(out.join("results.html")).unwrap();
        page.matches("<img ").count()
    };
    assert!(run().status.success());
    assert_eq!(pictures(), 2);
    damage();
    let mended = run();
    assert!(mended.status.success(), "{mended:?}");
    assert_eq!(pictures(), 2);
    for image in fs::read_dir(out.join("objects/images")).unwrap() {
        assert!(image.unwrap().metadata().unwrap().len() > 0);
    }

    damage();
    let verify = ["verify", "1", "--run", out.to_str().unwrap()];
    let refused = radialog(&verify);
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(
        said.contains("is damaged") && said.contains("--image"),
        "{said}"
    );
    fs::remove_file(archive.file("b.jpg")).unwrap();
    let lost = run();
    assert_eq!(lost.status.code(), Some(65), "{lost:?}");
    let said = text(&lost.stdout);
    assert!(said.contains("1 picture is missing on the page"), "{said}");
    assert_eq!(pictures(), 1);
}

#[test]
fn a_page_stores_no_image_again_where_the_store_was_deleted() {
    let archive = Archive::of(&[("a.jpg", A)]);
    let (input, out) = (archive.file(""), archive.out());
    let arguments = Archive::arguments(input.to_str().unwrap(), out.to_str().unwrap());
    assert!(radialog(&arguments).status.success());
    fs::remove_dir_all(out.join("objects")).unwrap();
    let run = radialog(&[&arguments[..], &["--html"]].concat());
    assert!(run.status.success(), "{run:?}");
    let page = fs::read_to_string(out.join("results.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 1, "{page}");
    let images = fs::read_dir(out.join("objects/images"));
    assert_eq!(images.map_or(0, Iterator::count), 0);
}

#[test]
fn a_plan_of_nothing_ends_as_the_run_of_nothing() {
    let archive = Archive::of(&[]);
    let (empty, texts) = (archive.file("empty"), archive.file("texts"));
    fs::create_dir_all(&empty).unwrap();
    fs::create_dir_all(&texts).unwrap();
    fs::write(texts.join("notes.txt"), "no image").unwrap();
    let out = archive.out();
    let plan = |folder: &Path, command: &[&str]| {
        let (folder, out) = (folder.to_str().unwrap(), out.to_str().unwrap());
        let flags = ["--stages", "findings"];
        let output = match command {
            ["batch"] => {
                radialog(&[&["batch", folder, "--out", out, "--dry-run"][..], &flags].concat())
            }
            _ => radialog(&[&["plan", folder][..], &flags].concat()),
        };
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    for command in [["batch"], ["plan"]] {
        let (code, said) = plan(&empty, &command);
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains("there is no image in"), "{said}");
        let (code, said) = plan(&texts, &command);
        assert_eq!(code, Some(65), "{said}");
        assert!(
            said.contains("1 entry of the archive cannot be used"),
            "{said}"
        );
        assert!(!said.contains("Nothing remains"), "{said}");
    }
    assert!(!out.exists());
}

#[test]
fn a_table_that_is_none_or_says_a_thing_twice_is_refused_with_what_is_wrong() {
    let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
    let utf_16: Vec<u8> = "\u{feff}study_id,image\n1,a.jpg\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, content, words) in [
        ("wide.csv", &utf_16[..], "UTF-16"),
        ("mac.csv", b"study_id,image\r1,a.jpg\r", "old Macs"),
        ("empty.csv", b"", "it is empty"),
        ("plain.csv.gz", b"study_id,image\n1,a.jpg\n", "gzip"),
        ("zero.csv", b"study_id,\0image\n1,a.jpg\n", "zero bytes"),
        ("book.csv", b"PK\x03\x04\x14\0\x06\0", "save it as CSV"),
        ("book.xlsx", b"PK\x03\x04\x14\0\x06\0", "save it as CSV"),
        ("packed.csv", b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (
            "twice.csv",
            b"study_id,image,split,image\n1,a.jpg,test,b.jpg\n",
            "'image', 2 and 4",
        ),
        (
            "splits.csv",
            b"study_id,image,split,Reference,reference,Split\n1,a.jpg,test,,,test\n",
            "",
        ),
        (
            "other.csv",
            b"study_id,image,Split,SPLIT\n1,a.jpg,test,test\n",
            "'split', 3 and 4",
        ),
    ] {
        fs::write(archive.file(name), content).unwrap();
        let run = archive.run(name);
        let said = text(&run.stderr);
        // Of two columns that differ in case alone, the one that is spelled as asked for is read.
        let code = if words.is_empty() { 0 } else { 64 };
        assert_eq!(run.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains(words), "{name}: {said}");
    }
}

#[test]
fn a_row_that_becomes_no_study_is_told_by_the_exit_code() {
    let long_id = format!("1,a.jpg\n{},b.jpg\n", "2".repeat(1025)).into_bytes();
    for rows in [
        &b"1,a.jpg\n2,\"b.jpg\n"[..],
        b"1,a.jpg\n\xe9,b.jpg\n",
        b"1,a.jpg\n,b.jpg,x\n",
        b"1,a.jpg\n,b.jpg\n",
        b"1,a.jpg\n1,b.jpg\n",
        &long_id[..],
    ] {
        let archive = Archive::of(&[("a.jpg", A), ("b.jpg", B)]);
        let table = [&b"study_id,image\n"[..], rows].concat();
        fs::write(archive.file("t.csv"), table).unwrap();
        let (table, out) = (archive.file("t.csv"), archive.out());
        let arguments = Archive::arguments(table.to_str().unwrap(), out.to_str().unwrap());
        let dry = radialog(&[&arguments[..], &["--dry-run"]].concat());
        assert_eq!(dry.status.code(), Some(65), "{dry:?}");
        let run = archive.run("t.csv");
        assert_eq!(run.status.code(), Some(65), "{run:?}");
        assert!(
            text(&run.stdout).contains("studies may be missing"),
            "{run:?}"
        );
        assert_eq!(archive.summary()["unread_count"], 1);
        assert_eq!(archive.lines().len(), 1);
    }
}

#[test]
fn rows_that_are_about_nothing_are_listed_and_lose_no_study() {
    let archive = Archive::of(&[("a.jpg", A)]);
    let table = "study_id,image,split\n1,a.jpg,test\n,,,\n,,test\n";
    fs::write(archive.file("t.csv"), table).unwrap();
    let run = archive.run("t.csv");
    assert!(run.status.success(), "{run:?}");
    let summary = archive.summary();
    assert_eq!(
        (&summary["problem_count"], &summary["unread_count"]),
        (&2.into(), &0.into())
    );
}

#[test]
fn an_image_that_becomes_no_study_is_told_by_the_exit_code() {
    for name in [&b"b\nc.jpg"[..], b"\xff.jpg", b"\xff/b.jpg", b"a.png"] {
        use std::os::unix::ffi::OsStrExt;
        let archive = Archive::of(&[("a.jpg", A)]);
        let lost = archive.file("").join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir_all(lost.parent().unwrap()).unwrap();
        fs::copy(Path::new(XRAYS).join(B), lost).unwrap();
        let run = archive.run("");
        assert_eq!(run.status.code(), Some(65), "{run:?}");
        assert_eq!(archive.summary()["unread_count"], 1);
        assert_eq!(archive.lines().len(), 1);
    }
    // A file that is no image by its suffix loses no study.
    let archive = Archive::of(&[("a.jpg", A)]);
    fs::write(archive.file("b\nc.txt"), "no image").unwrap();
    let run = archive.run("");
    assert!(run.status.success(), "{run:?}");
    let said = text(&run.stdout);
    assert!(said.contains("cannot be used as a path"), "{said}");
}
