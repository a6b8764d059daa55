//! A broker that is short of memory or disk: it reads nothing more from a connection that has published, and so answers nothing.

use radialog_runtime::backends::Backends;
use radialog_runtime::queue::{Message, QueueError};
use radialog_tests::services::Broker;
use tokio::time::timeout;

use super::{SOON, WORK};
use crate::adapters::config;

#[tokio::test]
async fn whoever_asks_a_broker_with_an_alarm_is_told_of_it_in_time() {
    // More than any disk has.
    let settings = "disk_free_limit.absolute = 1000000GB\n";
    let broker = Broker::start_with(1, settings, "").await.unwrap();
    let url = broker.virtual_host().unwrap();
    let limits = [("amqp.publish_timeout", "2"), ("start.timeout", "20")];
    let config = config(&[&[("amqp.url", url.as_str())][..], &limits].concat());
    let queue = Backends::queue(&config).await.unwrap();
    assert_eq!(
        queue.depth(WORK).await.unwrap(),
        0,
        "it has published nothing"
    );
    // The first message is what the broker blocks the connection for; it may take that one.
    drop(queue.publish(WORK, Message::default()).await);
    let published = queue.publish(WORK, Message::default()).await.unwrap_err();
    assert!(published.to_string().contains("alarm"), "{published}");

    let asked = async {
        let depth = queue.depth(WORK).await.unwrap_err();
        assert!(matches!(depth, QueueError::Alarm(_)), "{depth}");
        let taken = queue.take(WORK).await.err().unwrap();
        assert!(matches!(taken, QueueError::Alarm(_)), "{taken}");
        let declared = queue.declare().await.unwrap_err();
        assert!(matches!(declared, QueueError::Alarm(_)), "{declared}");
        let consumed = queue.consume(WORK, 1).await.err().unwrap();
        assert!(matches!(consumed, QueueError::Alarm(_)), "{consumed}");
        consumed.to_string()
    };
    let text = timeout(SOON * 2, asked).await.unwrap();
    assert!(text.contains("disk_free_limit"), "{text}");
}
