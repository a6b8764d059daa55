//! `radialog chat` in a terminal, which util-linux's `script` gives.
#![expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::people::XRAYS;

#[test]
fn a_line_is_edited_and_the_one_before_comes_back() {
    let chat = format!(
        "{} chat {XRAYS}/2cd63b76.jpg --max-new-tokens 4",
        env!("CARGO_BIN_EXE_radialog")
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &chat, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = script.stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: there is no script");
        return;
    };
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut said, mut seen) = (String::new(), 0);
    // Reads until these words come behind those before.
    let mut until = |words: &str| {
        let mut piece = [0; 4096];
        loop {
            if let Some(at) = said[seen..].find(words) {
                seen += at + words.len();
                return;
            }
            let count = output.read(&mut piece).unwrap_or(0);
            assert!(count > 0, "{words:?} does not come in {said:?}");
            said.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    until("> ");
    // "/hep", then the cursor back, and the letter that was missing.
    input.write_all(b"/hep\x1b[D").unwrap();
    input.write_all(b"l\r").unwrap();
    until("/quit");
    until("> ");
    // Arrow up.
    input.write_all(b"\x1b[A").unwrap();
    until("> /help");
    input.write_all(b"\r").unwrap();
    until("/quit");
    until("> ");
    // Ctrl-D in an empty line.
    input.write_all(b"\x04").unwrap();
    assert!(child.wait().unwrap().success());
}
