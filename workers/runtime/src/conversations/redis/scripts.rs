//! What must not be torn apart, in Lua. KEYS[1] is the conversation's hash, ARGV[1] the seconds to live of
//! one that is made.
//!
//! Fields of the hash: `conversation`, `live` (its seconds to live), `image` (its key, or nothing), `fingerprint` of the
//! request that created it, `prepared`, `usable` (1 once the image's outputs are there), `turns` (their number), and for
//! turn N `N:request`, `N:fingerprint`, `N:status`, `N:epoch`, `N:cancelling`, `N:asked`, `N:outcome`, `N:edited`,
//! `N:rating`, `N:events` (their number); `title`, where a person gave one; `key:K` holds the turn that the idempotency key K made, `once:N` the one of a call without a
//! key.

use std::sync::LazyLock;

use redis::Script;

/// The one field of a stream's entries.
pub(super) const EVENT_FIELD: &str = "event";
/// [`START`] says: there is no such turn.
pub(super) const GONE: i64 = -1;
/// [`START`] says: there is nothing to do.
pub(super) const OVER: i64 = -2;

/// What several scripts do.
const SHARED: &str = "
local key = KEYS[1]
local function get(field) return redis.call('HGET', key, field) end
local live = get('live') or ARGV[1]
local function set(...) redis.call('HSET', key, ...) end
local function final(turn)
  local status = get(turn .. ':status')
  return status ~= 'queued' and status ~= 'running'
end
local function first_open()
  local turns = tonumber(get('turns') or 0)
  for turn = 1, turns do if not final(turn) then return turn end end
  return 0
end
local function ready()
  if get('image') ~= '' and get('usable') ~= '1' then return 0 end
  local turn = first_open()
  if turn > 0 and get(turn .. ':status') == 'queued' then return turn end
  return 0
end
local function touch()
  redis.call('EXPIRE', key, live)
  for turn = 1, tonumber(get('turns') or 0) do redis.call('EXPIRE', key .. ':events:' .. turn, live) end
end
local function write(turn, event)
  local number = redis.call('HINCRBY', key, turn .. ':events', 1)
  local stream = key .. ':events:' .. turn
  redis.call('XADD', stream, number .. '-0', 'event', event)
  if number == 1 then redis.call('EXPIRE', stream, live) end
  redis.call('PUBLISH', key .. ':news:' .. turn, number .. ' ' .. event)
end
local function finish(turn, status, outcome, event)
  set(turn .. ':status', status, turn .. ':outcome', outcome)
  write(turn, event)
end
local function queue(request)
  local turn = redis.call('HINCRBY', key, 'turns', 1)
  set(turn .. ':request', request, turn .. ':status', 'queued')
  return turn
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{SHARED}{body}"))
}

/// [`CREATE`] says: this request has created it.
pub(super) const CREATED: u32 = 0;
/// [`CREATE`] says: the same request had created it.
pub(super) const EXISTING: u32 = 1;
/// [`CREATE`] and [`ADD_TURN`] say: another request had this id or key.
pub(super) const MISMATCH: u32 = 2;

/// ARGV: conversation, image or nothing, fingerprint, title or nothing, requests. How it came out, the ready turn, all queued ones, and the time
/// at which the one that is there began.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local outcome = 1
         if redis.call('EXISTS', key) == 0 then
           set('conversation', ARGV[2], 'image', ARGV[3], 'fingerprint', ARGV[4], 'live', live)
           if ARGV[5] ~= '' then set('title', ARGV[5]) end
           for at = 6, #ARGV do queue(ARGV[at]) end
           touch()
           outcome = 0
         elseif get('fingerprint') ~= ARGV[4] then
           return {2, 0, {}, 0}
         end
         local queued = {}
         for turn = 1, tonumber(get('turns') or 0) do
           if get(turn .. ':status') == 'queued' then table.insert(queued, turn) end
         end
         return {outcome, ready(), queued, cjson.decode(get('conversation')).created_ms}",
    )
});

/// [`ADD_TURN`] says: the turn is there.
pub(super) const ADDED: u32 = 0;
/// [`ADD_TURN`] says: the conversation has no room.
pub(super) const FULL: u32 = 3;

/// ARGV: request, field of the idempotency key, fingerprint, most turns. How it came out, the turn, the ready turn,
/// whether the turn is queued.
pub(super) static ADD_TURN: LazyLock<Script> = LazyLock::new(|| {
    script(
        "if redis.call('EXISTS', key) == 0 then return {4, 0, 0, 0} end
         local turn = tonumber(get(ARGV[3]) or 0)
         if turn > 0 then
           if get(turn .. ':fingerprint') ~= ARGV[4] then return {2, 0, 0, 0} end
         else
           if tonumber(get('turns') or 0) >= tonumber(ARGV[5]) then return {3, 0, 0, 0} end
           turn = queue(ARGV[2])
           set(ARGV[3], turn, turn .. ':fingerprint', ARGV[4])
           if get('usable') == '0' then finish(turn, 'failed', get('failed_outcome'), get('failed_event')) end
         end
         touch()
         return {0, turn, ready(), get(turn .. ':status') == 'queued' and 1 or 0}",
    )
});

/// ARGV: image, outcome, event, and the turns' outcome where the image has failed. The ready turn and those that ended.
pub(super) static PREPARED: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local ended = {}
         if redis.call('EXISTS', key) == 0 or get('image') ~= ARGV[2] then return {0, ended} end
         if redis.call('HSETNX', key, 'prepared', ARGV[3]) == 1 then
           if ARGV[5] == '' then
             set('usable', '1')
             if get('turns') and not final(1) then write(1, ARGV[4]) end
           else
             set('usable', '0', 'failed_outcome', ARGV[5], 'failed_event', ARGV[4])
             for turn = 1, tonumber(get('turns') or 0) do
               if not final(turn) then
                 finish(turn, 'failed', ARGV[5], ARGV[4])
                 table.insert(ended, turn)
               end
             end
           end
         end
         return {ready(), ended}",
    )
});

/// ARGV: turn, outcome and event of a cancelled turn. The epoch and 0, or why not and the ready turn.
pub(super) static START: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local turn = ARGV[2]
         local status = get(turn .. ':status')
         if not status then return {-1, 0} end
         if get(turn .. ':cancelling') and not final(turn) then finish(turn, 'cancelled', ARGV[3], ARGV[4]) end
         local ready_now, first = ready(), first_open()
         local running = first == tonumber(turn) and status == 'running'
         if ready_now ~= tonumber(turn) and not running then return {-2, ready_now} end
         set(turn .. ':status', 'running')
         touch()
         return {redis.call('HINCRBY', key, turn .. ':epoch', 1), 0}",
    )
});

/// ARGV: turn, epoch, number of the last event, what was asked or nothing, events. 0 done, 1 cancelled, 2 fenced.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local turn, after, count = ARGV[2], tonumber(ARGV[4]), #ARGV - 5
         if get(turn .. ':epoch') ~= ARGV[3] or get(turn .. ':status') ~= 'running' then return 2 end
         local last = tonumber(get(turn .. ':events') or 0)
         if last == after then
           if ARGV[5] ~= '' then set(turn .. ':asked', ARGV[5]) end
           for at = 6, #ARGV do write(turn, ARGV[at]) end
         elseif last ~= after + count then
           return 2
         end
         return get(turn .. ':cancelling') and 1 or 0",
    )
});

/// ARGV: turn, epoch, status, outcome, event. The ready turn.
pub(super) static FINISH: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local turn = ARGV[2]
         if get(turn .. ':epoch') == ARGV[3] and get(turn .. ':status') == 'running' then
           finish(turn, ARGV[4], ARGV[5], ARGV[6])
           touch()
         end
         return ready()",
    )
});

/// ARGV: turn, outcome and event of a cancelled turn. The ready turn, and whether this turn ended here.
pub(super) static CANCEL: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local turn = ARGV[2]
         local status = get(turn .. ':status')
         if status == 'running' then set(turn .. ':cancelling', '1') end
         if status == 'queued' then finish(turn, 'cancelled', ARGV[3], ARGV[4]) end
         return {ready(), status == 'queued' and 1 or 0}",
    )
});

/// [`EDIT`] and [`TITLE`] say: what was wanted is there.
pub(super) const REPLACED: i64 = 1;
/// [`EDIT`] and [`TITLE`] say: another text is there.
pub(super) const OTHER: i64 = 2;

/// Begins scripts whose first ARGV are what may be replaced ([`super::super::Replaces`]): its kind, and its text.
const REPLACING: &str = "
local function stays(there, wanted)
  return ARGV[2] ~= 'anything' and there ~= wanted and there ~= (ARGV[2] == 'text' and ARGV[3])
end
";

/// ARGV: what may be replaced, turn, whether there is a text, text. 0 where the turn is not there or not final.
pub(super) static EDIT: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "{REPLACING}
         local turn = ARGV[4]
         if not get(turn .. ':status') or not final(turn) then return 0 end
         if stays(get(turn .. ':edited'), ARGV[5] == '1' and ARGV[6]) then return {OTHER} end
         if ARGV[5] == '1' then set(turn .. ':edited', ARGV[6]) else redis.call('HDEL', key, turn .. ':edited') end
         touch()
         return {REPLACED}",
    ))
});

/// ARGV: what may be replaced, title. 0 where the conversation is not there.
pub(super) static TITLE: LazyLock<Script> = LazyLock::new(|| {
    script(&format!(
        "{REPLACING}
         if not get('conversation') then return 0 end
         if stays(get('title'), ARGV[4]) then return {OTHER} end
         set('title', ARGV[4])
         touch()
         return {REPLACED}",
    ))
});

/// ARGV: turn, rating or nothing. Whether the turn is there and final.
pub(super) static RATE: LazyLock<Script> = LazyLock::new(|| {
    script(
        "local turn = ARGV[2]
         if not get(turn .. ':status') or not final(turn) then return 0 end
         if ARGV[3] ~= '' then set(turn .. ':rating', ARGV[3]) else redis.call('HDEL', key, turn .. ':rating') end
         touch()
         return 1",
    )
});

/// The type of what is stored, and what was written when the conversation began, where it is one.
pub(super) static BEGINNING: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local kind = redis.call('TYPE', KEYS[1]).ok
         return {kind, kind == 'hash' and redis.call('HGET', KEYS[1], 'conversation')}",
    )
});

/// Removes everything, also where something else is stored under the name; watchers are told to look.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local key = KEYS[1]
         local turns = redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'turns')
         for turn = 1, tonumber(turns or 0) do
           redis.call('DEL', key .. ':events:' .. turn)
           redis.call('PUBLISH', key .. ':news:' .. turn, '')
         end
         redis.call('DEL', key)
         return 1",
    )
});

/// KEYS: [`super::keys::OPEN`]. ARGV: conversation, time at which it was seen there, time now or nothing to remove it.
/// Whether nobody has been there since.
pub(super) static ATTEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local since = redis.call('ZSCORE', KEYS[1], ARGV[1])
         if not since or tonumber(since) ~= tonumber(ARGV[2]) then return 0 end
         if ARGV[3] == '' then redis.call('ZREM', KEYS[1], ARGV[1]) else redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1]) end
         return 1",
    )
});

/// KEYS: an owner's list. ARGV: conversations, each with the time that stands beside it. Takes those off of which that time
/// still stands there; returns how many.
pub(super) static UNLIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local forgotten = 0
         for at = 1, #ARGV, 2 do
           local begun = redis.call('ZSCORE', KEYS[1], ARGV[at])
           if begun and tonumber(begun) == tonumber(ARGV[at + 1]) then
             forgotten = forgotten + redis.call('ZREM', KEYS[1], ARGV[at])
           end
         end
         return forgotten",
    )
});

/// Every script, to be loaded when Redis has forgotten them.
pub(super) fn all() -> Vec<&'static Script> {
    let own: [&'static Script; 14] = [
        &CREATE, &ADD_TURN, &PREPARED, &START, &APPEND, &FINISH, &CANCEL, &EDIT, &TITLE, &RATE,
        &BEGINNING, &DELETE, &ATTEND, &UNLIST,
    ];
    own.into_iter().chain(super::queue::scripts()).collect()
}
