//! Times as messages and stores carry them: in milliseconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time that it is now.
pub fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// Returns a time in milliseconds since 1970; 0 for one before.
pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
