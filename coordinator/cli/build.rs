//! Tells the program which commit it is built from, for `radialog --version`.

#![allow(
    clippy::print_stdout,
    reason = "what a build script tells cargo, it prints"
)]

include!("build_commit.rs");

/// Where the sources are no checkout of git, e.g. in an image's build, this variable says which commit they are of.
const GIVEN: &str = "RADIALOG_COMMIT";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let given = std::env::var(GIVEN)
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| commit_of(&root));
    let build = commit.map_or_else(
        || "commit unknown: not built in a git checkout".to_owned(),
        |commit| format!("commit {commit}"),
    );
    println!("cargo:rustc-env=RADIALOG_BUILD={build}");
    println!("cargo:rerun-if-env-changed={GIVEN}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build_commit.rs");
    // A file that is not there would have every build run this again.
    let sources = SOURCES.map(|source| root.join(source));
    let heads = ["HEAD", "logs/HEAD"].map(|name| git(&root, &["rev-parse", "--git-path", name]));
    let heads = heads.into_iter().flatten().map(|path| root.join(path));
    for path in sources
        .into_iter()
        .chain(heads)
        .filter(|path| path.exists())
    {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}
