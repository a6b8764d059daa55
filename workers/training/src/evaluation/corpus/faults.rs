//! Everything that is wrong with files: counted, some of each kind at hand, and all of it in a file without a name.

use std::collections::BTreeMap;
use std::io;

use super::{FaultKind, InputFault};
use crate::evaluation::stored_rows::StoredRows;

/// So many faults of a kind are at hand.
const AT_HAND: usize = 5;

/// Faults in the order in which they were found.
#[derive(Debug, Default)]
pub struct Faults {
    kinds: BTreeMap<FaultKind, FaultsOfKind>,
    rows: Option<StoredRows<InputFault>>,
    /// Why one could not be stored. Whoever reads them is told.
    broken: Option<io::Error>,
}

/// Faults of one kind.
#[derive(Debug, Default)]
pub struct FaultsOfKind {
    /// The number of them.
    pub count: u64,
    /// The first of them, five at most.
    pub first: Vec<InputFault>,
}

impl Faults {
    /// Adds a fault.
    pub fn add(&mut self, fault: InputFault) {
        if let Err(error) = self.store(&fault) {
            self.broken.get_or_insert(error);
        }
        let kind = self.kinds.entry(fault.kind).or_default();
        kind.count += 1;
        if kind.first.len() < AT_HAND {
            kind.first.push(fault);
        }
    }

    fn store(&mut self, fault: &InputFault) -> io::Result<()> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(StoredRows::new()?),
        };
        rows.add(fault)
    }

    /// Adds those faults of others that are wanted.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn add_all(
        &mut self,
        others: &Self,
        wanted: impl Fn(&InputFault) -> bool,
    ) -> io::Result<()> {
        for fault in others.iter() {
            let fault = fault?;
            if wanted(&fault) {
                self.add(fault);
            }
        }
        Ok(())
    }

    /// The number of faults.
    pub fn len(&self) -> u64 {
        self.kinds.values().map(|kind| kind.count).sum()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The faults by kind.
    pub fn kinds(&self) -> &BTreeMap<FaultKind, FaultsOfKind> {
        &self.kinds
    }

    /// All faults, one after the other; an error where one could not be stored.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<InputFault>> + '_ {
        let broken = self.broken.as_ref();
        let broken = broken.map(|error| Err(io::Error::new(error.kind(), error.to_string())));
        let rows = self.rows.iter().flat_map(StoredRows::iter);
        broken.into_iter().chain(rows)
    }
}
