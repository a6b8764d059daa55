//! `radialog evaluate correction`: reports, what is wrong with them, and the same reports corrected.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use radialog_coordinator::run::FinishedRun;
use radialog_schemas::{AnsweredAsk, Ask, DialogPrompt, Stage, StudyRecord, counted};
use radialog_training::evaluation::bootstrap::ScoreEstimate;
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::follow_ups::{
    FindingScores, PairedAnswers, PairedEstimate, correction,
};
use radialog_training::evaluation::label_source::LabelSource;
use radialog_training::evaluation::patients::Patients;
use radialog_training::evaluation::report_files::FollowUpPage;
use radialog_training::evaluation::report_scores::BlankAs;
use radialog_training::evaluation::text_scores::meteor::Meteor;
use serde::Serialize;
use tokio::task::{block_in_place, spawn_blocking};

use super::follow_up::original_reports::{LastPrompt, all_labels, write_scores};
use super::follow_up::study_scores::StudyScoresTable;
use super::follow_up::text_totals::{MeteorArgs, Reference, TEXTS, TextTotals};
use super::follow_up::{
    CorrectionsTable, Coverage, FollowUpArgs, Following, LABELER, PROTOCOL, ReportArgs, Session,
    TruthArgs, Truths, print_intervals, print_original, print_scores, print_texts, print_too_long,
    resampled_words, rule_words,
};
use crate::exit::EXIT_INTERRUPTED;

/// The folder of the corrections' run.
const RUN: &str = "corrections";
/// The most tokens of a corrected report, in v1.
const TOKENS: u32 = 256;
/// The file with the scores.
const SCORES_FILE: &str = "correction.json";
/// The table of requests and texts.
const TABLE_FILE: &str = "corrections.csv";
/// The scores of each study.
const STUDIES_FILE: &str = "correction-studies.csv";
/// The page.
const PAGE_FILE: &str = "correction.html";
/// What is not scored.
const FAULTS_FILE: &str = "correction-faults.csv";
/// What the page says of the scores.
const SAME_LABELS: &str = "the same labels choose the corrections and score them: this is how well the model does what it is told, and no \
                           measure of how good its reports are";
/// The two sides.
const SIDES: [&str; 2] = ["before", "after"];
/// The ends of the names of the original's files, before and after.
const SUFFIXES: [&str; 2] = ["_before_corr", "_before_corr_after_corrections"];

/// Reports, corrected by what is wrong with their labels: scores before and after
///
/// Generates the report of every study, labels it with CheXbert, asks for what it missed and against
/// what it has wrongly, lets the model rewrite it, labels that, and scores both. A report without a
/// fault stays as it is. The same labels choose the corrections and score them, as in the original:
/// this is how well the model does what it is told, and no measure of how good its reports are.
/// Texts are generated greedily, as by the original's default: its --num_beams is not offered.
///
/// Writes correction.json (scores, what was scored and what was not), corrections.csv (each study's
/// request and both texts), correction-studies.csv (each study's scores), correction-faults.csv
/// (every study that was not scored, every entry of the archive that is none, and every row of
/// --labels without one, with file, line and id), correction.html (scores and a drawing), the
/// original's files of both passes (texts, labels, scores; those of fewer than 14 findings have no
/// scores of labels), and the runs. Run the same command again to resume.
///
/// Exit codes: 0 done; 65 done, and studies failed or could not be looked at; 130 interrupted; 64 the
/// command line is wrong; 1 it could not be run.
///
/// Examples:
///   radialog evaluate correction studies.csv --out eval --split test
///   radialog evaluate correction nih/labels.csv --labels nih/labels.csv --split test --out eval
///   radialog evaluate correction mimic-cxr-jpg --out eval --bundle /bundles/radialog-v1 --amqp amqp://host \
///       --s3 http://host:9000/b --redis redis://host
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CorrectionArgs {
    #[command(flatten)]
    shared: FollowUpArgs,
    #[command(flatten)]
    reports: ReportArgs,
    #[command(flatten)]
    truth: TruthArgs,
    #[command(flatten)]
    meteor: MeteorArgs,
}

/// What is written to [`SCORES_FILE`].
#[derive(Serialize)]
struct Scores {
    protocol: &'static str,
    /// Whose labels say what is true, and who labels both reports.
    truth: LabelSource,
    labeler: &'static str,
    /// What labels count as; none of blanks where no table says what is true.
    uncertain: UncertainAs,
    blank: Option<BlankAs>,
    studies: Coverage,
    corrected: u64,
    kept: u64,
    before: SideScores,
    after: SideScores,
    /// Studies whose texts are not scored, since they are too long to compare with the reference.
    texts_too_long: u64,
    /// How the intervals were made.
    resampled: String,
    /// Every score of texts and labels: before, after, and what is gained.
    intervals: Vec<PairedEstimate>,
}

#[derive(Serialize)]
struct SideScores {
    labels: FindingScores,
    /// None where the archive has no reference reports.
    texts: Vec<ScoreEstimate>,
}

pub(super) async fn run(args: CorrectionArgs) -> anyhow::Result<ExitCode> {
    args.meteor.check()?;
    let truths = block_in_place(|| args.truth.read())?;
    let mut session = Session::open(&args.shared, &[Stage::Scoring]).await?;
    let files = [
        SCORES_FILE,
        TABLE_FILE,
        STUDIES_FILE,
        FAULTS_FILE,
        PAGE_FILE,
    ];
    let originals = session.original_files();
    let originals = SUFFIXES.iter().flat_map(|suffix| originals.all(suffix));
    session.set_aside(&files, originals.collect(), args.truth.table())?;
    let result = evaluate(&args, &session, truths).await;
    session.settle(result)
}

async fn evaluate(
    args: &CorrectionArgs,
    session: &Session<'_>,
    truths: Truths,
) -> anyhow::Result<ExitCode> {
    let meteor = args.meteor.read().await?;
    let reports = session.first(&[Stage::Scoring], Some(&args.reports));
    let Some(reports) = reports.await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let truths = Arc::new(truths.select(&reports).await?);
    let ask = {
        let (truths, reports) = (truths.clone(), reports.clone());
        move |record: &StudyRecord| requests(&reports, record, &truths)
    };
    let what = format!("corrections by {}", truths.name());
    let how = (&[Stage::Scoring][..], session.answer_tokens(TOKENS));
    let corrected = session.ask_on(RUN, &what, &reports, Arc::new(ask), how);
    let Some(corrected) = corrected.await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let scores = score(session, &meteor, &truths, &reports, &corrected).await?;
    print(&scores);
    let mut facts = facts(&scores);
    facts.push(SAME_LABELS.to_owned());
    facts.push(scores.resampled.clone());
    let page = FollowUpPage {
        title: "Correction",
        facts: &facts,
        sides: SIDES,
        scores: &scores.intervals,
        positives: &scores.before.labels.positives,
    };
    page.write(&session.file(PAGE_FILE))?;
    session.finish(SCORES_FILE, &scores, &scores.studies)
}

/// What is asked of a study's report; none where there is nothing to correct, or nothing known.
fn requests(
    reports: &FinishedRun,
    record: &StudyRecord,
    truths: &Truths,
) -> Vec<(String, DialogPrompt)> {
    let request = || {
        let said = truths.said(record.report_labels.as_ref()?);
        let ask = correction(&truths.of(record)?, &said)?;
        let dialog = DialogPrompt {
            embedding: reports.embedding(record)?,
            findings: record.findings_text.clone()?,
            history: vec![AnsweredAsk {
                ask: Ask::Report,
                answer: record.written_report()?,
            }],
            ask,
            answer_blanks: 1,
        };
        Some((record.study.to_string(), dialog))
    };
    match record.error {
        Some(_) => Vec::new(),
        None if !truths.selects(record) => Vec::new(),
        None => request().into_iter().collect(),
    }
}

async fn score(
    session: &Session<'_>,
    meteor: &Meteor,
    truths: &Truths,
    reports: &FinishedRun,
    corrected: &FinishedRun,
) -> anyhow::Result<Scores> {
    let columns = TEXTS.columns();
    let table = StudyScoresTable::create(&session.file(STUDIES_FILE), SIDES, columns)?;
    let mut texts = TextTotals::<2>::new(session, SCORES_FILE, meteor, Some(table))?;
    let originals = session.original_files();
    let [mut first_reports, mut second_reports] = [
        originals.reports(SUFFIXES[0], true)?,
        originals.reports(SUFFIXES[1], true)?,
    ];
    let mut patients = Patients::default();
    let mut answers = PairedAnswers::default();
    let mut prompt = LastPrompt::default();
    let mut studies = Coverage::create(&session.file(FAULTS_FILE))?;
    let (mut changed, mut kept) = (0, 0);
    let mut records = reports.records().await?;
    let mut corrections = Following::open(corrected).await?;
    let mut table = CorrectionsTable::create(&session.file(TABLE_FILE))?;
    while let Some(record) = records.next().await? {
        let Some(truth) = studies.truth(&record, records.place(), truths)? else {
            continue;
        };
        let (Some(labels), Some(report)) = (&record.report_labels, record.written_report()) else {
            studies.fail(&record, "its line has no labelled report")?;
            continue;
        };
        prompt.follow(&session.prompts, &record);
        let first = truths.said(labels);
        let ask = correction(&truth, &first);
        let (second_labels, text) = match &ask {
            None => (labels.clone(), report.clone()),
            Some(_) => match corrections.take(record.study.as_str()).await? {
                Some(StudyRecord {
                    error: None,
                    report_labels: Some(labels),
                    report: Some(text),
                    ..
                }) => (labels, text),
                Some(StudyRecord {
                    error: Some(error), ..
                }) => {
                    studies.fail(&record, &format!("its correction failed: {error}"))?;
                    continue;
                }
                _ => {
                    studies.fail(&record, "its correction has no line")?;
                    continue;
                }
            },
        };
        *(if ask.is_some() {
            &mut changed
        } else {
            &mut kept
        }) += 1;
        studies.scored += 1;
        let patient = patients.number(truths.patient(&record));
        let second = truths.said(&second_labels);
        answers.add(truth, first, second, patient);
        let reference = record.reference.clone().map(Reference::Stored);
        let cells = StudyScoresTable::cells(&record, patient, &truth, [&first, &second]);
        texts
            .add([&report, &text], reference, patient, cells)
            .await?;
        first_reports.add(&report, &all_labels(labels))?;
        // As the original keeps them.
        second_reports.add(text.trim(), &all_labels(&second_labels))?;
        let written = ask
            .as_ref()
            .and_then(|ask| session.prompts.message(ask, None));
        let asked = written.map_or_else(String::new, |ask| ask.readable());
        table.add(record.study.as_str(), &asked, &report, &text)?;
    }
    studies.name_left_out(reports)?;
    studies.name_unused(truths)?;
    studies.check()?;
    table.finish()?;
    for reports in [first_reports, second_reports] {
        reports.finish()?;
    }
    let resampling = session.resampling();
    let estimates = texts.estimates(resampling).await?;
    let few = answers.few_words();
    let (answers, labels) = spawn_blocking(move || {
        let estimates = answers.estimates(resampling);
        ([0, 1].map(|side| answers.scores(side)), estimates)
    })
    .await?;
    let mut sides = answers.into_iter().zip(estimates.sides);
    let mut side = || {
        let (labels, texts) = sides.next().context("a side is missing")?;
        anyhow::Ok(SideScores { labels, texts })
    };
    let (before, after) = (side()?, side()?);
    for (suffix, side) in SUFFIXES.into_iter().zip([&before, &after]) {
        write_scores(session, suffix, &prompt, &side.texts, &side.labels)?;
    }
    let (uncertain, blank) = truths.rule();
    Ok(Scores {
        protocol: PROTOCOL,
        truth: truths.source(),
        labeler: LABELER,
        uncertain,
        blank,
        studies,
        corrected: changed,
        kept,
        before,
        after,
        texts_too_long: estimates.too_long,
        resampled: resampled_words(resampling, &patients, few),
        intervals: [estimates.paired, labels].concat(),
    })
}

/// What to know of the scores.
fn facts(scores: &Scores) -> Vec<String> {
    let Scores {
        protocol,
        truth,
        labeler,
        uncertain,
        blank,
        studies,
        corrected,
        kept,
        before,
        ..
    } = scores;
    let rule = rule_words(*uncertain, *blank, &before.labels);
    let mut facts = vec![format!(
        "correction, protocol {protocol}; reports labelled by {labeler}; truth: {truth}; {rule}"
    )];
    facts.extend(studies.lines());
    facts.push(format!(
        "{} corrected, {kept} had no fault and stay",
        counted(*corrected, "report", "reports")
    ));
    facts
}

fn print(scores: &Scores) {
    let Scores {
        before,
        after,
        texts_too_long,
        resampled,
        intervals,
        ..
    } = scores;
    facts(scores).iter().for_each(|fact| outln!("{fact}"));
    outln!("{:<28} {:>8} {:>8}", "", SIDES[0], SIDES[1]);
    print_scores(&[&before.labels, &after.labels]);
    print_original(&before.labels);
    print_too_long(*texts_too_long);
    if before.texts.is_empty() {
        print_texts(&before.texts);
    }
    print_intervals(resampled, SIDES, intervals);
}
