// Which commit a source tree is of. The build script and its test both include this file.

use std::path::Path;
use std::process::Command;

/// What the program is made of, below the workspace's root.
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "coordinator/cli/src",
    "coordinator/src",
    "schemas/src",
    "workers/models/src",
    "workers/runtime/src",
    "workers/src",
    "workers/training/src",
];
/// Digits of a commit's name that are shown.
const DIGITS: usize = 12;

/// The commit that is checked out at `root`, with `-dirty` where the program's sources are others. None where there is no git, or
/// `root` is no checkout's own folder: a tree that was unpacked below another repository is not of that one's commits.
fn commit_of(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let head = git(root, &["rev-parse", "HEAD"])?;
    let tracked = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changes = git(root, &[&tracked[..], &SOURCES].concat())?;
    let digits = head.get(..DIGITS).unwrap_or(&head);
    let mark = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{digits}{mark}"))
}

/// What git prints about the repository of `root`; none where it fails. Cargo may run in a hook of another repository, whose
/// variables git would follow.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(variable);
    }
    let output = command.arg("-C").arg(root).args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim().to_owned())
}
