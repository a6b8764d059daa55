//! `radialog rexrank`: the command line that ReXrank asks of a submission. It makes a manifest of ReXrank's JSON, runs `radialog
//! batch` over it, and writes the JSON again with the reports.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Parser};
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_files::durable;
use radialog_schemas::table::{cell, unescaped};
use radialog_schemas::{ContentHash, StudyRecord, counted};
use radialog_training::evaluation::corpus::{PREDICTION, RexrankStudies, RexrankStudy};
use radialog_training::evaluation::text_file::DAMAGED_RECORD;
use serde_json::Value;
use serde_json::value::to_raw_value;
use tokio::task::block_in_place;

use super::batch;
use super::former_files::FormerFiles;
use crate::exit::{EXIT_FAILED_STUDIES, EXIT_INTERRUPTED, UsageError, is_of_another_run};
use crate::named_path::require;

/// The member that names the image of a study to read, and the one that names all of them.
const KEY_IMAGE: &str = "key_image_path";
const IMAGES: &str = "image_path";

/// Write a report for every study of ReXrank's JSON: the command line of a submission
///
/// The JSON is an object of studies by id. Of a study, the image `key_image_path` is read, else the first of `image_path`, below
/// --img_root_dir; the model reads one image. The result is the same JSON with `model_prediction` in every study; that of a study
/// that failed, or whose image is not below --img_root_dir, is an empty text, and the study is named with the reason. Members keep their order, and values stand as they were; `NaN` and `Infinity`,
/// as Python writes them, are read and written as `null`. This is the format as its authors describe it, not checked against their
/// hidden test set.
///
/// What follows are options of `radialog batch`, e.g. --bundle, --amqp or --max-new-tokens. The run keeps its state in a folder
/// beside the result (--work), from where the same command resumes; that of another JSON is refused. An earlier result is called
/// .old until there is another.
///
/// Examples:
///
/// radialog rexrank --input_json_file test.json --save_json_file predictions.json --img_root_dir images --bundle radialog-v1
#[derive(Args)]
pub(crate) struct RexrankArgs {
    /// ReXrank's JSON
    #[arg(long = "input_json_file", value_name = "JSON")]
    input: PathBuf,
    /// Where the JSON with reports is written
    #[arg(long = "save_json_file", value_name = "JSON")]
    save: PathBuf,
    /// The folder that image paths begin in
    #[arg(long = "img_root_dir", value_name = "DIR")]
    images: PathBuf,
    /// The folder of the run [default: the result's name with .run behind it]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Options of `radialog batch`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS OF BATCH"
    )]
    batch: Vec<OsString>,
}

/// The line that `radialog batch` is called with.
#[derive(Parser)]
#[command(name = "radialog batch")]
struct BatchLine {
    #[command(flatten)]
    args: batch::BatchArgs,
}

/// The CSV of the studies' images that `radialog batch` reads.
struct Manifest(Vec<u8>);

/// Why studies have no report, by id.
type Reasons = HashMap<String, String>;

pub(crate) async fn run(args: RexrankArgs) -> anyhow::Result<ExitCode> {
    let work = args.work.clone().unwrap_or_else(|| {
        let mut name = args.save.clone().into_os_string();
        name.push(".run");
        name.into()
    });
    require(&args.input, "--input_json_file is ReXrank's JSON")?;
    require(
        &args.images,
        "--img_root_dir is the folder that image paths begin in",
    )?;
    let (input, images, save) = (args.input.clone(), args.images.clone(), args.save.clone());
    let read = move || {
        require_writable(&save)?;
        read(&input, &images)
    };
    let (studies, manifest, refused) = tokio::task::spawn_blocking(read).await??;
    let path = manifest.path(&work);
    let mut line: Vec<OsString> = vec!["radialog batch".into(), path.clone().into()];
    line.extend(["--allow-outside", "--stages", "language", "--out"].map(OsString::from));
    line.push(work.clone().into());
    line.extend(args.batch);
    let line = BatchLine::try_parse_from(line).map_err(|error| {
        let message = format!("what follows the four options goes to `radialog batch`: {error}");
        UsageError(message)
    })?;
    if line.args.out.names_work() {
        let message = "--work is an option of rexrank: give it before those of `radialog batch`";
        return Err(UsageError(message.to_owned()).into());
    }
    if line.args.dry_run {
        let message = "--dry-run makes no reports that could be written: leave it out, or ask `radialog batch --dry-run` of a manifest";
        return Err(UsageError(message.to_owned()).into());
    }
    let write = move || manifest.write(&path);
    tokio::task::spawn_blocking(write).await??;
    let folder = args
        .save
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        let made = block_in_place(|| durable::create_directory(folder));
        made.map_err(|error| {
            let shown = folder.display();
            UsageError(format!(
                "--save_json_file: cannot create '{shown}': {error}"
            ))
        })?;
    }
    let mut former = FormerFiles::default();
    let saved = std::slice::from_ref(&args.save);
    block_in_place(|| former.set_aside(saved, [args.input.as_path()]))?;
    let result = answer(args.save, work, line.args, studies, refused).await;
    block_in_place(|| former.settle(&result))?;
    result
}

/// Makes the reports, and writes the studies with them.
async fn answer(
    save: PathBuf,
    work: PathBuf,
    line: batch::BatchArgs,
    studies: RexrankStudies,
    refused: Reasons,
) -> anyhow::Result<ExitCode> {
    let code = batch::run(line)
        .await
        .map_err(|error| match is_of_another_run(&error) {
            true => error.context(format!(
                "{} holds another run: name another folder with --work, or delete it",
                work.display()
            )),
            false => error,
        })?;
    if code == ExitCode::from(EXIT_INTERRUPTED) {
        return Ok(code);
    }
    let finish = move || finish(studies, refused, &work, &save);
    let is_complete = tokio::task::spawn_blocking(finish).await??;
    Ok(match is_complete {
        false if code == ExitCode::SUCCESS => ExitCode::from(EXIT_FAILED_STUDIES),
        _ => code,
    })
}

impl Manifest {
    /// Its name says what is in it. An archive's name is part of its run, so that the run of another JSON is refused, and not taken
    /// for this one's because ids are the same.
    fn path(&self, work: &Path) -> PathBuf {
        let hash = ContentHash::of(&self.0);
        work.join(format!("rexrank-{}.csv", hash.short()))
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().context("a manifest lies in a folder")?;
        durable::create_directory(folder)
            .and_then(|()| durable::replace(path, &self.0))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Refuses a result that could not be written, before hours are spent on it.
fn require_writable(save: &Path) -> Result<(), UsageError> {
    let shown = save.display();
    let refused =
        |reason: &str| UsageError(format!("cannot write --save_json_file {shown}: {reason}"));
    if save.is_dir() {
        return Err(refused("it is a folder: name a file"));
    }
    let target = durable::target_of(save).map_err(|error| refused(&error.to_string()))?;
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(&format!("{}: {error}", folder.display()))),
    }
}

/// Reads the studies and makes the manifest of those that can be in one; the others are named with what is wrong.
fn read(input: &Path, images: &Path) -> anyhow::Result<(RexrankStudies, Manifest, Reasons)> {
    let shown = input.display();
    let studies = RexrankStudies::read(input)
        .map_err(|error| UsageError(format!("--input_json_file: {error}")))?;
    if studies.0.is_empty() {
        return Err(UsageError(format!("{shown} has no study")).into());
    }
    let cannot_use = |error: &dyn fmt::Display| {
        let shown = images.display();
        UsageError(format!("cannot use --img_root_dir {shown}: {error}"))
    };
    let images = fs::canonicalize(images).map_err(|error| cannot_use(&error))?;
    if !images.is_dir() {
        return Err(cannot_use(&"it is no folder").into());
    }
    let mut manifest = csv::Writer::from_writer(Vec::new());
    manifest.write_record(["study_id", "image"])?;
    let (mut seen, mut refused) = (HashMap::new(), Reasons::new());
    for (place, (id, study)) in studies.0.iter().enumerate() {
        if let Some(before) = seen.insert(id.as_str(), place) {
            return Err(UsageError(format!(
                "{shown}: study {id:?} stands there twice (as number {} and {}): give each an id of its own",
                before + 1,
                place + 1
            ))
            .into());
        }
        match image(study).and_then(|image| row(id, &images.join(image))) {
            Ok(row) => manifest.write_record(row)?,
            Err(reason) => drop(refused.insert(id.clone(), reason)),
        }
    }
    if let [(id, _), ..] = &studies.0[..]
        && refused.len() == studies.0.len()
    {
        let reason = &refused[id];
        return Err(UsageError(format!(
            "{shown} has no study whose image could be read; {id:?} {reason}"
        ))
        .into());
    }
    Ok((studies, Manifest(manifest.into_inner()?), refused))
}

/// A study's row of the manifest, whose cells must be read as they are written.
fn row(id: &str, image: &Path) -> Result<[String; 2], String> {
    let is_read = |text: &str| cell(unescaped(text)) == Some(text);
    if !is_read(id) {
        return Err(
            "has an id that is blank, or that tables take for something else: rename it".to_owned(),
        );
    }
    match image.to_str() {
        Some(image) if is_read(image) => Ok([id.to_owned(), image.to_owned()]),
        _ => Err(format!(
            "has the image {:?}, which a table cannot name: rename it",
            image.display().to_string()
        )),
    }
}

/// The image of a study to read, a path below the root.
fn image(study: &RexrankStudy) -> Result<PathBuf, String> {
    let image = match (study.get(KEY_IMAGE), study.get(IMAGES)) {
        (Some(Value::String(image)), _) if !image.is_empty() => image,
        (_, Some(Value::String(image))) => image,
        (_, Some(Value::Array(images))) => match images.into_iter().next() {
            Some(Value::String(image)) => image,
            Some(other) => return Err(format!("has {other} in {IMAGES}, which is no path")),
            None => return Err(format!("has an empty {IMAGES}")),
        },
        (_, None | Some(Value::Null)) => {
            return Err(format!("names no image: give {KEY_IMAGE} or {IMAGES}"));
        }
        (_, Some(_)) => {
            return Err(format!(
                "has an {IMAGES} that is neither a path nor a list of paths"
            ));
        }
    };
    let image = PathBuf::from(image);
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if image.components().all(is_below) {
        Ok(image)
    } else {
        Err(format!(
            "has the image {}, which is not below --img_root_dir: give a path within it",
            image.display()
        ))
    }
}

/// Writes the studies with their reports; false where some study has not got one.
fn finish(
    mut studies: RexrankStudies,
    mut reasons: Reasons,
    work: &Path,
    save: &Path,
) -> anyhow::Result<bool> {
    let mut reports = reports(&work.join(RESULTS_FILE), &mut reasons)?;
    let (mut written, mut without) = (0_u64, Vec::new());
    for (id, study) in &mut studies.0 {
        let report = reports.remove(id.as_str());
        if report.is_none() {
            without.push(id.clone());
        }
        written += u64::from(report.is_some());
        study.set(PREDICTION, to_raw_value(&report.unwrap_or_default())?);
    }
    let json = serde_json::to_vec_pretty(&studies)?;
    durable::replace(save, &json).with_context(|| format!("cannot write {}", save.display()))?;
    let written = counted(written, "report", "reports");
    outln!("{written} written to {}", save.display());
    if !without.is_empty() {
        outln!(
            "{} of {} studies have no report, and an empty {PREDICTION}:",
            without.len(),
            studies.0.len(),
        );
        for id in &without {
            match reasons.get(id) {
                Some(reason) => outln!("  {id}: {reason}"),
                None => outln!(
                    "  {id}: the run has no line of it; problems.jsonl in {} may say why",
                    work.display()
                ),
            }
        }
    }
    Ok(without.is_empty())
}

/// The reports of a run by study, and to `reasons` why others have none. An interrupted run has those that were finished.
fn reports(results: &Path, reasons: &mut Reasons) -> anyhow::Result<HashMap<String, String>> {
    let shown = results.display();
    let file = File::open(results).with_context(|| format!("cannot open {shown}"))?;
    let mut reports = HashMap::new();
    for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
        let record: StudyRecord = serde_json::from_slice(&line?).map_err(|error| {
            anyhow!("{shown} line {number}: not a study record: {error}; {DAMAGED_RECORD}")
        })?;
        let study = record.study.to_string();
        if let Some(report) = record.report {
            reports.insert(study, report.trim().to_owned());
        } else if let Some(error) = record.error {
            reasons.insert(study, error.to_string());
        }
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(json: &str) -> RexrankStudy {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_key_image_is_read_else_the_first_and_never_one_outside_of_the_root() {
        let key = study(r#"{"key_image_path": "b.jpg", "image_path": ["a.jpg", "b.jpg"]}"#);
        assert_eq!(image(&key), Ok(PathBuf::from("b.jpg")));
        let first = study(r#"{"image_path": ["p/a.jpg", "b.jpg"]}"#);
        assert_eq!(image(&first), Ok(PathBuf::from("p/a.jpg")));
        for wrong in [
            r#"{"image_path": []}"#,
            r#"{"image_path": ["../a.jpg"]}"#,
            r#"{"image_path": ["/etc/a.jpg"]}"#,
            "{}",
        ] {
            assert!(image(&study(wrong)).is_err(), "{wrong}");
        }
        for (wrong, reason) in [
            (
                r#"{"image_path": [5]}"#,
                "has 5 in image_path, which is no path",
            ),
            (r#"{"image_path": []}"#, "has an empty image_path"),
            (r#"{"image_path": {"a": 1}}"#, "neither a path nor a list"),
            (r#"{"image_path": null}"#, "names no image"),
        ] {
            let error = image(&study(wrong)).unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_file_of_python_is_read_and_members_stand_as_they_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        let json = r#"{"s": {"z": 1, "age": NaN, "inf": [-Infinity, Infinity], "big": 12345678901234567890123, "e": 1.50,
            "note": "NaN Infinity", "model_prediction": "old", "image_path": ["x.png"], "a": {"y": 1, "b": 2}}}"#;
        fs::write(&path, format!("\u{feff}{json}")).unwrap();
        let (mut studies, ..) = read(&path, folder.path()).unwrap();
        let (_, study) = &mut studies.0[0];
        study.set(PREDICTION, to_raw_value("Clear.").unwrap());
        let written = serde_json::to_string(&studies).unwrap();
        let expected = [
            r#"{"s":{"z":1,"age":null,"inf":[null, null],"big":12345678901234567890123,"e":1.50,"#,
            r#""note":"NaN Infinity","model_prediction":"Clear.","image_path":["x.png"],"a":{"y": 1, "b": 2}}}"#,
        ];
        assert_eq!(written, expected.concat());
    }

    #[test]
    fn of_members_of_one_name_the_last_is_read_and_written_as_python_has_it() {
        let study: RexrankStudy =
            study(r#"{"image_path": "a.png", "x": 1, "image_path": "b.png"}"#);
        assert_eq!(image(&study), Ok(PathBuf::from("b.png")));
        let written = serde_json::to_string(&study).unwrap();
        assert_eq!(written, r#"{"image_path":"b.png","x":1}"#);
    }

    #[test]
    fn a_file_that_is_none_or_has_an_id_twice_is_refused_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        let twice = r#"{"s": {"image_path": "x.png"}, "s": {"image_path": "y.png"}}"#;
        for (json, reason) in [
            ("[]", "no JSON of ReXrank"),
            ("{}", "has no study"),
            (twice, "twice"),
        ] {
            fs::write(&path, json).unwrap();
            let Err(error) = read(&path, folder.path()) else {
                panic!("{json} was read");
            };
            let said = error.to_string();
            assert!(error.is::<UsageError>() && said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_result_that_cannot_be_written_and_images_in_no_folder_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        fs::write(&path, r#"{"s": {"image_path": "x.png"}}"#).unwrap();
        assert!(require_writable(&folder.path().join("out.json")).is_ok());
        assert!(require_writable(folder.path()).is_err());
        assert!(require_writable(&folder.path().join("nowhere/out.json")).is_err());
        assert!(require_writable(&path.join("out.json")).is_err());
        let Err(error) = read(&path, &path) else {
            panic!("a file is no folder of images");
        };
        assert!(
            error.is::<UsageError>() && error.to_string().contains("no folder"),
            "{error}"
        );
    }

    #[test]
    fn studies_keep_their_order_and_their_members_whatever_the_order_of_those() {
        let json = r#"{"b":{"report":"r","image_path":["x.png"]},"a":{}}"#;
        let studies: RexrankStudies = serde_json::from_str(json).unwrap();
        let written = serde_json::to_string(&studies).unwrap();
        assert!(written.starts_with(r#"{"b":"#) && written.ends_with(r#","a":{}}"#));
        let [read, again] = [json, &written].map(serde_json::from_str::<Value>);
        assert_eq!(read.unwrap(), again.unwrap());
    }
}
