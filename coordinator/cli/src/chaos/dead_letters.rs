//! Tasks that were given up, and which of them say nothing against the installation.

use std::sync::Arc;

use radialog_runtime::queue::{Delivery, Message, Queue};
use radialog_schemas::{ErrorCode, Task, queues};

use super::journal::Journal;
use super::services::Services;

/// The dead letters of all queues. Those that are not explained are held, so that none is overlooked while the broker puts
/// it back; they go back when this is dropped.
pub(super) struct DeadLetters {
    queue: Arc<dyn Queue>,
    pub(super) unexplained: Vec<Delivery>,
}

impl DeadLetters {
    pub(super) async fn new(services: &Services) -> anyhow::Result<Self> {
        Ok(Self {
            queue: services.queue().await?,
            unexplained: Vec::new(),
        })
    }

    /// Takes what is there. A letter about an object that we have deleted or damaged is counted and removed: its task came
    /// twice and is done, and the copy has found neither input nor output.
    pub(super) async fn look(&mut self, journal: &Journal) -> anyhow::Result<()> {
        for dead in queues::all().map(queues::dead) {
            while let Some(letter) = self.queue.take(&dead).await? {
                if is_explained(&letter.message, journal) {
                    letter.receipt.ack().await?;
                    journal.counts().dead_letters += 1;
                } else {
                    self.unexplained.push(letter);
                }
            }
        }
        Ok(())
    }

    /// Why those that are held were given up.
    pub(super) fn reasons(&self) -> Vec<String> {
        let deaths = self.unexplained.iter().map(|letter| &letter.message.death);
        deaths
            .map(|death| match death {
                Some(death) => format!("{} from {}: {}", death.code, death.source, death.reason),
                None => "without a reason".to_owned(),
            })
            .collect()
    }
}

fn is_explained(letter: &Message, journal: &Journal) -> bool {
    let is_about_object = letter.death.as_ref().is_some_and(|death| {
        [ErrorCode::ObjectMissing, ErrorCode::ObjectCorrupt]
            .map(ErrorCode::as_str)
            .contains(&death.code)
    });
    let task = serde_json::from_slice::<Task>(&letter.body);
    is_about_object
        && task.is_ok_and(|task| {
            task.work
                .inputs()
                .into_iter()
                .any(|input| journal.has_taken(input))
        })
}
