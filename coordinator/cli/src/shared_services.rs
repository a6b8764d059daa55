//! The services that roles share: which of them a role needs, and what to give where they are missing.

use radialog_runtime::config::Config;

use crate::exit::UsageError;

/// A service that several processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedService {
    Broker,
    State,
    Store,
}

impl SharedService {
    pub(crate) const ALL: [Self; 3] = [Self::Broker, Self::State, Self::Store];

    /// Whether it is said where it is. Objects without a place are in a folder of the process's own, which no other one
    /// reads.
    fn is_given(self, config: &Config) -> bool {
        match self {
            Self::Broker => config.amqp.is_some(),
            Self::State => config.redis.is_some(),
            Self::Store => config.s3.is_some() || config.objects.directory.is_some(),
        }
    }

    /// What to give.
    fn setting(self) -> &'static str {
        match self {
            Self::Broker => "--amqp URL (RADIALOG_AMQP_URL)",
            Self::State => "--redis URL (RADIALOG_REDIS_URL)",
            Self::Store => "--s3 URL (RADIALOG_S3_URL), or --objects DIR on a shared disk",
        }
    }

    fn missing(needed: &[Self], config: &Config) -> Vec<&'static str> {
        let missing = needed.iter().filter(|service| !service.is_given(config));
        missing.map(|service| service.setting()).collect()
    }
}

/// Refuses a command without the services that it needs, and names all that are missing.
pub(crate) fn require(
    command: &str,
    needed: &[SharedService],
    config: &Config,
) -> Result<(), UsageError> {
    missing(command, needed, config, "").map_or(Ok(()), |fault| Err(UsageError(fault)))
}

/// The services that a role needs and nobody gave, as one fault. `instead` says how to do without.
pub(crate) fn missing(
    role: &str,
    needed: &[SharedService],
    config: &Config,
    instead: &str,
) -> Option<String> {
    let missing = SharedService::missing(needed, config);
    (!missing.is_empty()).then(|| {
        format!(
            "{role} works on what all roles share: give {}{instead}",
            missing.join("; ")
        )
    })
}

/// Refuses some of the services where all are needed, in a command that can also do everything in its own process.
pub(crate) fn require_all_or_own(config: &Config) -> Result<(), UsageError> {
    if config.amqp.is_none() && config.redis.is_none() {
        return Ok(());
    }
    let missing = SharedService::missing(&SharedService::ALL, config);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(UsageError(format!(
            "with --amqp or --redis, workers of other processes do the work: give also {}. Or give neither, to run everything \
             in this process",
            missing.join("; ")
        ))),
    }
}
