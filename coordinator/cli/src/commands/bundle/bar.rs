//! How far a bundle in the making is.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Bytes that are shown as one.
pub(super) const MIB: f64 = 1_048_576.0;

/// A bar on a terminal, a line every few seconds elsewhere.
pub(super) struct Bar {
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Bar {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{bar:40} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {msg}",
        );
        let bar = stderr().is_terminal().then(|| {
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self {
            bar,
            next_line: Instant::now() + LINE_EVERY,
        }
    }

    /// Shows how many bytes of all are done.
    pub(super) fn show(&mut self, message: &str, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            let [done, total] = [done, total].map(|bytes| bytes as f64 / MIB);
            errln!("{done:.0}/{total:.0} MiB  {message}");
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
