//! How the program ends: its exit codes, and the error of a command line that cannot be meant.

use std::io::{self, ErrorKind};
use std::process::ExitStatus;

use radialog_coordinator::CoordinatorError;
use radialog_files::durable::NoRegularFile;
use radialog_models::bundle::BundleError;
use radialog_models::bundle::import::ImportError;
use radialog_models::device::DeviceError;
use radialog_models::embedding_files::EmbeddingFileError;
use radialog_runtime::backends::ConnectError;
use radialog_runtime::config::ConfigError;
use radialog_runtime::objects::ObjectError;
use radialog_training::TrainingError;
use radialog_training::evaluation::text_scores::meteor::MeteorDataError;
use radialog_workers::bundle_cache::FetchError;

use crate::print::chain;

/// The command line or the configuration is wrong: `EX_USAGE` of sysexits.h.
pub(crate) const EXIT_USAGE: u8 = 64;
/// The run came to its end, and studies of it failed: `EX_DATAERR` of sysexits.h. To run it again changes nothing.
pub(crate) const EXIT_FAILED_STUDIES: u8 = 65;
/// The run was interrupted and can be resumed: what a shell reports of a process that Ctrl-C ended.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Whether a run came to its end, with studies that failed or without.
pub(crate) fn is_run_ended(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(EXIT_FAILED_STUDIES.into())
}

/// Whether what was asked for cannot be meant, so that trying again changes nothing: the command line or the configuration
/// is wrong, or what it names is not there.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    let names_nothing = matches!(
        error.downcast_ref(),
        Some(
            CoordinatorError::NoArchive { .. }
                | CoordinatorError::NoImage { .. }
                | CoordinatorError::NotAnArchive { .. }
                | CoordinatorError::NoTable { .. }
                | CoordinatorError::MissingTable { .. }
                | CoordinatorError::MissingColumn { .. }
                | CoordinatorError::DoubledColumn { .. }
                | CoordinatorError::OtherRun { .. }
                | CoordinatorError::LostRun { .. }
        )
    ) || is_taken(error)
        || is_no_regular_file(error)
        || matches!(
            error.downcast_ref(),
            Some(BundleError::NotABundle(_) | BundleError::IsThere(_))
        )
        || matches!(
            error.downcast_ref(),
            Some(ImportError::Parts(_) | ImportError::Unusable { .. })
        )
        || matches!(
            error.downcast_ref(),
            Some(EmbeddingFileError::Kind(_) | EmbeddingFileError::Empty(_))
        )
        || error.is::<MeteorDataError>()
        || matches!(
            error.downcast_ref(),
            Some(FetchError::Store(ObjectError::NotFound(_)))
        )
        || matches!(
            error.downcast_ref(),
            Some(
                TrainingError::MissingColumn { .. }
                    | TrainingError::DoubledColumn { .. }
                    | TrainingError::Empty(_)
            )
        )
        || matches!(
            error.downcast_ref(),
            Some(TrainingError::Io { source, .. }) if source.kind() == ErrorKind::NotFound
        )
        || matches!(error.downcast_ref(), Some(DeviceError::Name(_)))
        || matches!(error.downcast_ref(), Some(ConnectError::NoFolder(_)));
    error.is::<ConfigError>() || error.is::<UsageError>() || names_nothing
}

/// Whether a folder's run is another, or nobody can say which: it was refused, and nothing of it was touched.
pub(crate) fn is_of_another_run(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CoordinatorError::OtherRun { .. } | CoordinatorError::LostRun { .. })
    )
}

/// Whether something else than a folder stands where a folder of results is to be.
fn is_taken(error: &anyhow::Error) -> bool {
    let Some(CoordinatorError::Unwritable { reason, .. }) = error.downcast_ref() else {
        return false;
    };
    matches!(
        reason.kind(),
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory
    )
}

/// Whether a file was to be written in place of what is no file.
fn is_no_regular_file(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<NoRegularFile>())
    })
}

/// Whatever is wrong with a file that the command line names: it is not there, or is of another kind.
pub(crate) fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    UsageError(chain(&error.into())).into()
}

/// The error of a command that reads what people have written: where a table or a file is at fault, to try again changes nothing.
pub(crate) fn input_at_fault(error: TrainingError) -> anyhow::Error {
    match error {
        TrainingError::Tables(_)
        | TrainingError::Empty(_)
        | TrainingError::Content { .. }
        | TrainingError::MissingColumn { .. }
        | TrainingError::DoubledColumn { .. } => usage(error),
        // Of another encoding.
        TrainingError::Io { ref source, .. } if source.kind() == ErrorKind::InvalidData => {
            usage(error)
        }
        error => error.into(),
    }
}

/// An error of the command line: flags that parse but make no sense together.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_tells_when_each_code_comes() {
        let page = include_str!("../../../README.md");
        let (_, behind) = page.split_once("\n### Exit codes\n").unwrap();
        let (section, _) = behind.split_once("\n#").unwrap();
        let cells = section.lines().filter_map(|row| row.split(" | ").next());
        let codes = cells.filter_map(|cell| cell.strip_prefix("| ")?.parse().ok());
        let codes: Vec<u8> = codes.collect();
        assert_eq!(
            codes,
            [0, 1, EXIT_USAGE, EXIT_FAILED_STUDIES, EXIT_INTERRUPTED]
        );
    }
}
