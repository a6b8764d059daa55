//! A delivery between its arrival and its settlement.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use radialog_schemas::ErrorCode;

use crate::queue::{Delivery, Message, Receipt};
use crate::trace::TraceContext;

/// A message that this worker answers for.
pub(super) struct InFlightDelivery {
    pub(super) message: Message,
    pub(super) trace: TraceContext,
    /// An earlier worker had it and went away: it runs alone.
    pub(super) redelivered: bool,
    /// The number of times that this happened.
    pub(super) delivery_count: u32,
    /// None once it is acknowledged, which happens before the end only to a suspected poison message, whose next attempt is
    /// queued.
    pub(super) receipt: Option<Box<dyn Receipt>>,
    /// The queue that it was taken from.
    pub(super) source: Arc<str>,
}

impl InFlightDelivery {
    /// A delivery of the queue `source`. A message without a trace begins one.
    pub(super) fn new(delivery: Delivery, source: &Arc<str>) -> Self {
        let Delivery {
            message,
            redelivered,
            delivery_count,
            receipt,
        } = delivery;
        let trace = message
            .traceparent
            .as_deref()
            .and_then(TraceContext::parse)
            .unwrap_or_else(TraceContext::start);
        Self {
            message,
            trace,
            redelivered,
            delivery_count,
            receipt: Some(receipt),
            source: source.clone(),
        }
    }

    /// Whether the next attempt waits in a retry queue already, whatever comes of this one.
    pub(super) fn is_retry_queued(&self) -> bool {
        self.receipt.is_none()
    }

    /// The time that the message waited in the queue.
    pub(super) fn waited(&self) -> Duration {
        let published = self.message.published;
        published
            .and_then(|at| SystemTime::now().duration_since(at).ok())
            .unwrap_or_default()
    }

    /// The same message for its next try after a failure of this code.
    pub(super) fn next_try(&self, code: ErrorCode) -> Message {
        Message {
            traceparent: Some(self.trace.child().to_string()),
            ..self.message.next_try(code)
        }
    }
}

/// Counts a delivery as in flight for as long as it lives, also where its future is dropped.
pub(super) struct GaugeGuard<'a>(&'a IntGauge);

impl<'a> GaugeGuard<'a> {
    pub(super) fn enter(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
