//! One conversation that is created and deleted at one time, step by step in the orders that a race may take, and with one
//! of the two killed on its way: whatever is there then is on its owner's list and has its image, nothing else waits, and nothing
//! is known of an image whose conversation is gone.

use anyhow::{Context, Result, ensure};
use radialog_coordinator::BundleHashes;
use radialog_coordinator::conversation::{self, NewImage, retention};
use radialog_runtime::backends::Backends;
use radialog_runtime::state::State;
use radialog_runtime::state::memory::MemoryState;
use radialog_schemas::{PerStage, Stage};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::faults::FaultInjector;
use radialog_tests::services::Redis;
use radialog_tests::stepping::{Gate, Stepped, SteppedRedis};

use super::*;
use crate::adapters::redis_conversations_at;

/// How many steps the one that creates has at most, and the one that deletes.
#[derive(Clone, Copy, Debug)]
struct Most {
    creating: usize,
    deleting: usize,
}

/// Requests to Redis, which has the conversation alone.
const REDIS_STEPS: Most = Most {
    creating: 7,
    deleting: 13,
};
/// Calls of the store and of the state, which have the image and what is known of its preparation.
const IMAGE_STEPS: Most = Most {
    creating: 9,
    deleting: 11,
};
/// More than a test leaves behind.
const ALL: usize = 1000;

/// One order of the steps of two programs: so many of the first, so many of the second, and then the rest of each, unless
/// the first is killed.
#[derive(Clone, Copy, Debug)]
struct Order {
    deletes_first: bool,
    creating: usize,
    deleting: usize,
    is_killed: bool,
    most: Most,
}

impl Order {
    fn all(most: Most) -> impl Iterator<Item = Self> {
        let order = move |number: usize| Self {
            deletes_first: number.is_multiple_of(2),
            is_killed: (number / 2).is_multiple_of(2),
            creating: number / 4 % (most.creating + 1),
            deleting: number / 4 / (most.creating + 1),
            most,
        };
        (0..4 * (most.creating + 1) * (most.deleting + 1)).map(order)
    }

    /// Takes two programs, the one that creates and the one that deletes, through their steps.
    async fn take<C: Send + 'static, D: Send + 'static>(
        self,
        mut creating: Stepped<C>,
        mut deleting: Stepped<D>,
    ) -> Result<()> {
        match self.deletes_first {
            false => {
                steps(&mut creating, self.creating, self.most.creating).await?;
                steps(&mut deleting, self.deleting, self.most.deleting).await?;
                self.end(creating).await?;
                drop(deleting.finish().await?);
            }
            true => {
                steps(&mut deleting, self.deleting, self.most.deleting).await?;
                steps(&mut creating, self.creating, self.most.creating).await?;
                self.end(deleting).await?;
                drop(creating.finish().await?);
            }
        }
        Ok(())
    }

    async fn end<T: Send + 'static>(self, first: Stepped<T>) -> Result<()> {
        match self.is_killed {
            true => first.kill().await,
            false => drop(first.finish().await?),
        }
        Ok(())
    }
}

/// Makes some steps of a program that has this many at most.
async fn steps<T: Send + 'static>(
    program: &mut Stepped<T>,
    count: usize,
    most: usize,
) -> Result<()> {
    let has_ended = program.steps(count).await;
    ensure!(
        has_ended || count < most,
        "a program has more than {most} steps, so that orders are missing: raise the number"
    );
    Ok(())
}

/// What must hold once both are done, and sweepers have looked.
async fn assert_consistent(
    conversations: &Arc<dyn Conversations>,
    conversation: &Conversation,
    is_killed: bool,
) -> Result<()> {
    let id = &conversation.id;
    conversations.unattended(Duration::ZERO, ALL).await?;
    conversations.forget_ended().await?;
    let known = conversations.snapshot(id).await?;
    let listed = conversations.list(&conversation.owner, 9).await?;
    let expected: Vec<ConversationId> = known.iter().map(|_| id.clone()).collect();
    ensure!(
        listed == expected,
        "listed are {listed:?}, there is {known:?}"
    );
    let place = conversations.position(id, 1).await?;
    let is_queued = known.is_some_and(|known| known.turns[0].status == TurnStatus::Queued);
    ensure!(place.is_none() || is_queued, "what is gone waits");
    // Whoever is killed before a turn has its place gives it none; the sweeper of turns publishes it all the same.
    ensure!(
        is_killed || place.is_some() == is_queued,
        "what is there has no place"
    );
    let waiting = conversations.waiting().await?;
    ensure!(waiting == u64::from(place.is_some()), "{waiting} wait");
    conversations.delete(id).await?;
    conversations.forget_ended().await?;
    ensure!(conversations.waiting().await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_what_is_created_and_deleted_in_any_order_of_steps_is_listed_if_it_is_there()
-> Result<()> {
    let redis = Redis::start().await?;
    let direct = redis_conversations_at(redis.url()).await;
    for order in Order::all(REDIS_STEPS) {
        let conversation = in_words();
        // It has been there before, and its request comes again.
        direct.create(&conversation, &[ask("a")]).await?;
        let gates = [Arc::<Gate>::default(), Arc::default()];
        let ways = [
            SteppedRedis::new(redis.url(), &gates[0]).await?,
            SteppedRedis::new(redis.url(), &gates[1]).await?,
        ];
        let [one, two] = [
            redis_conversations_at(ways[0].url()).await,
            redis_conversations_at(ways[1].url()).await,
        ];
        let asked = Conversation {
            created_ms: conversation.created_ms + 1,
            ..conversation.clone()
        };
        let creating = Stepped::start(
            &gates[0],
            async move { one.create(&asked, &[ask("a")]).await },
        );
        let id = conversation.id.clone();
        let deleting = Stepped::start(&gates[1], async move { two.delete(&id).await });
        order.take(creating, deleting).await?;
        assert_consistent(&direct, &conversation, order.is_killed)
            .await
            .with_context(|| format!("{order:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn in_memory_what_is_created_and_deleted_is_listed_if_it_is_there() -> Result<()> {
    let conversations = adapters::memory().await;
    for deletes_first in [true, false] {
        let conversation = in_words();
        conversations.create(&conversation, &[ask("a")]).await?;
        if deletes_first {
            conversations.delete(&conversation.id).await?;
        }
        conversations.create(&conversation, &[ask("a")]).await?;
        if !deletes_first {
            conversations.delete(&conversation.id).await?;
        }
        assert_consistent(&conversations, &conversation, false).await?;
    }
    Ok(())
}

/// A request for a conversation about an image, as a gateway has it.
fn about_an_image(id: &ConversationId, incarnation: &str, bundle: &BundleHashes) -> Conversation {
    let content = ContentHash::of(b"an image");
    let image = ObjectKey::conversation_image(id, incarnation, &content);
    Conversation {
        id: id.clone(),
        image: Some(bundle.image(&image, "image/png")),
        component: bundle.component(Stage::Language).clone(),
        ..in_words()
    }
}

/// Creates and deletes one conversation about an image at a time, with the calls of store and state in all orders.
async fn images_stay(conversations: Arc<dyn Conversations>) -> Result<()> {
    let bundle = BundleHashes {
        name: "fake".into(),
        bundle: ContentHash::of(b"fake bundle"),
        components: PerStage::from_fn(FakeStage::component_of),
    };
    let folder = tempfile::tempdir()?;
    let state = Arc::<MemoryState>::default();
    let backends = Backends {
        conversations,
        state: state.clone(),
        ..embedded::backends(folder.path())?
    };
    backends.queue.declare().await?;
    for order in Order::all(IMAGE_STEPS) {
        let id = ConversationId(unique());
        let new = |content: &'static [u8]| NewImage {
            content: content.into(),
            known: None,
        };
        let first = about_an_image(&id, "one", &bundle);
        let image = new(b"an image");
        conversation::begin(&backends, &bundle, &first, &[ask("a")], None, Some(&image)).await?;
        let gates = [Arc::<Gate>::default(), Arc::default()];
        let [creator, deleter] = gates.each_ref().map(|gate| {
            let faults = Arc::new(FaultInjector::default());
            faults.step(gate);
            faults.step_state(gate);
            faults.share_state(&state);
            faults.over(&backends)
        });
        // The same request again, at another gateway.
        let again = Conversation {
            owner: first.owner.clone(),
            ..about_an_image(&id, "two", &bundle)
        };
        let hashes = bundle.clone();
        let creating = Stepped::start(&gates[0], async move {
            let image = new(b"an image");
            conversation::begin(&creator, &hashes, &again, &[ask("a")], None, Some(&image)).await
        });
        let gone = id.clone();
        let deleting = Stepped::start(&gates[1], async move {
            retention::remove(&deleter, &gone).await
        });
        order.take(creating, deleting).await?;
        let known = backends.conversations.snapshot(&id).await?;
        let image = known.and_then(|known| known.conversation.image);
        let prefix = ObjectKey::conversation_prefix(&id);
        let left = backends.objects.list(&prefix, None, ALL).await?.entries;
        let left: Vec<ObjectKey> = left.into_iter().map(|one| one.key).collect();
        // Who creates and is killed may not have stored it yet: the same request does so when it comes again.
        let may_lack = order.is_killed && !order.deletes_first;
        let has_image = image.as_ref().is_some_and(|own| left.contains(&own.image));
        ensure!(
            has_image || image.is_none() || may_lack,
            "{order:?}: {image:?} has lost its image: {left:?}"
        );
        if !order.is_killed {
            let expected = usize::from(image.is_some());
            ensure!(left.len() == expected, "{order:?}: {left:?} for {image:?}");
        }
        // Nobody works here, so that no preparation comes to its end. What a deletion was killed in front of goes with the sweep.
        retention::sweep(&backends, Duration::ZERO, false).await?;
        for incarnation in ["one", "two"] {
            let Some(own) = about_an_image(&id, incarnation, &bundle).image else {
                continue;
            };
            let run = conversation::preparation_run(&id, &own.image);
            let is_known = state.exist(&run, &["image".into()]).await? == [true];
            let is_there = image.as_ref() == Some(&own);
            ensure!(
                is_there || !is_known,
                "{order:?}: the preparation of {own:?} is left behind {image:?}"
            );
        }
        retention::remove(&backends, &id).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_a_conversation_that_is_created_and_deleted_in_any_order_has_its_image_if_it_is_there()
-> Result<()> {
    images_stay(adapters::memory().await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_a_conversation_that_is_created_and_deleted_in_any_order_has_its_image_if_it_is_there()
-> Result<()> {
    let redis = Redis::start().await?;
    images_stay(redis_conversations_at(redis.url()).await).await
}
