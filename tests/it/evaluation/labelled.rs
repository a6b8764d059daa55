//! Texts that a bundle labels, through the queue and the workers.

use anyhow::{Result, ensure};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;

use super::{EvaluationFixture, label_table, value};

#[test]
fn texts_without_labels_are_labelled_once_and_a_changed_text_is_labelled_again() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let made = radialog(&["bundle", "random", "bundle", "--seed", "7"])?
        .current_dir(folder.dir.path())
        .output_in_time()?;
    ensure!(made.status.success());
    folder.write(
        "predictions.csv",
        "id,report\na,Clear lungs.\nb,Edema.\nc,\n",
    )?;
    folder.write(
        "references.csv",
        "id,findings\na,Clear lungs.\nb,Clear lungs.\nc,Effusion.\n",
    )?;
    let files = ["predictions.csv", "--references", "references.csv"];
    let bundled = [&files[..], &["--bundle", "bundle"]].concat();
    let without = folder.scores(&files)?;
    ensure!(
        value(&without, "labels", "macro F1", None).is_none(),
        "{without}"
    );
    let scores = folder.scores(&bundled)?;
    let notes = scores["notes"].to_string();
    ensure!(
        notes.contains("labels of 3 different texts by the scoring component of bundle"),
        "{notes}"
    );
    ensure!(scores["counts"]["labelled_reports"] == 3, "{scores}");
    ensure!(
        scores == folder.scores(&bundled)?,
        "a second time is another result"
    );
    // Nothing to ask a labeler about.
    folder.write("empty.csv", "id,report\na,\n")?;
    folder.write("labels.csv", &label_table([("a", ["1"; 14])]))?;
    let empty = [
        "empty.csv",
        "--references",
        "labels.csv",
        "--bundle",
        "bundle",
    ];
    ensure!(folder.scores(&empty)?["counts"]["labelled_reports"] == 1);
    folder.write(
        "predictions.csv",
        "id,report\na,Pneumothorax.\nb,Edema.\nc,\n",
    )?;
    let changed = folder.scores(&bundled)?;
    let notes = changed["notes"].to_string();
    ensure!(notes.contains("labels of 4 different texts"), "{notes}");
    Ok(())
}
