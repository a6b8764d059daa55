//! Named values from several sources, and the faults found while reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::service_links::is_service_link;

const PREFIX: &str = "RADIALOG_";

/// A value with the place to look when it is wrong.
struct Value {
    text: String,
    source: String,
}

/// A setting as people look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, e.g. `gateway.listen`.
    pub name: String,
    /// What it is, without passwords and keys, its default included; none where nothing is set and there is no default.
    pub value: Option<String>,
    /// The flag, the variable or the place in the file that says so; none where it has its default.
    pub source: Option<String>,
}

/// What stands for a secret.
const SECRET: &str = "***";
/// Parameters of addresses whose values are no secrets.
const PLAIN_PARAMETERS: [&str; 7] = [
    "heartbeat",
    "connection_timeout",
    "channel_max",
    "frame_max",
    "protocol",
    "db",
    "region",
];

/// Reads fields by area and name, notes which ones exist, and collects faults instead of stopping at the first.
pub struct ConfigReader {
    values: BTreeMap<(String, String), Value>,
    /// Variables of other tools that stand in for ours, e.g. `AWS_ACCESS_KEY_ID`.
    foreign: BTreeMap<String, String>,
    /// Every field that was asked for, with what it is where no source has it.
    known: BTreeMap<(String, String), Option<String>>,
    faults: Vec<String>,
}

impl ConfigReader {
    pub(super) fn new(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut reader = Self {
            values: BTreeMap::new(),
            foreign: BTreeMap::new(),
            known: BTreeMap::new(),
            faults: Vec::new(),
        };
        if let Some(file) = file {
            reader.read_file(file);
        }
        for (variable, text) in environment {
            match variable
                .strip_prefix(PREFIX)
                .and_then(|name| name.split_once('_'))
            {
                Some((area, field)) => {
                    let key = (area.to_lowercase(), field.to_lowercase());
                    reader.values.insert(
                        key,
                        Value {
                            text,
                            source: variable,
                        },
                    );
                }
                None => {
                    reader.foreign.insert(variable, text);
                }
            }
        }
        for (name, text) in overrides {
            let (area, field) = name.split_once('.').unwrap_or((&name, ""));
            // The flags of the services are as short as `--amqp`, and those of a command's own area have no area.
            let source = match (area, field) {
                (_, "url") | ("objects", "directory") => format!("--{area}"),
                ("gateway", _) | ("worker", "name" | "grace") => {
                    format!("--{}", field.replace('_', "-"))
                }
                _ => format!("--{area}-{}", field.replace('_', "-")),
            };
            reader
                .values
                .insert((area.to_owned(), field.to_owned()), Value { text, source });
        }
        reader
    }

    fn read_file(&mut self, file: &Path) {
        let shown = file.display();
        let table = std::fs::read_to_string(file)
            .map_err(|error| format!("{shown}: {error}; check the path of the configuration file"))
            .and_then(|text| {
                text.parse::<toml::Table>()
                    .map_err(|error| format!("{shown}: {error}"))
            });
        match table {
            Err(fault) => self.faults.push(fault),
            Ok(areas) => {
                for (area, fields) in areas {
                    let toml::Value::Table(fields) = fields else {
                        self.faults.push(format!(
                            "{shown}: '{area}' stands outside of a section; write [{area}]"
                        ));
                        continue;
                    };
                    for (field, value) in fields {
                        let text = value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned);
                        let source = format!("{shown}: {area}.{field}");
                        self.values
                            .insert((area.clone(), field), Value { text, source });
                    }
                }
            }
        }
    }

    /// A field as text; none where no source has it. An empty value counts as none, so that a variable can unset a
    /// field of the file.
    pub fn text(&mut self, area: &str, field: &str) -> Option<String> {
        let key = (area.to_owned(), field.to_owned());
        let text = self.values.get(&key).map(|value| value.text.clone());
        self.known.entry(key).or_default();
        text.filter(|text| !text.is_empty())
    }

    /// A field, or a variable that other tools use for the same thing.
    pub(super) fn text_or_foreign(
        &mut self,
        area: &str,
        field: &str,
        variable: &str,
    ) -> Option<String> {
        if self.text(area, field).is_none() {
            self.take_foreign(area, field, variable);
        }
        self.text(area, field)
    }

    /// Has a variable that other tools use say what a field is, where it is set.
    pub(super) fn take_foreign(&mut self, area: &str, field: &str, variable: &str) {
        let Some(text) = self.foreign.get(variable).filter(|text| !text.is_empty()) else {
            return;
        };
        let value = Value {
            text: text.clone(),
            source: variable.to_owned(),
        };
        self.values
            .insert((area.to_owned(), field.to_owned()), value);
    }

    /// Notes what a field is where no source has it, for people who look at the settings.
    pub fn note_default(&mut self, area: &str, field: &str, default: impl Display) {
        let key = (area.to_owned(), field.to_owned());
        self.known.insert(key, Some(default.to_string()));
    }

    /// A field of a type that says itself what is wrong.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, area: &str, field: &str) -> Option<T> {
        let text = self.text(area, field)?;
        text.parse()
            .map_err(|error| self.fault(area, field, &format!("'{text}': {error}")))
            .ok()
    }

    /// A field of a type that says itself what is wrong, or its default.
    pub fn parsed_or<T: FromStr<Err: Display> + Display>(
        &mut self,
        area: &str,
        field: &str,
        default: T,
    ) -> T {
        self.note_default(area, field, &default);
        self.parsed(area, field).unwrap_or(default)
    }

    /// Entries with commas between them, or an array of strings as TOML and JSON write it, whose entries may have commas.
    pub fn list(&mut self, area: &str, field: &str) -> Vec<String> {
        let text = self.text(area, field).unwrap_or_default();
        if let Some(entries) = array(&text) {
            return entries;
        }
        let entries = text
            .trim()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .split(',');
        let clean = |entry: &str| entry.trim().trim_matches('"').to_owned();
        entries
            .map(clean)
            .filter(|entry| !entry.is_empty())
            .collect()
    }

    /// A duration in seconds, fractions allowed.
    pub fn seconds(&mut self, area: &str, field: &str, default: Duration) -> Duration {
        self.note_default(area, field, default.as_secs_f64());
        let Some(seconds) = self.parsed::<f64>(area, field) else {
            return default;
        };
        Duration::try_from_secs_f64(seconds).unwrap_or_else(|_| {
            self.fault(
                area,
                field,
                &format!("{seconds} is not a duration in seconds"),
            );
            default
        })
    }

    /// One of a few words.
    pub fn choice<'a, const N: usize>(
        &mut self,
        area: &str,
        field: &str,
        words: [&'a str; N],
    ) -> Option<&'a str> {
        let text = self.text(area, field)?;
        let word = words.into_iter().find(|word| *word == text);
        if word.is_none() {
            self.fault(
                area,
                field,
                &format!("'{text}' is not one of {}", words.join(", ")),
            );
        }
        word
    }

    /// Notes what is wrong with a field.
    pub fn fault(&mut self, area: &str, field: &str, what: &str) {
        let source = self
            .values
            .get(&(area.to_owned(), field.to_owned()))
            .map(|value| value.source.clone());
        let source = source.unwrap_or_else(|| format!("{area}.{field}"));
        self.faults.push(format!("{source}: {what}"));
    }

    /// Notes what `parse` finds wrong with a variable that other tools read, too.
    pub(super) fn check_foreign<T, E: Display>(
        &mut self,
        variable: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) {
        if let Some(Err(error)) = self.foreign.get(variable).map(|text| parse(text)) {
            self.faults.push(format!("{variable}: {error}"));
        }
    }

    /// Every field that was asked for, in the order of names.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let setting = |(key, default): (&(String, String), &Option<String>)| {
            let name = format!("{}.{}", key.0, key.1);
            let value = self.values.get(key).filter(|value| !value.text.is_empty());
            let text = value.map(|value| &value.text).or(default.as_ref());
            Setting {
                value: text.map(|text| without_secrets(&name, text)),
                source: value.map(|value| value.source.clone()),
                name,
            }
        };
        self.known.iter().map(setting).collect()
    }

    /// The variables that were left out because Kubernetes sets them for a Service, and all faults, unknown fields among
    /// them. Variables of areas that are not ours are somebody else's.
    pub(super) fn finish(mut self) -> (Vec<String>, Vec<String>) {
        let mut service_links = Vec::new();
        let areas: BTreeSet<&String> = self.known.keys().map(|(area, _)| area).collect();
        for ((area, field), value) in &self.values {
            let ours = !value.source.starts_with(PREFIX) || areas.contains(area);
            if ours && !self.known.contains_key(&(area.clone(), field.clone())) {
                if value.source.starts_with(PREFIX) && is_service_link(&value.source, &value.text) {
                    service_links.push(value.source.clone());
                    continue;
                }
                let fields: Vec<&str> = self
                    .known
                    .keys()
                    .filter(|(known, _)| known == area)
                    .map(|(_, field)| field.as_str())
                    .collect();
                let advice = match fields.as_slice() {
                    [] => format!("there is no section [{area}]"),
                    fields => format!("[{area}] has no such field; it has {}", fields.join(", ")),
                };
                self.faults.push(format!("{}: {advice}", value.source));
            }
        }
        (service_links, self.faults)
    }
}

/// A value as it may be shown: no key, and of an address no password.
fn without_secrets(name: &str, text: &str) -> String {
    let last = name.rsplit(['.', '_']).next().unwrap_or(name);
    let is_secret = ["key", "keys", "secret", "password", "token"].contains(&last)
        && !name.ends_with("_per_key");
    if is_secret {
        return SECRET.to_owned();
    }
    let starts = address_starts(text);
    let (first, ends) = (starts.first().copied(), starts.iter().skip(1).copied());
    let before = &text[..first.unwrap_or(text.len())];
    let addresses = starts.iter().zip(ends.chain([text.len()]));
    let shown = addresses.map(|(start, end)| address_without_secrets(&text[*start..end]));
    before.to_owned() + &shown.collect::<String>()
}

/// Where the addresses of a text begin: one, several with commas between, or the strings of an array. A comma within a password
/// begins none.
fn address_starts(text: &str) -> Vec<usize> {
    let of_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    let start = |(at, _): (usize, &str)| {
        let before = text[..at].trim_end_matches(of_scheme);
        let begins = before.is_empty() || before.ends_with([',', ' ', '"', '\'', '[']);
        (begins && before.len() < at).then_some(before.len())
    };
    text.match_indices("://").filter_map(start).collect()
}

/// An address, with what separates it from the next one, without its password and the values of its query.
fn address_without_secrets(piece: &str) -> String {
    let address = piece.trim_end_matches([',', ' ', '"', '\'', ']', '\n']);
    let separator = &piece[address.len()..];
    let Some((scheme, rest)) = address.split_once("://") else {
        return piece.to_owned();
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    // A question mark before the last '@' is part of a password, unless a host with its port stands before it.
    let is_host = |place: &str| {
        let authority = place.split('/').next().unwrap_or_default();
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        port.is_none_or(|port| {
            port.ends_with(']') || port.bytes().all(|digit| digit.is_ascii_digit())
        })
    };
    let (place, query) = match query {
        Some(query) if !place.contains('@') && query.contains('@') && !is_host(place) => {
            let (_, host) = rest.rsplit_once('@').unwrap_or_default();
            let user = place.split(':').next().unwrap_or_default();
            let (host, query) = match host.split_once('?') {
                Some((host, query)) => (host, Some(query)),
                None => (host, None),
            };
            (format!("{user}:{SECRET}@{host}"), query)
        }
        query => match place.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                (format!("{user}:{SECRET}@{host}"), query)
            }
            None => (place.to_owned(), query),
        },
    };
    let value = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if PLAIN_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={SECRET}"),
        None => SECRET.to_owned(),
    };
    let query = query.map(|query| query.split('&').map(value).collect::<Vec<_>>().join("&"));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{place}{query}{separator}")
}

/// The strings of an array, without those that are empty; none where the text is no such array.
fn array(text: &str) -> Option<Vec<String>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let table: toml::Table = format!("entries = {text}").parse().ok()?;
    let entries = table.get("entries")?.as_array()?.iter();
    let entries = entries.map(|entry| Some(entry.as_str()?.trim().to_owned()));
    let entries: Vec<String> = entries.collect::<Option<_>>()?;
    Some(
        entries
            .into_iter()
            .filter(|entry| !entry.is_empty())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_passwords_wherever_they_stand() {
        for (address, shown) in [
            (
                "amqp://u:first,second@h:5672/%2f",
                "amqp://u:***@h:5672/%2f",
            ),
            (
                "amqp://u:a,b@h:1,amqp://u:c@h:2",
                "amqp://u:***@h:1,amqp://u:***@h:2",
            ),
            ("amqp://u:a@b@h:1/x", "amqp://u:***@h:1/x"),
            (
                "amqp://u:a?b@h:1/x?heartbeat=5",
                "amqp://u:***@h:1/x?heartbeat=5",
            ),
            ("amqp://u:a/b@h:1/x", "amqp://u:***@h:1/x"),
            (
                "amqp://h:5672/%2f?heartbeat=10&token=x",
                "amqp://h:5672/%2f?heartbeat=10&token=***",
            ),
            (
                "redis+unix:///run/r.sock?pass=secretpw",
                "redis+unix:///run/r.sock?pass=***",
            ),
            (
                "redis+unix:///run/r.sock?db=1&pass=a@b",
                "redis+unix:///run/r.sock?db=1&pass=***",
            ),
            ("redis://h:6379?pass=a@b", "redis://h:6379?pass=***"),
            ("redis://[::1]:6379/2", "redis://[::1]:6379/2"),
            (
                "http://h:9000/b?X-Amz-Signature=sigsecret",
                "http://h:9000/b?X-Amz-Signature=***",
            ),
            ("http://h:9000/b?sigsecret", "http://h:9000/b?***"),
            (
                "[\"redis://:x@a:1\", \"redis://:y@b:2?pass=z\"]",
                "[\"redis://:***@a:1\", \"redis://:***@b:2?pass=***\"]",
            ),
            ("a,b", "a,b"),
            ("", ""),
        ] {
            assert_eq!(without_secrets("amqp.url", address), shown, "{address}");
        }
    }

    #[test]
    fn settings_are_shown_with_their_source_and_without_secrets() {
        let variables = [
            ("RADIALOG_AMQP_URL", "amqp://ward:hidden@host:5672/x"),
            (
                "RADIALOG_REDIS_URL",
                "redis://:hidden@a:1,redis://:hidden@b:2",
            ),
            ("RADIALOG_GATEWAY_KEYS", "ward=hidden"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "http://ward:hidden@host:9000"),
            ("RADIALOG_S3_ENDPOINT", "http://other:9000"),
        ];
        let variables = variables.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let flags = [("gateway.listen".to_owned(), "localhost:1".to_owned())];
        let mut reader = ConfigReader::new(None, variables, flags);
        for (area, field) in [
            ("amqp", "url"),
            ("redis", "url"),
            ("gateway", "keys"),
            ("gateway", "listen"),
            ("gateway", "rate"),
        ] {
            reader.text(area, field);
        }
        reader.parsed_or("gateway", "streams", 2000);
        reader.parsed_or("gateway", "max_waiting_per_key", 20);
        reader.seconds("gateway", "deadline", Duration::from_millis(2500));
        reader.text_or_foreign("s3", "region", "AWS_REGION");
        reader.text_or_foreign("s3", "endpoint", "AWS_ENDPOINT_URL");
        let shown: Vec<String> = reader
            .settings()
            .into_iter()
            .map(|setting| {
                let value = setting.value.unwrap_or_default();
                let source = setting.source.unwrap_or_default();
                format!("{} {value} {source}", setting.name)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "amqp.url amqp://ward:***@host:5672/x RADIALOG_AMQP_URL",
                "gateway.deadline 2.5 ",
                "gateway.keys *** RADIALOG_GATEWAY_KEYS",
                "gateway.listen localhost:1 --listen",
                "gateway.max_waiting_per_key 20 ",
                "gateway.rate  ",
                "gateway.streams 2000 ",
                "redis.url redis://:***@a:1,redis://:***@b:2 RADIALOG_REDIS_URL",
                "s3.endpoint http://other:9000 RADIALOG_S3_ENDPOINT",
                "s3.region eu-west-1 AWS_REGION",
            ]
        );
    }
}
