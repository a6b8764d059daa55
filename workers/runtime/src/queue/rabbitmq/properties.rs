//! Messages to AMQP properties and back. Only our own headers are read and written: what a broker adds, `x-death` above
//! all, never gets into a message that we publish.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use radialog_schemas::queues::{RETRY_DELAYS, header};

use crate::clock;
use crate::queue::{Death, Message};

const PERSISTENT: u8 = 2;
/// Headers must fit in one frame; a reason is for people.
const LONGEST_TEXT: usize = 2048;
/// The number of times that a quorum queue's message came back, as the broker counts it. It is not there before the first.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Builds the properties of a message that is published now.
pub(super) fn to_properties(message: &Message, id: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    let published = clock::unix_ms(message.published.unwrap_or_else(SystemTime::now));
    headers.insert(
        header::ATTEMPT.into(),
        AMQPValue::LongLongInt(message.attempt.into()),
    );
    headers.insert(
        header::PASSED_ON.into(),
        AMQPValue::LongLongInt(message.passed_on.into()),
    );
    headers.insert(
        header::PUBLISHED.into(),
        AMQPValue::LongLongInt(i64::try_from(published).unwrap_or(i64::MAX)),
    );
    let mut text = |name: &str, value: &str| {
        let end = value.floor_char_boundary(LONGEST_TEXT);
        headers.insert(name.into(), AMQPValue::LongString(value[..end].into()));
    };
    if let Some(traceparent) = &message.traceparent {
        text(header::TRACEPARENT, traceparent);
    }
    if let Some(death) = &message.death {
        text(header::CODE, &death.code);
        text(header::REASON, &death.reason);
        text(header::SOURCE, &death.source);
        text(header::WORKER, &death.worker);
    }
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.into())
        .with_headers(headers)
}

/// Reads the message, and how often it came back.
pub(super) fn from_properties(body: Vec<u8>, properties: &BasicProperties) -> (Message, u32) {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty).inner();
    let text = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(text)) => Some(utf8(text)),
        _ => None,
    };
    let death = text(header::CODE).map(|code| Death {
        code,
        reason: text(header::REASON).unwrap_or_default(),
        source: text(header::SOURCE).unwrap_or_default(),
        worker: text(header::WORKER).unwrap_or_default(),
    });
    let count = |name: &str| -> u32 { headers.get(name).and_then(integer).unwrap_or(0) };
    let (attempt, passed_on) = match headers.contains_key(header::PASSED_ON) {
        true => (count(header::ATTEMPT), count(header::PASSED_ON)),
        // A worker of an earlier release, which counts both as attempts. No task is tried so often.
        false if count(header::ATTEMPT) as usize > RETRY_DELAYS.len() => {
            (0, count(header::ATTEMPT))
        }
        false => (count(header::ATTEMPT), 0),
    };
    let message = Message {
        body: body.into(),
        attempt,
        passed_on,
        published: headers
            .get(header::PUBLISHED)
            .and_then(integer)
            .map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
        traceparent: text(header::TRACEPARENT),
        death,
    };
    (message, count(DELIVERY_COUNT))
}

/// Clients and brokers write the same number in whatever width they like.
fn integer<T: TryFrom<i64>>(value: &AMQPValue) -> Option<T> {
    let wide = match *value {
        AMQPValue::ShortShortInt(n) => n.into(),
        AMQPValue::ShortShortUInt(n) => n.into(),
        AMQPValue::ShortInt(n) => n.into(),
        AMQPValue::ShortUInt(n) => n.into(),
        AMQPValue::LongInt(n) => n.into(),
        AMQPValue::LongUInt(n) => n.into(),
        AMQPValue::LongLongInt(n) => n,
        _ => return None,
    };
    T::try_from(wide).ok()
}

fn utf8(text: &LongString) -> String {
    String::from_utf8_lossy(text.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_went() {
        let death = Death {
            code: "model".into(),
            reason: "läuft nicht".into(),
            source: "radialog.report".into(),
            worker: "w1".into(),
        };
        let sent = Message {
            body: "{}".into(),
            attempt: 3,
            passed_on: 2,
            published: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            traceparent: Some("00-1-2-01".into()),
            death: Some(death),
        };
        let properties = to_properties(&sent, "7");
        assert_eq!(from_properties(b"{}".to_vec(), &properties), (sent, 0));
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
    }

    #[test]
    fn foreign_headers_are_left_out_and_a_foreign_message_is_a_first_attempt() {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::LongString("x".into()));
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongUInt(4));
        let properties = BasicProperties::default().with_headers(headers);
        let (message, delivery_count) = from_properties(Vec::new(), &properties);
        assert_eq!((&message, delivery_count), (&Message::default(), 4));
        assert!(
            !to_properties(&message, "1")
                .headers()
                .as_ref()
                .unwrap()
                .contains_key("x-death")
        );
    }

    #[test]
    fn what_workers_of_earlier_releases_have_passed_on_has_its_attempts_still() {
        let read = |attempt: i64, passed_on: Option<i64>| {
            let mut headers = FieldTable::default();
            headers.insert(header::ATTEMPT.into(), AMQPValue::LongLongInt(attempt));
            if let Some(passed_on) = passed_on {
                headers.insert(header::PASSED_ON.into(), AMQPValue::LongLongInt(passed_on));
            }
            let properties = BasicProperties::default().with_headers(headers);
            let (message, _) = from_properties(Vec::new(), &properties);
            (message.attempt, message.passed_on)
        };
        // Up to four may be attempts.
        assert_eq!(read(4, None), (4, 0));
        assert_eq!(read(5, None), (0, 5));
        assert_eq!(read(10, None), (0, 10));
        assert_eq!(read(4, Some(0)), (4, 0));
        assert_eq!(read(2, Some(10)), (2, 10));
    }

    #[test]
    fn a_long_reason_is_cut_to_fit_a_frame() {
        let death = Death {
            reason: "ä".repeat(100_000),
            ..Death::default()
        };
        let message = Message {
            death: Some(death),
            ..Message::default()
        };
        let (read, _) = from_properties(Vec::new(), &to_properties(&message, "1"));
        assert!(read.death.unwrap().reason.len() <= LONGEST_TEXT);
    }
}
