//! What a worker tells its operators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::health::{Readiness, serve};
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::Stage;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::task_harness::TaskHarness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What is answered at this path, head and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_process_is_alive_at_once_and_ready_when_it_says_so() {
    let (readiness, shutdown) = (Readiness::default(), CancellationToken::new());
    let address = serve(
        "127.0.0.1:0".parse().unwrap(),
        readiness.clone(),
        shutdown.clone(),
    )
    .await
    .unwrap();
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
    readiness.ready();
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let taken = serve(address, readiness, shutdown.clone())
        .await
        .unwrap_err();
    assert!(taken.to_string().contains("--health-address"), "{taken}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_start_says_what_it_is_at_and_asks_for_a_restart_only_where_it_stands_still() {
    let served = async |stall: Duration| {
        let (readiness, never) = (Readiness::with_stall(stall), CancellationToken::new());
        let listen = "127.0.0.1:0".parse().unwrap();
        let address = serve(listen, readiness.clone(), never).await.unwrap();
        (readiness, address)
    };
    let (readiness, address) = served(Duration::from_secs(3600)).await;
    let connecting = readiness.step("connecting");
    let download = readiness.step("downloading weights");
    download.says("downloading weights, 3.10 of 14.00 GiB".to_owned());
    let text = get(address, "/readyz").await;
    let steps = "starting: connecting; downloading weights, 3.10 of 14.00 GiB\n";
    assert!(text.ends_with(steps), "{text}");
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    drop((connecting, download));

    // Any time is too long here.
    let (stuck, stuck_address) = served(Duration::ZERO).await;
    let _loading = stuck.step("loading component language");
    let text = get(stuck_address, "/healthz").await;
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("loading component language"),
        "{text}"
    );
    stuck.ready();
    assert!(
        get(stuck_address, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );

    readiness.draining();
    let text = get(address, "/readyz").await;
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("draining\n"),
        "{text}"
    );
    // A start that ends meanwhile does not bring it back.
    readiness.ready();
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn metrics_tell_where_the_time_of_a_task_went() {
    let shutdown = CancellationToken::new();
    let address = serve(
        "127.0.0.1:0".parse().unwrap(),
        Readiness::default(),
        shutdown.clone(),
    )
    .await
    .unwrap();
    let harness = TaskHarness::new(Arc::new(MemoryQueue::default()))
        .await
        .unwrap();
    let worker = harness.start(
        &Arc::new(FakeStage::new(Stage::Findings)),
        RunnerSettings::default(),
    );
    for study in ["good", "corrupt"] {
        harness
            .send(&harness.task(study).await.unwrap())
            .await
            .unwrap();
    }
    harness.results(2).await.unwrap();
    worker.stop().await.unwrap();
    let metrics = get(address, "/metrics").await;
    assert!(metrics.contains("content-type: text/plain"), "{metrics}");
    // Other tests of this process count too, so only what must be there is looked for.
    for line in [
        "radialog_queue_wait_seconds_count{stage=\"findings\"}",
        "radialog_queue_work_seconds{stage=\"findings\"}",
        "radialog_task_fetch_seconds_count{stage=\"findings\"}",
        "radialog_task_store_seconds_count{stage=\"findings\"}",
        "radialog_model_item_seconds_count{stage=\"findings\"}",
        "radialog_model_batch_items_count{stage=\"findings\"}",
        "radialog_task_done_total{reused=\"false\",stage=\"findings\"}",
        "radialog_task_failures_total{code=\"image_corrupt\",stage=\"findings\"}",
        "radialog_task_inflight_tasks{stage=\"findings\"}",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    shutdown.cancel();
}
