//! Image tokens and findings of a table of images.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder};
use radialog_models::bundle::{Bundle, RandomBundle};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_schemas::{ContentHash, Finding, ObjectKey, Stage};
use radialog_tests::fixtures::xray;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{PrepareFixture, shown};

const IMAGES: [&str; 3] = ["00001300_000.jpg", "00005288_014.jpg", "2cd63b76.jpg"];
/// Embeds the table's training images; the file that they go to comes behind it.
const EMBEDDINGS: [&str; 9] = [
    "embeddings",
    "--allow-outside",
    "--images",
    "table.csv",
    "--split",
    "train",
    "--bundle",
    "bundle",
    "--out",
];

/// Rows of two splits, an image twice, one that is missing and one that is no image.
fn table(fixture: &PrepareFixture) -> Result<()> {
    let mut text = String::from("study_id,split,image,report\n");
    for row in 0..12 {
        writeln!(
            text,
            "s{row},train,{},\"Clear, lungs.\"",
            xray(IMAGES[row % IMAGES.len()]).display()
        )?;
    }
    text += "gone,train,gone.jpg,\nbroken,train,broken.png,\n";
    writeln!(text, "other,test,{},", xray(IMAGES[0]).display())?;
    fixture.write("broken.png", "no image")?;
    fixture.write("table.csv", &text)
}

fn bundle(dir: &Path) -> Result<Bundle> {
    RandomBundle::tiny(7).write(dir)?;
    Ok(Bundle::open(dir)?)
}

/// An image as a batch of one.
fn tensor(image: &[u8], InputSize { short_side, side }: InputSize) -> Result<Tensor> {
    let image = Preprocessed::from_bytes(image, &ImageLimits::default(), short_side)?;
    Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?)
}

fn values(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>> {
    let data = tensors.tensor(name)?;
    Ok(data
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_those_of_the_network_and_the_same_after_a_kill() -> Result<()> {
    let fixture = PrepareFixture::new()?;
    table(&fixture)?;
    let bundle = bundle(&fixture.path("bundle"))?;
    let whole = fixture
        .prepare(&[&EMBEDDINGS[..], &["whole.safetensors"]].concat())
        .await?;
    let text = shown(&whole);
    ensure!(
        whole.status.success() && text.contains("12 embeddings"),
        "{text}"
    );
    ensure!(
        text.contains("2 failed")
            && text.contains("gone: image_missing")
            && text.contains("broken: "),
        "{text}"
    );

    let content = fixture.read("whole.safetensors")?;
    let tensors = SafeTensors::deserialize(&content)?;
    ensure!(tensors.len() == 12, "{:?}", tensors.names());
    let embedder = ImageEmbedder::load(&bundle, &Device::Cpu)?;
    for row in [0, 4, 11] {
        let image = std::fs::read(xray(IMAGES[row % IMAGES.len()]))?;
        let expected = embedder.embed(&tensor(&image, embedder.input())?)?.get(0)?;
        let name = format!("s{row}");
        ensure!(tensors.tensor(&name)?.shape() == expected.dims());
        ensure!(
            values(&tensors, &name)? == expected.flatten_all()?.to_vec1::<f32>()?,
            "row {row}"
        );
    }

    let again = [&EMBEDDINGS[..], &["killed.safetensors"]].concat();
    let killed = fixture
        .prepare_interrupted(&again, "killed.safetensors.run", 2)
        .await?;
    ensure!(killed.status.success(), "{}", shown(&killed));
    ensure!(fixture.read("killed.safetensors")? == content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_preparation_reads_what_is_allowed_now_and_tries_again_what_it_is_told_to()
-> Result<()> {
    let fixture = PrepareFixture::new()?;
    RandomBundle::tiny(7).write(&fixture.path("bundle"))?;
    let image = xray(IMAGES[0]);
    std::os::unix::fs::symlink(&image, fixture.path("link.jpg"))?;
    let rows = format!(
        "study_id,image\nnamed,{}\nlinked,link.jpg\nmissing,gone.jpg\n",
        image.display()
    );
    fixture.write("table.csv", &rows)?;
    let run = async |options: &[&str]| {
        let arguments = [
            "embeddings",
            "--images",
            "table.csv",
            "--bundle",
            "bundle",
            "--out",
            "e.safetensors",
        ];
        let output = fixture.prepare(&[&arguments[..], options].concat()).await?;
        anyhow::Ok((output.status.code(), shown(&output)))
    };
    let (code, said) = run(&[]).await?;
    ensure!(
        code == Some(1) && said.contains("nothing to write"),
        "{said}"
    );
    for words in ["give --allow-outside", "with --retry-failed"] {
        ensure!(said.contains(words), "{words}: {said}");
    }
    // Without a change nothing else comes of it.
    ensure!(run(&[]).await?.0 == Some(1));

    let (code, said) = run(&["--allow-outside"]).await?;
    ensure!(code == Some(0) && said.contains("2 embeddings"), "{said}");
    ensure!(
        said.contains("1 failed and are left out (image_missing 1)"),
        "{said}"
    );

    std::fs::copy(&image, fixture.path("gone.jpg"))?;
    let (code, said) = run(&["--allow-outside"]).await?;
    ensure!(code == Some(0) && said.contains("3 embeddings"), "{said}");

    // What was made stays, also of an image that cannot be looked at now.
    std::fs::rename(fixture.path("gone.jpg"), fixture.path("away.jpg"))?;
    let (code, said) = run(&["--allow-outside"]).await?;
    ensure!(
        code == Some(65)
            && said.contains("3 embeddings")
            && said.contains("1 study could not be compared  (image_missing 1)"),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn image_tokens_of_another_release_are_not_mixed_with_ours_and_it_is_said_what_to_do()
-> Result<()> {
    let fixture = PrepareFixture::new()?;
    table(&fixture)?;
    let bundle = bundle(&fixture.path("bundle"))?;
    let arguments = [&EMBEDDINGS[..], &["e.safetensors"]].concat();
    let whole = fixture.prepare(&arguments).await?;
    ensure!(whole.status.success(), "{}", shown(&whole));
    let content = fixture.read("e.safetensors")?;

    // One image as an earlier release has left it.
    let folder = fixture.path("e.safetensors.run");
    let objects = FilesystemObjects::open(folder.join("objects"))?;
    let image = ObjectKey::image(&ContentHash::of(&std::fs::read(xray(IMAGES[1]))?));
    let component = bundle.manifest().component_hash(Stage::Embedding);
    let own = *Stage::REVISIONS.get(Stage::Embedding);
    let key = |revision| ObjectKey::embedding_by(revision, &component, &image);
    let tokens = objects.get(&key(own)).await?;
    objects.put_output(&key(own - 1), tokens).await?;
    objects.delete(&key(own)).await?;
    let resumed = fixture.prepare(&arguments).await?;
    let said = shown(&resumed);
    ensure!(resumed.status.code() == Some(1), "{said}");
    for words in [
        format!("(revision {} of the embedding stage, this release has {own})", own - 1),
        "delete the run's folder 'e.safetensors.run', or name another with --run, and run the same command again".to_owned(),
    ] {
        ensure!(said.contains(&words), "{words}: {said}");
    }
    std::fs::remove_dir_all(&folder)?;
    let again = fixture.prepare(&arguments).await?;
    ensure!(again.status.success(), "{}", shown(&again));
    ensure!(fixture.read("e.safetensors")? == content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_listed_where_they_are_probable() -> Result<()> {
    let fixture = PrepareFixture::new()?;
    table(&fixture)?;
    let bundle = bundle(&fixture.path("bundle"))?;
    let arguments = [
        "findings",
        "--allow-outside",
        "--images",
        "table.csv",
        "--split",
        "test",
        "--bundle",
        "bundle",
    ];
    let files = [
        "--out",
        "findings.json",
        "--probabilities",
        "findings.safetensors",
    ];
    let output = fixture.prepare(&[&arguments[..], &files].concat()).await?;
    ensure!(output.status.success(), "{}", shown(&output));

    let predictor = FindingsPredictor::load(&bundle, &Device::Cpu)?;
    let image = std::fs::read(xray(IMAGES[0]))?;
    let expected = predictor
        .predict(&tensor(&image, predictor.input())?)?
        .remove(0)
        .findings;
    let listed: Vec<&str> = expected
        .iter()
        .filter(|found| found.present)
        .map(|found| found.finding.name())
        .collect();
    let read: Value = serde_json::from_slice(&fixture.read("findings.json")?)?;
    ensure!(read == serde_json::json!({ "other": listed }), "{read}");
    let content = fixture.read("findings.safetensors")?;
    let probabilities = values(&SafeTensors::deserialize(&content)?, "other")?;
    ensure!(probabilities.len() == Finding::ALL.len());
    ensure!(
        probabilities
            .iter()
            .zip(&expected)
            .all(|(ours, found)| match found.probability {
                Some(probability) => *ours == probability,
                None => ours.is_nan(),
            })
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_readable_images_or_without_its_columns_is_an_error_that_says_so()
-> Result<()> {
    let fixture = PrepareFixture::new()?;
    fixture.write("bad.csv", "study_id,split,image\na,train,gone.jpg\n")?;
    let output = fixture
        .prepare(&[
            "embeddings",
            "--images",
            "bad.csv",
            "--out",
            "a.safetensors",
        ])
        .await?;
    ensure!(
        output.status.code() == Some(1) && shown(&output).contains("nothing to write"),
        "{}",
        shown(&output)
    );
    ensure!(!fixture.path("a.safetensors").exists());

    fixture.write("none.csv", "study_id,image\na,gone.jpg\n")?;
    let arguments = [
        "embeddings",
        "--images",
        "none.csv",
        "--split",
        "train",
        "--out",
        "b.safetensors",
    ];
    let output = fixture.prepare(&arguments).await?;
    ensure!(
        output.status.code() == Some(64) && shown(&output).contains("no column 'split'"),
        "{}",
        shown(&output)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sectioned_table_is_embedded_and_classified_as_it_was_written() -> Result<()> {
    let fixture = PrepareFixture::new()?;
    RandomBundle::tiny(7).write(&fixture.path("bundle"))?;
    let mut reports = Vec::new();
    for (number, image) in IMAGES.iter().enumerate() {
        let (patient, study) = (format!("p1000000{number}"), format!("s5000000{number}"));
        let folder = format!("p10/{patient}");
        std::fs::create_dir_all(fixture.path("jpg/files").join(&folder).join(&study))?;
        std::fs::create_dir_all(fixture.path("reports/files").join(&folder))?;
        let dicom = format!("d{number}");
        std::fs::copy(
            xray(image),
            fixture
                .path("jpg/files")
                .join(&folder)
                .join(&study)
                .join(format!("{dicom}.jpg")),
        )?;
        let report = format!("reports/files/{folder}/{study}.txt");
        fixture.write(&report, " FINDINGS:\n The lungs are clear.\n")?;
        reports.push(format!(
            "{dicom},{study},{patient},{}\n",
            ["train", "validate", "test"][number]
        ));
    }
    let splits = format!("dicom_id,study_id,subject_id,split\n{}", reports.concat());
    fixture.write("split.csv", &splits)?;
    let sections = [
        "sections",
        "--reports",
        "reports/files",
        "--images",
        "jpg/files",
    ];
    let written = fixture
        .prepare(&[&sections[..], &["--out", "sectioned.csv"]].concat())
        .await?;
    ensure!(written.status.success(), "{}", shown(&written));

    let own = [
        "--images",
        "sectioned.csv",
        "--folder",
        "jpg",
        "--bundle",
        "bundle",
    ];
    let split = [
        "--split",
        "val",
        "--split-table",
        "split.csv",
        "--out",
        "e.safetensors",
    ];
    let embedded = fixture
        .prepare(&[&["embeddings"], &own[..], &split].concat())
        .await?;
    ensure!(embedded.status.success(), "{}", shown(&embedded));
    let content = fixture.read("e.safetensors")?;
    let tensors = SafeTensors::deserialize(&content)?;
    ensure!(tensors.names() == ["d1"], "{:?}", tensors.names());
    let bundle = Bundle::open(&fixture.path("bundle"))?;
    let made_by = radialog_training::prepare::tensors_made_by(&fixture.path("e.safetensors"))?;
    ensure!(made_by == bundle.manifest().origin(Stage::Embedding));

    let classified = fixture
        .prepare(&[&["findings"], &own[..], &["--out", "f.json"]].concat())
        .await?;
    ensure!(classified.status.success(), "{}", shown(&classified));
    let found: Value = serde_json::from_slice(&fixture.read("f.json")?)?;
    ensure!(
        found.as_object().is_some_and(|found| found.len() == 3),
        "{found}"
    );

    // A table without a split, and none beside it.
    let refused = fixture
        .prepare(
            &[
                &["embeddings"],
                &own[..],
                &["--split", "val", "--out", "x.safetensors"],
            ]
            .concat(),
        )
        .await?;
    ensure!(
        !refused.status.success() && shown(&refused).contains("'split'"),
        "{}",
        shown(&refused)
    );
    Ok(())
}
