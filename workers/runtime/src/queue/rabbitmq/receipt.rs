//! Settling deliveries.

use std::time::Duration;

use async_trait::async_trait;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::unreachable;
use crate::queue::{QueueError, Receipt};

/// An acknowledgement is done once it is sent. One that meets a dying connection may never be, and the client does not say so.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settles one delivery of a consumer.
pub(super) struct RabbitReceipt(pub(super) Acker);

#[async_trait]
impl Receipt for RabbitReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        settled(self.0.ack(BasicAckOptions::default())).await
    }

    async fn requeue(self: Box<Self>) -> Result<(), QueueError> {
        settled(self.0.nack(requeue_options())).await
    }
}

/// Settles one message that was taken without a consumer (`basic.get`); dropping it requeues the message.
pub(super) struct TakenReceipt(pub(super) Acker);

#[async_trait]
impl Receipt for TakenReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        settled(self.0.ack(BasicAckOptions::default())).await
    }

    async fn requeue(self: Box<Self>) -> Result<(), QueueError> {
        settled(self.0.nack(requeue_options())).await
    }
}

impl Drop for TakenReceipt {
    fn drop(&mut self) {
        let acker = self.0.clone();
        // Without a runtime the process ends, and the broker requeues the message itself.
        if let (true, Ok(runtime)) = (acker.usable(), Handle::try_current()) {
            runtime.spawn(async move { acker.nack(requeue_options()).await });
        }
    }
}

fn requeue_options() -> BasicNackOptions {
    BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    }
}

async fn settled(settling: impl Future<Output = lapin::Result<bool>>) -> Result<(), QueueError> {
    let sent = timeout(SETTLE_TIMEOUT, settling).await.map_err(|_| {
        QueueError::Unreachable("the connection went while a delivery was being settled".into())
    })?;
    match sent.map_err(unreachable)? {
        true => Ok(()),
        false => Err(QueueError::Unreachable(
            "the connection that this delivery came on is gone".into(),
        )),
    }
}
