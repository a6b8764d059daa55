use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

/// Says to a child process which file to write; without it the child's test does nothing.
const CHILD_FILE: &str = "RADIALOG_TEST_DURABLE_FILE";
const LENGTH: usize = 1 << 20;
/// Says to a child process which directory to write to; without it the child's test does nothing.
const STOPPED_IN: &str = "RADIALOG_TEST_STOPPED_IN";

fn content(byte: u8) -> Vec<u8> {
    vec![byte; LENGTH]
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A process of its own that runs one of the children below, and the lines that it prints.
fn child(test: &str, file: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("durable::tests::{test}")])
        .args(["--ignored", "--nocapture"])
        .env(CHILD_FILE, file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, wanted: &str) {
    // The first line of a test stands behind the harness's own words.
    let said = lines.any(|line| line.unwrap().ends_with(wanted));
    assert!(said, "the child ended before it said '{wanted}'");
}

/// What has a name of a file that is being written.
fn left_in(directory: &Path) -> Vec<String> {
    let mut left = names(directory);
    left.retain(|name| name.starts_with(UNFINISHED));
    left
}

fn make_old(path: &Path) {
    let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let file = File::open(path).unwrap();
    file.set_modified(hours_ago).unwrap();
}

/// The permissions of a file or directory, without its type.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// SIGKILL: the process has no chance to clean up.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "a process that another test kills"]
#[allow(clippy::print_stdout)]
fn child_that_stops_in_the_middle_of_its_second_write() {
    let Some(file) = std::env::var_os(CHILD_FILE) else {
        return;
    };
    let file = Path::new(&file);
    let stop_half_way = |byte: u8| -> io::Result<()> {
        write(file, |writer| {
            writer.write_all(&content(byte)[..LENGTH / 2])?;
            writer.flush()?;
            println!("half");
            io::stdin().read_line(&mut String::new())?;
            writer.write_all(&content(byte)[LENGTH / 2..])
        })
    };
    stop_half_way(1).unwrap();
    println!("whole");
    stop_half_way(2).unwrap();
}

#[test]
#[ignore = "a process that another test kills"]
#[allow(clippy::print_stdout)]
fn child_that_writes_until_it_is_killed() {
    let Some(file) = std::env::var_os(CHILD_FILE) else {
        return;
    };
    for byte in (1..=u8::MAX).cycle() {
        replace(Path::new(&file), &content(byte)).unwrap();
        println!("written");
    }
}

#[test]
#[ignore = "a process that another test starts"]
fn child_that_is_asked_to_stop() {
    let Some(dir) = std::env::var_os(STOPPED_IN).map(PathBuf::from) else {
        return;
    };
    let whole = NewDirectory::create(&dir.join("whole")).unwrap();
    whole.commit().unwrap();
    let half = NewDirectory::create(&dir.join("half")).unwrap();
    fs::write(half.partial().join("file"), "x").unwrap();
    let file = Replacement::create(&dir.join("file")).unwrap();
    refuse_commits();
    assert_eq!(
        file.commit().unwrap_err().kind(),
        io::ErrorKind::Interrupted
    );
    abandon();
    assert!(!half.partial().exists());
    std::process::exit(0);
}

#[test]
fn a_process_that_is_asked_to_stop_makes_nothing_whole_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let stopped = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durable::tests::child_that_is_asked_to_stop"])
        .args(["--ignored", "--nocapture"])
        .env(STOPPED_IN, dir.path())
        .output()
        .unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(names(dir.path()), ["whole"]);
}

#[test]
fn a_process_killed_in_the_middle_of_a_write_leaves_the_file_absent_or_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let test = "child_that_stops_in_the_middle_of_its_second_write";

    let (first, mut lines) = child(test, &file);
    wait_for(&mut lines, "half");
    kill(first);
    assert!(!file.exists(), "{:?}", names(directory.path()));

    let (mut second, mut lines) = child(test, &file);
    wait_for(&mut lines, "half");
    second.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    wait_for(&mut lines, "whole");
    wait_for(&mut lines, "half");
    let left = left_in(directory.path());
    assert_eq!(left.len(), 2, "{left:?}");
    for name in &left {
        make_old(&directory.path().join(name));
    }
    left_behind::remove(directory.path(), is_temporary);
    let writing = left_in(directory.path());
    assert_eq!(writing.len(), 1, "one of them is being written");
    kill(second);
    assert!(fs::read(&file).unwrap() == content(1));
    left_behind::remove(directory.path(), is_temporary);
    assert_eq!(names(directory.path()), ["file"]);
}

#[test]
fn what_was_left_a_moment_ago_or_has_another_name_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let all = [".writing-abcdef", ".writing-lock", ".writing-abcdefg", "x"];
    for name in all {
        fs::write(path(name), "x").unwrap();
    }
    left_behind::remove(directory.path(), is_temporary);
    assert_eq!(names(directory.path()).len(), 4);
    for name in all {
        make_old(&path(name));
    }
    left_behind::remove(directory.path(), is_temporary);
    let mut left = all[1..].to_vec();
    left.sort_unstable();
    assert_eq!(names(directory.path()), left);
}

#[test]
fn a_process_killed_while_it_writes_and_writes_leaves_a_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    for writes in 1..=8 {
        let (child, mut lines) = child("child_that_writes_until_it_is_killed", &file);
        for _ in 0..writes {
            wait_for(&mut lines, "written");
        }
        kill(child);
        let found = fs::read(&file).unwrap();
        assert!(found == content(found[0]), "{} bytes", found.len());
    }
}

#[test]
fn a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    replace(&file, b"old").unwrap();
    let failed = write(&file, |writer| {
        writer.write_all(b"new")?;
        Err::<(), _>(io::Error::other("out of words"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "out of words");
    assert_eq!(fs::read(&file).unwrap(), b"old");
    replace(&file, b"new").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(names(directory.path()), ["file"]);
}

#[test]
fn others_may_read_the_file_as_the_umask_says() {
    let directory = tempfile::tempdir().unwrap();
    let [plain, durable] = ["plain", "durable"].map(|name| directory.path().join(name));
    fs::write(&plain, b"x").unwrap();
    replace(&durable, b"x").unwrap();
    assert_eq!(mode(&durable), mode(&plain));
}

#[test]
fn what_is_copied_or_written_by_others_is_read_as_the_umask_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("plain"), b"x").unwrap();
    replace_for(Readers::Owner, &path("owners"), b"content").unwrap();
    assert_eq!(copy(&path("owners"), &path("copy")).unwrap(), 7);
    // As a library that renames a temporary file of its own.
    write_by(&path("written"), |path| {
        replace_for(Readers::Owner, path, b"content")
    })
    .unwrap();
    for name in ["copy", "written"] {
        assert_eq!(fs::read(path(name)).unwrap(), b"content");
        assert_eq!(mode(&path(name)), mode(&path("plain")), "{name}");
    }
}

#[test]
fn directories_that_were_made_go_again_where_nothing_is_in_them() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("there/a/b");
    fs::create_dir(directory.path().join("there")).unwrap();
    let made = MadeDirectories::create(&deep).unwrap();
    assert!(MadeDirectories::create(&deep).unwrap().is_empty());
    made.remove_empty();
    assert_eq!(names(&directory.path().join("there")), [""; 0]);

    let made = MadeDirectories::create(&deep).unwrap();
    fs::write(directory.path().join("there/a/file"), b"x").unwrap();
    made.remove_empty();
    assert_eq!(names(&directory.path().join("there/a")), ["file"]);
    assert!(MadeDirectories::create(&directory.path().join("there/a/file/b")).is_err());
}

#[test]
fn what_is_for_the_owner_alone_is_so_whatever_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a/b");
    create_directory_for(Readers::Owner, &deep).unwrap();
    assert_eq!((mode(deep.parent().unwrap()), mode(&deep)), (0o700, 0o700));
    let file = deep.join("file");
    replace(&file, b"for others").unwrap();
    replace_for(Readers::Owner, &file, b"for the owner").unwrap();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(fs::read(&file).unwrap(), b"for the owner");
}

#[test]
fn directories_are_made_down_to_the_wanted_one() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a/b/c");
    create_directory(&deep).unwrap();
    create_directory(&deep).unwrap();
    assert!(deep.is_dir());
    fs::write(directory.path().join("file"), b"").unwrap();
    assert!(create_directory(&directory.path().join("file/below")).is_err());
}

#[test]
fn a_directory_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let [path, plain] = ["above/bundle", "plain"].map(|name| dir.path().join(name));
    let pending = NewDirectory::create(&path).unwrap();
    fs::create_dir(pending.partial().join("inner")).unwrap();
    fs::write(pending.partial().join("inner/file"), "content").unwrap();
    assert!(!path.exists());
    pending.commit().unwrap();
    assert_eq!(fs::read(path.join("inner/file")).unwrap(), b"content");
    fs::create_dir(&plain).unwrap();
    assert_eq!(mode(&path), mode(&plain));

    drop(NewDirectory::create(&path).unwrap());
    let second = NewDirectory::create(&path).unwrap();
    second.commit().unwrap_err();
    assert_eq!(fs::read(path.join("inner/file")).unwrap(), b"content");
    assert_eq!(names(&dir.path().join("above")), ["bundle"]);
}

#[test]
fn what_killed_processes_have_left_of_a_path_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["weights", ".weights.a.partial", ".other.a.partial"] {
        fs::write(dir.path().join(name), "content").unwrap();
    }
    let unfinished = dir.path().join(".weights.b.partial");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("file"), "content").unwrap();
    remove_unfinished(&dir.path().join("weights")).unwrap();
    let mut left = names(dir.path());
    left.sort();
    assert_eq!(left, [".other.a.partial", "weights"]);
    remove_unfinished(&dir.path().join("absent/weights")).unwrap();
}

#[test]
fn temporary_names_are_told_from_all_others() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["hashes.json", "x", ".hidden"] {
        let path = dir.path().join(name);
        let file = Replacement::create(&path).unwrap();
        let directory = NewDirectory::create(&path).unwrap();
        for made in [file.partial(), directory.partial()] {
            let made = made.file_name().unwrap().to_str().unwrap();
            assert!(is_temporary(made), "{made}");
        }
    }
    for name in [
        "weights.partial",
        ".weights.partial",
        ".weights.ab.partial",
        ".abcdef.partial",
        "weights.abcdef.partial",
    ] {
        assert!(!is_temporary(name), "{name}");
    }
}

#[test]
fn a_link_to_a_file_stays_and_what_is_no_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    replace(&link, b"new").unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"new");

    // One that leads to what is not there yet.
    let (there, to_there) = (dir.path().join("there"), dir.path().join("to-there"));
    std::os::unix::fs::symlink("there", &to_there).unwrap();
    replace(&to_there, b"new").unwrap();
    assert!(to_there.is_symlink());
    assert_eq!(fs::read(&there).unwrap(), b"new");
    let circle = dir.path().join("circle");
    std::os::unix::fs::symlink("circle", &circle).unwrap();
    replace(&circle, b"new").unwrap_err();
    assert!(circle.is_symlink());
    fs::remove_file(&circle).unwrap();
    // A file that somebody has open, as `/dev/stdout` leads to one.
    let open = File::open(&file).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&open);
    let error = replace(&PathBuf::from(format!("/proc/self/fd/{number}")), b"lost").unwrap_err();
    assert!(error.get_ref().unwrap().is::<NoRegularFile>(), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"new");

    let (socket, folder) = (dir.path().join("socket"), dir.path().join("folder"));
    let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::create_dir(&folder).unwrap();
    for place in [&socket, &folder] {
        let error = replace(place, b"new").unwrap_err();
        assert!(error.get_ref().unwrap().is::<NoRegularFile>(), "{error}");
    }
    assert!(!socket.is_file());
    assert_eq!(
        names(dir.path()),
        ["file", "folder", "link", "socket", "there", "to-there"]
    );
}
