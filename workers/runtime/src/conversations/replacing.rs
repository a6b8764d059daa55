//! What people write about a conversation replaces what is there, or only what they have seen: two of them do not lose each other's
//! words unseen.

/// What may be replaced by what a person writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces<'a> {
    /// Whatever is there.
    Anything,
    /// This text, or nothing where there is none; what is wanted may be there already.
    Only(Option<&'a str>),
}

/// What came of replacing what a person has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceOutcome {
    /// What was wanted is there now.
    Replaced,
    /// Another text is there. Nothing was written.
    Other,
    /// There is nothing that it could be written to.
    Missing,
}

impl Replaces<'_> {
    /// Whether what is there may be replaced by what is wanted.
    pub(super) fn allows(self, there: Option<&str>, wanted: Option<&str>) -> bool {
        match self {
            Self::Anything => true,
            Self::Only(expected) => there == expected || there == wanted,
        }
    }

    /// As the scripts in Redis read it: a kind, and the text.
    pub(super) fn arguments(&self) -> [&str; 2] {
        match self {
            Self::Anything => ["anything", ""],
            Self::Only(None) => ["nothing", ""],
            Self::Only(Some(text)) => ["text", text],
        }
    }
}
