//! Kernels of our own for what the tensor library does slowly on a CPU: matrix products with weights that are packed once or
//! quantised, convolutions, attention, also over what is kept of a sequence.
//!
//! Each number of a result is computed in an order that follows from the layer alone. So it has the same bytes whatever
//! it is batched with, and whatever number of threads there are.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod convolution;
pub(crate) mod cpu;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dot_products;
pub(crate) mod elementary;
pub(crate) mod gemm;
mod lanes;
pub(crate) mod normalise;
pub(crate) mod paged_cache;
pub(crate) mod quantised;
