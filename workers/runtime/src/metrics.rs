//! Every metric of RaDialog, in one place: `radialog_<area>_<noun>_<unit>`, labelled by stage.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use radialog_schemas::{ContentHash, ErrorCode, QueueGroup, Stage, TurnOutcome};

pub use queues::QueueMetrics;
pub use request_batches::RequestBatchMetrics;

mod queues;
mod request_batches;

/// 1 ms to 17 minutes, by factors of four: no-op stages and 7B models share the same buckets.
const SECONDS: [f64; 11] = [
    0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0,
];
/// 20 microseconds to 5 seconds: what an event spends in the gateway.
const LAG_SECONDS: [f64; 10] = [
    0.000_02, 0.000_1, 0.000_5, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0,
];
/// The labels of most metrics.
const STAGE: &[&str] = &["stage"];
/// Batch sizes, by powers of two.
const BATCH_SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The bundle that a process serves, as its operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleLabel {
    /// The bundle's name.
    pub name: String,
    /// The version of its weights.
    pub version: String,
    /// The hash of the whole bundle.
    pub hash: ContentHash,
    /// The group of queues that its workers take tasks from.
    pub group: Option<QueueGroup>,
}

/// Returns the process's metrics, which are registered at the first call.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);
    &METRICS
}

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    bundle_info: IntGaugeVec,
    phase_info: IntGaugeVec,
    /// Bytes of the bundle's files that are on this machine, while the process starts.
    pub bundle_fetched: IntGauge,
    /// Bytes of all files of the bundle that the process loads.
    pub bundle_wanted: IntGauge,
    queue_wait: HistogramVec,
    queue_work: GaugeVec,
    task_work: GaugeVec,
    queues: QueueMetrics,
    /// Counts connections to the broker that broke and were replaced.
    pub queue_reconnects: IntCounter,
    /// Counts stored objects that were found damaged and are written again.
    pub objects_damaged: IntCounter,
    /// Counts objects of conversations that were removed because nobody owned them any more.
    pub retention_removed: IntCounter,
    /// The objects that the last sweep found without an owner and past their grace.
    pub retention_unowned: IntGauge,
    task_fetch: HistogramVec,
    task_store: HistogramVec,
    task_done: IntCounterVec,
    task_retries: IntCounterVec,
    task_failures: IntCounterVec,
    task_dead_letters: IntCounterVec,
    task_in_flight: IntGaugeVec,
    model_time: HistogramVec,
    model_batch: HistogramVec,
    model_tokens: IntCounterVec,
    model_drafted: IntCounterVec,
    model_panics: IntCounterVec,
    http_requests: IntCounterVec,
    http_time: HistogramVec,
    http_connections: IntGaugeVec,
    http_connections_ended: IntCounterVec,
    /// Bytes of memory that bodies of this gateway's requests hold, copies included.
    pub http_body_memory: IntGauge,
    /// The event streams that are open at this gateway.
    pub http_streams: IntGauge,
    /// Seconds from an event's arrival at this gateway to its reader taking it.
    pub http_event_lag: Histogram,
    chat_first_token: HistogramVec,
    chat_in_flight: IntGaugeVec,
    chat_done: IntCounterVec,
    chat_prompt_tokens: IntCounterVec,
    /// Counts conversations whose turn was forgotten and given to the workers again.
    pub chat_republished: IntCounter,
    /// Batches of requests.
    pub request_batches: RequestBatchMetrics,
}

/// The metrics of one stage, looked up once.
pub struct StageMetrics {
    stage: Stage,
    /// Seconds from publishing a task to a worker having it.
    pub queue_wait: Histogram,
    /// Seconds of work that wait: messages times the measured time of one.
    pub queue_work: Gauge,
    /// The service time of the tasks that this worker holds, in seconds.
    pub work_in_flight: Gauge,
    /// Messages that wait, without those in flight.
    pub queue_depth: IntGauge,
    /// Seconds for fetching and decoding a task's inputs.
    pub fetch: Histogram,
    /// Seconds for storing a task's output.
    pub store: Histogram,
    /// Tasks whose output was computed.
    pub computed: IntCounter,
    /// Tasks whose output was there already.
    pub reused: IntCounter,
    /// Tasks sent to a retry queue.
    pub retries: IntCounter,
    /// Tasks in flight at this worker.
    pub in_flight: IntGauge,
    /// Seconds of the model for one item.
    pub model_time: Histogram,
    /// Items that shared the model's run.
    pub batch: Histogram,
    /// Generated tokens.
    pub tokens: IntCounter,
    /// Panics of the model.
    pub panics: IntCounter,
}

/// The metrics of the turns that a stage answers, looked up once.
pub struct ChatMetrics {
    stage: Stage,
    /// Seconds from publishing a turn to the first token of its answer.
    pub first_token: Histogram,
    /// Turns in flight at this worker.
    pub in_flight: IntGauge,
}

impl Metrics {
    fn register() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            bundle_info: int_gauges(
                r,
                "radialog_bundle_info",
                "Bundles that this process serves: always 1, the labels say which",
                &["bundle", "version", "hash", "group"],
            ),
            phase_info: int_gauges(
                r,
                "radialog_process_phase_info",
                "What the process does: 1 for one of starting, ready and draining",
                &["phase"],
            ),
            bundle_fetched: int_gauge(
                r,
                "radialog_bundle_fetched_bytes",
                "Bytes of the bundle's files in the store that are on this machine",
            ),
            bundle_wanted: int_gauge(
                r,
                "radialog_bundle_wanted_bytes",
                "Bytes of the bundle's files in the store that the process loads",
            ),
            queue_wait: seconds(
                r,
                "radialog_queue_wait_seconds",
                "From publishing a task to a worker having it",
                STAGE,
            ),
            queue_work: gauges(
                r,
                "radialog_queue_work_seconds",
                "Work that waits: messages times measured service time",
                STAGE,
            ),
            task_work: gauges(
                r,
                "radialog_task_inflight_seconds",
                "Work that this worker holds: tasks in flight times measured service time",
                STAGE,
            ),
            queues: QueueMetrics::register(r),
            queue_reconnects: count(
                r,
                "radialog_queue_reconnects_total",
                "Broken broker connections",
            ),
            objects_damaged: count(
                r,
                "radialog_objects_damaged_total",
                "Stored objects that were found damaged and are written again",
            ),
            retention_removed: count(
                r,
                "radialog_retention_removed_total",
                "Objects of conversations that nobody owned any more and were removed",
            ),
            retention_unowned: int_gauge(
                r,
                "radialog_retention_unowned_items",
                "Objects that the last sweep found without an owner and past their grace",
            ),
            task_fetch: seconds(
                r,
                "radialog_task_fetch_seconds",
                "Fetching and decoding a task's inputs",
                STAGE,
            ),
            task_store: seconds(
                r,
                "radialog_task_store_seconds",
                "Storing a task's output",
                STAGE,
            ),
            task_done: counts(
                r,
                "radialog_task_done_total",
                "Tasks done; reused=true: the output was there",
                &["stage", "reused"],
            ),
            task_retries: counts(
                r,
                "radialog_task_retries_total",
                "Tasks sent to a retry queue",
                STAGE,
            ),
            task_failures: counts(
                r,
                "radialog_task_failures_total",
                "Failed attempts by code",
                &["stage", "code"],
            ),
            task_dead_letters: counts(
                r,
                "radialog_task_dead_letters_total",
                "Dead letters by code",
                &["stage", "code"],
            ),
            task_in_flight: int_gauges(
                r,
                "radialog_task_inflight_tasks",
                "Tasks that this worker holds",
                STAGE,
            ),
            model_time: seconds(
                r,
                "radialog_model_item_seconds",
                "The model's time for one item",
                STAGE,
            ),
            model_batch: histograms(
                r,
                "radialog_model_batch_items",
                "Items that shared a run of the model",
                STAGE,
                &BATCH_SIZES,
            ),
            model_tokens: counts(r, "radialog_model_tokens_total", "Generated tokens", STAGE),
            model_drafted: counts(
                r,
                "radialog_model_drafted_tokens_total",
                "Tokens drafted by prompt lookup; accepted=true: the model chose them, and no step of its own was needed",
                &["stage", "accepted"],
            ),
            model_panics: counts(
                r,
                "radialog_model_panics_total",
                "Panics of the model",
                STAGE,
            ),
            http_requests: counts(
                r,
                "radialog_http_requests_total",
                "Requests answered by the gateway",
                &["route", "method", "status"],
            ),
            http_time: seconds(
                r,
                "radialog_http_request_seconds",
                "From a request to its answer's head",
                &["route"],
            ),
            http_connections: int_gauges(
                r,
                "radialog_http_open_connections",
                "Connections that are open, by server",
                &["server"],
            ),
            http_connections_ended: counts(
                r,
                "radialog_http_ended_connections_total",
                "Connections without a request that were ended, by reason",
                &["server", "reason"],
            ),
            http_body_memory: int_gauge(
                r,
                "radialog_http_body_memory_bytes",
                "Memory that bodies of requests hold, copies included",
            ),
            http_streams: int_gauge(
                r,
                "radialog_http_open_streams",
                "Event streams that are open",
            ),
            http_event_lag: registered(
                r,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "radialog_http_event_lag_seconds",
                        "From an event's arrival to its reader",
                    )
                    .buckets(LAG_SECONDS.to_vec()),
                ),
            ),
            chat_first_token: seconds(
                r,
                "radialog_chat_first_token_seconds",
                "From publishing a turn to its first token",
                STAGE,
            ),
            chat_in_flight: int_gauges(
                r,
                "radialog_chat_inflight_tasks",
                "Turns that this worker holds",
                STAGE,
            ),
            chat_done: counts(
                r,
                "radialog_chat_done_total",
                "Turns that ended, by outcome",
                &["stage", "outcome"],
            ),
            chat_prompt_tokens: counts(
                r,
                "radialog_chat_prompt_tokens_total",
                "Tokens of prompts; cached=true: they were in the cache from an earlier turn",
                &["stage", "cached"],
            ),
            chat_republished: count(
                r,
                "radialog_chat_republished_total",
                "Conversations whose turn was forgotten and given to the workers again",
            ),
            request_batches: RequestBatchMetrics::register(r),
            registry,
        }
    }

    /// Says what the process does: one of `starting`, `ready` and `draining`.
    pub(crate) fn in_phase(&self, phase: &str) {
        for other in ["starting", "ready", "draining"] {
            let is_it = i64::from(other == phase);
            self.phase_info.with_label_values(&[other]).set(is_it);
        }
    }

    /// Says that the process serves this bundle.
    pub fn serves(&self, bundle: &BundleLabel) {
        let group = bundle.group.as_ref().map_or("", QueueGroup::as_str);
        let labels = [&bundle.name, &bundle.version, bundle.hash.short(), group];
        self.bundle_info.with_label_values(&labels).set(1);
    }

    /// Counts a request of the gateway.
    pub fn http(&self, route: &str, method: &str, status: u16, time: Duration) {
        self.http_requests
            .with_label_values(&[route, method, status.to_string().as_str()])
            .inc();
        self.http_time
            .with_label_values(&[route])
            .observe(time.as_secs_f64());
    }

    /// Counts a connection that was opened.
    pub(crate) fn http_connection_opened(&self, server: &str) {
        self.http_connections.with_label_values(&[server]).inc();
    }

    /// Counts a connection that was closed.
    pub(crate) fn http_connection_closed(&self, server: &str) {
        self.http_connections.with_label_values(&[server]).dec();
    }

    /// Counts a connection that was ended because it had no request.
    pub(crate) fn http_connection_ended(&self, server: &str, reason: &str) {
        self.http_connections_ended
            .with_label_values(&[server, reason])
            .inc();
    }

    /// Counts tokens that a stage drafted, and those of them that its model chose.
    pub fn drafted(&self, stage: Stage, drafted: u64, accepted: u64) {
        let wrong = drafted.saturating_sub(accepted);
        for (label, tokens) in [("true", accepted), ("false", wrong)] {
            self.model_drafted
                .with_label_values(&[stage.name(), label])
                .inc_by(tokens);
        }
    }

    /// What is told of the queues by who looks at them beside their workers, of which there may be none.
    pub fn queues(&self) -> &QueueMetrics {
        &self.queues
    }

    /// Looks up the metrics of one stage, whose worker takes the tasks of this group.
    pub fn stage(&self, stage: Stage, group: Option<&QueueGroup>) -> StageMetrics {
        let label = [stage.name()];
        StageMetrics {
            stage,
            queue_wait: self.queue_wait.with_label_values(&label),
            queue_work: self.queue_work.with_label_values(&label),
            work_in_flight: self.task_work.with_label_values(&label),
            queue_depth: self.queues.depth_of(stage.name(), group),
            fetch: self.task_fetch.with_label_values(&label),
            store: self.task_store.with_label_values(&label),
            computed: self.task_done.with_label_values(&[stage.name(), "false"]),
            reused: self.task_done.with_label_values(&[stage.name(), "true"]),
            retries: self.task_retries.with_label_values(&label),
            in_flight: self.task_in_flight.with_label_values(&label),
            model_time: self.model_time.with_label_values(&label),
            batch: self.model_batch.with_label_values(&label),
            tokens: self.model_tokens.with_label_values(&label),
            panics: self.model_panics.with_label_values(&label),
        }
    }

    /// Looks up the metrics of the turns that a stage answers.
    pub fn chat(&self, stage: Stage) -> ChatMetrics {
        let label = [stage.name()];
        ChatMetrics {
            stage,
            first_token: self.chat_first_token.with_label_values(&label),
            in_flight: self.chat_in_flight.with_label_values(&label),
        }
    }

    /// Renders all of them in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name or a sample, which the encoder leaves out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl StageMetrics {
    /// Counts a failed attempt.
    pub fn failure(&self, code: ErrorCode) {
        metrics()
            .task_failures
            .with_label_values(&[self.stage.name(), &code.as_str()])
            .inc();
    }

    /// Counts a dead letter.
    pub fn dead_letter(&self, code: ErrorCode) {
        metrics()
            .task_dead_letters
            .with_label_values(&[self.stage.name(), &code.as_str()])
            .inc();
    }

    /// Sets how much waits in the stage's queue, and how long that and what this worker holds take at the measured time of
    /// one task.
    pub fn waiting(&self, messages: u64, service_time: Duration) {
        self.queue_depth
            .set(i64::try_from(messages).unwrap_or(i64::MAX));
        self.queue_work
            .set(messages as f64 * service_time.as_secs_f64());
        self.work_in_flight
            .set(self.in_flight.get() as f64 * service_time.as_secs_f64());
    }
}

impl ChatMetrics {
    /// Counts a turn that has ended, and where its prompt came from.
    pub fn ended(&self, outcome: &TurnOutcome) {
        let name = match outcome {
            TurnOutcome::Done(_) => "done",
            TurnOutcome::Failed(_) => "failed",
            TurnOutcome::Cancelled => "cancelled",
        };
        metrics()
            .chat_done
            .with_label_values(&[self.stage.name(), name])
            .inc();
        if let TurnOutcome::Done(answer) = outcome {
            let tokens = |cached: &str| {
                metrics()
                    .chat_prompt_tokens
                    .with_label_values(&[self.stage.name(), cached])
            };
            tokens("true").inc_by(u64::from(answer.cached_tokens));
            tokens("false").inc_by(u64::from(
                answer.prompt_tokens.saturating_sub(answer.cached_tokens),
            ));
        }
    }
}

/// As Prometheus has it where a label is not there.
fn group_label(group: Option<&QueueGroup>) -> &str {
    group.map_or("", QueueGroup::as_str)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("the names and labels above are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("each name above is registered once");
    metric
}

type Labels<'a> = &'a [&'a str];

fn seconds(registry: &Registry, name: &str, help: &str, labels: Labels<'_>) -> HistogramVec {
    histograms(registry, name, help, labels, &SECONDS)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: Labels<'_>,
    buckets: &[f64],
) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(options, labels))
}

fn counts(registry: &Registry, name: &str, help: &str, labels: Labels<'_>) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn count(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: Labels<'_>) -> GaugeVec {
    registered(registry, GaugeVec::new(Opts::new(name, help), labels))
}

fn int_gauges(registry: &Registry, name: &str, help: &str, labels: Labels<'_>) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn int_gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

#[cfg(test)]
mod tests;
