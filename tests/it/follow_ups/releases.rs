//! Evaluations that another release has begun.

use super::*;
use radialog_models::bundle::Bundle;
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_schemas::ObjectKey;

#[tokio::test(flavor = "multi_thread")]
async fn what_another_release_has_embedded_is_not_asked_about_and_it_is_said_what_to_do()
-> Result<()> {
    let fixture = EvaluationFixture::tiny()?;
    let task = ["correction", "studies.csv"];
    fixture.evaluate(0, &task, "eval")?;

    // As an earlier release has left it, of all but the study that the archive begins with.
    let objects = FilesystemObjects::open(fixture.path("eval/objects"))?;
    let bundle = Bundle::open(&fixture.path("bundle"))?;
    let component = bundle.manifest().component_hash(Stage::Embedding);
    let own = *Stage::REVISIONS.get(Stage::Embedding);
    let mut reports = records(&fixture.path("eval/reports/results.jsonl"))?;
    reports.retain(|record| record.study.as_str() != "s0");
    ensure!(reports.len() == 3, "{reports:?}");
    for record in reports {
        let image = record.input.context("an image")?;
        let key = |revision| ObjectKey::embedding_by(revision, &component, &image);
        let tokens = objects.get(&key(own)).await?;
        objects.put_output(&key(own - 1), tokens).await?;
        objects.delete(&key(own)).await?;
    }
    let said = fixture.evaluate(1, &task, "eval")?;
    for words in [
        format!(
            "(revision {} of the embedding stage, this release has {own})",
            own - 1
        ),
        "delete the evaluation's folder 'eval', or name another with --out".to_owned(),
    ] {
        ensure!(said.contains(&words), "{words}: {said}");
    }
    fixture.evaluate(0, &task, "another")?;
    Ok(())
}
