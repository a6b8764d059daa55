//! What must hold when everything is mended and all work is done: nothing is left behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use radialog_schemas::ObjectKey;
use tokio::time::timeout;

use super::dead_letters::DeadLetters;
use super::installation::{Installation, WORKER};
use super::journal::Journal;
use super::role::RoleSettings;
use super::services::Services;
use super::watchdog::Watchdog;

/// Within this time after its last write, an object may still belong to a conversation that begins.
const GRACE: Duration = Duration::from_secs(1);
/// How long what has no owner may take to become older than the grace.
const PURGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Stops all roles, purges, and looks at what is left in broker, Redis and store, which may be `objects` and what runs keep
/// for a week.
pub(super) async fn nothing_is_left(
    installation: &Installation,
    journal: &Journal,
    objects: &[ObjectKey],
    purge: RoleSettings,
    patience: Duration,
) -> anyhow::Result<()> {
    let services = installation.services.lock().await;
    // What came twice, or waits for a retry that is not needed any more, is still to be taken and found done. Workers end
    // first, since they may have a result to tell.
    let mut letters = DeadLetters::new(&services).await?;
    for is_stopped in [is_worker as fn(&str) -> bool, |name| !is_worker(name)] {
        drained(&services, &mut letters, journal, patience).await?;
        for wrong in installation.stop(is_stopped, patience).await? {
            journal.violated(wrong);
        }
    }
    letters.look(journal).await?;
    for letter in letters.reasons() {
        journal.violated(format!("a dead letter is left: {letter}"));
    }
    for (queue, messages) in services.messages().await? {
        journal.violated(format!("{messages} messages are left in queue {queue}"));
    }
    purged(&services, journal, purge, patience).await?;
    let expected: BTreeSet<&ObjectKey> = objects.iter().collect();
    let stored = services.stored().await?;
    let uploads = broken_uploads(&stored);
    if uploads.len() as u64 > journal.counts().uploads {
        journal.violated(format!(
            "there are more broken uploads than were sent: {uploads:?}"
        ));
    }
    let unexpected = stored.iter().filter(|key| !expected.contains(key));
    for key in unexpected.filter(|key| !is_of_upload(key, &uploads)) {
        journal.violated(format!("object {key} belongs to nothing"));
    }
    for key in left_keys(&services).await? {
        journal.violated(format!("key {key} is left in Redis"));
    }
    Ok(())
}

/// The uploads of files of requests that were broken off, each as `OWNER.FILE`: a sign, and no head. Whoever is killed while a
/// file comes in leaves them, and they are removed a day later.
fn broken_uploads(stored: &[ObjectKey]) -> BTreeSet<String> {
    let signs = stored.iter().filter_map(|key| {
        let upload = key.as_str().strip_prefix(ObjectKey::OPEN_REQUEST_FILES)?;
        Some(upload.to_owned())
    });
    let has_head = |upload: &String| {
        let head = upload.replacen('.', "/", 1);
        let head = format!("{}{head}", ObjectKey::REQUEST_FILE_HEADS);
        stored.iter().any(|key| key.as_str() == head)
    };
    signs.filter(|upload| !has_head(upload)).collect()
}

/// Whether an object is the sign or a part of one of these uploads.
fn is_of_upload(key: &ObjectKey, uploads: &BTreeSet<String>) -> bool {
    let sign = key.as_str().strip_prefix(ObjectKey::OPEN_REQUEST_FILES);
    let part = |upload: &String| {
        let folder = upload.replacen('.', "/", 1);
        let folder = format!("{}{folder}/", ObjectKey::REQUEST_FILE_PARTS);
        key.as_str().starts_with(&folder)
    };
    sign.is_some_and(|sign| uploads.contains(sign)) || uploads.iter().any(part)
}

fn is_worker(name: &str) -> bool {
    name.starts_with(WORKER)
}

/// Waits until no queue has a message that nobody has taken, sweepers have taken ended conversations off their list, and no
/// batch of requests is open, as long as there is less and less.
async fn drained(
    services: &Services,
    letters: &mut DeadLetters,
    journal: &Journal,
    patience: Duration,
) -> anyhow::Result<()> {
    let mut watchdog = Watchdog::new(journal, patience);
    let mut least = u64::MAX;
    loop {
        letters.look(journal).await?;
        let (messages, keys) = (services.messages().await?, left_keys(services).await?);
        let open = ObjectKey::OPEN_REQUEST_BATCHES;
        let open = services.objects.list(open, None, 100).await?.entries.len();
        let count = messages.iter().map(|(_, count)| count).sum::<u64>() + keys.len() as u64;
        let count = count + open as u64;
        let count = count + letters.unexplained.len() as u64;
        if count < least {
            least = count;
            watchdog.moved();
        }
        let what = || {
            let letters = letters.reasons();
            format!(
                "what is left in queues {messages:?}, dead letters {letters:?} and Redis {keys:?}, with {open} open batches of requests"
            )
        };
        if count == 0 || !watchdog.goes_on(what).await {
            return Ok(());
        }
    }
}

/// Our keys in Redis, but for the documents of a run and the sign that it has ended: they are kept for those who ask for
/// its state by its id, and for what comes late; Redis forgets them by itself.
async fn left_keys(services: &Services) -> anyhow::Result<Vec<String>> {
    let mut keys = services.state_keys().await?;
    let is_kept = |key: &str| {
        key.starts_with("radialog:run:") && (key.ends_with(":documents") || key.ends_with(":ended"))
    };
    keys.retain(|key| !is_kept(key));
    Ok(keys)
}

/// Runs `radialog purge` until nothing of any conversation is left.
async fn purged(
    services: &Services,
    journal: &Journal,
    mut purge: RoleSettings,
    patience: Duration,
) -> anyhow::Result<()> {
    let (grace, interval) = (GRACE.as_secs_f64(), GRACE.as_secs_f64() / 2.0);
    purge.environment.extend([
        ("RADIALOG_RETENTION_GRACE", grace.to_string()),
        ("RADIALOG_RETENTION_INTERVAL", interval.to_string()),
    ]);
    let begun = Instant::now();
    loop {
        let mut command = tokio::process::Command::from(purge.command()?);
        let ending = timeout(patience, command.kill_on_drop(true).output()).await;
        let output = ending.context("radialog purge does not end")?;
        let output = output.context("cannot start radialog purge")?;
        ensure!(
            output.status.success(),
            "radialog purge: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let page = services
            .objects
            .list(ObjectKey::CONVERSATIONS, None, 1)
            .await?;
        let batches = services
            .objects
            .list(ObjectKey::REQUEST_BATCHES, None, 1)
            .await?;
        let Some(left) = page.entries.first().or(batches.entries.first()) else {
            return Ok(());
        };
        if begun.elapsed() > PURGE_TIMEOUT {
            journal.violated(format!("purge leaves {}", left.key));
            return Ok(());
        }
        tokio::time::sleep(GRACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_was_broken_off_is_told_from_a_file_that_nobody_has_removed() {
        let key = |text: &str| ObjectKey::parse(text).unwrap();
        let stored = [
            key("request-files/open/owner.broken"),
            key("request-files/parts/owner/broken/000000"),
            key("request-files/open/owner.whole"),
            key("request-files/heads/owner/whole"),
            key("request-files/parts/owner/other/000000"),
        ];
        let broken = broken_uploads(&stored);
        assert_eq!(broken, ["owner.broken".to_owned()].into());
        let explained = |key: &ObjectKey| is_of_upload(key, &broken);
        let unexplained: Vec<&str> = stored[..]
            .iter()
            .filter(|key| !explained(key))
            .map(ObjectKey::as_str)
            .collect();
        assert_eq!(
            unexplained,
            [
                "request-files/open/owner.whole",
                "request-files/heads/owner/whole",
                "request-files/parts/owner/other/000000",
            ]
        );
    }
}
