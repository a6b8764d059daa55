//! Conversations in Redis: one hash for each conversation, one stream of events for each turn. What must not be torn
//! apart happens in scripts; all keys of a conversation lie in one hash slot.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use radialog_schemas::{
    Conversation, ConversationId, Failure, FindingsReport, ObjectKey, Rating, TurnEvent,
    TurnOutcome, TurnRequest,
};
use redis::streams::StreamRangeReply;
use redis::{FromRedisValue, Pipeline, Script};
use serde::Serialize;

use super::{
    AddTurnOutcome, AddedTurn, AppendOutcome, ConversationSnapshot, Conversations, CreateOutcome,
    LIFETIME, NumberedEvent, QueueLimits, ReplaceOutcome, Replaces, Reservation, ReserveOutcome,
    TurnClaim, TurnWatch, UnattendedConversation, Unreadable, fingerprint, lifetime, nonce, now_ms,
};
use crate::config::RedisConfig;
use crate::redis_connection::RedisConnection;
use crate::state::StateError;
use subscriptions::Subscriptions;

mod fields;
mod forgetting;
mod keys;
mod open;
mod queue;
mod scripts;
mod subscriptions;

/// Conversations that gateways and workers on any number of machines share.
pub struct RedisConversations {
    connection: RedisConnection,
    subscriptions: Subscriptions,
}

impl RedisConversations {
    /// Connects; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where Redis did not answer in that time, or refuses the user.
    pub async fn connect(
        config: &RedisConfig,
        start_timeout: Duration,
    ) -> Result<Self, StateError> {
        let connection = RedisConnection::connect(config, start_timeout, scripts::all).await?;
        let subscriptions = Subscriptions::new(config, &connection)?;
        Ok(Self {
            connection,
            subscriptions,
        })
    }

    /// Runs a script on a conversation.
    async fn run_script<T: FromRedisValue>(
        &self,
        script: &Script,
        id: &ConversationId,
        arguments: &[&str],
    ) -> Result<T, StateError> {
        self.run_script_for(LIFETIME, script, id, arguments).await
    }

    /// Runs a script on a conversation that, where the script makes it, is kept for so long after its last use.
    async fn run_script_for<T: FromRedisValue>(
        &self,
        lifetime: Duration,
        script: &Script,
        id: &ConversationId,
        arguments: &[&str],
    ) -> Result<T, StateError> {
        let mut pipeline = redis::pipe();
        call(&mut pipeline, lifetime, script, id, arguments);
        self.connection
            .run::<(T,)>(&pipeline)
            .await
            .map(|(answer,)| answer)
    }

    /// Runs a script that queues turns. The conversation is noted as open before: where the answer is lost, or this process
    /// ends, whoever looks there finds the turns.
    async fn run_queueing<T: FromRedisValue>(
        &self,
        lifetime: Duration,
        script: &Script,
        id: &ConversationId,
        arguments: &[&str],
    ) -> Result<T, StateError> {
        let mut pipeline = redis::pipe();
        pipeline.zadd(keys::OPEN, id.as_str(), now_ms()).ignore();
        if self.connection.is_cluster() {
            // Nodes of a cluster do their parts of a pipeline in any order.
            self.connection.run::<()>(&pipeline).await?;
            pipeline = redis::pipe();
        }
        call(&mut pipeline, lifetime, script, id, arguments);
        self.connection
            .run::<(T,)>(&pipeline)
            .await
            .map(|(answer,)| answer)
    }

    async fn read(&self, id: &ConversationId) -> Result<Option<ConversationSnapshot>, StateError> {
        fields::snapshot(&self.read_fields(id).await?)
    }

    async fn read_fields(
        &self,
        id: &ConversationId,
    ) -> Result<HashMap<String, String>, StateError> {
        let asking = redis::pipe().hgetall(keys::conversation(id)).to_owned();
        self.connection.run(&asking).await.map(|(all,)| all)
    }

    /// Whether what is stored under a conversation's name is something else, which no command for conversations reads.
    async fn is_something_else(&self, id: &ConversationId) -> Result<bool, StateError> {
        let mut asking = redis::pipe();
        asking.cmd("TYPE").arg(keys::conversation(id));
        let (kind,): (String,) = self.connection.run(&asking).await?;
        Ok(kind != fields::HASH && kind != fields::NOTHING)
    }
}

#[async_trait]
impl Conversations for RedisConversations {
    async fn create_titled(
        &self,
        conversation: &Conversation,
        turns: &[TurnRequest],
        title: Option<&str>,
    ) -> Result<CreateOutcome, StateError> {
        let id = &conversation.id;
        let image = conversation.image.as_ref();
        let fingerprint = fingerprint::of_conversation(conversation, turns, title);
        let mut arguments = vec![
            json(conversation),
            image.map_or_else(String::new, |image| image.image.to_string()),
            fingerprint.to_string(),
            title.unwrap_or_default().to_owned(),
        ];
        arguments.extend(turns.iter().map(json));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (outcome, ready, queued, created_ms): (u32, u32, Vec<u32>, u64) = self
            .run_queueing(lifetime(conversation), &scripts::CREATE, id, &arguments)
            .await?;
        let ready = turn_or_none(ready);
        let outcome = match outcome {
            scripts::CREATED => CreateOutcome::Created { ready },
            scripts::EXISTING => CreateOutcome::Existing { ready },
            _ => return Ok(CreateOutcome::Mismatch),
        };
        self.enlist(&conversation.owner, id, created_ms).await?;
        self.add_waiting(id, queued).await?;
        Ok(outcome)
    }

    async fn snapshot(
        &self,
        id: &ConversationId,
    ) -> Result<Option<ConversationSnapshot>, StateError> {
        self.read(id).await
    }

    async fn list(&self, owner: &str, limit: usize) -> Result<Vec<ConversationId>, StateError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let last = isize::try_from(last).unwrap_or(isize::MAX);
        let range = redis::pipe()
            .zrevrange(keys::owner(owner), 0, last)
            .to_owned();
        let (ids,): (Vec<String>,) = self.connection.run(&range).await?;
        Ok(ids.into_iter().map(ConversationId).collect())
    }

    async fn add_turn(
        &self,
        id: &ConversationId,
        request: &TurnRequest,
        idempotency: Option<&str>,
        max_turns: u32,
    ) -> Result<AddTurnOutcome, StateError> {
        // The connection repeats what has lost its answer, so that every call has a key.
        let key = idempotency.map_or_else(|| keys::once(&nonce()), keys::idempotency);
        let (request, fingerprint) = (json(request), fingerprint::of_turn(request));
        let max_turns = max_turns.to_string();
        let arguments = [&*request, &key, fingerprint.as_str(), &max_turns];
        let (outcome, turn, ready, queued): (u32, u32, u32, bool) = self
            .run_queueing(LIFETIME, &scripts::ADD_TURN, id, &arguments)
            .await?;
        match outcome {
            scripts::ADDED => {}
            scripts::MISMATCH => return Ok(AddTurnOutcome::Mismatch),
            scripts::FULL => return Ok(AddTurnOutcome::Full),
            _ => return Ok(AddTurnOutcome::NotFound),
        }
        if queued {
            self.add_waiting(id, [turn]).await?;
        }
        Ok(AddTurnOutcome::Added(AddedTurn {
            turn,
            ready: ready == turn,
        }))
    }

    async fn image_prepared(
        &self,
        id: &ConversationId,
        image: &ObjectKey,
        outcome: &Result<FindingsReport, Failure>,
    ) -> Result<Option<u32>, StateError> {
        let (event, end) = match outcome {
            Ok(findings) => (json(&TurnEvent::Findings(findings.clone())), String::new()),
            Err(failure) => {
                let end = TurnOutcome::Failed(failure.clone());
                (json(&TurnEvent::Ended(end.clone())), json(&end))
            }
        };
        let arguments = [image.as_str(), &json(outcome), &event, &end];
        let (ready, ended): (u32, Vec<u32>) =
            self.run_script(&scripts::PREPARED, id, &arguments).await?;
        self.remove_waiting(id, &ended).await?;
        Ok(turn_or_none(ready))
    }

    async fn claim_turn(&self, id: &ConversationId, turn: u32) -> Result<TurnClaim, StateError> {
        let (outcome, event) = cancelled();
        let arguments = [&*turn.to_string(), &outcome, &event];
        let (epoch, ready): (i64, u32) = self.run_script(&scripts::START, id, &arguments).await?;
        self.remove_waiting(id, &[turn]).await?;
        let epoch = match epoch {
            scripts::GONE => return Ok(TurnClaim::NotFound),
            scripts::OVER => {
                return Ok(TurnClaim::NotRunnable {
                    next: turn_or_none(ready),
                });
            }
            epoch => epoch.cast_unsigned(),
        };
        let events = self.events(id, turn, 0, usize::MAX).await?;
        let Some(snapshot) = self.read(id).await? else {
            return Ok(TurnClaim::NotFound);
        };
        let events = events.into_iter().map(|(_, event)| event).collect();
        Ok(TurnClaim::Granted {
            epoch,
            snapshot: Box::new(snapshot),
            events,
        })
    }

    async fn append(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        after: u64,
        events: &[TurnEvent],
    ) -> Result<AppendOutcome, StateError> {
        let asked = events.iter().rev().find_map(|event| match event {
            TurnEvent::Started { asked } => Some(asked.as_str()),
            _ => None,
        });
        let mut arguments = vec![
            turn.to_string(),
            epoch.to_string(),
            after.to_string(),
            asked.unwrap_or_default().to_owned(),
        ];
        arguments.extend(events.iter().map(json));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(
            match self
                .run_script::<u32>(&scripts::APPEND, id, &arguments)
                .await?
            {
                0 => AppendOutcome::Done,
                1 => AppendOutcome::Cancelled,
                _ => AppendOutcome::Fenced,
            },
        )
    }

    async fn finish(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        outcome: &TurnOutcome,
    ) -> Result<Option<u32>, StateError> {
        let event = TurnEvent::Ended(outcome.clone());
        let arguments = [
            &*turn.to_string(),
            &*epoch.to_string(),
            &*variant_name(&outcome.status()),
            &json(outcome),
            &json(&event),
        ];
        self.run_script(&scripts::FINISH, id, &arguments)
            .await
            .map(turn_or_none)
    }

    async fn cancel(&self, id: &ConversationId, turn: u32) -> Result<Option<u32>, StateError> {
        let (outcome, event) = cancelled();
        let (ready, ended): (u32, bool) = self
            .run_script(
                &scripts::CANCEL,
                id,
                &[&*turn.to_string(), &outcome, &event],
            )
            .await?;
        if ended {
            self.remove_waiting(id, &[turn]).await?;
        }
        Ok(turn_or_none(ready))
    }

    async fn edit(
        &self,
        id: &ConversationId,
        turn: u32,
        text: Option<&str>,
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError> {
        let is_text = if text.is_some() { "1" } else { "0" };
        let [kind, expected] = replaces.arguments();
        let turn = &*turn.to_string();
        let arguments = [kind, expected, turn, is_text, text.unwrap_or_default()];
        let edited = self.run_script(&scripts::EDIT, id, &arguments).await?;
        Ok(replace_outcome(edited))
    }

    async fn rename(
        &self,
        id: &ConversationId,
        title: &str,
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError> {
        let [kind, expected] = replaces.arguments();
        let arguments = [kind, expected, title];
        let renamed = self.run_script(&scripts::TITLE, id, &arguments).await?;
        Ok(replace_outcome(renamed))
    }

    async fn rate(
        &self,
        id: &ConversationId,
        turn: u32,
        rating: Option<Rating>,
    ) -> Result<bool, StateError> {
        let rating = rating.map(|rating| variant_name(&rating));
        let arguments = [&*turn.to_string(), rating.as_deref().unwrap_or_default()];
        self.run_script(&scripts::RATE, id, &arguments).await
    }

    async fn events(
        &self,
        id: &ConversationId,
        turn: u32,
        after: u64,
        limit: usize,
    ) -> Result<Vec<NumberedEvent>, StateError> {
        let from = format!("{}-0", after.saturating_add(1));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let range = redis::pipe()
            .xrange_count(keys::events(id, turn), from, "+", limit)
            .to_owned();
        let (reply,): (StreamRangeReply,) = self.connection.run(&range).await?;
        let entry = |entry: &redis::streams::StreamId| {
            let number = entry
                .id
                .split('-')
                .next()
                .and_then(|number| number.parse().ok());
            let event = entry
                .get::<String>(scripts::EVENT_FIELD)
                .and_then(|event| serde_json::from_str(&event).ok());
            number.zip(event).ok_or_else(|| {
                StateError(format!("entry {} of a turn's events is no event", entry.id))
            })
        };
        reply.ids.iter().map(entry).collect()
    }

    async fn watch(
        &self,
        id: &ConversationId,
        turn: u32,
    ) -> Result<Box<dyn TurnWatch>, StateError> {
        Ok(Box::new(
            self.subscriptions.watch(keys::news(id, turn)).await?,
        ))
    }

    async fn delete(&self, id: &ConversationId) -> Result<bool, StateError> {
        self.delete_listed(id).await
    }

    async fn exist(&self, ids: &[ConversationId]) -> Result<Vec<bool>, StateError> {
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline.exists(keys::conversation(id));
        }
        if ids.is_empty() {
            Ok(Vec::new())
        } else {
            self.connection.run(&pipeline).await
        }
    }

    async fn beginnings(
        &self,
        ids: &[ConversationId],
    ) -> Result<Vec<Result<Option<Conversation>, Unreadable>>, StateError> {
        let mut asking = redis::pipe();
        for id in ids {
            call(&mut asking, LIFETIME, &scripts::BEGINNING, id, &[]);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let answers: Vec<redis::Value> = self.connection.run(&asking).await?;
        let read = |answer: &redis::Value| {
            let (kind, written): (String, Option<Vec<u8>>) = parsed(answer)?;
            Ok(fields::beginning(&kind, written.as_deref()))
        };
        answers.iter().map(read).collect()
    }

    async fn begun_before(&self, time_ms: u64) -> Result<Vec<ConversationId>, StateError> {
        let mut begun = Vec::new();
        for owner in self.connection.keys(&keys::owner("*")).await? {
            let range = redis::pipe()
                .zrangebyscore(owner, 0, format!("({time_ms}"))
                .to_owned();
            let (ids,): (Vec<String>,) = self.connection.run(&range).await?;
            begun.extend(ids.into_iter().map(ConversationId));
        }
        // A scan may name a key twice.
        begun.sort_unstable();
        begun.dedup();
        Ok(begun)
    }

    async fn forget_ended(&self) -> Result<u64, StateError> {
        let forgotten = self.forget_all_ended().await?;
        Ok(forgotten + self.forget_what_waits_no_more().await?)
    }

    async fn unattended(
        &self,
        idle: Duration,
        limit: usize,
    ) -> Result<Vec<UnattendedConversation>, StateError> {
        self.read_unattended(idle, limit).await
    }

    async fn attend(&self, unattended: &UnattendedConversation) -> Result<bool, StateError> {
        let id = &unattended.snapshot.conversation.id;
        // Later in any case, so that nobody else's look from before is still good.
        let now_ms = now_ms().max(unattended.since_ms + 1);
        self.replace_open(id.as_str(), unattended.since_ms, Some(now_ms))
            .await
    }

    async fn waiting(&self) -> Result<u64, StateError> {
        self.count_waiting().await
    }

    async fn reserve(
        &self,
        reservation: &Reservation,
        limits: QueueLimits,
    ) -> Result<ReserveOutcome, StateError> {
        self.reserve_places(reservation, limits).await
    }

    async fn release(&self, reservation: &Reservation) -> Result<(), StateError> {
        self.release_places(reservation).await
    }

    async fn position(&self, id: &ConversationId, turn: u32) -> Result<Option<u64>, StateError> {
        self.waiting_before(id, turn).await
    }
}

/// Adds the call of a script on a conversation.
fn call(
    pipeline: &mut Pipeline,
    lifetime: Duration,
    script: &Script,
    id: &ConversationId,
    arguments: &[&str],
) {
    pipeline
        .cmd("EVALSHA")
        .arg(script.get_hash())
        .arg(1)
        .arg(keys::conversation(id))
        .arg(lifetime.as_secs())
        .arg(arguments);
}

fn parsed<T: FromRedisValue>(value: &redis::Value) -> Result<T, StateError> {
    T::from_redis_value_ref(value).map_err(|error| StateError(error.to_string()))
}

/// What a script says of replacing what a person has written.
fn replace_outcome(reply: i64) -> ReplaceOutcome {
    match reply {
        scripts::REPLACED => ReplaceOutcome::Replaced,
        scripts::OTHER => ReplaceOutcome::Other,
        _ => ReplaceOutcome::Missing,
    }
}

/// The outcome and the event of a cancelled turn.
fn cancelled() -> (String, String) {
    (
        json(&TurnOutcome::Cancelled),
        json(&TurnEvent::Ended(TurnOutcome::Cancelled)),
    )
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("messages have string keys only")
}

/// A unit variant's name, as JSON has it in quotes.
fn variant_name<T: Serialize>(value: &T) -> String {
    json(value).trim_matches('"').to_owned()
}

/// Turns are counted from 1, so that scripts say 0 for none.
fn turn_or_none(turn: u32) -> Option<u32> {
    (turn > 0).then_some(turn)
}
