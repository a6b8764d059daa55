//! From configuration to connected adapters. The embedded mode is what you get by configuring nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, S3Config};
use crate::conversations::Conversations;
use crate::conversations::memory::MemoryConversations;
use crate::conversations::redis::RedisConversations;
use crate::objects::filesystem::FilesystemObjects;
use crate::objects::s3::S3Objects;
use crate::objects::{ObjectError, Objects};
use crate::queue::memory::MemoryQueue;
use crate::queue::rabbitmq::RabbitQueue;
use crate::queue::{Queue, QueueError};
use crate::state::memory::MemoryState;
use crate::state::redis::RedisState;
use crate::state::{State, StateError};

/// The directory of the object store when nothing is configured.
const DEFAULT_DIRECTORY: &str = "radialog-objects";

/// The adapters that every process works over.
#[derive(Clone)]
pub struct Backends {
    /// The broker, through which tasks and results travel.
    pub queue: Arc<dyn Queue>,
    /// The object store, which holds images and outputs.
    pub objects: Arc<dyn Objects>,
    /// The state that coordinators share.
    pub state: Arc<dyn State>,
    /// The conversations that gateways and language workers share.
    pub conversations: Arc<dyn Conversations>,
}

/// The reason why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The broker is unreachable or refuses.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The object store is unreachable or refuses.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The state store is unreachable or refuses.
    #[error(transparent)]
    State(#[from] StateError),
    /// The folder of objects is not there, where objects of others are looked for.
    #[error("there is no folder '{}': name the one in which the objects lie (--objects, RADIALOG_OBJECTS_DIRECTORY)", .0.display())]
    NoFolder(PathBuf),
}

/// The reason why the bucket of an `s3://` address cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenBucketError {
    /// The address says which bucket, and nothing says where it is.
    #[error("for {0}, give the store's address with --s3 URL")]
    NotConfigured(String),
    /// The address is not `s3://bucket/prefix`.
    #[error("'{0}' names no bucket; write s3://bucket/prefix")]
    NoBucket(String),
    /// The store is unreachable, or has no such bucket.
    #[error(transparent)]
    Store(#[from] ObjectError),
}

/// Opens the bucket that `s3://bucket/prefix` names, at the endpoint and with the keys of the configured store. Returns the
/// whole bucket and the prefix, without slashes at its ends.
///
/// # Errors
/// Where no store is configured, the address names no bucket, or the bucket cannot be reached within
/// [`Config::start_timeout`].
pub async fn open_bucket(
    url: &str,
    config: &Config,
) -> Result<(Arc<dyn Objects>, String), OpenBucketError> {
    let Some(configured) = &config.s3 else {
        return Err(OpenBucketError::NotConfigured(url.to_owned()));
    };
    let path = url.strip_prefix("s3://").unwrap_or(url);
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err(OpenBucketError::NoBucket(url.to_owned()));
    }
    let other = S3Config {
        bucket: bucket.to_owned(),
        prefix: String::new(),
        further: Some(url.to_owned()),
        ..configured.clone()
    };
    let objects = S3Objects::connect(&other, config.start_timeout).await?;
    Ok((Arc::new(objects), prefix.trim_matches('/').to_owned()))
}

impl Backends {
    /// Connects to everything that is configured, side by side, and declares the queues.
    ///
    /// # Errors
    /// Where one of them is unreachable for [`Config::start_timeout`], or refuses.
    pub async fn connect(config: &Config) -> Result<Self, ConnectError> {
        let (queue, objects, state, conversations) = futures::try_join!(
            Self::queue(config),
            Self::objects(config),
            Self::state(config),
            Self::conversations(config)
        )?;
        if let Some(group) = &config.worker.group {
            queue.declare_group(group).await?;
            state.note_group(group).await?;
        }
        Ok(Self {
            queue,
            objects,
            state,
            conversations,
        })
    }

    /// Connects to the broker alone, and declares its queues. Those of the configured group are left to who gives it work or does
    /// it: whoever looks at a group makes none.
    ///
    /// # Errors
    /// As [`Backends::connect`].
    pub async fn queue(config: &Config) -> Result<Arc<dyn Queue>, ConnectError> {
        let queue: Arc<dyn Queue> = match &config.amqp {
            Some(amqp) => Arc::new(
                RabbitQueue::connect(amqp, &config.worker.worker, config.start_timeout).await?,
            ),
            None => Arc::new(MemoryQueue::default()),
        };
        queue.declare().await?;
        Ok(queue)
    }

    /// Connects to the object store alone.
    ///
    /// # Errors
    /// As [`Backends::connect`].
    pub async fn objects(config: &Config) -> Result<Arc<dyn Objects>, ConnectError> {
        Ok(match &config.s3 {
            Some(s3) => Arc::new(bucket_of_objects(s3, config).await?),
            None => Arc::new(FilesystemObjects::open(directory(config))?),
        })
    }

    /// Connects to the object store alone, for somebody who looks for what others have stored: a folder is not made.
    ///
    /// # Errors
    /// As [`Backends::connect`], or the folder is not there.
    pub async fn existing_objects(config: &Config) -> Result<Arc<dyn Objects>, ConnectError> {
        Ok(match &config.s3 {
            Some(s3) => Arc::new(bucket_of_objects(s3, config).await?),
            None => {
                let directory = directory(config);
                let objects = FilesystemObjects::open_existing(directory)?;
                Arc::new(objects.ok_or_else(|| ConnectError::NoFolder(directory.to_owned()))?)
            }
        })
    }

    /// Connects to the shared state alone.
    ///
    /// # Errors
    /// As [`Backends::connect`].
    pub async fn state(config: &Config) -> Result<Arc<dyn State>, ConnectError> {
        Ok(match &config.redis {
            Some(redis) => Arc::new(RedisState::connect(redis, config.start_timeout).await?),
            None => Arc::new(MemoryState::default()),
        })
    }

    /// Connects to the conversations alone.
    ///
    /// # Errors
    /// As [`Backends::connect`].
    pub async fn conversations(config: &Config) -> Result<Arc<dyn Conversations>, ConnectError> {
        Ok(match &config.redis {
            Some(redis) => {
                Arc::new(RedisConversations::connect(redis, config.start_timeout).await?)
            }
            None => Arc::new(MemoryConversations::default()),
        })
    }
}

/// The directory of the object store where no bucket is configured.
fn directory(config: &Config) -> &Path {
    let configured = config.objects.directory.as_deref();
    configured.unwrap_or(DEFAULT_DIRECTORY.as_ref())
}

async fn bucket_of_objects(s3: &S3Config, config: &Config) -> Result<S3Objects, ConnectError> {
    let objects = S3Objects::connect(s3, config.start_timeout).await?;
    objects.require_rights().await?;
    Ok(objects)
}
