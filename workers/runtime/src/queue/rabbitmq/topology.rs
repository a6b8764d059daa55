//! The broker's side of the topology: durable quorum queues, a retry queue for each delay, dead letters.

use std::time::Duration;

use futures::future::try_join_all;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind};
use radialog_schemas::queues::{DELIVERY_LIMIT, RETRY_DELAYS, dead, retry};
use tokio::time::Instant;

use super::connection::Session;
use super::{name, refused};
use crate::queue::QueueError;

/// Looking at a dead letter counts as a delivery, and must never be the reason why it is dropped.
const DEAD_DELIVERY_LIMIT: u32 = i32::MAX as u32;
/// Brokers from 3.12 on take the acknowledgement timeout from here; the runner's prefetch stays far below it on all.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Declares these queues with their retry steps and dead letters. Queues that are there are left as they are.
pub(super) async fn declare(
    session: &Session,
    queues: &[String],
    deadline: Instant,
) -> Result<(), QueueError> {
    try_join_all(queues.iter().map(|queue| async move {
        let channel = session.channel(deadline).await?;
        let declare_one = async |name: &str, arguments| {
            let declaring = declare_one(&channel, name, arguments);
            session.in_time(deadline, declaring).await
        };
        let dead = dead(queue);
        declare_one(
            &dead,
            vec![("x-delivery-limit", number(DEAD_DELIVERY_LIMIT.into()))],
        )
        .await?;
        let mut work = dead_lettering_to(&dead);
        work.push(("x-delivery-limit", number(DELIVERY_LIMIT.into())));
        work.push(("x-consumer-timeout", number(milliseconds(CONSUMER_TIMEOUT))));
        declare_one(queue, work).await?;
        for (step, delay) in RETRY_DELAYS.into_iter().enumerate() {
            let mut waiting = dead_lettering_to(queue);
            waiting.push(("x-message-ttl", number(milliseconds(delay))));
            declare_one(&retry(queue, step), waiting).await?;
        }
        Ok(())
    }))
    .await
    .map(drop)
}

async fn declare_one(
    channel: &Channel,
    queue: &str,
    arguments: Vec<(&'static str, AMQPValue)>,
) -> Result<(), QueueError> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    for (argument, value) in arguments {
        table.insert(argument.into(), value);
    }
    let declared = channel
        .queue_declare(name(queue)?, QueueDeclareOptions::durable(), table)
        .await;
    declared.map(drop).map_err(|error| {
        let has_no_right = is_access_refused(&error);
        match refused(error) {
            QueueError::Refused(reason) if has_no_right => QueueError::Refused(format!(
                "{reason}. Give the user of --amqp (RADIALOG_AMQP_URL) all rights on its virtual host: rabbitmqctl \
                 set_permissions -p VHOST USER '.*' '.*' '.*'"
            )),
            QueueError::Refused(reason) => QueueError::Refused(format!(
                "{reason}. A queue '{queue}' of another kind exists: delete it, or use another virtual host"
            )),
            other => other,
        }
    })
}

/// Deletes these queues with their retry steps and dead letters, whatever is in them or taken from them.
pub(super) async fn delete(
    session: &Session,
    queues: &[String],
    deadline: Instant,
) -> Result<(), QueueError> {
    for queue in queues {
        let retries = (0..RETRY_DELAYS.len()).map(|step| retry(queue, step));
        // What waits for a retry first: it would come back.
        for one in retries.chain([queue.clone(), dead(queue)]) {
            delete_one(session, &one, deadline).await?;
        }
    }
    Ok(())
}

/// Deletes a queue, whatever is in it or taken from it; returns how many messages were.
pub(super) async fn delete_one(
    session: &Session,
    queue: &str,
    deadline: Instant,
) -> Result<u64, QueueError> {
    let channel = session.channel(deadline).await?;
    let deleted = channel.queue_delete(name(queue)?, QueueDeleteOptions::default());
    Ok(u64::from(session.answered(deadline, deleted).await?))
}

fn is_access_refused(error: &lapin::Error) -> bool {
    let soft = AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == soft)
}

/// The broker moves a message itself only where it expires or hits the delivery limit, and then not before the other
/// queue has it. That needs a queue that refuses, instead of dropping, what does not fit.
fn dead_lettering_to(queue: &str) -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(queue)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn number(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
