//! Files that are no tables: JSON arrays as Python writes them, pickles of numpy arrays, safetensors written row by row.

pub(crate) mod json_list;
pub(crate) mod pickle;
pub(crate) mod tensor_file;
