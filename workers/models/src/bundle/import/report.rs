//! What an import says about each component: the files, what of them is used, what is left out, and why.

use std::path::PathBuf;

use radialog_schemas::Stage;
use serde::Serialize;

/// One component as it was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComponentReport {
    /// The stage that loads it.
    pub stage: Stage,
    /// The geometry that was recognised, in words.
    pub geometry: String,
    /// The files that it is made of, and what each gives.
    pub used: Vec<(PathBuf, String)>,
    /// What the files hold and the bundle does not.
    pub left_out: Vec<LeftOutPart>,
    /// What was decided, and may surprise.
    pub notes: Vec<String>,
}

/// Tensors or entries of a file that the bundle does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOutPart {
    /// The file.
    pub file: PathBuf,
    /// Some names, and how many more.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// Names that are shown of a list.
const SHOWN: usize = 3;

impl ComponentReport {
    pub(super) fn new(stage: Stage) -> Self {
        Self {
            stage,
            geometry: String::new(),
            used: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Writes down names that are left out for one reason; nothing where there are none.
    pub(super) fn leave_out(
        &mut self,
        file: impl Into<PathBuf>,
        names: &[String],
        why: impl Into<String>,
    ) {
        if names.is_empty() {
            return;
        }
        let shown = names
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let what = match names.len().checked_sub(SHOWN) {
            None | Some(0) => shown,
            Some(more) => format!("{shown} and {more} more"),
        };
        self.left_out.push(LeftOutPart {
            file: file.into(),
            what,
            why: why.into(),
        });
    }
}
