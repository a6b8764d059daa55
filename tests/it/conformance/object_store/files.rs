//! What the store of files promises beyond the contract: who may read them, and on which file systems they lie.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use tempfile::TempDir;

use super::{key, keys};

/// What came from patients is nobody else's to read, whatever the umask says.
#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("results/objects");
    let objects = FilesystemObjects::open(&root).unwrap();
    objects.put(&key("images/x"), "x".into()).await.unwrap();
    let output = key("conversations/c/embedding/y.json");
    objects.put_output(&output, "y".into()).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut seen = 0;
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3, "an image, an output and its hash");
    // The folder above is the user's, and is as the umask says.
    std::fs::create_dir(directory.path().join("plain")).unwrap();
    assert_eq!(
        mode(root.parent().unwrap()),
        mode(&directory.path().join("plain"))
    );
    // What is emptied is gone.
    objects.delete(&output).await.unwrap();
    assert!(!root.join("conversations").exists() && root.join("images").exists());
}

#[tokio::test]
async fn a_link_is_listed_as_what_it_leads_to() {
    let (directory, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(apart.path().join("folder")).unwrap();
    for file in ["file", "folder/a"] {
        fs::write(apart.path().join(file), "x").unwrap();
    }
    let images = directory.path().join("images");
    fs::create_dir(&images).unwrap();
    for target in ["file", "folder", "gone"] {
        let link = images.join(format!("to-{target}"));
        std::os::unix::fs::symlink(apart.path().join(target), link).unwrap();
    }
    let objects = FilesystemObjects::open(directory.path()).unwrap();
    let listed = objects.list("images/", None, 9).await.unwrap();
    assert_eq!(keys(&listed), ["images/to-file", "images/to-folder/a"]);
}

#[tokio::test]
#[expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]
async fn a_folder_of_the_store_may_be_a_file_system_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let Some(apart) = elsewhere(directory.path()) else {
        eprintln!("not tested: /dev/shm is no other file system than that of temporary files");
        return;
    };
    std::os::unix::fs::symlink(apart.path(), directory.path().join("images")).unwrap();
    let objects = FilesystemObjects::open(directory.path()).unwrap();
    let (image, output) = (key("images/a"), key("images/b/c.json"));
    for content in ["first", "second"] {
        objects.put(&image, content.into()).await.unwrap();
        objects.put_output(&output, content.into()).await.unwrap();
        assert_eq!(objects.get(&image).await.unwrap(), content);
        assert!(objects.has_whole_output(&output).await.unwrap());
    }
    let written = objects.put_if(&key("images/d"), "x".into(), None).await;
    assert!(written.unwrap().is_some());
    let listed = objects.list("images/", None, 9).await.unwrap();
    assert_eq!(keys(&listed), ["images/a", "images/b/c.json", "images/d"]);
    let mut names: Vec<_> = fs::read_dir(apart.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [".writing-files", "a", "b", "d"]);
    let writing = apart.path().join(".writing-files");
    let unfinished = || fs::read_dir(&writing).unwrap().count();
    assert_eq!(unfinished(), 0, "nothing half written stays");
    // What a killed process has left there is found by who sweeps.
    let left = fs::File::create(writing.join(".writing-left00")).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    left.set_modified(long_ago).unwrap();
    drop(left);
    assert_eq!(unfinished(), 1);
    objects.tidy().await.unwrap();
    assert_eq!(unfinished(), 0);
}

/// A directory of another file system, where this machine has one.
fn elsewhere(directory: &Path) -> Option<TempDir> {
    let apart = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    (device(apart.path()) != device(directory)).then_some(apart)
}
