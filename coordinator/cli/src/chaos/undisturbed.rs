//! What comes out where nothing breaks and nothing is shared: the same work in the embedded mode, each role all in one
//! process and without services.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_runtime::local_services::free_port;
use radialog_schemas::StudyRecord;

use super::archive::REPORT_TOKENS;
use super::background::{self, BackgroundClient, ExpectedWork};
use super::conversations::ConversationClient;
use super::images::ArchiveImage;
use super::journal::Journal;
use super::role::{Role, RoleSettings};
use super::watchdog::Watchdog;
use crate::exit::is_run_ended;

/// The undisturbed lines by image.
pub(super) async fn lines(
    directory: &Path,
    images: &[ArchiveImage],
    bundle: &[String],
    journal: &Journal,
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, StudyRecord>> {
    let (archive, out) = (directory.join("archive"), directory.join("out"));
    std::fs::create_dir_all(&archive)?;
    for image in images {
        std::fs::write(archive.join(&image.file), image.of_round(0))?;
    }
    let mut arguments = vec![
        "batch".to_owned(),
        archive.display().to_string(),
        "--out".to_owned(),
        out.display().to_string(),
        "--max-new-tokens".to_owned(),
        REPORT_TOKENS.to_owned(),
        "--progress".to_owned(),
        "off".to_owned(),
    ];
    arguments.extend(bundle.iter().cloned());
    let mut batch = Role::new(settings(directory, arguments));
    batch.start()?;
    let watchdog = Watchdog::new(journal, patience);
    loop {
        match batch.ended()? {
            Some(status) if is_run_ended(status) => break,
            Some(status) => bail!(
                "the undisturbed run ended with {status}; it says why in {}",
                batch.settings.log.display()
            ),
            None => {}
        }
        if !watchdog.goes_on(|| batch.settings.name.clone()).await {
            bail!("the undisturbed run was stopped");
        }
    }
    let text = std::fs::read_to_string(out.join(RESULTS_FILE))?;
    let read = |line: &str| -> anyhow::Result<(String, StudyRecord)> {
        let mut record: StudyRecord = serde_json::from_str(line)?;
        record.timings.clear();
        Ok((record.file.clone(), record))
    };
    let lines: BTreeMap<_, _> = text.lines().map(read).collect::<Result<_, _>>()?;
    ensure!(
        lines.len() == images.len(),
        "the undisturbed run has {} lines of {} images",
        lines.len(),
        images.len()
    );
    Ok(lines)
}

/// The undisturbed texts about each image, and what comes of work in the background.
pub(super) async fn texts(
    directory: &Path,
    images: &[Bytes],
    bundle: &[String],
    journal: &Arc<Journal>,
    patience: Duration,
) -> anyhow::Result<(Vec<Vec<String>>, ExpectedWork)> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut arguments = ["serve", "--listen", &address].map(str::to_owned).to_vec();
    arguments.extend(bundle.iter().cloned());
    let mut serving = Role::new(settings(directory, arguments));
    serving.start()?;
    let url = format!("http://{address}");
    let client = || ConversationClient::new(std::slice::from_ref(&url), journal.clone(), patience);
    let image = images.first().context("no image can be read")?;
    let (own, client) = (client()?, client()?);
    let model = background::model(&client).await;
    let model = model.context("the undisturbed gateway says nothing")?;
    let background = BackgroundClient::new(own, journal.clone(), image, &model);
    let mut texts = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let id = client.begin(image, &format!("undisturbed {number}")).await;
        let id = id.context("the undisturbed conversation does not begin")?;
        let answers = client.answers(&id).await;
        texts.push(answers.context("the undisturbed conversation does not end")?);
    }
    let expected = background.expected().await;
    let expected = expected.context("the undisturbed responses and batches do not end")?;
    Ok((texts, expected))
}

fn settings(directory: &Path, arguments: Vec<String>) -> RoleSettings {
    let folder = |name: &str| directory.join(name).display().to_string();
    RoleSettings {
        name: "the undisturbed run".to_owned(),
        arguments,
        environment: vec![
            ("RADIALOG_OBJECTS_DIRECTORY", folder("objects")),
            ("RADIALOG_GATEWAY_DIRECTORY", folder("archive-runs")),
        ],
        directory: directory.to_owned(),
        log: directory.join("log"),
        health: None,
    }
}
