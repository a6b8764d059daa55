//! `radialog evaluate view`: from which view a model says that images were taken.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use radialog_schemas::{Ask, DialogPrompt, Stage, StudyRecord};
use radialog_training::evaluation::follow_ups::{
    StudyCells, ViewCounts, ViewScores, answered_view,
};
use serde::Serialize;

use super::follow_up::{AnswersTable, Coverage, FollowUpArgs, Following, Session};
use crate::exit::EXIT_INTERRUPTED;

/// The most tokens of an answer.
const TOKENS: u32 = 300;

/// Ask a v2 model from which view each image was taken, and score its answers
///
/// As in the original, an answer names a view where ` ap `, ` pa `, ` lateral ` or ` ll ` stands in it in lower case, with both blanks;
/// else it is unknown, which is a class of its own. A bundle of v1 was not trained for this and is skipped, which is said.
///
/// Writes view.json (accuracy, macro F1, confusion), view.csv (every answer), and the runs. Run the same command again to resume.
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
    studies: Coverage,
    scores: ViewScores,
}

pub(super) async fn run(args: ViewArgs) -> anyhow::Result<ExitCode> {
    let views = StudyCells::read(&args.views, [&["ViewPosition", "view"]])?;
    let views = Arc::new(views);
    let session = Session::open(&args.shared, &[Stage::Language]).await?;
    if session.prompts.view.is_none() {
        session.skip("view", "its prompts have no question for the view");
        return Ok(ExitCode::SUCCESS);
    }
    let Some(images) = session.first(&[Stage::Embedding]).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let ask = {
        let (images, views) = (images.clone(), views.clone());
        move |record: &StudyRecord| {
            let known = views.get(record.study.as_str()).is_some() && record.error.is_none();
            let embedding = images.embedding(record).filter(|_| known);
            let dialog = embedding.map(|embedding| DialogPrompt {
                embedding,
                findings: String::new(),
                history: Vec::new(),
                ask: Ask::View,
                answer_blanks: 1,
            });
            let id = record.study.to_string();
            dialog.map(|dialog| (id, dialog)).into_iter().collect()
        }
    };
    let how = (&[Stage::Language][..], TOKENS);
    let what = "views";
    let Some(answered) = session
        .ask_on(what, what, &images, Arc::new(ask), how)
        .await?
    else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let (mut counts, mut studies) = (ViewCounts::default(), Coverage::default());
    let mut records = images.records().await?;
    let mut following = Following::open(&answered).await?;
    let mut table = AnswersTable::create(&session.file("view.csv"), "view")?;
    while let Some(record) = records.next().await? {
        let Some([view]) = studies.found(&record, views.get(record.study.as_str()), "--views")
        else {
            continue;
        };
        let found = following.take(record.study.as_str()).await?;
        match found.map(|found| (found.report, found.error)) {
            Some((Some(answer), None)) => {
                table.add(record.study.as_str(), view, &answer)?;
                studies.scored += 1;
                counts.add(view, answered_view(&answer));
            }
            Some((_, Some(error))) => {
                studies.fail(&record, &format!("its question failed: {error}"))
            }
            _ => studies.fail(&record, "its question has no line"),
        }
    }
    table.finish()?;
    studies.check()?;
    let scores = Scores {
        protocol: args.shared.protocol.name(),
        studies,
        scores: counts.scores(),
    };
    outln!("views, protocol {}", scores.protocol);
    scores.studies.print();
    outln!(
        "  accuracy  {:.4}  higher is better",
        scores.scores.accuracy
    );
    outln!(
        "  macro F1  {:.4}  higher is better",
        scores.scores.macro_f1
    );
    outln!("  true, answered, images:");
    for (truth, answered, images) in &scores.scores.confusion {
        outln!("    {truth:<10} {answered:<10} {images}");
    }
    session.finish("view.json", &scores, &scores.studies)
}
