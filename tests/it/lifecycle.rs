//! The life of a service as a process: it says how far its start is, ends at once where it is stopped in it, and drains where
//! it is stopped later, with health and metrics to the end.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use radialog_models::bundle::RandomBundle;
use radialog_tests::processes::{ProcessCluster, RoleProcess};
use radialog_tests::services::{Environment, Services, TcpProxy};
use radialog_tests::waiting;

use crate::health::get;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Longer than any test: what waits for it never goes on.
const NEVER: &str = "36000";

/// Services of one deployment, and roles over them.
struct Deployment {
    cluster: ProcessCluster,
    _objects: tempfile::TempDir,
}

impl Deployment {
    fn new(environment: impl FnOnce(Environment) -> Environment) -> Self {
        let objects = tempfile::tempdir().unwrap();
        let base = Environment::default()
            .objects(objects.path())
            .with("RADIALOG_HEALTH_ADDRESS", "127.0.0.1:0")
            .with("RADIALOG_START_TIMEOUT", NEVER);
        Self {
            cluster: ProcessCluster::new(environment(base)).unwrap(),
            _objects: objects,
        }
    }

    fn start(&self, arguments: &[&str]) -> RoleProcess {
        self.cluster.start(arguments).unwrap()
    }

    /// The address in the log line of a role that has these words.
    async fn address(&self, role: &str, words: &str) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let log = self.cluster.log(role);
            let line = log.lines().find(|line| line.contains(words));
            let address = line.and_then(|line| line.split("address=").nth(1));
            if let Some(address) = address {
                return address.trim().parse().unwrap();
            }
            self.cluster.check().unwrap();
            assert!(begun.elapsed() < LIMIT, "{words} is not in: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn health(&self, role: &str) -> SocketAddr {
        self.address(role, "serving /metrics").await
    }
}

pub(crate) fn terminate(role: &RoleProcess) {
    let pid = role.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
}

async fn until_says(address: SocketAddr, path: &str, words: &str) -> String {
    let look = || async {
        let text = get(address, path).await;
        Ok(text.contains(words).then_some(text))
    };
    let what = format!("{words} is not in {path}");
    waiting::found(&what, LIMIT, look).await.unwrap()
}

async fn end_of(role: &mut RoleProcess) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = role.0.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < LIMIT, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the process listens to SIGTERM, which ends it else.
fn hears_sigterm(role: &RoleProcess) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", role.0.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    // SIGTERM is the 15th.
    caught >> 14 & 1 == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_stopped_while_it_reads_its_settings_stops_as_it_would_later() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever reads it waits until somebody writes it.
    let settings = dir.path().join("settings.toml");
    let made = Command::new("mkfifo").arg(&settings).status().unwrap();
    assert!(made.success());
    let deployment = Deployment::new(|environment| {
        environment
            .with("RADIALOG_CONFIG", settings.display().to_string())
            .with("RADIALOG_AMQP_URL", "amqp://127.0.0.1:1/%2f")
            .with("RADIALOG_REDIS_URL", "redis://127.0.0.1:1")
    });
    let roles: [(&[&str], i32); 4] = [
        (&["coordinator"], 0),
        (&["worker", "scoring"], 0),
        (&["gateway"], 0),
        (&["doctor"], 130),
    ];
    for (arguments, code) in roles {
        let mut role = deployment.start(arguments);
        let what = format!("{arguments:?} hears nothing");
        let hears = || async { Ok(hears_sigterm(&role)) };
        waiting::until(&what, LIMIT, hears).await.unwrap();
        terminate(&role);
        // A process that waits for a reader: a role that has ended before it read would leave a thread of this one waiting for ever.
        let mut writer = Command::new("sh");
        writer.args(["-c", ": > \"$0\""]).arg(&settings);
        let mut writer = writer.spawn().unwrap();
        let ended = end_of(&mut role).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_store_ends_at_once_at_sigterm() {
    let services = Services::shared().await.unwrap();
    let bucket = services.s3().bucket().unwrap();
    let proxy = TcpProxy::start(&bucket).await.unwrap();
    proxy.drop_responses();
    let amqp = services.amqp().unwrap();
    let deployment = Deployment::new(|environment| {
        environment
            .with("RADIALOG_AMQP_URL", amqp)
            .with("RADIALOG_REDIS_URL", services.redis())
            .bucket(proxy.in_front_of(&bucket))
    });
    let bundle = format!("s3://{}/bundle", bucket.rsplit('/').next().unwrap());
    let mut worker = deployment.start(&["worker", "scoring", "--bundle", &bundle]);
    let health = deployment.health("worker").await;
    let text = until_says(health, "/readyz", "starting: downloading weights").await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert!(get(health, "/healthz").await.starts_with("HTTP/1.1 200"));
    let phase = "radialog_process_phase_info{phase=\"starting\"} 1";
    until_says(health, "/metrics", phase).await;
    terminate(&worker);
    assert_eq!(end_of(&mut worker).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_broker_ends_at_once_at_sigterm() {
    let services = Services::shared().await.unwrap();
    let amqp = services.amqp().unwrap();
    let proxy = TcpProxy::start(&amqp).await.unwrap();
    proxy.drop_responses();
    let deployment = Deployment::new(|environment| {
        environment
            .with("RADIALOG_AMQP_URL", proxy.in_front_of(&amqp))
            .with("RADIALOG_REDIS_URL", services.redis())
    });
    for (role, arguments) in [
        ("coordinator", &["coordinator"][..]),
        ("worker", &["worker", "scoring"]),
        ("gateway", &["gateway", "--listen", "127.0.0.1:0"]),
    ] {
        let mut process = deployment.start(arguments);
        let health = deployment.health(role).await;
        until_says(health, "/readyz", "connecting").await;
        terminate(&process);
        assert_eq!(end_of(&mut process).await.code(), Some(0), "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_stopped_is_not_ready_and_still_answers_for_the_pause() {
    let services = Services::shared().await.unwrap();
    let amqp = services.amqp().unwrap();
    let deployment = Deployment::new(|environment| {
        environment
            .with("RADIALOG_AMQP_URL", amqp)
            .with("RADIALOG_REDIS_URL", services.redis())
            .with("RADIALOG_SHUTDOWN_PAUSE", NEVER)
    });
    let mut gateway = deployment.start(&["gateway", "--listen", "127.0.0.1:0"]);
    let health = deployment.health("gateway").await;
    let page = deployment.address("gateway", "gateway ready").await;
    assert!(get(health, "/readyz").await.starts_with("HTTP/1.1 200"));
    terminate(&gateway);
    let text = until_says(health, "/readyz", "draining").await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert!(get(page, "/").await.starts_with("HTTP/1.1 200"));
    assert!(get(health, "/healthz").await.starts_with("HTTP/1.1 200"));
    let phase = "radialog_process_phase_info{phase=\"draining\"} 1";
    assert!(get(health, "/metrics").await.contains(phase));
    // Whoever does not want to wait says so.
    terminate(&gateway);
    end_of(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_there_while_a_gateway_finishes_what_it_has() {
    let services = Services::shared().await.unwrap();
    let amqp = services.amqp().unwrap();
    let deployment = Deployment::new(|environment| {
        environment
            .with("RADIALOG_AMQP_URL", amqp)
            .with("RADIALOG_REDIS_URL", services.redis())
            .with("RADIALOG_GATEWAY_GRACE", NEVER)
            .with("RADIALOG_GATEWAY_REQUEST_TIMEOUT", NEVER)
    });
    let mut gateway = deployment.start(&["gateway", "--listen", "127.0.0.1:0"]);
    let health = deployment.health("gateway").await;
    let page = deployment.address("gateway", "gateway ready").await;
    // An upload that is under way.
    let mut upload = TcpStream::connect(page).unwrap();
    let head =
        "POST /v1/conversations HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n";
    write!(upload, "{head}Content-Length: 1000\r\n\r\n{{").unwrap();
    let open = "radialog_http_open_connections{server=\"gateway\"} 1";
    until_says(health, "/metrics", open).await;
    // A second request on the same server is answered after the first one's header was read.
    assert!(get(page, "/").await.starts_with("HTTP/1.1 200"));
    terminate(&gateway);
    let is_closed = || async { Ok(TcpStream::connect(page).is_err()) };
    let closed = waiting::until("it goes on to accept", LIMIT, is_closed);
    closed.await.unwrap();
    assert!(get(health, "/readyz").await.contains("draining"));
    assert!(get(health, "/metrics").await.starts_with("HTTP/1.1 200"));
    drop(upload);
    assert_eq!(end_of(&mut gateway).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_wait_for_somebody_listen_to_sigterm_as_the_first_process_of_a_container_must()
 {
    // Somebody who never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let store = format!("{url}/bucket");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    RandomBundle::tiny(7)
        .write(&dir.path().join("bundle"))
        .unwrap();
    let (bundle, weights, image) = (path("bundle"), path("weights"), path("image"));
    std::fs::write(&image, b"no image").unwrap();
    let deployment = Deployment::new(|environment| environment);
    for arguments in [
        &["bundle", "upload", &bundle, "s3://bucket/b", "--s3", &store][..],
        &[
            "bundle",
            "fetch",
            "radialog-v1",
            &weights,
            "--download-only",
            "--hub",
            &url,
            "--releases",
            &url,
        ],
        &["plan", "s3://bucket/archive", "--s3", &store],
        &["export", "corrections", "--out", &weights, "--s3", &store],
        &["chat", &image, "--url", &url],
    ] {
        let mut command = deployment.start(arguments);
        let asked = tokio::time::timeout(LIMIT, silent.accept()).await;
        let _open = asked.expect("it must ask").unwrap();
        terminate(&command);
        // The system's own end by a signal has no code.
        assert_eq!(
            end_of(&mut command).await.code(),
            Some(130),
            "{arguments:?}"
        );
    }
}
