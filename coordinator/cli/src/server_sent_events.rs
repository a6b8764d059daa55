//! Server-Sent Events (WHATWG HTML, section 9.2) out of pieces of a body.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: String,
}

/// What has come of the next event.
#[derive(Default)]
pub(crate) struct SseParser {
    rest: Vec<u8>,
    event: SseEvent,
}

impl SseParser {
    /// The events that this piece completes. Pieces may end anywhere, also within a character.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<SseEvent> {
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[begin..begin + length]).into_owned();
            begin += length + 1;
            events.extend(self.line(line.trim_end_matches('\r')));
        }
        self.rest.drain(..begin);
        events
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (event != SseEvent::default()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = value.parse().ok(),
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments are heartbeats.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_body_is_cut() {
        let body = ": hi\n\nid: 7\nevent: token\ndata: {\"text\":\"é\"}\n\nevent: queued\r\ndata: a\r\ndata: b\r\n\r\nid: 8";
        let expected = [
            SseEvent {
                id: Some(7),
                name: "token".into(),
                data: "{\"text\":\"é\"}".into(),
            },
            SseEvent {
                id: None,
                name: "queued".into(),
                data: "a\nb".into(),
            },
        ];
        for size in 1..body.len() {
            let mut parser = SseParser::default();
            let events: Vec<SseEvent> = body
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| parser.push(piece))
                .collect();
            assert_eq!(events, expected, "pieces of {size}");
        }
    }
}
