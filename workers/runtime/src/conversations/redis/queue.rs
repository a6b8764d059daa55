//! The turns that wait for a worker, counted for all conversations and for each key. All of it lies in one hash slot,
//! that of [`keys::WAITING`].

use std::sync::LazyLock;
use std::time::Duration;

use radialog_schemas::ConversationId;
use redis::{FromRedisValue, Script};

use super::{RedisConversations, keys, now_ms};
use crate::conversations::queue_limits::{
    LONGEST_RESERVATION, QueueLimits, Reservation, ReserveOutcome, key_of,
};
use crate::state::StateError;

/// A turn that has waited for so long was lost with its queue; it does not count as waiting any more.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// KEYS: the turns that wait, by the time they were queued. ARGV begins with now and with the time of turns that are lost.
/// Beside it: the key and the group of each turn, the same set for each key and each group, and reservations, by the time
/// they end.
const SHARED: &str = "
local waiting, now, lost = KEYS[1], ARGV[1], ARGV[2]
local room = '{' .. waiting .. '}:'
local keys, groups, reserved = room .. 'keys', room .. 'groups', room .. 'reserved'
local function of(key) return room .. 'of:' .. key end
local function of_group(group) return room .. 'of-group:' .. group end
local function reserved_of(key) return room .. 'reserved-of:' .. key end
-- Whoever reserved may be gone, and nobody else may ever reserve: Redis forgets the set with its last reservation.
local function reserve(set, till, place)
  redis.call('ZADD', set, till, place)
  redis.call('PEXPIREAT', set, redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end
local function leave(turn)
  local key = redis.call('HGET', keys, turn)
  redis.call('ZREM', waiting, turn)
  if key then
    redis.call('ZREM', of(key), turn)
    redis.call('HDEL', keys, turn)
  end
  local group = redis.call('HGET', groups, turn)
  if group then
    redis.call('ZREM', of_group(group), turn)
    redis.call('HDEL', groups, turn)
  end
end
local function forget_lost()
  for _, turn in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', lost)) do leave(turn) end
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{SHARED}{body}"))
}

/// ARGV: key, group or nothing, turns. Those that wait already keep their places.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    script(
        "for at = 5, #ARGV do
           redis.call('ZADD', waiting, 'NX', now, ARGV[at])
           redis.call('ZADD', of(ARGV[3]), 'NX', now, ARGV[at])
           redis.call('HSET', keys, ARGV[at], ARGV[3])
           redis.call('ZADD', of_group(ARGV[4]), 'NX', now, ARGV[at])
           redis.call('HSET', groups, ARGV[at], ARGV[4])
         end
         return 0",
    )
});

/// ARGV: turns.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "for at = 3, #ARGV do leave(ARGV[at]) end
         return 0",
    )
});

/// The number of turns.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    script(
        "forget_lost()
         return redis.call('ZCARD', waiting)",
    )
});

/// ARGV: key, end and number of the reserved turns, the two limits, name. 0 where they are reserved, 1 or 2 where all or
/// this key's are too many, and how many there are.
static RESERVE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local key, till, turns, name = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[8]
         forget_lost()
         redis.call('ZREMRANGEBYSCORE', reserved, '-inf', now)
         redis.call('ZREMRANGEBYSCORE', reserved_of(key), '-inf', now)
         if redis.call('ZSCORE', reserved, name .. ':1') then return {0, 0} end
         local all = redis.call('ZCARD', waiting) + redis.call('ZCARD', reserved)
         if all > 0 and all + turns > tonumber(ARGV[6]) then return {1, all} end
         local own = redis.call('ZCARD', of(key)) + redis.call('ZCARD', reserved_of(key))
         if own > 0 and own + turns > tonumber(ARGV[7]) then return {2, own} end
         for turn = 1, turns do
           reserve(reserved, till, name .. ':' .. turn)
           reserve(reserved_of(key), till, name .. ':' .. turn)
         end
         return {0, 0}",
    )
});

/// ARGV: key, number of the reserved turns, name.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "for turn = 1, tonumber(ARGV[4]) do
           redis.call('ZREM', reserved, ARGV[5] .. ':' .. turn)
           redis.call('ZREM', reserved_of(ARGV[3]), ARGV[5] .. ':' .. turn)
         end
         return 0",
    )
});

/// ARGV: turn. How many turns of its group wait before it, or nothing where it does not wait. One that an earlier version has
/// queued has no group, and a place among all.
static POSITION: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local group = redis.call('HGET', groups, ARGV[3])
         return redis.call('ZRANK', group and of_group(group) or waiting, ARGV[3])",
    )
});

/// KEYS: a conversation. Its owner and its group, or nothing where its turns take no places.
static OWNER_AND_GROUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local conversation = redis.call('HGET', KEYS[1], 'conversation')
         if not conversation then return {'', ''} end
         conversation = cjson.decode(conversation)
         if conversation.of_batch == true or conversation.background == true then return {'', ''} end
         local group = conversation.group
         return {conversation.owner, type(group) == 'string' and group or ''}",
    )
});

/// Every script, to be loaded when Redis has forgotten them.
pub(super) fn scripts() -> [&'static Script; 7] {
    [
        &ENTER,
        &LEAVE,
        &COUNT,
        &RESERVE,
        &RELEASE,
        &POSITION,
        &OWNER_AND_GROUP,
    ]
}

impl RedisConversations {
    async fn run_on_queue<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[String],
    ) -> Result<T, StateError> {
        let now = now_ms();
        let lost = now.saturating_sub(LONGEST_WAIT.as_millis() as u64);
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("EVALSHA")
            .arg(script.get_hash())
            .arg(1)
            .arg(keys::WAITING)
            .arg(now)
            .arg(lost)
            .arg(arguments);
        let (answer,) = self.connection.run::<(T,)>(&pipeline).await?;
        Ok(answer)
    }

    /// Adds turns to those that wait for a worker, as far as they still do so then.
    pub(super) async fn add_waiting(
        &self,
        id: &ConversationId,
        turns: impl IntoIterator<Item = u32>,
    ) -> Result<(), StateError> {
        let turns: Vec<u32> = turns.into_iter().collect();
        if turns.is_empty() {
            return Ok(());
        }
        let mut asking = redis::pipe();
        asking
            .cmd("EVALSHA")
            .arg(OWNER_AND_GROUP.get_hash())
            .arg(1)
            .arg(keys::conversation(id));
        let ((owner, group),) = self.connection.run::<((String, String),)>(&asking).await?;
        if owner.is_empty() {
            // Deleted meanwhile, or nobody waits for its turns.
            return Ok(());
        }
        let arguments: Vec<String> = [key_of(&owner).to_owned(), group]
            .into_iter()
            .chain(turns.iter().map(|turn| keys::waiting(id, *turn)))
            .collect();
        self.run_on_queue::<u32>(&ENTER, &arguments).await?;
        // Whoever has claimed, ended or deleted one meanwhile has taken it off before it was on.
        let over = self.not_queued(id, turns).await?;
        self.remove_waiting(id, &over).await
    }

    /// Removes turns from those that wait for a worker.
    pub(super) async fn remove_waiting(
        &self,
        id: &ConversationId,
        turns: &[u32],
    ) -> Result<(), StateError> {
        if turns.is_empty() {
            return Ok(());
        }
        let turns: Vec<String> = turns.iter().map(|turn| keys::waiting(id, *turn)).collect();
        self.run_on_queue::<u32>(&LEAVE, &turns).await?;
        Ok(())
    }

    /// Counts the turns of its group that wait before this one.
    pub(super) async fn waiting_before(
        &self,
        id: &ConversationId,
        turn: u32,
    ) -> Result<Option<u64>, StateError> {
        self.run_on_queue(&POSITION, &[keys::waiting(id, turn)])
            .await
    }

    /// Counts the turns that wait for a worker.
    pub(super) async fn count_waiting(&self) -> Result<u64, StateError> {
        self.run_on_queue(&COUNT, &[]).await
    }

    pub(super) async fn reserve_places(
        &self,
        reservation: &Reservation,
        limits: QueueLimits,
    ) -> Result<ReserveOutcome, StateError> {
        let until = now_ms() + LONGEST_RESERVATION.as_millis() as u64;
        let arguments = [
            key_of(&reservation.owner).to_owned(),
            until.to_string(),
            reservation.turns.to_string(),
            limits.all.to_string(),
            limits.per_key.to_string(),
            reservation.name.clone(),
        ];
        let (refused, waiting): (u32, u64) = self.run_on_queue(&RESERVE, &arguments).await?;
        Ok(match refused {
            0 => ReserveOutcome::Reserved,
            1 => ReserveOutcome::Full(waiting),
            _ => ReserveOutcome::KeyFull(waiting),
        })
    }

    pub(super) async fn release_places(&self, reservation: &Reservation) -> Result<(), StateError> {
        let arguments = [
            key_of(&reservation.owner).to_owned(),
            reservation.turns.to_string(),
            reservation.name.clone(),
        ];
        self.run_on_queue::<u32>(&RELEASE, &arguments).await?;
        Ok(())
    }
}
