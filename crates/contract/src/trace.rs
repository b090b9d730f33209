//! W3C Trace Context: which request an event came from. <https://www.w3.org/TR/trace-context/>

use std::{fmt, str::FromStr};

use crate::RandomSource;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A `traceparent`: the trace's id, the id of the span that caused this, and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Not a `traceparent` of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The start of a new trace, sampled.
    pub fn start(random: &RandomSource) -> Self {
        let trace = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        Self { trace: trace | 1, span: random.next_u64() | 1, flags: 1 }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self, random: &RandomSource) -> Self {
        Self { span: random.next_u64() | 1, ..self }
    }

    /// The trace's id, for logs.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let hex = |part: &str, len: usize| {
            let lower = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (part.len() == len && lower)
                .then(|| u128::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or(InvalidTraceParent)
        };
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(InvalidTraceParent);
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        // A later version may say more behind the four parts that we know; ff is no version.
        if hex(version, 2)? == 0xff || (version == "00" && next().is_ok()) {
            return Err(InvalidTraceParent);
        }
        let trace = hex(trace, 32)?;
        let span = u64::try_from(hex(span, 16)?).map_err(|_| InvalidTraceParent)?;
        let flags = u8::try_from(hex(flags, 2)?).map_err(|_| InvalidTraceParent)?;
        if trace == 0 || span == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace, span, flags })
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stays_in_its_trace() {
        let parent = TraceParent::start(&RandomSource::seeded(1));
        let child = parent.child(&RandomSource::seeded(2));
        assert_eq!(parent.trace_id(), child.trace_id());
        assert_ne!(parent.to_string(), child.to_string());
        assert_eq!(child.to_string().parse(), Ok(child));
    }

    #[test]
    fn nonsense_is_refused() {
        let zero = "0".repeat(32);
        for bad in [
            "",
            "00-1-2-3",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            &format!("00-{zero}-b7ad6b7169203331-01"),
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent), "{bad}");
        }
    }
}
