//! Which of the adapters of a model a sequence goes through.

/// One of the adapters that are loaded beside a base; [`super::LanguageModel::adapter`] knows them by position. The
/// default is the first one, or the base where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub(super) usize);
