//! `[retention]`: how what conversations leave in the object store is removed.

use std::time::Duration;

use super::reader::ConfigReader;

/// `[retention]`: when objects whose conversation is gone are removed.
#[derive(Clone, Debug)]
pub struct RetentionConfig {
    /// How long an object stays without an owner; longer than any upload takes.
    pub grace: Duration,
    /// How often objects without an owner are looked for. A process renews the leases of its conversations then, so that it
    /// is at most half the grace.
    pub interval: Duration,
    /// They are counted and stay where they are.
    pub dry_run: bool,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(3600),
            interval: Duration::from_secs(900),
            dry_run: false,
        }
    }
}

impl RetentionConfig {
    pub(super) fn read(reader: &mut ConfigReader) -> Self {
        let default = Self::default();
        let grace = reader.seconds("retention", "grace", default.grace);
        let interval = reader.seconds("retention", "interval", default.interval.min(grace / 4));
        if grace.is_zero() {
            reader.fault(
                "retention",
                "grace",
                "give more than 0 seconds: what an upload has just stored has no owner yet",
            );
        } else if interval.is_zero() || interval > grace / 2 {
            reader.fault(
                "retention",
                "interval",
                "give more than 0 seconds and at most half of retention.grace",
            );
        }
        reader.note_default("retention", "dry_run", default.dry_run);
        let dry_run = reader.choice("retention", "dry_run", ["false", "true"]) == Some("true");
        Self {
            grace,
            interval,
            dry_run,
        }
    }
}
