//! The adapters under test: connections to the shared services, each to a place of its own, and a way to run one suite on
//! several of them.

use std::collections::HashMap;
use std::sync::Arc;

use radialog_runtime::config::Config;
use radialog_runtime::conversations::Conversations;
use radialog_runtime::conversations::redis::RedisConversations;
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::s3::S3Objects;
use radialog_runtime::queue::Queue;
use radialog_runtime::queue::rabbitmq::RabbitQueue;
use radialog_runtime::state::State;
use radialog_runtime::state::redis::RedisState;
use radialog_tests::services::{S3Key, Services};

/// The configuration of these addresses.
pub(crate) fn config(overrides: &[(&str, &str)]) -> Config {
    let owned: HashMap<_, _> = overrides
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    Config::load(None, [], owned).unwrap()
}

/// A RabbitMQ virtual host without queues.
pub(crate) async fn rabbitmq() -> Arc<dyn Queue> {
    rabbitmq_at(&Services::shared().await.unwrap().amqp().unwrap()).await
}

/// A connection to this broker.
pub(crate) async fn rabbitmq_at(url: &str) -> Arc<dyn Queue> {
    let config = config(&[("amqp.url", url)]);
    Arc::new(
        RabbitQueue::connect(&config.amqp.unwrap(), "test", config.start_timeout)
            .await
            .unwrap(),
    )
}

/// A connection to this bucket.
pub(crate) async fn s3_at(bucket: &str) -> Arc<dyn Objects> {
    let key = S3Key::of_tests();
    let config = config(&[
        ("s3.url", bucket),
        ("s3.access_key_id", &key.id),
        ("s3.secret_access_key", &key.secret),
    ]);
    Arc::new(
        S3Objects::connect(&config.s3.unwrap(), config.start_timeout)
            .await
            .unwrap(),
    )
}

/// The shared Redis.
pub(crate) async fn redis() -> Arc<dyn State> {
    redis_at(Services::shared().await.unwrap().redis()).await
}

/// A connection to this Redis.
pub(crate) async fn redis_at(url: &str) -> Arc<dyn State> {
    let config = config(&[("redis.url", url)]);
    Arc::new(
        RedisState::connect(&config.redis.unwrap(), config.start_timeout)
            .await
            .unwrap(),
    )
}

/// Conversations in the shared Redis.
pub(crate) async fn redis_conversations() -> Arc<dyn Conversations> {
    redis_conversations_at(Services::shared().await.unwrap().redis()).await
}

/// Conversations in this Redis.
pub(crate) async fn redis_conversations_at(url: &str) -> Arc<dyn Conversations> {
    let config = config(&[("redis.url", url)]);
    Arc::new(
        RedisConversations::connect(&config.redis.unwrap(), config.start_timeout)
            .await
            .unwrap(),
    )
}

/// Makes one module for each adapter, with each test of the suite run on a fresh instance of it.
macro_rules! on_each_adapter {
    ($($adapter:ident),+: $tests:tt) => { $($crate::adapters::on_each_adapter!(@one $adapter $tests);)+ };
    (@one $adapter:ident { $($test:ident),+ $(,)? }) => {
        mod $adapter {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::adapters::$adapter().await).await;
            })+
        }
    };
}
pub(crate) use on_each_adapter;
