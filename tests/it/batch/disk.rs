//! Output directories that cannot be written, or are somebody else's.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use radialog_coordinator::{CoordinatorError, RunOptions};
use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};
use radialog_tests::small_disk::SmallDisk;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stderr,
    reason = "what is not tested here is not passed over"
)]
async fn a_full_disk_stops_the_run_and_what_was_done_stays_usable() {
    let fixture = BatchFixture::new().await;
    let out = fixture.out();
    // Without root, the journal's own test with a full device has to do.
    let Some(disk) = SmallDisk::mount(&out, "size=256k").unwrap() else {
        eprintln!("not tested: no small file system can be mounted here");
        return;
    };
    let options = || batch_options(synthetic_archive(500), &out);
    let error = run_batch(options(), &fixture.backends).await.unwrap_err();
    assert!(matches!(error, CoordinatorError::Output { .. }));
    assert!(error.to_string().contains("free some space"), "{error}");
    let done = records(&out).len();
    assert!(done > 0 && done < 500, "{done}");

    disk.remount("size=64m").unwrap();
    let summary = run_batch(options(), &fixture.backends).await.unwrap();
    assert_eq!(summary.studies, 500);
    assert!(summary.session.resumed >= done as u64);
    assert_eq!(records(&out).len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_directory_is_refused_before_any_work() {
    let fixture = BatchFixture::new().await;
    let out = fixture.out();
    // Permissions do not stop root, and only root can mount.
    let disk = SmallDisk::mount(&out, "ro").unwrap();
    if disk.is_none() {
        fs::set_permissions(&out, Permissions::from_mode(0o555)).unwrap();
    }
    let error = run_batch(batch_options(synthetic_archive(5), &out), &fixture.backends)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("make the directory writable or give another --out"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_another_run_is_refused_with_what_differs() {
    let fixture = BatchFixture::new().await;
    let options = || batch_options(synthetic_archive(5), &fixture.out());
    run_batch(options(), &fixture.backends).await.unwrap();
    let other = RunOptions {
        bundle: radialog_schemas::ContentHash::of(b"other"),
        ..options()
    };
    let error = run_batch(other, &fixture.backends)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("another bundle") && error.contains("--out"),
        "{error}"
    );
    assert_eq!(records(&fixture.out()).len(), 5);
}
