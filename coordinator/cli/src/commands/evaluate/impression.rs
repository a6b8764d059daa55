//! `radialog evaluate impression`: the impression section that a model writes to a radiologist's findings.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use radialog_schemas::{AnsweredAsk, Ask, DialogPrompt, ObjectKey, Stage, StudyRecord};
use radialog_training::evaluation::bootstrap::ScoreEstimate;
use radialog_training::evaluation::follow_ups::StudyCells;
use serde::Serialize;

use super::follow_up::single_question::{self, SingleQuestion};
use super::follow_up::text_totals::{MeteorArgs, Reference, TextTotals};
use super::follow_up::{Coverage, FollowUpArgs, PROTOCOL, Session, print_texts, print_too_long};
use crate::exit::EXIT_INTERRUPTED;

/// The file with the scores.
const SCORES_FILE: &str = "impression.json";
/// The table of answers.
const TABLE_FILE: &str = "impression.csv";
/// What is not scored.
const FAULTS_FILE: &str = "impression-faults.csv";

/// Let a v2 model write the impression to a radiologist's findings, and score it
///
/// The dialog has the image, its predicted findings, and the radiologist's findings section where the
/// report would be. Studies with both sections count. A bundle of v1 was not trained for this and is
/// skipped, which is said; files of an earlier evaluation are then called .old.
///
/// Writes impression.json (BLEU, METEOR, ROUGE-L), impression.csv (every answer),
/// impression-faults.csv (every study that was not scored, every entry of the archive that is none,
/// and every row of --references without one), and the runs. Run the same command again to resume.
///
/// Exit codes: 0 done; 65 done, and studies failed or could not be looked at; 130 interrupted; 64 the
/// command line is wrong; 1 it could not be run.
///
/// Example:
///   radialog evaluate impression images.csv --references openi/reports.csv --split test --out eval --bundle /bundles/radialog-v2
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ImpressionArgs {
    /// CSV with dicom_id or study_id, findings and impression
    #[arg(long, value_name = "FILE")]
    references: PathBuf,
    #[command(flatten)]
    meteor: MeteorArgs,
    #[command(flatten)]
    shared: FollowUpArgs,
}

/// What is written.
#[derive(Serialize)]
struct Scores {
    protocol: &'static str,
    /// The table of the radiologists' sections.
    references: String,
    studies: Coverage,
    /// Rows of the table that were passed over, since one of the two sections is empty.
    empty_rows: u64,
    /// Studies whose texts are not scored, since they are too long to compare with the reference.
    texts_too_long: u64,
    /// How the intervals were made.
    resampled: String,
    scores: Vec<ScoreEstimate>,
}

pub(super) async fn run(args: ImpressionArgs) -> anyhow::Result<ExitCode> {
    args.meteor.check()?;
    let columns: [&[&str]; 2] = [&["findings"], &["impression"]];
    let references = single_question::truths(&args.references, columns)?;
    let mut session = Session::open(&args.shared, &[Stage::Language]).await?;
    let read = Some(args.references.as_path());
    session.set_aside(&[SCORES_FILE, TABLE_FILE, FAULTS_FILE], Vec::new(), read)?;
    if session.prompts.impression.is_none() {
        session.skip(
            "impression",
            "its prompts have no request for an impression",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let result = evaluate(&args, &session, references).await;
    session.settle(result)
}

async fn evaluate(
    args: &ImpressionArgs,
    session: &Session<'_>,
    references: StudyCells<2>,
) -> anyhow::Result<ExitCode> {
    let meteor = args.meteor.read().await?;
    let mut texts = TextTotals::<1>::new(session, SCORES_FILE, &meteor, None)?;
    let stages = [Stage::Embedding, Stage::Findings];
    let Some(images) = session.first(&stages, None).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let empty_rows = references.empty_rows().len() as u64;
    let question = SingleQuestion {
        run: "impressions",
        file: TABLE_FILE,
        faults: FAULTS_FILE,
        column: "impression",
        flag: "--references",
        truths: references,
        dialog,
    };
    let score = async |answer: &str, [_, impression]: &[String; 2], patient: u32| {
        let reference = Some(Reference::Text(impression.clone()));
        texts.add([answer], reference, patient, Vec::new()).await
    };
    let Some(asked) = question.ask(session, &images, score).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let estimates = texts.estimates(session.resampling()).await?;
    let [scores] = estimates.sides;
    let scores = Scores {
        protocol: PROTOCOL,
        references: args.references.display().to_string(),
        studies: asked.studies,
        empty_rows,
        texts_too_long: estimates.too_long,
        resampled: asked.resampled,
        scores,
    };
    outln!(
        "impressions, protocol {}; references: {}",
        scores.protocol,
        scores.references
    );
    scores.studies.print();
    outln!("  {}", scores.resampled);
    print_too_long(scores.texts_too_long);
    print_texts(&scores.scores);
    session.finish(SCORES_FILE, &scores, &scores.studies)
}

/// The radiologist's findings where the report would be, and the request.
fn dialog(
    record: &StudyRecord,
    embedding: ObjectKey,
    [findings, _]: &[String; 2],
) -> Option<DialogPrompt> {
    Some(DialogPrompt {
        embedding,
        findings: record.findings_text.clone()?,
        history: vec![AnsweredAsk {
            ask: Ask::Report,
            answer: findings.trim().to_owned(),
        }],
        ask: Ask::Impression,
        answer_blanks: 1,
    })
}
