//! `radialog evaluate findings-qa`: what a model says about its report's findings when it is asked.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use radialog_coordinator::run::FinishedRun;
use radialog_models::prompt::Prompts;
use radialog_schemas::{AnsweredAsk, Ask, DialogPrompt, Finding, Labels, Stage, StudyRecord};
use radialog_training::evaluation::bootstrap::Resampling;
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::follow_ups::{
    FindingScores, PairedAnswers, PairedEstimate, Said, from_answers, listed, says_yes,
};
use radialog_training::evaluation::label_source::LabelSource;
use radialog_training::evaluation::original_files::{
    OriginalReports, answer_lines, are_of_all_findings,
};
use radialog_training::evaluation::patients::Patients;
use radialog_training::evaluation::report_files::FollowUpPage;
use radialog_training::evaluation::report_scores::BlankAs;
use serde::Serialize;
use tokio::task::{block_in_place, spawn_blocking};

use super::follow_up::original_reports::{LastPrompt, all_labels, write_scores};
use super::follow_up::study_scores::StudyScoresTable;
use super::follow_up::text_totals::{MeteorArgs, Reference, TextTotals};
use super::follow_up::{
    AnswersTable, Coverage, FollowUpArgs, Following, LABELER, PROTOCOL, ReportArgs, Session,
    TruthArgs, Truths, print_intervals, print_original, print_scores, print_too_long,
    resampled_words, rule_words,
};
use crate::exit::EXIT_INTERRUPTED;

/// The two sides.
const SIDES: [&str; 2] = ["reports", "answers"];
/// The most tokens of a yes or no, in v1.
const BINARY_TOKENS: u32 = 10;
/// The most tokens of a list, in v1.
const ALL_TOKENS: u32 = 30;

/// Ask a model for the findings of its own reports, and score its answers
///
/// Generates the report of every study, goes on with a question about it, and compares the answer
/// with what is true. --mode binary asks for each of the 14 findings whether it is there; an answer
/// with `yes` in it is one, and No Finding is what no other answer denies. --mode all asks for a
/// list; a finding is in it if its name is.
///
/// --protocol radialog-2023 repeats what only the code of the original's test programs explains: the
/// k-th of the 14 questions has k blanks behind every earlier ASSISTANT:, where the model has learned
/// one, and the list of a v2 bundle is searched for names in lower case only. Without it there is one
/// blank, and case is ignored. Texts are generated greedily, as by the original's default: its
/// --num_beams is not offered.
///
/// Writes findings-qa-MODE.json (scores, what was scored and what was not), findings-qa-MODE.csv
/// (every answer), findings-qa-MODE-studies.csv (each study's scores), findings-qa-MODE-faults.csv
/// (every study that was not scored, every entry of the archive that is none, and every row of
/// --labels without one, with file, line and id), findings-qa-MODE.html (scores and a drawing), the
/// original's files of the reports (texts, labels, scores; METEOR among them with --meteor) and of
/// the answers' scores (of labels where all 14 findings are scored), and the runs. Both modes may
/// share one --out: the reports are generated once. Run the same command again to resume.
///
/// Exit codes: 0 done; 65 done, and studies failed or could not be looked at; 130 interrupted; 64 the
/// command line is wrong; 1 it could not be run.
///
/// Examples:
///   radialog evaluate findings-qa studies.csv --mode binary --out eval --split test
///   radialog evaluate findings-qa nih/labels.csv --labels nih/labels.csv --mode all --split test --out eval
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct FindingsQaArgs {
    /// What is asked
    #[arg(long, value_enum)]
    mode: Mode,
    /// How exactly the original is repeated
    #[arg(long, value_enum, default_value_t = QuestionProtocol::WithoutQuirks)]
    protocol: QuestionProtocol,
    #[command(flatten)]
    shared: FollowUpArgs,
    #[command(flatten)]
    reports: ReportArgs,
    #[command(flatten)]
    truth: TruthArgs,
    #[command(flatten)]
    meteor: MeteorArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// For a list of all findings
    All,
    /// For each finding, whether it is there
    Binary,
}

/// The published protocol, or the same without what only its programs' code explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum QuestionProtocol {
    /// As the original's test programs do it, quirks included
    #[value(name = "radialog-2023")]
    Radialog2023,
    /// One blank behind every ASSISTANT:, and names of findings found in answers whatever their case
    #[value(name = "without-quirks")]
    WithoutQuirks,
}

/// What is written.
#[derive(Serialize)]
struct Scores {
    protocol: &'static str,
    mode: &'static str,
    /// Whose labels say what is true, and who labels the reports.
    truth: LabelSource,
    labeler: &'static str,
    /// What labels count as; none of blanks where no table says what is true.
    uncertain: UncertainAs,
    blank: Option<BlankAs>,
    studies: Coverage,
    /// What the answers say.
    answers: FindingScores,
    /// What the reports say that were asked about, by CheXbert.
    reports: FindingScores,
    /// How the intervals were made.
    resampled: String,
    /// Reports, answers, and what answers are better by.
    intervals: Vec<PairedEstimate>,
}

/// What is written study by study.
struct Tables {
    answers: AnswersTable,
    studies: StudyScoresTable,
    reports: ReportPass,
}

/// The pass over the reports that are asked about, as the original writes it down.
struct ReportPass {
    prompts: Prompts,
    prompt: LastPrompt,
    files: OriginalReports,
    texts: TextTotals<1>,
}

/// How to ask, and how to read answers.
#[derive(Clone, Copy)]
struct Questions {
    mode: Mode,
    quirks: bool,
    is_v2: bool,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Binary => "binary",
        }
    }

    /// The files with the scores, with every answer, with the scores of each study, with what is not scored, and the page.
    fn files(self) -> [String; 5] {
        [".json", ".csv", "-studies.csv", "-faults.csv", ".html"]
            .map(|end| format!("findings-qa-{}{end}", self.name()))
    }

    /// The ends of the names of the original's files: of the reports, and of the answers.
    fn suffixes(self) -> [&'static str; 2] {
        match self {
            Self::Binary => ["_before_cp_bin_qa", "_before_cp_bin_qa_after_cp_bin_qa"],
            Self::All => ["_before_cp_all_qa", "_before_cp_all_qa_after_cp_all_qa"],
        }
    }
}

impl QuestionProtocol {
    fn name(self) -> &'static str {
        match self {
            Self::Radialog2023 => PROTOCOL,
            Self::WithoutQuirks => "radialog-2023 without quirks",
        }
    }
}

impl Questions {
    /// The questions about a report, in the order in which they are asked, each with its id.
    fn of(self, study: &str) -> Vec<(String, Ask, u32)> {
        match self.mode {
            Mode::All => vec![(study.to_owned(), Ask::AllFindings, 1)],
            Mode::Binary => (1..)
                .zip(Finding::ALL)
                .map(|(number, finding)| {
                    let blanks = if self.quirks { number } else { 1 };
                    let id = format!("{study}#{number}");
                    (id, Ask::Presence { finding }, blanks)
                })
                .collect(),
        }
    }

    /// What the answers to all of them say.
    fn read(self, answers: &[String]) -> Option<Said> {
        match self.mode {
            Mode::All => {
                let lowered = !(self.is_v2 && self.quirks);
                answers.first().map(|answer| listed(answer, lowered))
            }
            Mode::Binary => {
                let yes: Vec<bool> = answers.iter().map(|answer| says_yes(answer)).collect();
                yes.try_into().ok().map(from_answers)
            }
        }
    }
}

impl ReportPass {
    async fn add(
        &mut self,
        record: &StudyRecord,
        (labels, report): (&Labels, &str),
        patient: u32,
    ) -> anyhow::Result<()> {
        self.prompt.follow(&self.prompts, record);
        self.files.add(report, &all_labels(labels))?;
        let reference = record.reference.clone().map(Reference::Stored);
        self.texts
            .add([report], reference, patient, Vec::new())
            .await
    }
}

pub(super) async fn run(args: FindingsQaArgs) -> anyhow::Result<ExitCode> {
    args.meteor.check()?;
    let truths = block_in_place(|| args.truth.read())?;
    let mut session = Session::open(&args.shared, &[Stage::Scoring]).await?;
    let files = args.mode.files();
    let files = files.each_ref().map(String::as_str);
    let [of_reports, of_answers] = args.mode.suffixes();
    let mut originals = session.original_files().all(of_reports).to_vec();
    originals.push(session.original_files().scores(of_answers));
    session.set_aside(&files, originals, args.truth.table())?;
    let result = evaluate(&args, &session, truths).await;
    session.settle(result)
}

async fn evaluate(
    args: &FindingsQaArgs,
    session: &Session<'_>,
    truths: Truths,
) -> anyhow::Result<ExitCode> {
    let meteor = args.meteor.read().await?;
    let reports = session.first(&[Stage::Scoring], Some(&args.reports));
    let Some(reports) = reports.await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let truths = Arc::new(truths.select(&reports).await?);
    let questions = Questions {
        mode: args.mode,
        quirks: args.protocol == QuestionProtocol::Radialog2023,
        is_v2: session.is_v2(),
    };
    let ask = {
        let (truths, reports) = (truths.clone(), reports.clone());
        move |record: &StudyRecord| match truths.selects(record) {
            true => dialogs(&reports, record, questions),
            false => Vec::new(),
        }
    };
    let tokens = match args.mode {
        Mode::All => ALL_TOKENS,
        Mode::Binary => BINARY_TOKENS,
    };
    let (mode, protocol) = (args.mode.name(), args.protocol);
    // How it is asked for a list does not depend on quirks.
    let folder = match (args.mode, protocol) {
        (Mode::Binary, QuestionProtocol::WithoutQuirks) => "binary-questions-without-quirks",
        (Mode::Binary, _) => "binary-questions",
        (Mode::All, _) => "all-findings-questions",
    };
    let how = (&[Stage::Language][..], session.answer_tokens(tokens));
    // What is asked depends on the truth where studies are selected by it.
    let what = match args.truth.is_stratified() {
        true => format!("{folder} by {}", truths.name()),
        false => folder.to_owned(),
    };
    let answered = session.ask_on(folder, &what, &reports, Arc::new(ask), how);
    let Some(answered) = answered.await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let [
        scores_file,
        table_file,
        studies_file,
        faults_file,
        page_file,
    ] = args.mode.files();
    let [of_reports, of_answers] = args.mode.suffixes();
    let mut tables = Tables {
        answers: AnswersTable::create(&session.file(&table_file), "asked")?,
        studies: StudyScoresTable::create(&session.file(&studies_file), SIDES, &[])?,
        reports: ReportPass {
            prompts: session.prompts.clone(),
            prompt: LastPrompt::default(),
            files: session.original_files().reports(of_reports, true)?,
            texts: TextTotals::new(session, &scores_file, &meteor, None)?,
        },
    };
    let studies = Coverage::create(&session.file(&faults_file))?;
    let resampling = session.resampling();
    let runs = (&reports, &answered);
    let scores = score(&truths, questions, runs, (&mut tables, studies), resampling).await?;
    tables.answers.finish()?;
    tables.studies.finish()?;
    let ReportPass {
        prompt,
        files,
        texts,
        ..
    } = tables.reports;
    files.finish()?;
    let texts = texts.estimates(resampling).await?;
    let [of_texts] = &texts.sides;
    write_scores(session, of_reports, &prompt, of_texts, &scores.reports)?;
    let scores = Scores {
        protocol: protocol.name(),
        mode,
        ..scores
    };
    if are_of_all_findings(&scores.answers) {
        let lines = answer_lines(&scores.answers);
        session.original_files().write_scores(of_answers, &lines)?;
    }
    let mut facts = vec![format!(
        "findings questions, mode {mode}, protocol {}; reports labelled by {}; truth: {}; {}",
        scores.protocol,
        scores.labeler,
        scores.truth,
        rule_words(scores.uncertain, scores.blank, &scores.answers)
    )];
    facts.extend(scores.studies.lines());
    facts.iter().for_each(|fact| outln!("{fact}"));
    outln!("{:<28} {:>8} {:>8}", "", SIDES[0], SIDES[1]);
    print_scores(&[&scores.reports, &scores.answers]);
    print_original(&scores.answers);
    print_too_long(texts.too_long);
    print_intervals(&scores.resampled, SIDES, &scores.intervals);
    facts.push(scores.resampled.clone());
    let page = FollowUpPage {
        title: "Findings questions",
        facts: &facts,
        sides: SIDES,
        scores: &scores.intervals,
        positives: &scores.answers.positives,
    };
    page.write(&session.file(&page_file))?;
    session.finish(&scores_file, &scores, &scores.studies)
}

/// The questions about a study's report; none where there is no report.
fn dialogs(
    reports: &FinishedRun,
    record: &StudyRecord,
    questions: Questions,
) -> Vec<(String, DialogPrompt)> {
    let (Some(embedding), Some(findings), Some(report), None) = (
        reports.embedding(record),
        &record.findings_text,
        record.written_report(),
        &record.error,
    ) else {
        return Vec::new();
    };
    let dialog = |(id, ask, answer_blanks)| {
        let dialog = DialogPrompt {
            embedding: embedding.clone(),
            findings: findings.clone(),
            history: vec![AnsweredAsk {
                ask: Ask::Report,
                answer: report.clone(),
            }],
            ask,
            answer_blanks,
        };
        (id, dialog)
    };
    questions
        .of(record.study.as_str())
        .into_iter()
        .map(dialog)
        .collect()
}

async fn score(
    truths: &Truths,
    questions: Questions,
    (reports, answered): (&FinishedRun, &FinishedRun),
    (tables, mut studies): (&mut Tables, Coverage),
    resampling: Resampling,
) -> anyhow::Result<Scores> {
    let mut counts = PairedAnswers::default();
    let mut patients = Patients::default();
    let mut records = reports.records().await?;
    let mut following = Following::open(answered).await?;
    while let Some(record) = records.next().await? {
        let (mut answers, mut failed) = (Vec::new(), None);
        if record.error.is_none() {
            for (id, ask, _) in questions.of(record.study.as_str()) {
                let found = following.take(&id).await?;
                let error = found.as_ref().and_then(|found| found.error.as_ref());
                match (found.as_ref().and_then(|found| found.report.clone()), error) {
                    (Some(answer), None) => {
                        let asked = match ask {
                            Ask::Presence { finding } => finding.name(),
                            _ => "all",
                        };
                        tables.answers.add(record.study.as_str(), asked, &answer)?;
                        answers.push(answer);
                    }
                    (_, Some(error)) => failed = Some(format!("a question failed: {error}")),
                    (None, None) => failed = Some("a question has no line".to_owned()),
                }
            }
        }
        let Some(truth) = studies.truth(&record, records.place(), truths)? else {
            continue;
        };
        let labels = record.report_labels.as_ref();
        let labelled = labels.zip(record.written_report());
        match (questions.read(&answers), failed, labelled) {
            (Some(answered), None, Some((labels, report))) => {
                studies.scored += 1;
                let patient = patients.number(truths.patient(&record));
                let said = truths.said(labels);
                let sides = [&said, &answered];
                let cells = StudyScoresTable::cells(&record, patient, &truth, sides);
                tables.studies.row(cells, None)?;
                let report = (labels, report.as_str());
                tables.reports.add(&record, report, patient).await?;
                counts.add(truth, said, answered, patient);
            }
            (_, failed, _) => {
                let reason = failed.unwrap_or_else(|| "it has no labelled report".to_owned());
                studies.fail(&record, &reason)?;
            }
        }
    }
    studies.name_left_out(reports)?;
    studies.name_unused(truths)?;
    studies.check()?;
    let few = counts.few_words();
    let computed = spawn_blocking(move || {
        let sides = [1, 0].map(|side| counts.scores(side));
        (sides, counts.estimates(resampling))
    });
    let ([answers, reports], intervals) = computed.await?;
    let (uncertain, blank) = truths.rule();
    Ok(Scores {
        protocol: "",
        mode: "",
        truth: truths.source(),
        labeler: LABELER,
        uncertain,
        blank,
        studies,
        answers,
        reports,
        resampled: resampled_words(resampling, &patients, few),
        intervals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kth_question_of_the_original_has_k_blanks_and_without_quirks_one() {
        let questions = |quirks| Questions {
            mode: Mode::Binary,
            quirks,
            is_v2: false,
        };
        let blanks = |quirks| -> Vec<u32> {
            let asked = questions(quirks).of("s").into_iter();
            asked.map(|(_, _, blanks)| blanks).collect()
        };
        assert_eq!(blanks(true), (1..=14).collect::<Vec<u32>>());
        assert_eq!(blanks(false), [1; 14]);
    }

    #[test]
    fn thirteen_answers_say_nothing_of_a_study() {
        let questions = Questions {
            mode: Mode::Binary,
            quirks: true,
            is_v2: false,
        };
        assert!(questions.read(&vec![String::from("Yes"); 13]).is_none());
        let said = questions.read(&vec![String::from("No"); 14]).unwrap();
        assert_eq!(said.iter().filter(|said| **said).count(), 1, "no finding");
    }
}
