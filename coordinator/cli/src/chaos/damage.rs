//! Objects that nobody works with at the moment, and what may become of them. A study in flight relies on what was just
//! stored for it; what lies in the store for the next run may be lost or broken, and is computed or stored again.

use std::sync::Arc;

use bytes::Bytes;
use radialog_coordinator::run::pipeline::OutputKeys;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ObjectKey, RunSpec, Stage};
use tokio::sync::Mutex;

use super::journal::Journal;
use super::schedule::{Fault, FaultKind};

/// The inputs of one round's studies, and the run that read them.
#[derive(Clone)]
pub(super) struct RoundObjects {
    pub(super) spec: RunSpec,
    pub(super) inputs: Vec<ObjectKey>,
}

/// The objects of a round that is over and not yet asked for again.
pub(super) struct IdleObjects {
    objects: Arc<dyn Objects>,
    journal: Arc<Journal>,
    round: Mutex<Option<RoundObjects>>,
}

impl RoundObjects {
    /// Image and outputs of one input.
    pub(super) fn keys(&self, input: &ObjectKey) -> Vec<ObjectKey> {
        let outputs = OutputKeys::of(&self.spec, input, None);
        let outputs = Stage::ALL.map(|stage| outputs.output(stage).clone());
        std::iter::once(input.clone()).chain(outputs).collect()
    }
}

impl IdleObjects {
    pub(super) fn new(objects: Arc<dyn Objects>, journal: Arc<Journal>) -> Self {
        Self {
            objects,
            journal,
            round: Mutex::default(),
        }
    }

    /// From now on these are idle. The former ones are so no longer when this returns.
    pub(super) async fn become_idle(&self, round: Option<RoundObjects>) {
        *self.round.lock().await = round;
    }

    /// Breaks one of them. False where none is idle, or the one that was drawn was never made.
    pub(super) async fn damage(&self, fault: &Fault) -> anyhow::Result<bool> {
        let round = self.round.lock().await;
        let Some(round) = &*round else {
            return Ok(false);
        };
        let pick = |count: usize, draw: u64| usize::try_from(draw % count as u64).unwrap_or(0);
        let input = &round.inputs[pick(round.inputs.len(), fault.draw)];
        let keys = round.keys(input);
        let key = &keys[pick(keys.len(), fault.draw / round.inputs.len() as u64)];
        let content = match self.objects.get(key).await {
            Err(ObjectError::NotFound(_)) => return Ok(false),
            content => content?,
        };
        self.journal.takes(key);
        match fault.kind {
            FaultKind::DeleteObject => self.objects.delete(key).await?,
            FaultKind::EmptyObject => self.objects.put(key, Bytes::new()).await?,
            _ => {
                let half = content.slice(..content.len() / 2);
                self.objects.put(key, half).await?;
            }
        }
        Ok(true)
    }
}
