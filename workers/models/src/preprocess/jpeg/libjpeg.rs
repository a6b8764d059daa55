//! libjpeg-turbo through `mozjpeg`, with its warnings. The library reports an error by unwinding, so a caller catches that.

#![expect(
    unsafe_code,
    reason = "libjpeg hands its messages to callbacks, through pointers"
)]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_int;
use std::mem;

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

/// libjpeg's words for data that end before the picture does.
pub(super) const DATA_MISSING: &str = "Corrupt JPEG data: premature end of data segment";
/// A damaged file warns at every block.
const MAX_WARNINGS: usize = 8;
/// Characters of a message, its closing zero included (`JMSG_LENGTH_MAX`).
const MESSAGE_LENGTH: usize = 80;

thread_local! {
    /// The warnings of the file that this thread decodes.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A decoded file.
pub(super) struct Decoded {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Row-major, channels interleaved.
    pub(super) samples: Vec<u8>,
    /// What the library tolerated, in its words, each kind once.
    pub(super) warnings: Vec<String>,
}

/// Decodes to grey (one channel) or RGB (three). What the library cannot go on with unwinds: see [`message`].
pub(super) fn decode(bytes: &[u8], channels: usize) -> Result<Decoded, String> {
    WARNINGS.take();
    let color = match channels {
        1 => ColorSpace::JCS_GRAYSCALE,
        _ => ColorSpace::JCS_RGB,
    };
    let read = || {
        let mut started = Decompress::with_err(error_manager())
            .from_mem(bytes)?
            .to_colorspace(color)?;
        let samples: Vec<u8> = started.read_scanlines()?;
        Ok((started.width(), started.height(), samples))
    };
    let (width, height, samples) = read().map_err(|error: std::io::Error| error.to_string())?;
    if samples.len() != width * height * channels {
        return Err("its picture is not whole".to_owned());
    }
    Ok(Decoded {
        width,
        height,
        samples,
        warnings: WARNINGS.take(),
    })
}

/// The words of an error that unwound.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    match panic.downcast_ref::<String>() {
        Some(message) => message.clone(),
        None => "the decoder gave up".to_owned(),
    }
}

fn error_manager() -> jpeg_error_mgr {
    // SAFETY: all fields are numbers, nullable pointers and optional functions, and jpeg_std_error sets each of them.
    let mut manager: jpeg_error_mgr = unsafe { mem::zeroed() };
    // SAFETY: it only writes to the struct.
    unsafe { jpeg_std_error(&mut manager) };
    manager.error_exit = Some(unwind);
    manager.emit_message = Some(note_warning);
    manager
}

extern "C-unwind" fn unwind(info: &mut jpeg_common_struct) {
    // Without the panic hook: a damaged file is nothing to print a trace for.
    std::panic::resume_unwind(Box::new(formatted(info)));
}

/// Level -1 is a warning; the others are traces.
extern "C-unwind" fn note_warning(info: &mut jpeg_common_struct, level: c_int) {
    if level >= 0 {
        return;
    }
    let text = formatted(info);
    WARNINGS.with_borrow_mut(|warnings| {
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    });
}

fn formatted(info: &mut jpeg_common_struct) -> String {
    // SAFETY: the library calls back with the error manager that it was given.
    let format = unsafe { info.err.as_ref() }.and_then(|manager| manager.format_message);
    let Some(format) = format else {
        return "an error without words".to_owned();
    };
    let mut buffer = [0; MESSAGE_LENGTH];
    // SAFETY: libjpeg's own function writes up to MESSAGE_LENGTH bytes with a closing zero; the binding's `&` is a `*mut`
    // in C, and the buffer is ours to write.
    unsafe {
        type Format =
            unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; MESSAGE_LENGTH]);
        let format: Format = mem::transmute(format);
        format(info, &mut buffer);
    }
    let text = buffer.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
