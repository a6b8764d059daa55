//! Files that are no tables: JSON arrays as Python writes them, the original's stored embeddings, safetensors written row by row.

pub(crate) mod json_list;
pub(crate) mod stored_embeddings;
pub(crate) mod tensor_file;
