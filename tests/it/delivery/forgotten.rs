//! Turns that are in the state and of which no worker was told: the sweeper finds them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use radialog_coordinator::{BundleHashes, TurnSweeper};
use radialog_runtime::backends::Backends;
use radialog_runtime::conversations::{AddedTurn, Conversations};
use radialog_schemas::{
    Ask, ChatImage, ChatTask, ContentHash, Conversation, ConversationId, Generation, ObjectKey,
    PerStage, QueueGroup, Stage, Task, TurnRequest, queues,
};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::services::{Redis, TcpProxy};
use radialog_tests::waiting;
use tokio_util::sync::CancellationToken;

use super::{SOON, take};
use crate::adapters::{config, redis_conversations_at};

fn conversation() -> Conversation {
    Conversation::new("lost".into(), "local", 1, &ContentHash::of(b"language"))
}

fn summary() -> TurnRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    TurnRequest {
        ask: Ask::Summary,
        generation: Generation::default(),
        asked_ms: u64::try_from(now.as_millis()).unwrap(),
        deadline_ms: None,
        stop: Vec::new(),
    }
}

/// Sweeps until something was given to the workers, and returns of how many conversations.
async fn sweep(sweeper: &TurnSweeper) -> usize {
    let look = || async {
        let given = sweeper.sweep().await?;
        Ok((given > 0).then_some(given))
    };
    waiting::found("nothing is given to the workers", SOON, look)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_turn_whose_answer_from_redis_was_lost_is_given_to_the_workers() {
    let redis = Redis::start().await.unwrap();
    let proxy = TcpProxy::start(redis.url()).await.unwrap();
    let direct = redis_conversations_at(redis.url()).await;
    let behind = config(&[
        ("redis.url", &proxy.in_front_of(redis.url())),
        ("redis.timeout", "4"),
    ]);
    let behind = Backends::conversations(&behind).await.unwrap();
    let conversation = conversation();
    let id = &conversation.id;
    // Once before the link breaks, so that its script is known.
    behind.create(&conversation, &[]).await.unwrap();
    let known = behind.add_turn(id, &summary(), Some("known"), 9).await;
    assert!(known.unwrap().added().is_some());
    direct.cancel(id, 1).await.unwrap();

    proxy.drop_responses();
    let lost = behind.add_turn(id, &summary(), Some("lost"), 9).await;
    assert!(lost.is_err(), "a gateway says 503 here");
    let turns = direct.snapshot(id).await.unwrap().unwrap().turns;
    assert_eq!(turns.len(), 2, "and the turn is there");

    let objects = tempfile::tempdir().unwrap();
    let backends = Backends {
        conversations: direct.clone(),
        ..embedded::backends(objects.path()).unwrap()
    };
    backends.queue.declare().await.unwrap();
    let (queue, after) = (backends.queue.clone(), Duration::from_millis(100));
    let sweeper = TurnSweeper::new(backends, None, after, CancellationToken::new());
    assert_eq!(sweep(&sweeper).await, 1);
    let delivery = take(&queue, queues::CHAT).await;
    let task: ChatTask = serde_json::from_slice(&delivery.message.body).unwrap();
    assert_eq!(task, ChatTask::new(id, 2, &conversation.component));
    // The client that was told 503 asks again.
    let again = direct.add_turn(id, &summary(), Some("lost"), 9).await;
    let same = AddedTurn {
        turn: 2,
        ready: true,
    };
    assert_eq!(again.unwrap().added(), Some(same));
}

#[tokio::test]
async fn the_group_of_a_forgotten_turn_is_known_as_long_as_the_turn_waits() {
    let objects = tempfile::tempdir().unwrap();
    let backends = embedded::backends(objects.path()).unwrap();
    backends.queue.declare().await.unwrap();
    let group: QueueGroup = "given-up".parse().unwrap();
    let conversation = Conversation {
        group: Some(group.clone()),
        ..conversation()
    };
    let conversations = backends.conversations.clone();
    conversations
        .create(&conversation, &[summary()])
        .await
        .unwrap();
    let state = backends.state.clone();
    let after = Duration::from_millis(100);
    let sweeper = TurnSweeper::new(backends, None, after, CancellationToken::new());
    assert_eq!(sweep(&sweeper).await, 1);
    assert_eq!(state.groups().await.unwrap(), [group]);
}

#[tokio::test]
async fn what_a_worker_has_or_nobody_waits_for_is_not_given_again() {
    let objects = tempfile::tempdir().unwrap();
    let backends = embedded::backends(objects.path()).unwrap();
    backends.queue.declare().await.unwrap();
    let conversations: Arc<dyn Conversations> = backends.conversations.clone();
    for (name, turns) in [("running", 2), ("over", 1)] {
        let conversation = Conversation {
            id: ConversationId::from(name),
            ..conversation()
        };
        let turns = vec![summary(); turns];
        conversations.create(&conversation, &turns).await.unwrap();
    }
    conversations
        .claim_turn(&"running".into(), 1)
        .await
        .unwrap();
    conversations.cancel(&"over".into(), 1).await.unwrap();
    let none = Duration::ZERO;
    let sweeper = TurnSweeper::new(backends, None, none, CancellationToken::new());
    for _ in 0..3 {
        assert_eq!(sweeper.sweep().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_forgotten_image_is_stored_where_the_release_that_began_its_conversation_has_said() {
    let objects = tempfile::tempdir().unwrap();
    let backends = embedded::backends(objects.path()).unwrap();
    backends.queue.declare().await.unwrap();
    let bundle = BundleHashes {
        name: "fake".into(),
        bundle: ContentHash::of(b"fake bundle"),
        components: PerStage::from_fn(FakeStage::component_of),
    };
    let known = conversation();
    let image = ObjectKey::conversation_image(&known.id, "one", &ContentHash::of(b"an image"));
    let component = bundle.component(Stage::Embedding);
    let earlier = *Stage::REVISIONS.get(Stage::Embedding) - 1;
    let own = ChatImage {
        embedding: ObjectKey::embedding_by(earlier, component, &image),
        ..bundle.image(&image, "image/png")
    };
    let known = Conversation {
        image: Some(own.clone()),
        ..known
    };
    let created = backends.conversations.create(&known, &[summary()]).await;
    created.unwrap();
    let (queue, after) = (backends.queue.clone(), Duration::ZERO);
    let bundles = Some(bundle.into());
    let sweeper = TurnSweeper::new(backends, bundles, after, CancellationToken::new());
    assert_eq!(sweep(&sweeper).await, 1);
    let delivery = take(&queue, queues::work(Stage::Embedding)).await;
    let task: Task = serde_json::from_slice(&delivery.message.body).unwrap();
    assert_eq!((task.output, task.revision), (own.embedding, Some(earlier)));
}
