//! `[worker]`: how a worker behaves, whatever its stage.

use std::time::Duration;

use radialog_schemas::QueueGroup;

use super::ConfigReader;

const MIB: u64 = 1 << 20;

/// The settings of a runner; none of them changes an output.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// The worker's name in results and dead letters.
    pub worker: String,
    /// The group of queues that it takes tasks from, where workers of several bundles share a broker.
    pub group: Option<QueueGroup>,
    /// The time that tasks in the model may take after a stop, before they are requeued.
    pub grace: Duration,
    /// How long an unreachable store is waited for in place before tasks are requeued.
    pub store_patience: Duration,
    /// Whether the worker goes on where the store has no room, and only what cannot be stored fails: in a service that has other work.
    /// Else it ends; the tasks of conversations fail alone in any case.
    pub survives_full_store: bool,
    /// The largest image file, in bytes; a larger one is a failed study.
    pub max_image_bytes: u64,
    /// The largest number of pixels of an image; a larger one is a failed study.
    pub max_image_pixels: u64,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".into());
        Self {
            worker: format!("{host}-{}", std::process::id()),
            group: None,
            grace: Duration::from_secs(25),
            store_patience: Duration::from_secs(300),
            survives_full_store: false,
            max_image_bytes: 128 * MIB,
            max_image_pixels: 100_000_000,
        }
    }
}

impl RunnerSettings {
    pub(super) fn read(reader: &mut ConfigReader) -> Self {
        let defaults = Self::default();
        reader.note_default("worker", "name", &defaults.worker);
        Self {
            worker: reader.text("worker", "name").unwrap_or(defaults.worker),
            group: reader.parsed("worker", "group"),
            grace: reader.seconds("worker", "grace", defaults.grace),
            store_patience: reader.seconds("worker", "store_patience", defaults.store_patience),
            survives_full_store: defaults.survives_full_store,
            max_image_bytes: MIB
                * at_least_one(reader, "max_image_mib", defaults.max_image_bytes / MIB),
            max_image_pixels: at_least_one(reader, "max_image_pixels", defaults.max_image_pixels),
        }
    }
}

fn at_least_one(reader: &mut ConfigReader, field: &str, default: u64) -> u64 {
    match reader.parsed_or("worker", field, default) {
        0 => {
            reader.fault("worker", field, "must be 1 or more");
            default
        }
        value => value,
    }
}
