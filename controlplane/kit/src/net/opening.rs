//! What a connection begins with. A server library drops a peer that does not speak its protocol without a word to us; here such a
//! connection is counted and said. It is only watched: the library stays the judge.

use super::Companion;
use crate::metrics::Counter;
use crate::seldom::Seldom;
use tracing::warn;

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer than any method of HTTP/1.1 that we serve, with the space after it.
const METHOD: usize = 8;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// With prior knowledge, as gRPC does.
    Http2,
    Http1,
}

/// Watches the first bytes of one connection; a clone watches the next one.
#[derive(Clone, Debug)]
pub struct Opening {
    protocol: Protocol,
    /// The listener, in the log's words.
    socket: &'static str,
    refused: Counter,
    said: Seldom,
    have: usize,
    judged: bool,
}

impl Opening {
    /// `refused` counts by the reasons `not_http2` and `not_http`.
    pub fn new(protocol: Protocol, socket: &'static str, refused: Counter) -> Self {
        Self { protocol, socket, refused, said: Seldom::default(), have: 0, judged: false }
    }

    /// The next bytes that came in.
    pub fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.judged {
                return;
            }
            let fits = match self.protocol {
                Protocol::Http2 => HTTP2.get(self.have) == Some(byte),
                Protocol::Http1 => byte.is_ascii_uppercase() || (*byte == b' ' && self.have > 2),
            };
            self.have += 1;
            let whole = match self.protocol {
                Protocol::Http2 => self.have == HTTP2.len(),
                Protocol::Http1 => *byte == b' ' || self.have == METHOD,
            };
            self.judged = whole || !fits;
            if !fits {
                self.refuse();
            }
        }
    }

    fn refuse(&self) {
        let reason = match self.protocol {
            Protocol::Http2 => "not_http2",
            Protocol::Http1 => "not_http",
        };
        self.refused.inc(&[("reason", reason)]);
        if let Some(left_out) = self.said.ask(reason) {
            warn!(socket = self.socket, reason, left_out, "a connection does not speak our protocol");
        }
    }
}

impl Companion for Opening {
    type Info = ();

    fn incoming(&mut self, bytes: &mut [u8]) {
        self.pass(bytes);
    }

    fn info(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn bad_111_what_is_not_the_protocol_is_counted_once_per_connection() {
        let table: [(Protocol, &[&[u8]], u64); 8] = [
            (Protocol::Http2, &[HTTP2, b"\0\0\0anything"], 0),
            (Protocol::Http2, &[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"], 0),
            (Protocol::Http2, &[b"GET / HTTP/1.1\r\n\r\n", b"more"], 1),
            (Protocol::Http2, &[b"PRI * HTTP/2.1"], 1),
            (Protocol::Http1, &[b"GET /livez HTTP/1.1\r\n"], 0),
            (Protocol::Http1, &[b"OPT", b"IONS * HTTP/1.1\r\n"], 0),
            (Protocol::Http1, &[b"\x16\x03\x01\x02", b"\x00"], 1),
            (Protocol::Http1, &[b"\0\0\0\0"], 1),
        ];
        for (protocol, chunks, want) in table {
            let refused = Metrics::new().counter("refused", "help");
            let mut opening = Opening::new(protocol, "test", refused.clone());
            chunks.iter().for_each(|chunk| opening.pass(chunk));
            let counted = refused.value(&[("reason", "not_http2")]) + refused.value(&[("reason", "not_http")]);
            assert_eq!(counted, want, "{protocol:?} {chunks:?}");
        }
    }
}
