//! One connection that receives the events of all turns that this process watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use redis::{FromRedisValue, PushInfo, PushKind, Value};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::config::RedisConfig;
use crate::conversations::{NumberedEvent, TurnWatch};
use crate::redis_connection::link::CurrentLink;
use crate::redis_connection::{RedisConnection, state_error};
use crate::state::StateError;

/// Events that a slow reader may be behind before it must look in the stream instead.
const BUFFERED_EVENTS: usize = 64;

type Channels = Arc<Mutex<HashMap<String, broadcast::Sender<Option<NumberedEvent>>>>>;

/// The subscriptions of this process, by their channels.
pub(super) struct Subscriptions {
    link: Arc<CurrentLink>,
    channels: Channels,
}

/// A subscription to the events of one turn.
pub(super) struct RedisWatch {
    news: broadcast::Receiver<Option<NumberedEvent>>,
    channel: String,
    channels: Channels,
    link: Arc<CurrentLink>,
}

impl Subscriptions {
    /// Connects at the first subscription.
    pub(super) fn new(
        config: &RedisConfig,
        connection: &RedisConnection,
    ) -> Result<Self, StateError> {
        let channels = Channels::default();
        let pushed_to = channels.clone();
        let listener = move |info: PushInfo| {
            on_push(&pushed_to, info);
            Ok::<(), redis::aio::SendError>(())
        };
        let link = Arc::new(connection.listen(config, listener)?);
        Ok(Self { link, channels })
    }

    /// Subscribes to a channel, where nobody has yet.
    pub(super) async fn watch(&self, channel: String) -> Result<RedisWatch, StateError> {
        let news = {
            let mut channels = locked(&self.channels);
            channels
                .entry(channel.clone())
                .or_insert_with(|| broadcast::Sender::new(BUFFERED_EVENTS))
                .subscribe()
        };
        let (channels, link) = (self.channels.clone(), self.link.clone());
        // Made first, so that a subscription that fails is cleaned up as well.
        let watch = RedisWatch {
            news,
            channel,
            channels,
            link,
        };
        // Subscribing again is harmless, and is over when this returns, whoever was first.
        let (number, mut link) = self.link.get();
        if let Err(error) = link.subscribe(&watch.channel).await {
            if self.link.replace_if_silent(number, &error) {
                self.subscribe_all().await?;
            }
            return Err(state_error(error));
        }
        Ok(watch)
    }

    /// Subscribes to all channels on a link that is new. Who reads them looks in the streams then.
    async fn subscribe_all(&self) -> Result<(), StateError> {
        let channels: Vec<String> = locked(&self.channels).keys().cloned().collect();
        let (_, mut link) = self.link.get();
        for channel in channels {
            link.subscribe(&channel).await.map_err(state_error)?;
        }
        Ok(())
    }
}

#[async_trait]
impl TurnWatch for RedisWatch {
    async fn next_events(&mut self) -> Vec<NumberedEvent> {
        match self.news.recv().await {
            Ok(event) => event.into_iter().collect(),
            Err(RecvError::Lagged(_)) => Vec::new(),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        let mut channels = locked(&self.channels);
        let last = channels
            .get(&self.channel)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if last {
            channels.remove(&self.channel);
            let (link, channel) = (self.link.clone(), std::mem::take(&mut self.channel));
            let channels = self.channels.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    // Somebody else may have come in the meantime.
                    if !locked(&channels).contains_key(&channel)
                        && let Err(error) = link.get().1.unsubscribe(&channel).await
                    {
                        tracing::debug!(%error, "a subscription to a turn was not ended");
                    }
                });
            }
        }
    }
}

/// Called by the connection for whatever Redis says unasked.
fn on_push(channels: &Channels, info: PushInfo) {
    let mut data = info.data.into_iter();
    let mut text = || {
        data.next()
            .and_then(|value: Value| String::from_redis_value(value).ok())
    };
    match info.kind {
        PushKind::Message => {
            if let (Some(channel), Some(message)) = (text(), text()) {
                notify(channels, &channel, event(&message));
            }
        }
        // Subscribed again after a loss: what was said meanwhile was not heard.
        PushKind::Subscribe => {
            if let Some(channel) = text() {
                notify(channels, &channel, None);
            }
        }
        _ => {}
    }
}

fn notify(channels: &Channels, channel: &str, event: Option<NumberedEvent>) {
    if let Some(sender) = locked(channels).get(channel) {
        // Nobody listens between the last reader's end and the removal of its channel.
        let _ = sender.send(event);
    }
}

/// `number event`; anything else is a hint to look.
fn event(message: &str) -> Option<NumberedEvent> {
    let (number, event) = message.split_once(' ')?;
    Some((number.parse().ok()?, serde_json::from_str(event).ok()?))
}

fn locked(
    channels: &Channels,
) -> MutexGuard<'_, HashMap<String, broadcast::Sender<Option<NumberedEvent>>>> {
    channels.lock().unwrap_or_else(PoisonError::into_inner)
}
