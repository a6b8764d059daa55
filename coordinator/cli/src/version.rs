//! Which program this is.

/// The release, and the commit that it was built from.
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("RADIALOG_BUILD"), ")");
