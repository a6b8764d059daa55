//! Kernels of our own for what the tensor library does slowly on a CPU: products with quantised weights, and
//! attention over what is kept of a sequence.
//!
//! Each number of a result is computed in an order that follows from the layer alone. So it has the same bytes whatever
//! it is batched with, and whatever number of threads there are.

pub(crate) mod cpu;
mod lanes;
pub(crate) mod paged_cache;
pub(crate) mod quantised;
