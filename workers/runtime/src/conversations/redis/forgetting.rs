//! Owners' lists, and the set of waiting turns, beside the hashes that they tell of. They lie in other slots of a Redis Cluster,
//! so that a conversation is created and deleted in several steps, and two that create and delete it at one time take them in
//! any order. What holds in all of them: a conversation that is there is on its owner's list, or is noted as open, and then
//! the next sweeper puts it there.
//!
//! - It is put on the list after it was created, and taken off before it is deleted: whoever creates it again does so later.
//! - It is noted as open before either, and whoever looks at what is open lists it.
//! - It ends by the expiry of its hash, too, which no list sees: the lists are gone through from time to time, and an entry is
//!   taken off only as long as it is the one that was looked at.

use std::collections::BTreeMap;

use radialog_schemas::{Conversation, ConversationId, TurnStatus};
use tracing::warn;

use super::{RedisConversations, keys, scripts, variant_name};
use crate::conversations::{ConversationSnapshot, Conversations, now_ms};
use crate::state::StateError;

/// Members of a list that are looked at at a time.
const PAGE: isize = 500;

impl RedisConversations {
    /// Puts a conversation on its owner's list, with the time of its beginning.
    pub(super) async fn enlist(
        &self,
        owner: &str,
        id: &ConversationId,
        created_ms: u64,
    ) -> Result<(), StateError> {
        let listing = redis::pipe()
            .zadd(keys::owner(owner), id.as_str(), created_ms)
            .ignore()
            .to_owned();
        self.connection.run(&listing).await
    }

    /// Puts a conversation on its owner's list that was seen and is perhaps not there.
    pub(super) async fn enlist_seen(&self, seen: &Conversation) -> Result<(), StateError> {
        let (owner, id) = (keys::owner(&seen.owner), &seen.id);
        let asking = redis::pipe().zscore(&owner, id.as_str()).to_owned();
        let (listed,): (Option<f64>,) = self.connection.run(&asking).await?;
        if listed.is_some() {
            return Ok(());
        }
        self.enlist(&seen.owner, id, seen.created_ms).await?;
        if self.exist(std::slice::from_ref(id)).await? == [false] {
            // Deleted since it was seen.
            self.unlist(&owner, &[entry(seen)]).await?;
        }
        Ok(())
    }

    /// Takes entries off an owner's list, of which each still has this time; returns how many.
    async fn unlist(&self, owner: &str, entries: &[(String, f64)]) -> Result<u64, StateError> {
        let mut removing = redis::pipe();
        removing
            .cmd("EVALSHA")
            .arg(scripts::UNLIST.get_hash())
            .arg(1)
            .arg(owner);
        for (id, begun) in entries {
            removing.arg(id).arg(begun);
        }
        let (removed,) = self.connection.run::<(u64,)>(&removing).await?;
        Ok(removed)
    }

    /// Deletes a conversation that is there, its place on its owner's list, and those of its turns in the queue.
    pub(super) async fn delete_listed(&self, id: &ConversationId) -> Result<bool, StateError> {
        let known = match self.read(id).await {
            Ok(Some(known)) => known,
            Ok(None) => return Ok(false),
            Err(error) => return self.delete_unreadable(id, error).await,
        };
        let mut noting = redis::pipe();
        noting.zadd(keys::OPEN, id.as_str(), now_ms()).ignore();
        self.connection.run::<()>(&noting).await?;
        let owner = keys::owner(&known.conversation.owner);
        let unlisting = redis::pipe().zrem(&owner, id.as_str()).ignore().to_owned();
        self.connection.run::<()>(&unlisting).await?;
        self.run_script::<()>(&scripts::DELETE, id, &[]).await?;
        let turns: Vec<u32> = (1..=known.turns.len() as u32).collect();
        self.remove_waiting(id, &turns).await?;
        // A sweeper may have seen it just before it was deleted, and put it on its list again.
        self.unlist(&owner, &[entry(&known.conversation)]).await?;
        // Created again meanwhile, it is listed, and its turns wait, under the same names.
        if let Some(again) = self.read(id).await? {
            self.enlist_seen(&again.conversation).await?;
            self.add_waiting(id, queued(&again)).await?;
        }
        Ok(true)
    }

    /// Deletes a conversation that is there and cannot be read; whose list it is on, nobody knows: what has ended is taken off
    /// all lists by and by.
    async fn delete_unreadable(
        &self,
        id: &ConversationId,
        error: StateError,
    ) -> Result<bool, StateError> {
        match self.exist(std::slice::from_ref(id)).await?.as_slice() {
            [true] => {
                warn!(conversation = %id, %error, "a conversation is deleted that could not be read");
                self.run_script::<()>(&scripts::DELETE, id, &[]).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes turns that wait no longer off the queue: their conversation was deleted while they were put there, and whoever
    /// did one or the other came to no end.
    pub(super) async fn forget_what_waits_no_more(&self) -> Result<u64, StateError> {
        let (mut forgotten, mut place) = (0, 0);
        loop {
            let page = redis::pipe()
                .zrange(keys::WAITING, place, place + PAGE - 1)
                .to_owned();
            let (page,): (Vec<String>,) = self.connection.run(&page).await?;
            let looked_at = isize::try_from(page.len()).unwrap_or(PAGE);
            let mut turns: BTreeMap<ConversationId, Vec<u32>> = BTreeMap::new();
            for waiting in &page {
                let named = waiting.rsplit_once(':');
                if let Some((id, Ok(turn))) = named.map(|(id, turn)| (id, turn.parse())) {
                    turns.entry(id.into()).or_default().push(turn);
                }
            }
            let mut removed = 0;
            for (id, turns) in turns {
                let over = match self.not_queued(&id, turns).await {
                    // It is no other one's hindrance: its turns count for a day.
                    Err(error) if self.is_something_else(&id).await? => {
                        warn!(conversation = %id, %error, "a conversation's turns wait until they are lost");
                        continue;
                    }
                    over => over?,
                };
                if over.is_empty() {
                    continue;
                }
                self.remove_waiting(&id, &over).await?;
                removed += over.len();
                // Created again meanwhile, its turns wait under the same names.
                if let Some(again) = self.read(&id).await? {
                    self.add_waiting(&id, queued(&again)).await?;
                }
            }
            forgotten += removed as u64;
            place += looked_at - isize::try_from(removed).unwrap_or(0);
            if looked_at < PAGE {
                return Ok(forgotten);
            }
        }
    }

    /// Those of a conversation's turns that are not queued: they were claimed, or have ended, or are gone with it.
    pub(super) async fn not_queued(
        &self,
        id: &ConversationId,
        turns: Vec<u32>,
    ) -> Result<Vec<u32>, StateError> {
        let statuses: Vec<String> = turns.iter().map(|turn| keys::status(*turn)).collect();
        let mut asking = redis::pipe();
        asking
            .cmd("HMGET")
            .arg(keys::conversation(id))
            .arg(&statuses);
        let (statuses,): (Vec<Option<String>>,) = self.connection.run(&asking).await?;
        let queued = variant_name(&TurnStatus::Queued);
        let over = turns.into_iter().zip(statuses);
        let over = over.filter(|(_, status)| status.as_deref() != Some(&*queued));
        Ok(over.map(|(turn, _)| turn).collect())
    }

    /// Takes what has ended off all owners' lists.
    pub(super) async fn forget_all_ended(&self) -> Result<u64, StateError> {
        let mut forgotten = 0;
        for owner in self.connection.keys(&keys::owner("*")).await? {
            // From the latest to the oldest: what is removed is behind the place.
            let mut place = 0;
            loop {
                let page = redis::pipe()
                    .zrevrange_withscores(&owner, place, place + PAGE - 1)
                    .to_owned();
                let (page,): (Vec<(String, f64)>,) = self.connection.run(&page).await?;
                let looked_at = isize::try_from(page.len()).unwrap_or(PAGE);
                let removed = self.forget_of(&owner, page).await?;
                forgotten += removed;
                place += looked_at - isize::try_from(removed).unwrap_or(0);
                if looked_at < PAGE {
                    break;
                }
            }
        }
        Ok(forgotten)
    }

    /// Takes those of a list's members off it that have ended.
    async fn forget_of(&self, owner: &str, page: Vec<(String, f64)>) -> Result<u64, StateError> {
        let mut ended = self.without_existing(page).await?;
        if ended.is_empty() {
            return Ok(0);
        }
        let removed = self.unlist(owner, &ended).await?;
        // One that was begun again meanwhile under the same name is on the list.
        let all = ended.len();
        let again = self.without_existing(ended.clone()).await?;
        if again.len() < all {
            ended.retain(|one| !again.contains(one));
            let mut back = redis::pipe();
            for (id, begun) in ended {
                back.cmd("ZADD").arg(owner).arg("NX").arg(begun).arg(id);
                back.ignore();
            }
            self.connection.run::<()>(&back).await?;
        }
        Ok(removed)
    }

    async fn without_existing(
        &self,
        page: Vec<(String, f64)>,
    ) -> Result<Vec<(String, f64)>, StateError> {
        let ids: Vec<ConversationId> = page
            .iter()
            .map(|(id, _)| ConversationId(id.clone()))
            .collect();
        let exist = self.exist(&ids).await?;
        let ended = page.into_iter().zip(exist).filter(|(_, exists)| !exists);
        Ok(ended.map(|(one, _)| one).collect())
    }
}

/// The entry of a conversation on its owner's list, with its time as Redis has it.
fn entry(conversation: &Conversation) -> (String, f64) {
    (conversation.id.to_string(), conversation.created_ms as f64)
}

/// The turns that wait for a worker.
fn queued(known: &ConversationSnapshot) -> Vec<u32> {
    (1..)
        .zip(&known.turns)
        .filter(|(_, turn)| turn.status == TurnStatus::Queued)
        .map(|(number, _)| number)
        .collect()
}
