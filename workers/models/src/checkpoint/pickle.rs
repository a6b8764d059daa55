//! Python's pickle format (PEP 307, 3154, 574), read and never executed. What weight files and stored embeddings are made of
//! is understood: dictionaries, lists, torch's tensors and storages, numpy's arrays. Whatever else a file names is a value that
//! nobody can look into: it is never looked up, made or called, whatever the file does with it.

use std::io::{BufReader, Read, Seek};

mod classes;
mod input;
mod machine;
mod value;

pub use value::{
    Array, Global, NodeId, Pickle, PickleError, PickleLimit, Storage, TensorView, Value,
};

use machine::Machine;

impl Pickle {
    /// Reads one pickle from where the reader is, which is the byte `position` of a file; nothing from `end` on belongs to
    /// it. Returns it with the position behind it, where the reader is then.
    ///
    /// # Errors
    /// A file that ends too early, no pickle, or more values than `limit` allows.
    pub fn read<R: Read + Seek>(
        reader: &mut BufReader<R>,
        position: u64,
        end: u64,
        limit: PickleLimit,
    ) -> Result<(Self, u64), PickleError> {
        Machine::new(reader, position, end, limit).run()
    }
}

#[cfg(test)]
mod tests;
