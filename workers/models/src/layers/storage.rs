//! The values of tensors in main memory, as kernels of our own read them.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};

/// The values of a contiguous f32 tensor.
///
/// # Errors
/// A tensor of another type, or a view with gaps.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::msg("a fused layer takes contiguous tensors"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Gives the values of f32 tensors on a CPU to `read`; views with gaps are copied before.
///
/// # Errors
/// A tensor of another type, or on another device.
pub(crate) fn with_floats<const N: usize, T>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let whole = tensors
        .map(Tensor::contiguous)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let stored: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let mut values: [&[f32]; N] = [&[]; N];
    for (value, (storage, layout)) in values.iter_mut().zip(&stored) {
        let Storage::Cpu(storage) = &**storage else {
            return Err(Error::msg("a fused layer computes on a CPU"));
        };
        *value = floats(storage, layout)?;
    }
    Ok(read(values))
}
