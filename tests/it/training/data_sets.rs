//! The report-generation and the instruction data set, made from a small archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::prompt::Prompts;
use radialog_schemas::{Finding, Label};
use radialog_training::prepare::{
    Coverage, FindingLabels, InstructDataset, InstructTask, LabelTable, LabelledReport,
    ReportSample, SplitTable, TaskPrompts, samples, write_reports,
};
use serde_json::{Value, json};

const IMAGE_BLOCK: usize = 32;

fn labels(positive: &[Finding]) -> FindingLabels {
    Finding::ALL.map(|finding| {
        if positive.contains(&finding) {
            Label::Positive
        } else {
            Label::Blank
        }
    })
}

/// 120 images: every third one has no finding, the others two.
fn archive() -> Vec<LabelledReport> {
    let sample = |index: usize| LabelledReport {
        dicom_id: format!("d{index}"),
        note_file: format!("s{}.txt", index / 2),
        patient: None,
        findings: format!(" Report {index}: the heart is é large. "),
        labels: if index.is_multiple_of(3) {
            labels(&[])
        } else {
            labels(&[Finding::Edema, Finding::PleuralEffusion])
        },
    };
    (0..120).map(sample).collect()
}

fn read(path: &Path) -> Vec<ReportSample> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

struct InstructFixture {
    dir: tempfile::TempDir,
    samples: Vec<ReportSample>,
}

impl InstructFixture {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn instruct(seed: u64, prepare: impl FnOnce(&Path) -> Option<PathBuf>) -> InstructFixture {
    let dir = tempfile::tempdir().unwrap();
    let mimic_nle = prepare(dir.path());
    let (samples, prompts, task_prompts) =
        (archive(), Prompts::default(), TaskPrompts::own().unwrap());
    let instruct = InstructDataset {
        samples: &samples,
        prompts: &prompts,
        task_prompts: &task_prompts,
        tasks: dir.path().to_owned(),
        mimic_nle,
        coverage: Coverage::Original,
        seed,
    };
    let output = dir.path().join("instruct.json");
    instruct.run(&output).unwrap();
    let samples = read(&output);
    InstructFixture { dir, samples }
}

#[test]
fn the_report_data_set_has_the_published_prompt_and_proportions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reports.json");
    let count = write_reports(
        &path,
        &archive(),
        &Prompts::default(),
        Coverage::Original,
        42,
    )
    .unwrap();
    let made = read(&path);
    assert_eq!(made.len() as u64, count);
    // 80 images with findings, twice, and one without for 13 of them.
    assert_eq!(count, 160 + 12);
    for sample in &made {
        assert!(sample.instruction.ends_with("ASSISTANT:"));
        assert_eq!(sample.instruction.matches("<IMG>").count(), IMAGE_BLOCK);
        assert_eq!(sample.output, sample.output.trim());
    }
    assert!(
        made[0]
            .instruction
            .contains("Predicted Findings: edema, pleural effusion. You")
    );
    assert!(
        made[171]
            .instruction
            .contains("Predicted Findings: no common findings. You")
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("[\n    {\n        \"instruction\": \"A chat"),
        "indented as Python does"
    );
    assert!(
        text.contains("é large"),
        "characters outside ASCII stand as they are"
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    let bytes = |seed| fs::read(instruct(seed, |_| None).file("instruct.json")).unwrap();
    let first = bytes(42);
    assert_eq!(first, bytes(42));
    assert_ne!(first, bytes(43));
}

#[test]
fn questions_about_findings_are_answered_from_the_labels() {
    let made = instruct(1, |_| None);
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for sample in read_tasks(&made.file("instruct_large_CPbQA.json")) {
        let positive = sample["task"].as_str().unwrap().contains("Edema")
            || sample["task"]
                .as_str()
                .unwrap()
                .contains("Pleural Effusion");
        let dicom: usize = sample["dicom"].as_str().unwrap()[1..].parse().unwrap();
        let expected = if positive && !dicom.is_multiple_of(3) {
            "yes"
        } else {
            "no"
        };
        assert_eq!(sample["output"], expected, "{sample}");
        *answers.entry(expected.to_owned()).or_default() += 1;
    }
    assert_eq!(
        answers.values().sum::<u32>(),
        10,
        "one twelfth of the images"
    );
    assert_eq!(answers.len(), 2, "{answers:?}");
    for sample in read_tasks(&made.file("instruct_large_CPaQA.json")) {
        let dicom: usize = sample["dicom"].as_str().unwrap()[1..].parse().unwrap();
        let expected = if dicom.is_multiple_of(3) {
            ""
        } else {
            "Edema, Pleural Effusion"
        };
        assert_eq!(sample["output"], expected);
    }
}

#[test]
fn a_follow_up_has_the_report_as_history_and_no_words_for_no_findings() {
    let made = instruct(1, |_| None);
    let follow_up = |sample: &&ReportSample| sample.instruction.contains("</s>USER: ");
    let all: Vec<_> = made.samples.iter().filter(follow_up).collect();
    assert_eq!(all.len(), 20);
    for sample in &all {
        assert!(
            sample.instruction.ends_with(" ASSISTANT:"),
            "{}",
            sample.instruction
        );
        assert!(
            sample.instruction.contains("ASSISTANT: Report "),
            "a blank stands before an earlier answer"
        );
        assert_eq!(sample.instruction.matches("<IMG>").count(), IMAGE_BLOCK);
        assert!(!sample.instruction.contains("no common findings"));
    }
    assert!(
        all.iter()
            .any(|sample| sample.instruction.contains("Predicted Findings: . You"))
    );
    assert!(
        all.iter()
            .any(|sample| sample.output == "edema, pleural effusion"),
        "a list of findings is lower-case"
    );
    let text = fs::read_to_string(made.file("instruct.json")).unwrap();
    assert!(
        text.is_ascii() && text.contains("\\u00e9"),
        "the fused file is ASCII"
    );
}

#[test]
fn a_correction_file_brings_its_wrong_report_as_history() {
    let made = instruct(1, |dir| {
        let sample = json!([{"gt_report": "right", "incorrect_report": "wrong", "task": "Correct it.", "instruction": "x",
            "input": "", "output": " corrected ", "dicom": "d1", "task_type": "CO"}]);
        fs::write(dir.join("instruct_large_CO.json"), sample.to_string()).unwrap();
        None
    });
    let correction = made
        .samples
        .iter()
        .find(|sample| sample.instruction.contains("Correct it."))
        .unwrap();
    assert!(
        correction
            .instruction
            .contains("ASSISTANT: wrong</s>USER: Correct it. ASSISTANT:")
    );
    assert_eq!(
        (correction.output.as_str(), correction.dicom.as_str()),
        ("corrected", "d1")
    );
}

#[test]
fn an_explanation_that_is_not_in_the_findings_is_left_out() {
    let made = instruct(1, |dir| {
        let path = dir.join("nle.json");
        let flags = json!([0, 0, 1, 0, 0, 0, 1, 0, 0, 1]);
        let line = |study: &str, nle: &str| {
            json!({"report_ID": study, "nle": nle, "diagnosis_label": flags}).to_string()
        };
        let lines = [
            line("s0", "the heart is é large."),
            line("s1", "from the impression"),
            line("s999", "the heart"),
        ];
        fs::write(&path, lines.join("\n")).unwrap();
        Some(path)
    });
    let samples = read_tasks(&made.file("instruct_large_RE.json"));
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0]["dicom"], "d0", "the first image of the study");
    assert!(
        samples[0]["task"]
            .as_str()
            .unwrap()
            .contains("Edema, Pleural Effusion and Pneumothorax")
    );
}

#[test]
fn rows_without_findings_or_of_another_split_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (table, splits) = (
        dir.path().join("sectioned.csv"),
        dir.path().join("split.csv"),
    );
    let header =
        "impression,findings,last_paragraph,comparison,dicom_id,Img_Filename,Img_Folder,Note_file";
    let row = |dicom: &str, findings: &str| {
        format!("s1,i,\"{findings}\",,,{dicom},{dicom}.jpg,files/p10/p1/s1,s1.txt")
    };
    let rows = [row("a", "one\n two"), row("b", ""), row("c", "three")];
    fs::write(&table, format!("{header}\r\n{}\r\n", rows.join("\r\n"))).unwrap();
    fs::write(
        &splits,
        "dicom_id,study_id,subject_id,split\na,1,1,train\nb,1,1,train\nc,1,1,test\n",
    )
    .unwrap();
    let splits = SplitTable::read(&splits).unwrap();
    let train = samples(&table, Some((&splits, "train")), &LabelTable::default()).unwrap();
    assert_eq!(
        train.words(),
        "1 of 3 rows are used: 1 of another split left out, 1 without a findings section left out, 1 without labels"
    );
    let train = train.samples;
    assert_eq!(
        (train[0].dicom_id.as_str(), train[0].findings.as_str()),
        ("a", "one two")
    );
    let error = samples(&table, Some((&splits, "validate")), &LabelTable::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("validate"), "{error}");
}

#[test]
fn an_image_without_findings_is_answered_in_words_where_every_image_is_taken_and_counted_where_it_is_not()
 {
    let dir = tempfile::tempdir().unwrap();
    let (samples, prompts, task_prompts) =
        (archive(), Prompts::default(), TaskPrompts::own().unwrap());
    let run = |coverage| {
        let instruct = InstructDataset {
            samples: &samples,
            prompts: &prompts,
            task_prompts: &task_prompts,
            tasks: dir.path().to_owned(),
            mimic_nle: None,
            coverage,
            seed: 1,
        };
        let summary = instruct.run(&dir.path().join("out.json")).unwrap();
        let made = read(&dir.path().join("out.json"));
        let count = |output: &str| made.iter().filter(|made| made.output == output).count() as u64;
        (summary.empty, count(""), count("no finding"))
    };
    assert_eq!(run(Coverage::EachImage { questions: 1 }), (0, 0, 40));
    let (empty, found, _) = run(Coverage::Original);
    assert_eq!(empty, found);
    assert!(empty > 0, "as in the original's data set");
}

#[test]
fn a_selection_that_takes_nothing_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let normal: Vec<LabelledReport> = archive().into_iter().step_by(3).collect();
    let path = dir.path().join("reports.json");
    let write = |coverage| write_reports(&path, &normal, &Prompts::default(), coverage, 1);
    let error = write(Coverage::Original).unwrap_err().to_string();
    assert!(
        error.contains("0 of 40 without") && error.contains("--each-image"),
        "{error}"
    );
    assert!(!path.exists());
    assert_eq!(write(Coverage::EachImage { questions: 1 }).unwrap(), 40);
}

#[test]
fn a_task_that_needs_a_language_model_is_named_where_its_file_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (samples, prompts, task_prompts) =
        (archive(), Prompts::default(), TaskPrompts::own().unwrap());
    let instruct = InstructDataset {
        samples: &samples,
        prompts: &prompts,
        task_prompts: &task_prompts,
        tasks: dir.path().join("tasks"),
        mimic_nle: None,
        coverage: Coverage::Original,
        seed: 1,
    };
    let summary = instruct.run(&dir.path().join("out.json")).unwrap();
    assert_eq!(
        summary.missing,
        [
            InstructTask::Explain,
            InstructTask::Reason,
            InstructTask::Correct,
            InstructTask::Summarise,
            InstructTask::Region
        ]
    );
    assert_eq!(summary.samples, summary.reports + 20);
}

fn read_tasks(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
