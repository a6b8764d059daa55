//! Faults as they happen: begun, kept up, ended, and waited for until work goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::damage::IdleObjects;
use super::installation::{BATCH, Installation};
use super::journal::Journal;
use super::schedule::{Fault, FaultKind, Schedule};
use super::watchdog::Watchdog;
use crate::exit::{EXIT_INTERRUPTED, is_run_ended};

/// Breaks things in the order of a schedule.
pub(super) struct Faults {
    pub(super) installation: Arc<Installation>,
    pub(super) journal: Arc<Journal>,
    pub(super) idle: Arc<IdleObjects>,
    pub(super) patience: Duration,
}

impl Faults {
    /// Breaks things until the journal is closing or so many faults have happened; then everything is mended again.
    pub(super) async fn run(&self, schedule: Schedule, limit: Option<u64>) -> anyhow::Result<()> {
        let mut left = limit.unwrap_or(u64::MAX);
        for mut together in schedule {
            if self.journal.closing.is_cancelled() || left == 0 {
                break;
            }
            together.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= together.len() as u64;
            self.step(&together).await?;
        }
        self.journal.closing.cancel();
        Ok(())
    }

    /// Faults that happen together, and the wait until work goes on.
    async fn step(&self, together: &[Fault]) -> anyhow::Result<()> {
        let mut names = Vec::new();
        for fault in together {
            if self.begin(fault).await? {
                self.journal.happened(fault);
                names.push(fault.to_string());
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let longest = together.iter().map(|fault| fault.lasts).max();
        tokio::select! {
            () = self.journal.stop.cancelled() => {}
            () = tokio::time::sleep(longest.unwrap_or_default()) => {}
        }
        for fault in together {
            self.end(fault).await?;
        }
        let (begun, before) = (Instant::now(), self.journal.progress());
        let watchdog = Watchdog::new(&self.journal, self.patience);
        let name = names.join(" + ");
        loop {
            // The last round may have ended while things were broken, so that nothing will ever move again.
            let is_closing = self.journal.closing.is_cancelled();
            let mut is_over = is_closing || self.journal.progress() > before;
            for fault in together {
                is_over &= self.is_ready(fault).await?;
            }
            if is_over {
                self.journal.recovered(name, begun.elapsed());
                return Ok(());
            }
            if !watchdog
                .goes_on(|| format!("everything after '{name}'"))
                .await
            {
                return Ok(());
            }
        }
    }

    /// False where there was nothing to break: the batch, between two rounds.
    async fn begin(&self, fault: &Fault) -> anyhow::Result<bool> {
        match fault.kind {
            FaultKind::Kill | FaultKind::Freeze | FaultKind::Terminate => {
                return self.hit(fault).await;
            }
            FaultKind::Cut => self.installation.link(&fault.target)?.disconnect(),
            FaultKind::Stall => self.installation.link(&fault.target)?.stall(),
            FaultKind::LoseAnswers => self.installation.link(&fault.target)?.drop_responses(),
            FaultKind::Reset => self.installation.link(&fault.target)?.reset(),
            FaultKind::KillBroker => {
                if let Some(broker) = &mut self.installation.services.lock().await.broker {
                    broker.kill();
                }
            }
            FaultKind::KillState => {
                if let Some(redis) = &mut self.installation.services.lock().await.redis {
                    redis.kill();
                }
            }
            FaultKind::DeleteObject | FaultKind::TruncateObject | FaultKind::EmptyObject => {
                return self.idle.damage(fault).await;
            }
        }
        Ok(true)
    }

    async fn hit(&self, fault: &Fault) -> anyhow::Result<bool> {
        let mut role = self.installation.role(&fault.target).await?;
        if !role.is_running() {
            return Ok(false);
        }
        role.is_held = true;
        match fault.kind {
            FaultKind::Kill => role.kill(),
            FaultKind::Freeze => role.signal("STOP")?,
            _ => {
                role.signal("TERM")?;
                drop(role);
                self.ends_by_itself(&fault.target).await?;
            }
        }
        Ok(true)
    }

    /// A role that was told to stop must end, and say that it ended well.
    async fn ends_by_itself(&self, name: &str) -> anyhow::Result<()> {
        let watchdog = Watchdog::new(&self.journal, self.patience);
        loop {
            let ended = self.installation.role(name).await?.ended()?;
            let Some(status) = ended else {
                if watchdog
                    .goes_on(|| format!("{name}, which was told to stop,"))
                    .await
                {
                    continue;
                }
                return Ok(());
            };
            let interrupted = status.code() == Some(EXIT_INTERRUPTED.into());
            let well = match name == BATCH {
                true => is_run_ended(status) || interrupted,
                false => status.success(),
            };
            if !well {
                self.journal
                    .violated(format!("{name} ended with {status} at SIGTERM"));
            }
            return Ok(());
        }
    }

    async fn end(&self, fault: &Fault) -> anyhow::Result<()> {
        match fault.kind {
            FaultKind::Kill | FaultKind::Freeze | FaultKind::Terminate => {
                let mut role = self.installation.role(&fault.target).await?;
                if !role.is_held {
                    return Ok(());
                }
                role.signal("CONT")?;
                role.is_held = false;
                role.start()?;
            }
            FaultKind::Cut | FaultKind::Stall | FaultKind::LoseAnswers => {
                self.installation.link(&fault.target)?.restore();
            }
            FaultKind::KillBroker => {
                if let Some(broker) = &mut self.installation.services.lock().await.broker {
                    broker.start().await?;
                }
            }
            FaultKind::KillState => {
                if let Some(redis) = &mut self.installation.services.lock().await.redis {
                    redis.start().await?;
                }
            }
            FaultKind::Reset
            | FaultKind::DeleteObject
            | FaultKind::TruncateObject
            | FaultKind::EmptyObject => {}
        }
        Ok(())
    }

    /// Whether the role that was hit can work again. The batch may have come to its end meanwhile.
    async fn is_ready(&self, fault: &Fault) -> anyhow::Result<bool> {
        let is_of_role = matches!(
            fault.kind,
            FaultKind::Kill | FaultKind::Freeze | FaultKind::Terminate
        );
        Ok(!is_of_role || self.installation.is_ready(&fault.target).await || fault.target == BATCH)
    }
}
