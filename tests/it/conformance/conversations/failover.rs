//! Conversations in a Redis Cluster whose primaries are lost.

use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::AppendOutcome;
use radialog_schemas::ConversationId;
use radialog_tests::services::RedisCluster;
use tokio::time::timeout;

use super::{append, begun, started_epoch, token};
use crate::adapters::config;

/// Longer than a replica needs to take its primary's place, on a machine that others keep busy, too.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_turn_goes_on_and_is_heard_whichever_primary_is_lost() {
    let mut cluster = RedisCluster::with_replicas().await.unwrap();
    let patient = config(&[("redis.url", &cluster.url()), ("redis.timeout", "120")]);
    let conversations = Backends::conversations(&patient).await.unwrap();
    // Their keys lie on all of the nodes.
    let mut turns: Vec<(ConversationId, u64)> = Vec::new();
    for _ in 0..12 {
        let id = begun(&conversations, &["a"]).await;
        let (epoch, _) = started_epoch(&conversations, &id, 1).await;
        turns.push((id, epoch));
    }
    let heard = &turns[0].0;
    let mut watch = conversations.watch(heard, 1).await.unwrap();
    for lost in 0..cluster.primaries() {
        cluster.until_replicated().await.unwrap();
        cluster.stop(lost);
        for (id, epoch) in &turns {
            let events = [token(lost as u32)];
            let appended = append(&conversations, id, *epoch, lost as u64, &events);
            let appended = timeout(LONG, appended).await.unwrap();
            assert_eq!(appended, AppendOutcome::Done, "{id} while {lost} is lost");
        }
        cluster.start_again(lost).await.unwrap();
        // What was said while the subscription was made again is a hint to look.
        timeout(LONG, watch.next_events()).await.unwrap();
    }
    for (id, _) in &turns {
        let events = conversations.events(id, 1, 0, usize::MAX).await.unwrap();
        let numbers: Vec<u64> = events.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3], "{id}");
    }
    let all = conversations.begun_before(u64::MAX >> 16).await.unwrap();
    assert!(turns.iter().all(|(id, _)| all.contains(id)), "{all:?}");
}
