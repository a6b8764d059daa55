//! What must hold when everything is mended and all work is done: nothing is left behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use radialog_schemas::ObjectKey;

use super::installation::Installation;
use super::journal::Journal;
use super::role::RoleSettings;
use super::services::Services;

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
    for wrong in installation.stop(patience).await? {
        journal.violated(wrong);
    }
    let services = installation.services.lock().await;
    for (queue, messages) in services.messages().await? {
        journal.violated(format!("{messages} messages are left in queue {queue}"));
    }
    purged(&services, journal, purge).await?;
    let expected: BTreeSet<&ObjectKey> = objects.iter().collect();
    let stored = services.stored().await?;
    for key in stored.iter().filter(|key| !expected.contains(key)) {
        journal.violated(format!("object {key} belongs to nothing"));
    }
    for key in services.state_keys().await? {
        // The documents of a run are kept for those who ask for its state by its id; Redis forgets them by itself.
        if !(key.starts_with("radialog:run:") && key.ends_with(":documents")) {
            journal.violated(format!("key {key} is left in Redis"));
        }
    }
    Ok(())
}

/// Runs `radialog purge` until nothing of any conversation is left.
async fn purged(
    services: &Services,
    journal: &Journal,
    mut purge: RoleSettings,
) -> anyhow::Result<()> {
    let seconds = GRACE.as_secs().to_string();
    purge
        .environment
        .push(("RADIALOG_RETENTION_GRACE", seconds));
    let begun = Instant::now();
    loop {
        let mut command = purge.command()?;
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await?.context("cannot start radialog purge")?;
        ensure!(
            output.status.success(),
            "radialog purge: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let page = services
            .objects
            .list(ObjectKey::CONVERSATIONS, None, 1)
            .await?;
        let Some(left) = page.entries.first() else {
            return Ok(());
        };
        if begun.elapsed() > PURGE_TIMEOUT {
            journal.violated(format!("purge leaves {}", left.key));
            return Ok(());
        }
        tokio::time::sleep(GRACE).await;
    }
}
