//! A running gateway, and what its clients need.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use radialog_coordinator::BundleHashes;
use radialog_coordinator::archive::{self, ArchiveLocation};
use radialog_coordinator::gateway::Gateway;
use radialog_coordinator::gateway::{ApiKey, GatewayConfig};
use radialog_coordinator::run::OpenArchive;
use radialog_coordinator::{ResultConsumer, ServedBundles};
use radialog_runtime::backends::Backends;
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_schemas::{
    ContentHash, Finding, FindingsReport, GateVerdict, ImageKind, PerStage, PredictedFinding, Stage,
};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::faults::FaultInjector;
use radialog_tests::fixtures;
use radialog_tests::waiting;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fake_language_worker::FakeLanguageWorker;
use super::sse::SseStream;

const TIMEOUT: Duration = Duration::from_secs(20);
/// More words than any test writes.
pub(crate) const UNLIMITED: usize = 1 << 20;

/// A gateway with everything behind it.
pub(crate) struct GatewayFixture {
    pub(crate) backends: Backends,
    pub(crate) gateway: RunningGateway,
    pub(crate) language_worker: FakeLanguageWorker,
    objects: TempDir,
    _workers: DropGuard,
    _results: DropGuard,
}

/// One gateway.
pub(crate) struct RunningGateway {
    pub(crate) url: String,
    pub(crate) client: Client,
    key: Option<String>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl GatewayFixture {
    /// Everybody on this machine may ask; answers are written at once.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(UNLIMITED, |_| {}).await
    }

    /// A gateway that begins with so many words, and with other settings.
    pub(crate) async fn with(
        words: usize,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Result<Self> {
        let objects = tempfile::tempdir()?;
        let backends = embedded::backends(objects.path())?;
        Self::over((objects, backends), FakeStage::new, words, change).await
    }

    /// A gateway whose classifier sees this in every image.
    pub(crate) async fn seeing(findings: Vec<PredictedFinding>) -> Result<Self> {
        Self::judging(findings, None, UNLIMITED).await
    }

    /// A gateway that begins with so many words, and to which every image looks like no chest X-ray, and has all findings.
    pub(crate) async fn of_no_xray(words: usize) -> Result<Self> {
        let findings = Finding::ALL.map(|finding| PredictedFinding {
            finding,
            probability: Some(0.75),
            present: true,
            threshold: None,
        });
        let verdict = GateVerdict {
            passed: false,
            looks_like: ImageKind::Other,
            frontal: 0.125,
        };
        Self::judging(findings.to_vec(), Some(verdict), words).await
    }

    async fn judging(
        findings: Vec<PredictedFinding>,
        input_gate: Option<GateVerdict>,
        words: usize,
    ) -> Result<Self> {
        let objects = tempfile::tempdir()?;
        let backends = embedded::backends(objects.path())?;
        let warning = input_gate.as_ref().and_then(GateVerdict::warning);
        let report = FindingsReport {
            findings,
            text: "what it was told to see".into(),
            warnings: warning.into_iter().collect(),
            input_gate,
        };
        let stage = |stage| FakeStage::new(stage).sees(report.clone());
        Self::over((objects, backends), stage, words, |_| {}).await
    }

    /// The same over backends with faults.
    pub(crate) async fn faulty(
        faults: &Arc<FaultInjector>,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Result<Self> {
        let objects = tempfile::tempdir()?;
        let backends = faults.over(&embedded::backends(objects.path())?);
        Self::over((objects, backends), FakeStage::new, UNLIMITED, change).await
    }

    async fn over(
        (objects, backends): (TempDir, Backends),
        fake: impl Fn(Stage) -> FakeStage,
        words: usize,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Result<Self> {
        backends.queue.declare().await?;
        // Turns are `language_worker`'s; these two prepare images.
        let workers = CancellationToken::new();
        for stage in [Stage::Embedding, Stage::Findings] {
            let (queue, objects) = (backends.queue.clone(), backends.objects.clone());
            let runner = Runner::new(
                Arc::new(fake(stage)),
                queue,
                objects,
                RunnerSettings::default(),
            );
            tokio::spawn(runner.run(workers.clone()));
        }
        let stop = CancellationToken::new();
        let results = ResultConsumer::new(backends.clone(), "results", stop.clone());
        tokio::spawn(results.run());
        let language_worker = FakeLanguageWorker::start(&backends, words);
        let gateway = RunningGateway::start(&backends, change).await?;
        Ok(Self {
            backends,
            gateway,
            language_worker,
            objects,
            _workers: workers.drop_guard(),
            _results: stop.drop_guard(),
        })
    }

    /// The folder of the object store.
    pub(crate) fn objects(&self) -> &Path {
        self.objects.path()
    }

    /// Names of the objects of this kind, e.g. `images`, of conversations and others.
    pub(crate) fn stored(&self, kind: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.objects.path().to_owned()];
        while let Some(folder) = folders.pop() {
            let is_kind = folder.file_name().is_some_and(|name| name == kind);
            // A folder goes with its last object.
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if is_kind && !name.starts_with('.') {
                    names.push(name);
                }
            }
        }
        names
    }
}

impl RunningGateway {
    /// A gateway over these backends on a free port.
    pub(crate) async fn start(
        backends: &Backends,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Result<Self> {
        let bundle = BundleHashes {
            name: "fake".into(),
            bundle: ContentHash::of(b"fake bundle"),
            components: PerStage::from_fn(FakeStage::component_of),
        };
        Self::serving(backends, bundle.into(), change).await
    }

    /// The same in front of these bundles.
    pub(crate) async fn serving(
        backends: &Backends,
        bundles: ServedBundles,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Result<Self> {
        let mut config = GatewayConfig {
            listen: "127.0.0.1:0".parse()?,
            ..GatewayConfig::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let gateway = Gateway::bind(config, bundles, backends.clone(), stop.clone()).await?;
        let gateway = gateway.with_archive_runs(open_archive(backends)).await?;
        let url = format!("http://{}", gateway.address()?);
        let serving =
            tokio::spawn(async move { gateway.serve(Duration::from_secs(5)).await.unwrap() });
        Ok(Self {
            url,
            client: waiting::client(),
            key: None,
            stop,
            serving,
        })
    }

    /// The same gateway as the owner of this key sees it.
    pub(crate) fn as_owner(&self, key: &str) -> Self {
        let serving = tokio::spawn(async {});
        let (url, client) = (self.url.clone(), self.client.clone());
        Self {
            url,
            client,
            key: Some(key.to_owned()),
            stop: CancellationToken::new(),
            serving,
        }
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(TIMEOUT, self.serving)
            .await
            .context("the gateway did not stop")??;
        Ok(())
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.ask(Method::GET, path).send().await?)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        Ok(self.ask(Method::POST, path).json(body).send().await?)
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Response> {
        Ok(self.ask(Method::PUT, path).json(body).send().await?)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<u16> {
        Ok(self
            .ask(Method::DELETE, path)
            .send()
            .await?
            .status()
            .as_u16())
    }

    /// Rewrites an answer, or forgets what it was rewritten to, in the place of these versions.
    pub(crate) async fn rewrite(
        &self,
        edit: &str,
        text: Option<&str>,
        versions: &str,
    ) -> Result<Response> {
        let request = match text {
            Some(text) => self.ask(Method::PUT, edit).json(&json!({"text": text})),
            None => self.ask(Method::DELETE, edit),
        };
        Ok(request.header("If-Match", versions).send().await?)
    }

    /// Begins a conversation, and returns its path.
    pub(crate) async fn begin(&self, body: &Value) -> Result<String> {
        let response = self.post("/v1/conversations", body).await?;
        ensure!(response.status() == 202, "{}", response.text().await?);
        Ok(response.headers()["location"].to_str()?.to_owned())
    }

    /// Follows a turn from the event after this one.
    pub(crate) async fn follow(
        &self,
        path: &str,
        turn: u32,
        after: Option<u64>,
    ) -> Result<SseStream> {
        let request = self.ask(Method::GET, &format!("{path}/turns/{turn}/events"));
        let request = match after {
            Some(after) => request.header("Last-Event-ID", after),
            None => request,
        };
        Ok(SseStream::new(request.send().await?))
    }

    /// The conversation's view.
    pub(crate) async fn view(&self, path: &str) -> Result<Value> {
        Ok(self.get(path).await?.error_for_status()?.json().await?)
    }

    /// The view, once this turn has this status.
    pub(crate) async fn view_when(&self, path: &str, turn: usize, status: &str) -> Result<Value> {
        let look = || async {
            let view = self.view(path).await?;
            Ok((view["turns"][turn - 1]["status"] == status).then_some(view))
        };
        waiting::found(&format!("turn {turn} is not {status}"), TIMEOUT, look).await
    }
}

/// `s3://archive/…` is the gateway's own store.
fn open_archive(backends: &Backends) -> OpenArchive {
    let store = backends.objects.clone();
    Arc::new(move |url| {
        let prefix = url.trim_start_matches("s3://archive/").to_owned();
        let input = ArchiveLocation::Objects {
            url,
            store: store.clone(),
            prefix,
        };
        Box::pin(async move { archive::open(&input).await })
    })
}

/// Status, code, and `Retry-After` of a problem, which must be one.
pub(crate) async fn problem(response: Response) -> Result<(u16, String, Option<u64>)> {
    let retry = response
        .headers()
        .get("retry-after")
        .map(|seconds| seconds.to_str().unwrap().parse().unwrap());
    let status = response.status().as_u16();
    let kind = response
        .headers()
        .get("content-type")
        .map(|kind| kind.to_str().unwrap().to_owned());
    let text = response.text().await?;
    ensure!(
        kind.as_deref() == Some("application/problem+json"),
        "{status}: {text}"
    );
    let body: Value = serde_json::from_str(&text)?;
    ensure!(
        body["status"] == status && !body["detail"].as_str().unwrap_or_default().is_empty(),
        "{body}"
    );
    let code = body["code"].as_str().context("no code")?.to_owned();
    ensure!(
        body["type"] == format!("urn:radialog:problem:{code}"),
        "{body}"
    );
    Ok((status, code, retry))
}

/// A shipped X-ray.
pub(crate) fn xray() -> Vec<u8> {
    std::fs::read(xray_path()).unwrap()
}

pub(crate) fn xray_path() -> PathBuf {
    fixtures::xray("2cd63b76.jpg")
}

pub(crate) fn data_uri(content: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(content))
}

/// A conversation about the X-ray.
pub(crate) fn about_xray() -> Value {
    json!({"image": data_uri(&xray())})
}

/// A key as the configuration holds it.
pub(crate) fn key(name: &str, text: &str) -> ApiKey {
    ApiKey {
        name: name.to_owned(),
        sha256: ContentHash::of(text.as_bytes()),
    }
}
