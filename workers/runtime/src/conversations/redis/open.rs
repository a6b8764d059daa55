//! The conversations that may have open turns, whoever forgot to publish them. A conversation is noted before its turns
//! are queued, and before it is deleted, and taken off by whoever looks and finds no turn open. Whoever looks puts it on its
//! owner's list, too, from which a deletion has taken it that came to no end.

use std::time::Duration;

use radialog_schemas::ConversationId;
use tracing::warn;

use super::{RedisConversations, fields, keys, scripts};
use crate::conversations::{ConversationSnapshot, UnattendedConversation, now_ms};
use crate::state::StateError;

impl RedisConversations {
    /// Reads up to `limit` of those that nobody has seen to for `idle`, and takes off what has no open turn.
    pub(super) async fn read_unattended(
        &self,
        idle: Duration,
        limit: usize,
    ) -> Result<Vec<UnattendedConversation>, StateError> {
        let before = now_ms().saturating_sub(idle.as_millis() as u64);
        let limit = isize::try_from(limit).unwrap_or(isize::MAX);
        let range = redis::pipe()
            .zrangebyscore_limit_withscores(keys::OPEN, "-inf", before, 0, limit)
            .to_owned();
        let (noted,): (Vec<(String, u64)>,) = self.connection.run(&range).await?;
        let mut unattended = Vec::new();
        for (id, since_ms) in noted {
            let named = ConversationId(id.clone());
            let read = match self.read_fields(&named).await {
                Ok(fields) => fields::snapshot(&fields),
                Err(error) if self.is_something_else(&named).await? => Err(error),
                Err(error) => return Err(error),
            };
            let snapshot = match read {
                Ok(snapshot) => snapshot,
                // One is nobody else's hindrance, and is looked at again when it is idle again.
                Err(error) => {
                    warn!(conversation = id, %error, "a conversation's turns are not seen to");
                    let later = now_ms().max(since_ms + 1);
                    self.replace_open(&id, since_ms, Some(later)).await?;
                    continue;
                }
            };
            if let Some(ConversationSnapshot { conversation, .. }) = &snapshot {
                self.enlist_seen(conversation).await?;
            }
            let open = snapshot.filter(|snapshot| {
                let mut turns = snapshot.turns.iter();
                turns.any(|turn| !turn.status.is_final())
            });
            match open {
                Some(snapshot) => unattended.push(UnattendedConversation { snapshot, since_ms }),
                // A turn that is added meanwhile has noted the conversation anew, so that it stays.
                None => {
                    self.replace_open(&id, since_ms, None).await?;
                }
            }
        }
        Ok(unattended)
    }

    /// Notes a conversation with another time, or takes it off, where nobody has done so since `since_ms`.
    pub(super) async fn replace_open(
        &self,
        id: &str,
        since_ms: u64,
        now_ms: Option<u64>,
    ) -> Result<bool, StateError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("EVALSHA")
            .arg(scripts::ATTEND.get_hash())
            .arg(1)
            .arg(keys::OPEN);
        let now_ms = now_ms.map_or_else(String::new, |now_ms| now_ms.to_string());
        pipeline.arg(id).arg(since_ms).arg(now_ms);
        let (is_first,): (bool,) = self.connection.run(&pipeline).await?;
        Ok(is_first)
    }
}
