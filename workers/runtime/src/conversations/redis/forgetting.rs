//! A conversation ends by the expiry of its hash, which its owner's list does not see: the lists are gone through from time
//! to time.

use radialog_schemas::ConversationId;

use super::{RedisConversations, keys};
use crate::conversations::Conversations;
use crate::state::StateError;

/// Members of a list that are looked at at a time.
const PAGE: isize = 500;

impl RedisConversations {
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
        let ids: Vec<&str> = ended.iter().map(|(id, _)| id.as_str()).collect();
        let removed = redis::pipe().zrem(owner, ids).to_owned();
        let (removed,): (u64,) = self.connection.run(&removed).await?;
        // One that was begun again meanwhile under the same name is on the list.
        let all = ended.len();
        let again = self.without_existing(ended.clone()).await?;
        if again.len() < all {
            ended.retain(|one| !again.contains(one));
            let back: Vec<(f64, String)> = ended.into_iter().map(|(id, at)| (at, id)).collect();
            let back = redis::pipe()
                .zadd_multiple(owner, &back)
                .ignore()
                .to_owned();
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
