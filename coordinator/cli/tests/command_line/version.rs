//! What `radialog --version` says of where the program comes from.

use super::{radialog, text};

include!("../../build_commit.rs");

#[test]
fn the_version_names_the_commit_or_says_that_it_is_unknown() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = radialog(&["--version"]);
    assert!(output.status.success());
    let version = text(&output.stdout);
    let expected = match commit_of(&root) {
        Some(commit) => format!("commit {}", &commit[..DIGITS]),
        None => "commit".to_owned(),
    };
    let begin = format!("radialog {} (", env!("CARGO_PKG_VERSION"));
    assert!(
        version.starts_with(&begin) && version.contains(&expected),
        "{version}"
    );
}

#[test]
fn a_commit_is_known_in_a_checkout_and_a_worktree_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (main, plain) = (dir.path().join("main"), dir.path().join("plain"));
    let tree = dir.path().join("tree");
    for folder in [&main, &plain] {
        std::fs::create_dir_all(folder.join("schemas/src")).unwrap();
        std::fs::write(folder.join("schemas/src/lib.rs"), "one\n").unwrap();
    }
    if git(&main, &["init", "--quiet"]).is_none() {
        // Without git, nothing is known of any commit.
        assert_eq!(commit_of(&main), None);
        return;
    }
    let as_somebody = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "commit.gpgsign=false",
    ];
    let run = |arguments: &[&str]| {
        let arguments = [&as_somebody[..], arguments].concat();
        git(&main, &arguments).unwrap_or_else(|| panic!("{arguments:?}"))
    };
    run(&["add", "-A"]);
    run(&["commit", "--quiet", "-m", "one"]);
    run(&[
        "worktree",
        "add",
        "--quiet",
        "--detach",
        &tree.display().to_string(),
    ]);
    let head = run(&["rev-parse", "HEAD"]);
    let commit = Some(head[..DIGITS].to_owned());
    assert_eq!(
        [commit_of(&main), commit_of(&tree)],
        [commit.clone(), commit]
    );
    std::fs::write(tree.join("schemas/src/lib.rs"), "two\n").unwrap();
    assert_eq!(
        commit_of(&tree).unwrap(),
        format!("{}-dirty", &head[..DIGITS])
    );
    assert_eq!(commit_of(&plain), None);
    // Sources that were unpacked below somebody's own repository.
    let unpacked = main.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    assert_eq!(commit_of(&unpacked), None);
}
