//! What a run makes of an archive that is not what it was, or that cannot be read whole.
#![expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

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
    assert!(
        said.contains("2 studies, of which 1 are complete"),
        "{said}"
    );
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
    let output = command.output();
    open_for(0o755);
    let Ok(output) = output else {
        eprintln!("skipped: there is no setpriv");
        return;
    };
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
