//! `[gateway]`: where it listens, who may ask, and how much.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use radialog_runtime::config::{ConfigReader, ListenAddress};
use radialog_runtime::http_server::{CONNECTION_BYTES, open_files};
use radialog_schemas::{ContentHash, QueueGroup};

use crate::conversation::TurnSweeper;
use crate::request_store::files::PART;

/// The original demo's address.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7860);
const MIB: u64 = 1 << 20;
/// Longest text in JSON, were each of its characters escaped, and some room for the other fields. In bytes.
pub(super) const JSON_LIMIT: u64 = MIB;
/// What a body takes for each of its bytes until it is stored: as it came, as the parser copies it, and decoded.
pub(super) const COPIES: u64 = 3;
/// Of the whole memory for bodies, `1 / TEXT_SHARE` is for short texts only.
pub(super) const TEXT_SHARE: u64 = 8;
/// The default of [`GatewayConfig::connections`], unless the process may not open as many files.
pub const MOST_CONNECTIONS: u32 = 4096;
/// What a gateway takes in memory besides connections and bodies: itself, what it reads from the state, events.
const OWN_MEMORY: u64 = 256 * MIB;
/// Files and sockets that are no client's: services, runs over archives, libraries.
const OWN_FILES: u64 = 256;

/// The area `[gateway]` of the configuration.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The address on which it listens.
    pub listen: SocketAddr,
    /// The keys of those who may ask; none is everybody who reaches a loopback address.
    pub keys: Vec<ApiKey>,
    /// Requests that one key may send in a second, in the long run; twice as many at once.
    pub rate: u32,
    /// Requests of one key in work at a time.
    pub concurrent: u32,
    /// Event streams of one key open at a time.
    pub streams: u32,
    /// Largest image file, in bytes.
    pub max_image_bytes: u64,
    /// The largest number of pixels of an image.
    pub max_image_pixels: u64,
    /// Turns of all conversations that may wait for a worker; more are refused.
    pub max_waiting: u64,
    /// Turns of one key's conversations that may wait for a worker; more are refused.
    pub max_waiting_per_key: u64,
    /// Turns that one conversation may have.
    pub max_turns: u32,
    /// Characters of all messages of a chat completion together.
    pub max_opening_chars: u64,
    /// Connections at a time. Where all are taken, the one that has been without a request for longest makes room.
    pub connections: u32,
    /// How long a new connection may take until its first request's header is there.
    pub header_timeout: Duration,
    /// How long a connection may be kept without a request.
    pub idle_timeout: Duration,
    /// Memory for the bodies of all requests and for the images of answers, in bytes, copies included. One key may have
    /// half of it.
    pub body_memory: u64,
    /// How long a request may take, its upload included; streams may take longer.
    pub request_timeout: Duration,
    /// The time that a turn may wait for a worker where its request says nothing; none is for ever.
    pub deadline: Option<Duration>,
    /// The time after which a silent stream says that it is alive.
    pub heartbeat: Duration,
    /// How long requests in work may take after the shutdown, uploads above all; streams end at once.
    pub grace: Duration,
    /// After so long a queued turn that no worker has taken is published again.
    pub republish_after: Duration,
    /// How gateways share their work on batches of requests.
    pub batch_pace: BatchPace,
    /// Archives that may be scored over HTTP lie under one of these, e.g. `s3://archive/cxr`; none allows none.
    pub archives: Vec<String>,
    /// The directory in which runs over archives keep what they need to go on.
    pub directory: PathBuf,
    /// Web pages of other hosts that may ask, e.g. `https://viewer.example`.
    pub origins: Vec<String>,
    /// Further bundles that it serves, whose workers have queues of their own.
    pub also: Vec<AlsoServed>,
}

/// How gateways share their work on batches of requests.
#[derive(Clone, Debug)]
pub struct BatchPace {
    /// A batch of whose lines no worker begins one for so long makes room for others.
    pub stalled_after: Duration,
    /// How long a batch is worked on while those of other owners wait.
    pub turn: Duration,
    /// How long a lease must stand still, as a gateway sees it, until its holder is taken for dead.
    pub abandoned_after: Duration,
}

impl Default for BatchPace {
    fn default() -> Self {
        Self {
            stalled_after: Duration::from_secs(30),
            turn: Duration::from_secs(60),
            abandoned_after: Duration::from_secs(60),
        }
    }
}

/// A further bundle of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlsoServed {
    /// The group of queues that its workers take tasks from.
    pub group: QueueGroup,
    /// The bundle: a folder, or `s3://bucket/prefix`.
    pub bundle: String,
}

/// An API key as the configuration holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The owner; conversations belong to this name.
    pub name: String,
    /// The hash of the key's text. Keys are long and random, so that one round is enough.
    pub sha256: ContentHash,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKey").field(&self.name).finish()
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            keys: Vec::new(),
            rate: 50,
            concurrent: 16,
            streams: 2000,
            max_image_bytes: 32 * MIB,
            max_image_pixels: 100_000_000,
            max_waiting: 256,
            max_waiting_per_key: 64,
            max_turns: 200,
            max_opening_chars: 128_000,
            connections: most_connections().min(MOST_CONNECTIONS),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_memory: least_body_memory(32 * MIB).max(512 * MIB),
            request_timeout: Duration::from_secs(60),
            deadline: None,
            heartbeat: Duration::from_secs(15),
            grace: Duration::from_secs(25),
            republish_after: TurnSweeper::FORGOTTEN_AFTER,
            batch_pace: BatchPace::default(),
            archives: Vec::new(),
            directory: PathBuf::from("radialog-gateway"),
            origins: Vec::new(),
            also: Vec::new(),
        }
    }
}

impl GatewayConfig {
    /// Reads the area, and notes its faults in the reader.
    pub fn read(reader: &mut ConfigReader) -> Self {
        let default = Self::default();
        let seconds = |reader: &mut ConfigReader, field: &str, default: Duration| {
            let value = reader.seconds("gateway", field, default);
            if value.is_zero() {
                reader.fault("gateway", field, "give more than 0 seconds");
            }
            value
        };
        let max_image_bytes = at_least_one(reader, "max_image_mib", default.max_image_bytes / MIB)
            .saturating_mul(MIB);
        Self {
            listen: listen(reader, default.listen),
            keys: keys(reader),
            rate: at_least_one(reader, "rate", default.rate),
            concurrent: at_least_one(reader, "concurrent", default.concurrent),
            streams: at_least_one(reader, "streams", default.streams),
            max_image_bytes,
            max_image_pixels: at_least_one(reader, "max_image_pixels", default.max_image_pixels),
            max_waiting: at_least_one(reader, "max_waiting", default.max_waiting),
            max_waiting_per_key: at_least_one(
                reader,
                "max_waiting_per_key",
                default.max_waiting_per_key,
            ),
            max_turns: at_least_one(reader, "max_turns", default.max_turns),
            max_opening_chars: at_least_one(reader, "max_opening_chars", default.max_opening_chars),
            connections: connections(reader, default.connections),
            header_timeout: seconds(reader, "header_timeout", default.header_timeout),
            idle_timeout: seconds(reader, "idle_timeout", default.idle_timeout),
            body_memory: body_memory(reader, default.body_memory, max_image_bytes),
            request_timeout: seconds(reader, "request_timeout", default.request_timeout),
            deadline: Some(reader.seconds("gateway", "deadline", Duration::ZERO))
                .filter(|limit| !limit.is_zero()),
            heartbeat: seconds(reader, "heartbeat", default.heartbeat),
            grace: reader.seconds("gateway", "grace", default.grace),
            republish_after: seconds(reader, "republish_after", default.republish_after),
            batch_pace: default.batch_pace,
            archives: archives(reader),
            directory: directory(reader, default.directory),
            origins: origins(reader),
            also: also(reader),
        }
    }
}

impl GatewayConfig {
    /// Whether other machines reach it, and nobody needs a key.
    pub fn is_open_to_all(&self) -> bool {
        self.keys.is_empty() && !self.listen.ip().is_loopback()
    }

    /// How long a body with an image may be, in bytes.
    pub(super) fn body_limit(&self) -> u64 {
        body_limit(self.max_image_bytes)
    }

    /// The memory that a gateway takes with these settings at most, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.body_memory
            .saturating_add(u64::from(self.connections).saturating_mul(CONNECTION_BYTES))
            .saturating_add(OWN_MEMORY)
    }
}

fn listen(reader: &mut ConfigReader, default: SocketAddr) -> SocketAddr {
    reader.note_default("gateway", "listen", default);
    let listen = reader.parsed("gateway", "listen");
    listen.map_or(default, |ListenAddress(address)| address)
}

fn directory(reader: &mut ConfigReader, default: PathBuf) -> PathBuf {
    reader.note_default("gateway", "directory", default.display());
    reader.parsed("gateway", "directory").unwrap_or(default)
}

/// Entries `GROUP=BUNDLE`.
fn also(reader: &mut ConfigReader) -> Vec<AlsoServed> {
    let mut served = Vec::new();
    for entry in reader.list("gateway", "also") {
        let parsed = match entry.split_once('=') {
            Some((group, bundle)) if !bundle.is_empty() => match group.parse() {
                Ok(group) => Ok((group, bundle.to_owned())),
                Err(error) => Err(format!("{error}")),
            },
            _ => Err(format!(
                "'{entry}' is not GROUP=BUNDLE, e.g. v2=/bundles/radialog-v2"
            )),
        };
        match parsed {
            Ok((group, bundle)) => served.push(AlsoServed { group, bundle }),
            Err(fault) => reader.fault("gateway", "also", &fault),
        }
    }
    served
}

/// Files that the process may have open, without those that are no client's.
fn most_connections() -> u32 {
    let files = open_files().map_or(u64::from(u32::MAX), |files| {
        files.saturating_sub(OWN_FILES).max(files / 2)
    });
    u32::try_from(files).unwrap_or(u32::MAX)
}

fn connections(reader: &mut ConfigReader, default: u32) -> u32 {
    let (connections, most) = (
        at_least_one(reader, "connections", default),
        most_connections(),
    );
    if connections > most {
        reader.fault(
            "gateway",
            "connections",
            &format!("this process may have {most} open; give no more, or raise its limit of open files (ulimit -n)"),
        );
    }
    connections
}

/// Says how long a body may be: base64 makes four bytes of three.
fn body_limit(max_image_bytes: u64) -> u64 {
    max_image_bytes
        .div_ceil(3)
        .saturating_mul(4)
        .saturating_add(JSON_LIMIT)
}

/// Memory with which one key can send the largest image, and a file of requests.
fn least_body_memory(max_image_bytes: u64) -> u64 {
    let upload = body_limit(max_image_bytes)
        .saturating_mul(COPIES)
        .max(2 * PART as u64);
    // One key has half of what uploads have.
    let uploads = upload.saturating_mul(2);
    uploads
        .saturating_mul(TEXT_SHARE)
        .div_ceil(TEXT_SHARE - 1)
        .next_multiple_of(MIB)
}

fn body_memory(reader: &mut ConfigReader, default: u64, max_image_bytes: u64) -> u64 {
    let least = least_body_memory(max_image_bytes);
    let memory =
        at_least_one(reader, "body_memory_mib", default.max(least) / MIB).saturating_mul(MIB);
    if memory < least {
        reader.fault(
            "gateway",
            "body_memory_mib",
            &format!(
                "the largest image and a file of requests need {}; give as much, or a smaller max_image_mib",
                least / MIB
            ),
        );
    }
    memory
}

fn at_least_one<T>(reader: &mut ConfigReader, field: &str, default: T) -> T
where
    T: std::str::FromStr<Err: fmt::Display> + fmt::Display + PartialEq + From<u8>,
{
    let value = reader.parsed_or("gateway", field, default);
    if value == T::from(0) {
        reader.fault("gateway", field, "give 1 or more");
    }
    value
}

fn keys(reader: &mut ConfigReader) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for entry in reader.list("gateway", "keys") {
        match key(&entry) {
            Some(key) if keys.iter().any(|known| known.name == key.name) => {
                reader.fault("gateway", "keys", &format!("'{}' is there twice; give each key its own name", key.name));
            }
            Some(key) => match keys.iter().find(|known| known.sha256 == key.sha256) {
                Some(known) => {
                    let (one, other) = (&known.name, &key.name);
                    let detail = format!("the keys of '{one}' and '{other}' are the same; make one for each");
                    reader.fault("gateway", "keys", &detail);
                }
                None => keys.push(key),
            },
            // The entry is not shown: it may be the key itself.
            None => reader.fault(
                "gateway",
                "keys",
                "an entry is not NAME:SHA256; make a key and its entry with `radialog gateway new-key NAME`",
            ),
        }
    }
    keys
}

fn key(entry: &str) -> Option<ApiKey> {
    let (name, digest) = entry.split_once(':')?;
    let sha256 = ContentHash::from_hex(digest)?;
    is_key_name(name).then(|| ApiKey {
        name: name.to_owned(),
        sha256,
    })
}

/// Says whether a key may have this name, which stands in logs, in state and in the list of keys.
pub fn is_key_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn archives(reader: &mut ConfigReader) -> Vec<String> {
    let archives = reader.list("gateway", "archives");
    for archive in archives
        .iter()
        .filter(|archive| !archive.starts_with("s3://"))
    {
        reader.fault(
            "gateway",
            "archives",
            &format!("'{archive}' is no archive; write s3://bucket/prefix"),
        );
    }
    archives
}

fn origins(reader: &mut ConfigReader) -> Vec<String> {
    let origins = reader.list("gateway", "origins");
    for origin in &origins {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' '])) {
            reader.fault(
                "gateway",
                "origins",
                &format!("'{origin}' is no origin; write https://host or https://host:port"),
            );
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use radialog_runtime::config::{Config, ConfigError};

    use super::GatewayConfig;

    fn load(name: &str, value: &str) -> Result<GatewayConfig, ConfigError> {
        let environment = [(name.to_owned(), value.to_owned())];
        Config::load_with(None, environment, [], GatewayConfig::read).map(|(_, gateway)| gateway)
    }

    fn load_keys(keys: &str) -> Result<GatewayConfig, ConfigError> {
        load("RADIALOG_GATEWAY_KEYS", keys)
    }

    #[test]
    fn keys_are_names_with_digests() {
        let (one, two) = ("01".repeat(32), "ab".repeat(32));
        let config = load_keys(&format!("ward-1:{one}, lab:{two}")).unwrap();
        assert_eq!(config.keys[0].name, "ward-1");
        assert_eq!(config.keys[1].sha256.as_str(), two);
        let list = format!("[\"ward-1:{one}\", \"lab:{two}\"]");
        assert_eq!(load_keys(&list).unwrap().keys, config.keys);
    }

    #[test]
    fn further_bundles_may_have_commas_in_their_paths_where_they_stand_in_an_array() {
        let also = |value: &str| {
            let served = load("RADIALOG_GATEWAY_ALSO", value).unwrap().also;
            let shown = served
                .into_iter()
                .map(|also| format!("{} {}", also.group, also.bundle));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(also("v2=/a, new=s3://b/c"), ["v2 /a", "new s3://b/c"]);
        let array = r#"["v2=/weights, of 2026/a", "new=/b"]"#;
        assert_eq!(also(array), ["v2 /weights, of 2026/a", "new /b"]);
        let error = load("RADIALOG_GATEWAY_ALSO", "v2=/weights, of 2026").unwrap_err();
        assert!(error.to_string().contains("GROUP=BUNDLE"), "{error}");
    }

    #[test]
    fn a_bad_key_is_a_fault_that_does_not_show_it() {
        let error = load_keys("rd-secret").unwrap_err().to_string();
        assert!(
            error.contains("new-key") && !error.contains("secret"),
            "{error}"
        );
        let digest = "01".repeat(32);
        assert!(
            load_keys(&format!("a:{digest},a:{digest}"))
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        let error = load_keys(&format!("a:{digest},b:{digest}")).unwrap_err();
        let said = "the keys of 'a' and 'b' are the same";
        assert!(error.to_string().contains(said), "{error}");
    }

    #[test]
    fn limits_are_positive_and_origins_are_whole() {
        let environment = [
            ("RADIALOG_GATEWAY_RATE", "0"),
            ("RADIALOG_GATEWAY_ORIGINS", "*"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let error = Config::load_with(None, environment, [], GatewayConfig::read).unwrap_err();
        assert_eq!(error.faults.len(), 2);
        let small = load("RADIALOG_GATEWAY_BODY_MEMORY_MIB", "100").unwrap_err();
        assert!(small.to_string().contains("max_image_mib"), "{small}");
        // A file of requests takes as much however small images are.
        let environment = [("BODY_MEMORY_MIB", "16"), ("MAX_IMAGE_MIB", "1")];
        let environment =
            environment.map(|(name, value)| (format!("RADIALOG_GATEWAY_{name}"), value.to_owned()));
        let small = Config::load_with(None, environment, [], GatewayConfig::read);
        assert!(small.unwrap_err().to_string().contains("37"));
        let large = load("RADIALOG_GATEWAY_MAX_IMAGE_MIB", "64").unwrap();
        assert!(large.body_memory > GatewayConfig::default().body_memory);
    }

    #[test]
    fn an_image_may_have_as_many_pixels_as_are_set() {
        let config = load("RADIALOG_GATEWAY_MAX_IMAGE_PIXELS", "7").unwrap();
        assert_eq!(config.max_image_pixels, 7);
    }
}
