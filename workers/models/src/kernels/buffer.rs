//! Memory for activations and packed weights: aligned to pages, in huge pages where the system has them, and kept for the
//! next layer. Fresh pages cost about as much as a convolution that fills them.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

/// Bytes that the process keeps for later at most; what is given back beyond it is freed.
const KEPT: usize = 128 << 20;
const HUGE_PAGE: usize = 2 << 20;

/// Numbers without a meaning until they are written.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// None only while it is dropped.
    memory: Option<MmapMut>,
    length: usize,
    /// Whether the memory is kept for the next buffer when this one goes.
    reused: bool,
}

/// What an allocator would keep, and no more than that: which pages a layer gets changes no number, since it reads only what it
/// has written.
static SPARE: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

impl Buffer {
    /// Room for so many f32, with whatever was there before.
    pub(crate) fn take(length: usize) -> Self {
        let bytes = (length * size_of::<f32>()).max(1);
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..spare.len())
            .filter(|&index| {
                (bytes..=bytes.saturating_mul(4).max(1 << 16)).contains(&spare[index].len())
            })
            .min_by_key(|&index| spare[index].len());
        let memory = fitting.map(|index| spare.swap_remove(index));
        drop(spare);
        let mut memory = memory.unwrap_or_else(|| map(bytes));
        if cfg!(test) {
            // Not a number, as f32 and as bf16: tests of kernels find out where something is read that nobody has written.
            memory.fill(u8::MAX);
        }
        Self {
            memory: Some(memory),
            length,
            reused: true,
        }
    }

    /// The same for weights: all zero, and freed when they go instead of being kept for activations.
    pub(crate) fn zeroed(length: usize) -> Self {
        Self {
            memory: Some(map((length * size_of::<f32>()).max(1))),
            length,
            reused: false,
        }
    }

    /// Its numbers, copied out.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        self[..].to_vec()
    }
}

fn map(bytes: usize) -> MmapMut {
    let failed = |_| match Layout::from_size_align(bytes, 4096) {
        Ok(layout) => handle_alloc_error(layout),
        Err(_) => unreachable!("a buffer of {bytes} bytes"),
    };
    if bytes < HUGE_PAGE {
        return MmapMut::map_anon(bytes).unwrap_or_else(failed);
    }
    let memory = MmapMut::map_anon(bytes.next_multiple_of(HUGE_PAGE)).unwrap_or_else(failed);
    #[cfg(target_os = "linux")]
    // Only faster: a system without huge pages refuses.
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory
}

/// Zeros that the tensor library takes over: in huge pages, where fresh memory has any.
pub(crate) fn zeros(length: usize) -> Vec<f32> {
    let values = vec![0f32; length];
    #[cfg(target_os = "linux")]
    in_huge_pages(&values);
    values
}

/// Asks for huge pages where numbers have not been written yet; a system that has none stays with its own.
#[cfg(target_os = "linux")]
fn in_huge_pages(values: &[f32]) {
    const HUGEPAGE: std::ffi::c_int = 14;
    #[expect(unsafe_code, reason = "a call of the C library")]
    // SAFETY: as the manual page of madvise(2) declares it.
    unsafe extern "C" {
        fn madvise(
            address: *mut std::ffi::c_void,
            length: usize,
            advice: std::ffi::c_int,
        ) -> std::ffi::c_int;
    }
    let bytes = values.as_ptr_range();
    let (start, end) = (bytes.start.addr(), bytes.end.addr());
    let first = start.next_multiple_of(HUGE_PAGE);
    let length = (end / HUGE_PAGE * HUGE_PAGE).saturating_sub(first);
    if length == 0 {
        return;
    }
    #[expect(unsafe_code, reason = "a call of the C library")]
    // SAFETY: whole pages within the numbers; the advice changes no byte of them. Only faster: an error is no fault.
    unsafe {
        madvise(
            bytes
                .start
                .cast_mut()
                .cast::<u8>()
                .wrapping_add(first - start)
                .cast(),
            length,
            HUGEPAGE,
        );
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        if !self.reused {
            return;
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = spare.iter().map(|memory| memory.len()).sum();
        if kept + memory.len() <= KEPT {
            spare.push(memory);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let Some(memory) = &self.memory else {
            return &[];
        };
        #[expect(unsafe_code, reason = "pages are bytes")]
        // SAFETY: the mapping has at least `length` f32, is aligned to a page, and every bit pattern is an f32.
        unsafe {
            std::slice::from_raw_parts(memory.as_ptr().cast(), self.length)
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let Some(memory) = &mut self.memory else {
            return &mut [];
        };
        #[expect(unsafe_code, reason = "pages are bytes")]
        // SAFETY: as above, and the mapping is borrowed alone.
        unsafe {
            std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), self.length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zero_whatever_pages_they_have() {
        for length in [0, 5, 1 << 18, (3 << 20) + 7] {
            let mut values = zeros(length);
            assert!(values.len() == length && values.iter().all(|value| *value == 0.0));
            values.fill(1.0);
            assert_eq!(values.iter().sum::<f32>(), length as f32);
        }
    }

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for_and_can_be_written() {
        for length in [0, 1, 17, 1 << 20] {
            let mut buffer = Buffer::take(length);
            buffer.fill(1.5);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|value| *value == 1.5));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
        assert!(Buffer::zeroed(100).iter().all(|value| *value == 0.0));
    }
}
