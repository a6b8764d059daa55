//! W3C trace context (<https://www.w3.org/TR/trace-context/>): one trace follows a study through every stage.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A position in a trace, as in a `traceparent` header of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The identifier of the whole trace.
    pub trace: u128,
    /// The identifier of the caller's span in it.
    pub parent: u64,
    /// Whether somebody records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Begins a new trace, which is recorded.
    pub fn start() -> Self {
        let trace = (u128::from(random()) << 64) | u128::from(random());
        Self {
            trace,
            parent: random(),
            sampled: true,
        }
    }

    /// Continues the same trace from a new span on.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            parent: random(),
            ..self
        }
    }

    /// Reads a `traceparent` header; none where it is not valid.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let whole = version != "00" || parts.next().is_none();
        let shape = version.len() == 2
            && version != "ff"
            && trace.len() == 32
            && parent.len() == 16
            && flags.len() == 2;
        let digits = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !(whole && shape && [version, trace, parent, flags].into_iter().all(digits)) {
            return None;
        }
        let context = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            parent: u64::from_str_radix(parent, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (context.trace != 0 && context.parent != 0).then_some(context)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace,
            self.parent,
            u8::from(self.sampled)
        )
    }
}

/// Unpredictable enough for an identifier: every hasher state has its own random keys. Never 0, which means invalid.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_reads_back_what_it_writes_and_its_child_stays_in_the_trace() {
        let context = TraceContext::start();
        assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        let child = context.child();
        assert_eq!(child.trace, context.trace);
        assert_ne!(child.parent, context.parent);
    }

    #[test]
    fn invalid_headers_are_ignored() {
        let zero = format!("00-{:032x}-{:016x}-01", 0, 1);
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        for header in [
            "",
            "00",
            "00-1-2-3",
            zero.as_str(),
            upper,
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(header), None, "{header}");
        }
        assert!(
            TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .is_some()
        );
    }
}
