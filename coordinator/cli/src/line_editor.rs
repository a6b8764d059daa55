//! A line that is typed in a terminal and can be edited: arrows, Home and End (Ctrl-A, Ctrl-E), Backspace and Delete, Ctrl-U and Ctrl-K,
//! Ctrl-W for a word, and the lines before with the arrows up and down. What is typed before the prompt, e.g. while an answer comes,
//! waits for it. What was typed is of patients, so that it is in memory only.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use console::{Key, Term, measure_text_width};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Lines that are remembered.
const REMEMBERED: usize = 200;
/// Widest prompt and line where the terminal does not say its width.
const DEFAULT_WIDTH: usize = 80;

/// What the keys that a terminal sends without a name of their own do.
const CTRL_D: char = '\u{4}';
const CTRL_K: char = '\u{b}';
const CTRL_U: char = '\u{15}';
const CTRL_W: char = '\u{17}';

/// A terminal from which lines are read. From its making on, Ctrl-C is for the command to listen to.
pub(crate) struct LineEditor {
    history: Vec<String>,
    settings: Arc<TerminalSettings>,
    /// Ctrl-C would end the process and leave the terminal as this has set it.
    _interrupts: Signal,
}

/// The settings that the terminal had, put back when the editor is dropped. Until then keys come one by one, between two lines as
/// well: a terminal that collects lines would make nothing of a Ctrl-D typed before the prompt. Ctrl-Z and Ctrl-\ do nothing, so that
/// no shell gets the terminal like this.
struct TerminalSettings {
    before: Option<String>,
    is_over: AtomicBool,
}

/// A line as it is being typed.
#[derive(Default)]
struct Line {
    typed: Vec<char>,
    /// The cursor stands in front of this character.
    at: usize,
    /// The place in the history, from its end; none for the new line.
    shown: Option<usize>,
    /// The new line, while one of the history is shown.
    kept: Vec<char>,
}

/// What a key has done.
#[derive(Debug, PartialEq)]
enum Pressed {
    Edited,
    /// The line is whole.
    Entered,
    /// There are no more lines: Ctrl-C, or Ctrl-D in an empty one.
    Ended,
}

impl TerminalSettings {
    fn key_by_key() -> Self {
        let before = stty(&["-g"]);
        if before.is_some() {
            stty(&[
                "-icanon", "-echo", "min", "1", "susp", "undef", "quit", "undef",
            ]);
        }
        Self {
            before,
            is_over: AtomicBool::new(false),
        }
    }

    fn put_back(&self) {
        if let Some(before) = &self.before {
            stty(&[before.trim()]);
        }
    }
}

impl Drop for LineEditor {
    fn drop(&mut self) {
        self.settings.is_over.store(true, Ordering::SeqCst);
        self.settings.put_back();
    }
}

/// What `stty` says of the terminal; none where it cannot.
fn stty(arguments: &[&str]) -> Option<String> {
    let mut asked = Command::new("stty");
    asked.args(arguments).stdin(Stdio::inherit());
    let said = asked.stderr(Stdio::null()).output().ok()?;
    let words = String::from_utf8(said.stdout).ok()?;
    said.status.success().then_some(words)
}

impl LineEditor {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            history: Vec::new(),
            _interrupts: signal(SignalKind::interrupt()).context("cannot listen to Ctrl-C")?,
            settings: Arc::new(TerminalSettings::key_by_key()),
        })
    }

    /// Reads a line; none where there are no more.
    pub(crate) async fn read(&mut self, prompt: &'static str) -> anyhow::Result<Option<String>> {
        let history = std::mem::take(&mut self.history);
        let settings = self.settings.clone();
        let typing =
            tokio::task::spawn_blocking(move || (type_line(prompt, &history, &settings), history));
        let (line, history) = typing
            .await
            .context("reading the terminal was interrupted")?;
        self.history = history;
        if let Some(line) = line.as_ref().filter(|line| !line.trim().is_empty()) {
            self.history.retain(|known| known != line);
            self.history.push(line.clone());
            let surplus = self.history.len().saturating_sub(REMEMBERED);
            self.history.drain(..surplus);
        }
        Ok(line)
    }
}

/// Reads keys until the line is whole; a terminal that is gone has no more.
fn type_line(prompt: &str, history: &[String], settings: &TerminalSettings) -> Option<String> {
    let terminal = Term::stdout();
    let mut line = Line::default();
    loop {
        let width = terminal
            .size_checked()
            .map_or(DEFAULT_WIDTH, |(_, width)| width.into());
        out!("{}", line.drawn(prompt, width));
        if crate::print::is_closed() {
            return None;
        }
        let key = terminal.read_key_raw();
        // The command ended while a key was waited for, which has put back what it found.
        if settings.is_over.load(Ordering::SeqCst) {
            settings.put_back();
            return None;
        }
        match key.map(|key| line.press(&key, history)) {
            Ok(Pressed::Edited) => {}
            Ok(Pressed::Entered) => {
                outln!();
                return Some(line.typed.into_iter().collect());
            }
            Ok(Pressed::Ended) | Err(_) => {
                outln!();
                return None;
            }
        }
    }
}

impl Line {
    fn press(&mut self, key: &Key, history: &[String]) -> Pressed {
        match key {
            Key::Enter => return Pressed::Entered,
            Key::CtrlC => return Pressed::Ended,
            Key::Char(CTRL_D) if self.typed.is_empty() => return Pressed::Ended,
            Key::Char(CTRL_D) | Key::Del if self.at < self.typed.len() => {
                self.typed.remove(self.at);
            }
            Key::Char(CTRL_K) => self.typed.truncate(self.at),
            Key::Char(CTRL_U) => self.remove_back_to(0),
            Key::Char(CTRL_W) => self.remove_back_to(self.word_before()),
            Key::Backspace if self.at > 0 => self.remove_back_to(self.at - 1),
            Key::ArrowLeft => self.at = self.at.saturating_sub(1),
            Key::ArrowRight => self.at = (self.at + 1).min(self.typed.len()),
            Key::Home => self.at = 0,
            Key::End => self.at = self.typed.len(),
            Key::ArrowUp => self.show(history, self.shown.map_or(0, |shown| shown + 1)),
            Key::ArrowDown => match self.shown {
                Some(0) => {
                    self.shown = None;
                    self.replace(self.kept.clone());
                }
                Some(shown) => self.show(history, shown - 1),
                None => {}
            },
            Key::Char(character) if !character.is_control() => {
                self.typed.insert(self.at, *character);
                self.at += 1;
            }
            _ => {}
        }
        Pressed::Edited
    }

    /// Shows a line of the history, counted from its end, where there is one.
    fn show(&mut self, history: &[String], shown: usize) {
        let Some(line) = history.iter().rev().nth(shown) else {
            return;
        };
        if self.shown.is_none() {
            self.kept = std::mem::take(&mut self.typed);
        }
        self.shown = Some(shown);
        self.replace(line.chars().collect());
    }

    fn replace(&mut self, typed: Vec<char>) {
        self.at = typed.len();
        self.typed = typed;
    }

    fn remove_back_to(&mut self, start: usize) {
        self.typed.drain(start..self.at);
        self.at = start;
    }

    /// Where the word before the cursor begins.
    fn word_before(&self) -> usize {
        let before = &self.typed[..self.at];
        let end = before.iter().rposition(|character| *character != ' ');
        let end = end.map_or(0, |end| end + 1);
        let blank = before[..end]
            .iter()
            .rposition(|character| *character == ' ');
        blank.map_or(0, |blank| blank + 1)
    }

    /// What shows the line in one row of a terminal: of a longer one, the part around the cursor.
    fn drawn(&self, prompt: &str, width: usize) -> String {
        let text = |part: &[char]| part.iter().collect::<String>();
        let columns = |part: &[char]| measure_text_width(&text(part));
        // The cursor needs a column behind the last character.
        let room = width.saturating_sub(measure_text_width(prompt) + 1).max(1);
        let mut first = 0;
        while columns(&self.typed[first..self.at]) > room {
            first += 1;
        }
        let mut end = self.typed.len();
        while columns(&self.typed[first..end]) > room {
            end -= 1;
        }
        let behind = columns(&self.typed[self.at..end.max(self.at)]);
        let back = match behind {
            0 => String::new(),
            columns => format!("\x1b[{columns}D"),
        };
        format!("\r{prompt}{}\x1b[K{back}", text(&self.typed[first..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(line: &mut Line, keys: &[Key], history: &[String]) {
        for key in keys {
            assert_eq!(line.press(key, history), Pressed::Edited);
        }
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    fn text(line: &Line) -> String {
        line.typed.iter().collect()
    }

    #[test]
    fn a_line_is_edited_where_the_cursor_stands() {
        let mut line = Line::default();
        press(&mut line, &typed("Is there edma?"), &[]);
        press(
            &mut line,
            &[
                Key::ArrowLeft,
                Key::ArrowLeft,
                Key::ArrowLeft,
                Key::Char('e'),
            ],
            &[],
        );
        assert_eq!(text(&line), "Is there edema?");
        press(
            &mut line,
            &[
                Key::End,
                Key::Backspace,
                Key::Char('é'),
                Key::Home,
                Key::Del,
            ],
            &[],
        );
        assert_eq!(text(&line), "s there edemaé");
        press(
            &mut line,
            &[Key::End, Key::Char(CTRL_W), Key::Char(CTRL_W)],
            &[],
        );
        assert_eq!(text(&line), "s ");
        press(&mut line, &typed("abc"), &[]);
        press(
            &mut line,
            &[Key::ArrowLeft, Key::Char(CTRL_K), Key::ArrowRight, Key::Tab],
            &[],
        );
        assert_eq!(text(&line), "s ab");
        press(&mut line, &[Key::ArrowLeft, Key::Char(CTRL_U)], &[]);
        assert_eq!((text(&line).as_str(), line.at), ("b", 0));
        assert_eq!(line.press(&Key::CtrlC, &[]), Pressed::Ended);
        press(&mut line, &[Key::Char(CTRL_D)], &[]);
        assert_eq!(line.press(&Key::Char(CTRL_D), &[]), Pressed::Ended);
        assert_eq!(line.press(&Key::Enter, &[]), Pressed::Entered);
    }

    #[test]
    fn lines_before_come_back_and_the_new_one_is_kept() {
        let history = ["first".to_owned(), "second".to_owned()];
        let mut line = Line::default();
        press(&mut line, &typed("new"), &history);
        for expected in ["second", "first", "first"] {
            press(&mut line, &[Key::ArrowUp], &history);
            assert_eq!((text(&line).as_str(), line.at), (expected, expected.len()));
        }
        for expected in ["second", "new", "new"] {
            press(&mut line, &[Key::ArrowDown], &history);
            assert_eq!(text(&line), expected);
        }
    }

    #[test]
    fn a_long_line_stays_in_its_row_with_the_cursor_in_sight() {
        let mut line = Line::default();
        press(&mut line, &typed("0123456789"), &[]);
        assert_eq!(line.drawn("> ", 20), "\r> 0123456789\x1b[K");
        assert_eq!(line.drawn("> ", 8), "\r> 56789\x1b[K");
        press(&mut line, &[Key::Home], &[]);
        assert_eq!(line.drawn("> ", 8), "\r> 01234\x1b[K\x1b[5D");
    }
}
