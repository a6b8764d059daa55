//! `radialog evaluate view`: from which view a model says that images were taken.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use radialog_schemas::{Ask, DialogPrompt, ObjectKey, Stage, StudyRecord};
use radialog_training::evaluation::bootstrap::ScoreEstimate;
use radialog_training::evaluation::follow_ups::{
    StudyCells, ViewAnswers, ViewScores, answered_view,
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::estimates::print_estimates;
use super::follow_up::single_question::{self, SingleQuestion};
use super::follow_up::{Coverage, FollowUpArgs, PROTOCOL, Session};
use crate::exit::EXIT_INTERRUPTED;

/// The file with the scores.
const SCORES_FILE: &str = "view.json";
/// The table of answers.
const TABLE_FILE: &str = "view.csv";
/// What is not scored.
const FAULTS_FILE: &str = "view-faults.csv";

/// Ask a v2 model from which view each image was taken, and score its answers
///
/// As in the original, an answer names a view where ` ap `, ` pa `, ` lateral ` or ` ll ` stands in
/// it, whatever its case and with both blanks; else it is unknown, which is a class of its own. A
/// bundle of v1 was not trained for this and is skipped, which is said; files of an earlier
/// evaluation are then called .old.
///
/// Writes view.json (accuracy, macro F1, confusion), view.csv (every answer), view-faults.csv (every
/// image that was not scored, every entry of the archive that is none, and every row of --views
/// without one), and the runs. Run the same command again to resume.
///
/// Exit codes: 0 done; 65 done, and studies failed or could not be looked at; 130 interrupted; 64 the
/// command line is wrong; 1 it could not be run.
///
/// Examples:
///   radialog evaluate view mimic-cxr-jpg --views mimic-cxr-2.0.0-metadata.csv --out eval --bundle /bundles/radialog-v2
///   radialog evaluate view nih/labels.csv --views nih/labels.csv --split test --out eval --bundle /bundles/radialog-v2
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ViewArgs {
    /// CSV with dicom_id or study_id, and ViewPosition or view: AP, PA, LATERAL, LL. Images without one are not scored
    #[arg(long, value_name = "FILE")]
    views: PathBuf,
    #[command(flatten)]
    shared: FollowUpArgs,
}

/// What is written.
#[derive(Serialize)]
struct Scores {
    protocol: &'static str,
    /// The table that says what is true.
    truth: String,
    studies: Coverage,
    /// Rows of the table that were passed over, since they name no view.
    empty_rows: u64,
    scores: ViewScores,
    /// How the intervals were made.
    resampled: String,
    intervals: Vec<ScoreEstimate>,
}

pub(super) async fn run(args: ViewArgs) -> anyhow::Result<ExitCode> {
    let views = single_question::truths(&args.views, [&["ViewPosition", "view"]])?;
    let mut session = Session::open(&args.shared, &[Stage::Language]).await?;
    session.set_aside(
        &[SCORES_FILE, TABLE_FILE, FAULTS_FILE],
        Vec::new(),
        Some(&args.views),
    )?;
    if session.prompts.view.is_none() {
        session.skip("view", "its prompts have no question for the view");
        return Ok(ExitCode::SUCCESS);
    }
    let result = evaluate(&args, &session, views).await;
    session.settle(result)
}

async fn evaluate(
    args: &ViewArgs,
    session: &Session<'_>,
    views: StudyCells<1>,
) -> anyhow::Result<ExitCode> {
    let Some(images) = session.first(&[Stage::Embedding], None).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let empty_rows = views.empty_rows().len() as u64;
    let question = SingleQuestion {
        run: "views",
        file: TABLE_FILE,
        faults: FAULTS_FILE,
        column: "view",
        flag: "--views",
        truths: views,
        dialog,
    };
    let mut answers = ViewAnswers::default();
    let score = async |answer: &str, [view]: &[String; 1], patient: u32| {
        answers.add(view, answered_view(answer), patient);
        Ok(())
    };
    let Some(asked) = question.ask(session, &images, score).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let resampling = session.resampling();
    let computed = spawn_blocking(move || (answers.scores(), answers.estimates(resampling)));
    let (scores, intervals) = computed.await?;
    let scores = Scores {
        protocol: PROTOCOL,
        truth: args.views.display().to_string(),
        studies: asked.studies,
        empty_rows,
        scores,
        resampled: asked.resampled,
        intervals,
    };
    outln!(
        "views, protocol {}; truth: {}",
        scores.protocol,
        scores.truth
    );
    scores.studies.print();
    outln!("  {}", scores.resampled);
    print_estimates(&scores.intervals);
    outln!("  true, answered, images:");
    for (truth, answered, images) in &scores.scores.confusion {
        outln!("    {truth:<10} {answered:<10} {images}");
    }
    session.finish(SCORES_FILE, &scores, &scores.studies)
}

/// The question, without a report before it.
fn dialog(_: &StudyRecord, embedding: ObjectKey, _: &[String; 1]) -> Option<DialogPrompt> {
    Some(DialogPrompt {
        embedding,
        findings: String::new(),
        history: Vec::new(),
        ask: Ask::View,
        answer_blanks: 1,
    })
}
