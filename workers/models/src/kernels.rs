//! Kernels of our own for what the tensor library does slowly on a CPU: matrix products with weights that are packed once,
//! convolutions, attention.
//!
//! Each number of a result is computed in an order that follows from the layer alone. So it has the same bytes whatever
//! it is batched with, and whatever number of threads there are.

pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod convolution;
pub(crate) mod cpu;
pub(crate) mod elementary;
pub(crate) mod gemm;
pub(crate) mod normalise;
