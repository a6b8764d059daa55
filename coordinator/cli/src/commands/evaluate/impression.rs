//! `radialog evaluate impression`: the impression section that a model writes to a radiologist's findings.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use radialog_schemas::{AnsweredAsk, Ask, DialogPrompt, Stage, StudyRecord};
use radialog_training::evaluation::follow_ups::StudyCells;
use radialog_training::evaluation::text_scores::protocol::TextScore;
use serde::Serialize;

use super::follow_up::text_totals::TextTotals;
use super::follow_up::{AnswersTable, Coverage, FollowUpArgs, Following, Session, print_texts};
use crate::exit::EXIT_INTERRUPTED;

/// The most tokens of an impression.
const TOKENS: u32 = 300;

/// Let a v2 model write the impression to the radiologist's findings, and score it against the radiologist's
///
/// The dialog has the image, its predicted findings, and the radiologist's findings section where the report would be. Studies with
/// both sections count. A bundle of v1 was not trained for this and is skipped, which is said.
///
/// Writes impression.json (BLEU, METEOR, ROUGE-L), impression.csv (every answer), and the runs. Run the same command again to
/// resume.
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
    shared: FollowUpArgs,
}

/// What is written.
#[derive(Serialize)]
struct Scores {
    protocol: &'static str,
    studies: Coverage,
    scores: Vec<TextScore>,
}

pub(super) async fn run(args: ImpressionArgs) -> anyhow::Result<ExitCode> {
    let columns: [&[&str]; 2] = [&["findings"], &["impression"]];
    let references = Arc::new(StudyCells::read(&args.references, columns)?);
    let session = Session::open(&args.shared, &[Stage::Language]).await?;
    if session.prompts.impression.is_none() {
        session.skip(
            "impression",
            "its prompts have no request for an impression",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let stages = [Stage::Embedding, Stage::Findings];
    let Some(images) = session.first(&stages).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let ask = {
        let (images, references) = (images.clone(), references.clone());
        move |record: &StudyRecord| {
            let dialog = || {
                let [findings, _] = references.get(record.study.as_str())?;
                Some(DialogPrompt {
                    embedding: images.embedding(record)?,
                    findings: record.findings_text.clone()?,
                    history: vec![AnsweredAsk {
                        ask: Ask::Report,
                        answer: findings.trim().to_owned(),
                    }],
                    ask: Ask::Impression,
                    answer_blanks: 1,
                })
            };
            let dialog = match record.error {
                Some(_) => None,
                None => dialog(),
            };
            let id = record.study.to_string();
            dialog.map(|dialog| (id, dialog)).into_iter().collect()
        }
    };
    let how = (&[Stage::Language][..], TOKENS);
    let what = "impressions";
    let Some(answered) = session
        .ask_on(what, what, &images, Arc::new(ask), how)
        .await?
    else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let mut scorer = TextTotals::default();
    let mut studies = Coverage::default();
    let mut records = images.records().await?;
    let mut following = Following::open(&answered).await?;
    let mut table = AnswersTable::create(&session.file("impression.csv"), "impression")?;
    while let Some(record) = records.next().await? {
        let cells = references.get(record.study.as_str());
        let Some([_, impression]) = studies.found(&record, cells, "--references") else {
            continue;
        };
        let found = following.take(record.study.as_str()).await?;
        match found.map(|found| (found.report, found.error)) {
            Some((Some(answer), None)) => {
                table.add(record.study.as_str(), impression, &answer)?;
                studies.scored += 1;
                scorer.add(&answer, impression);
            }
            Some((_, Some(error))) => {
                studies.fail(&record, &format!("its request failed: {error}"))
            }
            _ => studies.fail(&record, "its request has no line"),
        }
    }
    table.finish()?;
    studies.check()?;
    let scores = Scores {
        protocol: args.shared.protocol.name(),
        studies,
        scores: scorer.scores(),
    };
    outln!("impressions, protocol {}", scores.protocol);
    scores.studies.print();
    print_texts(&[&scores.scores]);
    session.finish("impression.json", &scores, &scores.studies)
}
