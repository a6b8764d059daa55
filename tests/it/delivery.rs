//! What must be true of every delivery, whatever goes wrong: nothing lost, nothing blamed on the innocent, and the worker
//! lives.

use std::sync::Arc;

use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::queue::Queue;
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_schemas::Stage;
use radialog_tests::desk::Desk;
use radialog_tests::stages::ToyStage;
use tempfile::TempDir;

mod messages;

/// A desk over a queue and a directory of its own.
async fn desk(queue: Arc<dyn Queue>) -> (TempDir, Desk) {
    let directory = tempfile::tempdir().unwrap();
    let objects = Arc::new(FilesystemObjects::open(directory.path()).unwrap());
    queue.declare().await.unwrap();
    let run = directory.path().file_name().unwrap().to_string_lossy().into_owned();
    let desk = Desk::new(queue, objects, &run);
    (directory, desk)
}

async fn embedded() -> (TempDir, Desk) {
    desk(Arc::new(MemoryQueue::default())).await
}

fn findings() -> ToyStage {
    ToyStage::new(Stage::Findings)
}
