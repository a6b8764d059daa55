//! What the program writes to its standard output and error. A reader that goes away (`| head`) or a full disk must not end a
//! command in the middle of its work, as `println!` would: what is written then is dropped, and the command goes on to its end
//! with its own exit code. Only output that was lost on a full disk makes that a failure.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use radialog_schemas::PredictedFinding;

/// Whether the reader of the standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// Whether output was lost for another reason.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes to the standard output, like `print!`.
macro_rules! out {
    ($($words:tt)*) => { $crate::print::output(format_args!($($words)*)) };
}

/// Writes a line to the standard output, like `println!`.
macro_rules! outln {
    () => { $crate::print::output(format_args!("\n")) };
    ($($words:tt)*) => { $crate::print::output(format_args!("{}\n", format_args!($($words)*))) };
}

/// Writes a line to the standard error, like `eprintln!`; nobody can be told where that fails.
macro_rules! errln {
    ($($words:tt)*) => { $crate::print::message(format_args!($($words)*)) };
}

/// What `out!` and `outln!` do.
pub(crate) fn output(words: Arguments<'_>) {
    bytes(words.to_string().as_bytes());
}

/// Writes bytes to the standard output, and what was written before them.
pub(crate) fn bytes(bytes: &[u8]) {
    if is_closed() || LOST.load(Ordering::Relaxed) {
        return;
    }
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    match written.map_err(|error| (error.kind(), error)) {
        Ok(()) => {}
        Err((ErrorKind::BrokenPipe, _)) => CLOSED.store(true, Ordering::Relaxed),
        Err((_, error)) => {
            LOST.store(true, Ordering::Relaxed);
            message(format_args!("error: cannot write the output: {error}"));
        }
    }
}

/// What `errln!` does.
pub(crate) fn message(words: Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{words}"));
}

/// Whether nobody reads the standard output any more, so that a conversation may end.
pub(crate) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Whether output was lost that somebody may have wanted, e.g. on a full disk.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// The words of an error and its causes, without those that stand in the words before them.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// The threshold over which a finding counts as present, behind what says so: " (over 16 %)"; nothing where it is one half.
pub(crate) fn over_threshold(predicted: &PredictedFinding) -> String {
    let threshold = predicted.threshold;
    threshold.map_or_else(String::new, |threshold| {
        format!(" (over {:.0} %)", 100.0 * threshold)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_the_error_says_already_is_not_said_again() {
        let cause = anyhow::anyhow!("No space left on device");
        let error = cause.context("cannot write 'a': No space left on device");
        assert_eq!(chain(&error), "cannot write 'a': No space left on device");
        let error = anyhow::anyhow!("refused").context("cannot connect");
        assert_eq!(chain(&error), "cannot connect: refused");
    }
}
