//! How labels become true or not, as the command line says it.

use clap::ValueEnum;
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::report_scores::BlankAs;

/// What an uncertain label counts as.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Uncertain {
    Negative,
    Positive,
}

/// What a label that a table does not give counts as.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Blank {
    Auto,
    Negative,
    Unknown,
}

impl From<Uncertain> for UncertainAs {
    fn from(uncertain: Uncertain) -> Self {
        match uncertain {
            Uncertain::Negative => Self::Negative,
            Uncertain::Positive => Self::Positive,
        }
    }
}

impl From<Blank> for BlankAs {
    fn from(blank: Blank) -> Self {
        match blank {
            Blank::Auto => Self::Auto,
            Blank::Negative => Self::Negative,
            Blank::Unknown => Self::Unknown,
        }
    }
}
