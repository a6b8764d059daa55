//! `radialog chat` in a terminal, which util-linux's `script` gives.
#![expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::patience::InTime;
use super::people::XRAYS;

/// Seconds after which a terminal in which nothing happens is ended.
const PATIENCE: &str = "120";

/// A conversation about an image in a terminal.
struct Terminal {
    script: Child,
    input: ChildStdin,
    output: ChildStdout,
    said: String,
    seen: usize,
}

fn chat() -> String {
    format!(
        "{} chat {XRAYS}/2cd63b76.jpg --max-new-tokens 4",
        env!("CARGO_BIN_EXE_radialog")
    )
}

impl Terminal {
    /// None where there is no `script`.
    fn open() -> Option<Self> {
        Self::run(&chat())
    }

    fn run(command: &str) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            eprintln!("skipped: there is no script");
            return None;
        }
        let mut script = Command::new("timeout");
        script.args([PATIENCE, "script", "--quiet", "--return"]);
        script.args(["--command", command, "/dev/null"]);
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.stderr(Stdio::null()).spawn().unwrap();
        Some(Self {
            input: script.stdin.take().unwrap(),
            output: script.stdout.take().unwrap(),
            script,
            said: String::new(),
            seen: 0,
        })
    }

    /// What comes until these words come.
    fn before(&mut self, words: &str) -> String {
        let from = self.seen;
        self.until(words);
        self.said[from..self.seen - words.len()].to_owned()
    }

    fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until these words come behind those before.
    fn until(&mut self, words: &str) {
        let mut piece = [0; 4096];
        loop {
            if let Some(at) = self.said[self.seen..].find(words) {
                self.seen += at + words.len();
                return;
            }
            let count = self.output.read(&mut piece).unwrap_or(0);
            assert!(count > 0, "{words:?} does not come in {:?}", self.said);
            self.said
                .push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    }

    fn assert_ended(mut self) {
        let ended = self.script.wait().unwrap();
        assert!(ended.success(), "{ended} behind {:?}", self.said);
    }
}

#[test]
fn a_line_is_edited_and_the_one_before_comes_back() {
    let Some(mut terminal) = Terminal::open() else {
        return;
    };
    terminal.until("> ");
    // "/hep", then the cursor back, and the letter that was missing.
    terminal.press("/hep\x1b[D");
    terminal.press("l\r");
    terminal.until("/quit");
    terminal.until("> ");
    // Arrow up.
    terminal.press("\x1b[A");
    terminal.until("> /help");
    terminal.press("\r");
    terminal.until("/quit");
    terminal.until("> ");
    // Ctrl-D in an empty line.
    terminal.press("\x04");
    terminal.assert_ended();
}

#[test]
fn what_is_typed_before_the_prompt_waits_for_it() {
    let Some(mut terminal) = Terminal::open() else {
        return;
    };
    // The last of the findings: the report is being written.
    terminal.until("Support Devices");
    terminal.press("/help\r\x04");
    terminal.until("> /help");
    terminal.until("/quit");
    terminal.assert_ended();
}

#[test]
fn a_terminal_is_left_as_it_was_found_where_a_prompt_is_ended() {
    let command = format!("sh -c 'echo process $$.; exec {}'; stty -a", chat());
    let Some(mut terminal) = Terminal::run(&command) else {
        return;
    };
    terminal.until("process ");
    let process = terminal.before(".");
    terminal.until("> ");
    let ended = Command::new("kill").arg(&process).output_in_time();
    assert!(ended.unwrap().status.success());
    // The key that the prompt was waiting for.
    terminal.press("x\r");
    terminal.until("; susp = ^Z;");
    terminal.until("isig icanon iexten echo ");
    terminal.assert_ended();
}
