//! This thread's matrix tiles (AMX), set up and given back.
#![expect(
    unsafe_code,
    reason = "tiles have no instructions of their own in Rust yet"
)]

use std::arch::asm;
use std::marker::PhantomData;

/// Tiles of a processor.
pub(crate) const TILES: usize = 8;

/// Tiles that are set up, until they are dropped: the system then need not save them any more.
pub(crate) struct Configured {
    /// Tiles belong to a thread.
    _thread: PhantomData<*const ()>,
}

/// What the processor is told about tiles: `LDTILECFG` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configured {
    /// Sets up tiles of so many rows, at most 16, of so many bytes, at most 64.
    ///
    /// # Safety
    /// The features of the processor say that it has tiles, and this thread has none set up.
    pub(crate) unsafe fn new(tiles: [(u8, u16); TILES]) -> Self {
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (tile, (rows, row_bytes)) in tiles.into_iter().enumerate() {
            configuration.rows[tile] = rows;
            configuration.row_bytes[tile] = row_bytes;
        }
        // SAFETY: the processor has tiles and Linux lets this process use them; 64 bytes are read.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Self {
            _thread: PhantomData,
        }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the tiles of this thread, which nothing else uses.
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}
