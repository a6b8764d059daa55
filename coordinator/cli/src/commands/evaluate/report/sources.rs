//! What is evaluated: files and folders, or runs whose results are in a store, of which a copy is read.

use std::path::{Path, PathBuf};

use radialog_coordinator::run::output::RESULTS_FILE;

use super::ReportArgs;
use crate::named_path::{require, require_stored};
use crate::results_place::{LookedAt, is_in_store, look_at_run};

/// Reports of one system.
#[derive(Clone, Default)]
pub(super) struct Source {
    /// Where they are read.
    pub(super) path: PathBuf,
    /// What people call them.
    pub(super) name: String,
    /// What they call the file that is read, where that is a copy.
    pub(super) file: Option<String>,
}

/// The reports, and those of another system.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) reports: Source,
    pub(super) against: Option<Source>,
    /// Copies of what is in a store; they go with this.
    _copies: Vec<LookedAt>,
}

impl Sources {
    /// Finds what the command line names, and copies what is in a store.
    pub(super) async fn of(args: &ReportArgs) -> anyhow::Result<Self> {
        let mut sources = Self::default();
        sources.reports = sources.source(&args.reports, args).await?;
        if let Some(against) = &args.against {
            sources.against = Some(sources.source(against, args).await?);
        }
        Ok(sources)
    }

    async fn source(&mut self, path: &Path, args: &ReportArgs) -> anyhow::Result<Source> {
        let name = path.display().to_string();
        if !is_in_store(path) {
            let file = match path.is_dir() {
                true => path.join(RESULTS_FILE),
                false => path.to_owned(),
            };
            require(
                &file,
                "name the output folder of `radialog batch`, its results.jsonl, a CSV, or ReXrank's JSON",
            )?;
            require_stored(path)?;
            return Ok(Source {
                path: path.to_owned(),
                name,
                file: None,
            });
        }
        let config = args.labelling.configuration()?;
        let copy = look_at_run(&name, &config).await?;
        let source = Source {
            path: copy.folder().to_owned(),
            file: Some(format!("{}/{RESULTS_FILE}", name.trim_end_matches('/'))),
            name,
        };
        self._copies.push(copy);
        Ok(source)
    }
}
