//! The tensors of a published file under the names that the networks have, and the bookkeeping of which are used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ImportError;
use super::report::ComponentReport;
use super::tensor::{PlannedTensor, TensorSource};
use crate::checkpoint::{Checkpoint, OpenedCheckpoint, StoredTensor};
use crate::tensors::{TensorHeader, TensorSpec};

/// A published file, or the shards of one.
pub(super) struct Source {
    pub(super) path: PathBuf,
    checkpoint: Arc<dyn Checkpoint + Send + Sync>,
    /// By the name that the networks have.
    tensors: BTreeMap<String, StoredTensor>,
    used: RefCell<BTreeSet<String>>,
    opened: OpenedCheckpoint,
}

impl Source {
    /// The tensors of a checkpoint under other names; those that get none are not looked for.
    ///
    /// # Errors
    /// Two tensors that get one name.
    pub(super) fn new(
        path: &Path,
        opened: OpenedCheckpoint,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ImportError> {
        let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
        for tensor in opened.checkpoint.tensors() {
            let Some(name) = rename(&tensor.name) else {
                continue;
            };
            if let Some(other) = tensors.insert(name, tensor.clone()) {
                let reason = format!("'{}' is the same tensor under another name", other.name);
                return Err(tensor.fault(reason).into());
            }
        }
        Ok(Self {
            path: path.to_owned(),
            checkpoint: Arc::clone(&opened.checkpoint),
            tensors,
            used: RefCell::default(),
            opened,
        })
    }

    /// Without a prefix that some writers put before every name, where any name has it.
    pub(super) fn without_prefix(
        path: &Path,
        opened: OpenedCheckpoint,
        prefix: &str,
    ) -> Result<Self, ImportError> {
        Self::new(path, opened, |name| {
            Some(name.strip_prefix(prefix).unwrap_or(name).to_owned())
        })
    }

    /// The files that hold the tensors.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.opened.files
    }

    /// The file that says which of [`Source::files`] has which tensor, where there are shards.
    pub(super) fn index(&self) -> Option<&Path> {
        self.opened.index.as_deref()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// A tensor's shape, from which geometry follows.
    ///
    /// # Errors
    /// It is missing, or has another number of dimensions.
    pub(super) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], ImportError> {
        let tensor = self.get(name).ok_or_else(|| ImportError::Missing {
            tensor: name.to_owned(),
            expected: Vec::new(),
            files: self.files().to_vec(),
        })?;
        let shape = tensor.shape.as_slice().try_into();
        shape.map_err(|_| tensor.fault(format!("{N} dimensions are needed")).into())
    }

    /// How many `prefix.N.` there are, which must be numbered from 0 on.
    pub(super) fn layers(&self, prefix: &str) -> usize {
        let number = |name: &str| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let last = self.names().filter_map(number).max();
        // A file that names layer 2^60 would make as many: there are no more than tensors.
        last.map_or(0, |last| last.saturating_add(1).min(self.tensors.len()))
    }

    /// A tensor of this name for a place in the bundle; nothing where the file does not have it.
    ///
    /// # Errors
    /// Another shape.
    pub(super) fn take(
        &self,
        name: &str,
        header: &TensorHeader,
    ) -> Result<Option<PlannedTensor>, ImportError> {
        let Some(tensor) = self.get(name) else {
            return Ok(None);
        };
        if tensor.shape != header.shape {
            return Err(ImportError::Shape {
                tensor: tensor.name.clone(),
                expected: header.shape.clone(),
                found: tensor.shape.clone(),
                file: tensor.file.clone(),
            });
        }
        self.used.borrow_mut().insert(name.to_owned());
        let source = TensorSource::Stored {
            checkpoint: Arc::clone(&self.checkpoint),
            tensor: tensor.clone(),
        };
        PlannedTensor::new(header.clone(), source).map(Some)
    }

    /// Writes down what is used of the file and what is not: `why` gives a reason for a name, or `unknown` is it.
    pub(super) fn report(
        &self,
        report: &mut ComponentReport,
        why: impl Fn(&str) -> Option<&'static str>,
    ) {
        const UNKNOWN: &str = "no part of the model has this name";
        let used = self.used.borrow();
        let section = match &self.opened.section {
            Some(section) => format!(" under '{section}'"),
            None => String::new(),
        };
        let count = self.opened.checkpoint.tensors().len();
        let used_line = format!("{} of its {count} tensors{section}", used.len());
        report.used.push((self.path.clone(), used_line));
        let kept: BTreeSet<&str> = used
            .iter()
            .filter_map(|name| self.tensors.get(name))
            .map(|tensor| tensor.name.as_str())
            .collect();
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for tensor in self.opened.checkpoint.tensors() {
            if !kept.contains(tensor.name.as_str()) {
                let why = why(&tensor.name).unwrap_or(UNKNOWN);
                reasons.entry(why).or_default().push(tensor.name.clone());
            }
        }
        for (why, names) in reasons {
            report.leave_out(&self.path, &names, why);
        }
        let others: Vec<String> = self
            .opened
            .left_out
            .iter()
            .map(|entry| format!("{} ({})", entry.name, entry.what))
            .collect();
        report.leave_out(
            &self.path,
            &others,
            "not a tensor of the model; only inference's are needed",
        );
    }
}

/// The tensors of a list, each from `find`.
///
/// # Errors
/// The first one that is found nowhere, or has another shape.
pub(super) fn take_all(
    specs: Vec<TensorSpec>,
    files: &[PathBuf],
    find: impl Fn(&TensorHeader) -> Result<Option<PlannedTensor>, ImportError>,
) -> Result<Vec<PlannedTensor>, ImportError> {
    let needed = specs.into_iter().filter(|spec| spec.required);
    needed
        .map(|spec| {
            find(&spec.header)?.ok_or_else(|| ImportError::Missing {
                tensor: spec.header.name.clone(),
                expected: spec.header.shape.clone(),
                files: files.to_vec(),
            })
        })
        .collect()
}
