//! Signals: what ends, with which code, and what is left.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::patience::InTime;
use super::people::XRAYS;
use super::until;

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

fn send(signal: &str, child: &Child) {
    let process = child.id().to_string();
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
}

/// Whether the process listens at this port.
fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn serve(program: &str, before: &[&str], dir: &Path) -> (Child, u16) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut command = command(program);
    command.args(before).args(["serve", "--listen", &address]);
    let mut child = command.current_dir(dir).spawn().unwrap();
    until("it does not listen", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        answers(port)
    });
    (child, port)
}

#[test]
fn the_end_of_the_terminal_stops_a_service_as_sigterm_does_unless_it_is_ignored() {
    let (dir, program) = (tempfile::tempdir().unwrap(), env!("CARGO_BIN_EXE_radialog"));
    // Whatever these tests were started by: nohup has it ignored.
    let hearing = ["--default-signal=HUP", program];
    let (child, _) = serve("env", &hearing, dir.path());
    send("-HUP", &child);
    assert_eq!(child.output_in_time().unwrap().status.code(), Some(0));

    let ignoring = ["-c", "trap '' HUP; exec \"$@\"", "sh", program];
    let (mut child, port) = serve("sh", &ignoring, dir.path());
    send("-HUP", &child);
    // A signal that is heard comes before a connection that is made later.
    for _ in 0..20 {
        assert!(answers(port));
        sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none(), "it heard the signal");
    send("-TERM", &child);
    assert_eq!(child.output_in_time().unwrap().status.code(), Some(0));
}

#[test]
fn the_end_of_the_terminal_leaves_a_run_to_resume_from() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let batch = || {
        let mut command = command("env");
        // Samples make each study take so long that the signal comes before the last one, however late it is sent.
        let slowly = [
            "--window",
            "1",
            "--stages",
            "language",
            "--consistency",
            "32",
        ];
        let flags = [&["--progress", "off"], &slowly[..]].concat();
        command
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_radialog")])
            .args(["batch", XRAYS, "--out"])
            .arg(&out)
            .args(flags);
        command.spawn().unwrap()
    };
    let child = batch();
    let results = out.join("results.jsonl");
    until("there is no line", || {
        fs::metadata(&results).is_ok_and(|results| results.len() > 0)
    });
    send("-HUP", &child);
    assert_eq!(child.output_in_time().unwrap().status.code(), Some(130));
    assert!(out.join("summary.json").exists());
    assert_eq!(batch().output_in_time().unwrap().status.code(), Some(0));
    assert_eq!(fs::read_to_string(results).unwrap().lines().count(), 10);
}

#[test]
fn a_limit_of_file_sizes_ends_a_run_with_a_last_line_and_it_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let batch = |limit: &str| {
        let limited = format!("ulimit -S -f {limit}; exec \"$@\"");
        let mut command = command("sh");
        command
            .args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_radialog")])
            .args(["batch", XRAYS, "--out"])
            .arg(&out)
            .args(["--stages", "findings", "--progress", "off"]);
        command.output_in_time().unwrap()
    };
    // The images are larger than twenty blocks, and so is the demo bundle, which must be there.
    let unpacked = command(env!("CARGO_BIN_EXE_radialog"))
        .args(["bundle", "show", "demo"])
        .output_in_time();
    assert!(unpacked.unwrap().status.success());
    let refused = batch("20");
    let said = super::text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said.contains("ulimit -f"), "{said}");
    assert_eq!(batch("unlimited").status.code(), Some(0));
}

#[test]
fn an_interrupted_bundle_is_not_there_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("bundle");
    let mut random = command(env!("CARGO_BIN_EXE_radialog"));
    random
        .args(["bundle", "random", "--geometry", "published"])
        .arg(&out);
    let child = random.spawn().unwrap();
    let entries = || fs::read_dir(dir.path()).unwrap().count();
    until("nothing is written", || entries() > 0);
    send("-INT", &child);
    assert_eq!(child.output_in_time().unwrap().status.code(), Some(130));
    assert_eq!(entries(), 0);
}

#[test]
fn a_quantised_bundle_is_there_where_the_command_says_so_and_else_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    for (place, milliseconds) in [0, 20, 50, 100, 200, 400].into_iter().enumerate() {
        let out = dir.path().join(format!("q{place}"));
        let mut quantise = command(env!("CARGO_BIN_EXE_radialog"));
        quantise
            .args(["bundle", "quantise", "--to", "q8_0", "demo"])
            .arg(&out);
        let child = quantise.spawn().unwrap();
        // Whenever it comes, what is said is true.
        sleep(Duration::from_millis(milliseconds));
        let _ = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        let output = child.output_in_time().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_there = out.join("bundle.json").exists();
        assert_eq!(said.contains("wrote"), is_there, "{output:?}");
        assert_eq!(output.status.code() == Some(0), is_there, "{output:?}");
        let hidden = fs::read_dir(dir.path()).unwrap();
        let hidden = hidden.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with('.')
        });
        assert_eq!(hidden.count(), 0);
    }
}
