//! Request bodies: reading within limits, and parsing a JSON object with known members.
//!
//! Why: warp's own body filters refuse curl's default content type, refuse chunked bodies, or have no bound. And an unknown
//! member must be refused by name: a misspelt condition must not become an unconditional write.
//!
//! Invariants: at most the limit is buffered, whatever `Content-Length` says. The bodies of all requests under way share a
//! budget, which counts allocated bytes. A client below the least rate is refused. A member keeps the text that was sent.
//!
//! See also: what the members mean ([`crate::http::api`]), bodies that are not read ([`super::unread_body`]).

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::timers::Timers;
use super::uri::{Deadline, listed};
use crate::http::response::problem::{Problem, clip};
use crate::http::server::fair_memory::{Budget, Holder, Share};
use crate::http::server::min_rate::MinRate;
use crate::model::json_interoperability;

/// The first allocation for a body of more than one chunk.
const INITIAL_BYTES: usize = 64 << 10;

/// A body in memory, with its share of the budget.
pub(crate) struct Body {
    /// The bytes.
    pub(crate) bytes: Bytes,
    share: Option<Share>,
}

impl Body {
    /// Returns the share of the budget, resized for a response of `bytes` that repeats the body.
    pub(crate) fn into_share(self, bytes: usize) -> Option<Share> {
        self.share.map(|mut share| {
            // The response is in memory already, so a share that cannot grow is no reason to refuse it.
            share.resize(bytes);
            share
        })
    }

    /// Adds `bytes` to the share: for copies of the body that the caller makes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let total = self.bytes.len() + bytes;
        if self.share.as_mut().is_none_or(|share| share.resize(total)) { Ok(()) } else { Err(Problem::bodies_full()) }
    }

    /// Whether the body has nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

/// The memory and the time that a body may take.
#[derive(Clone, Copy)]
pub(crate) struct BodyQuota<'a> {
    /// The budget that it counts against.
    pub(crate) budget: &'a Arc<Budget>,
    /// Which caller sends it.
    pub(crate) holder: &'a Holder,
    /// See [`MinRate::new`].
    pub(crate) grace: Duration,
    /// The timers of its waits.
    pub(crate) timers: &'a Timers,
}

impl BodyQuota<'_> {
    /// Takes `share`, or resizes it, to `bytes`.
    fn reserve(self, share: &mut Option<Share>, bytes: usize) -> Result<(), Problem> {
        let fits = match share {
            Some(share) => share.resize(bytes),
            None => {
                *share = self.budget.take(self.holder, bytes);
                share.is_some()
            }
        };
        if fits { Ok(()) } else { Err(Problem::bodies_full()) }
    }
}

/// Reads a body of at most `limit` bytes by the deadline.
pub(crate) async fn read(
    stream: impl Stream<Item = Result<Bytes, hyper::Error>> + Unpin,
    content_length: Option<u64>,
    limit: usize,
    quota: BodyQuota<'_>,
    deadline: Deadline,
) -> Result<Body, Problem> {
    // Refused before the first byte, and without a `100 Continue` to a client that waits for one.
    if content_length.is_some_and(|bytes| bytes > limit as u64) {
        return Err(Problem::body_too_large(limit));
    }
    let content_length = content_length.and_then(|bytes| usize::try_from(bytes).ok());
    match quota.timers.timeout_at(deadline.0.into(), collect(stream, content_length, limit, quota)).await {
        Ok(body) => body,
        Err(_) => Err(Problem::body_timeout()),
    }
}

/// Reads a body to its end, or until it is over `limit`. Memory is taken as bytes arrive, not by `content_length`.
pub(crate) async fn collect(
    mut stream: impl Stream<Item = Result<Bytes, hyper::Error>> + Unpin,
    content_length: Option<usize>,
    limit: usize,
    quota: BodyQuota<'_>,
) -> Result<Body, Problem> {
    let mut share: Option<Share> = None;
    // A body is in `first` while it is one chunk, afterwards in `buffer`. Example, a chunked body of 160 KiB in chunks of
    // 32 KiB: chunk 1 stays where hyper has put it; chunk 2 allocates 64 KiB; chunk 3 doubles that to 128, chunk 5 to 256. With
    // `Content-Length: 163840` the last step is to 160, since no more can come. Each step is reserved before it is allocated,
    // so a thousand clients that announce 1 MiB and send nothing hold nothing.
    let mut first = Bytes::new();
    let mut buffer = Vec::new();
    let mut rate = MinRate::new(quota.grace);
    while let Some(chunk) = next_chunk(&mut stream, &mut rate, quota.timers).await? {
        let bytes = first.len() + buffer.len() + chunk.len();
        if bytes > limit {
            return Err(Problem::body_too_large(limit));
        }
        if bytes == chunk.len() {
            quota.reserve(&mut share, bytes)?;
            first = chunk;
            continue;
        }
        if bytes > buffer.capacity() {
            let room = (2 * buffer.capacity()).max(INITIAL_BYTES).min(content_length.unwrap_or(limit)).max(bytes);
            quota.reserve(&mut share, room)?;
            buffer.reserve_exact(room - buffer.len());
        }
        buffer.extend_from_slice(&std::mem::take(&mut first));
        buffer.extend_from_slice(&chunk);
    }
    Ok(Body { bytes: if buffer.is_empty() { first } else { buffer.into() }, share })
}

/// Returns the next chunk that is not empty; an error where the client sends too slowly.
async fn next_chunk(
    stream: &mut (impl Stream<Item = Result<Bytes, hyper::Error>> + Unpin),
    rate: &mut MinRate,
    timers: &Timers,
) -> Result<Option<Bytes>, Problem> {
    loop {
        // The time that the node takes for itself does not count: a chunk that is there already costs no grace period, however
        // long this task was not scheduled.
        let (mut began, mut timer) = (None, timers.timer());
        let chunk = poll_fn(|context| match stream.poll_next_unpin(context) {
            Poll::Ready(chunk) => Poll::Ready(Ok(chunk)),
            Poll::Pending => {
                let until = *began.get_or_insert_with(Instant::now) + rate.left();
                timer.poll_until(until, context).map(|()| Err(Problem::body_too_slow()))
            }
        });
        let chunk = chunk.await?;
        if let Some(began) = began {
            rate.waited(began.elapsed());
        }
        let Some(chunk) = chunk else { return Ok(None) };
        let chunk = chunk.map_err(|error| Problem::body(format!("the body {}", broken(&error))).closing())?;
        rate.transferred(chunk.len());
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
}

/// Says what is wrong with a body that cannot be read to its end.
fn broken(error: &hyper::Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause.filter(|error| !error.is::<io::Error>()) {
        cause = error.source();
    }
    match cause.and_then(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof) => "ended before its length, or before its last chunk".into(),
        // Of hyper's decoders only that of chunks returns these.
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => "has a malformed chunk".into(),
        _ => format!("is incomplete: {error}"),
    }
}

/// Parses a body as one JSON object that may have the members `names`, each at most once. Returns their texts in the order of
/// the names, without surrounding white space.
pub(crate) fn members<'a, const N: usize>(
    body: &'a [u8],
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::body(format!("the body is empty; a JSON object with {} is expected", listed(&names))));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let seed = MembersSeed { names };
    seed.deserialize(&mut json).and_then(|members| json.end().map(|()| members)).map_err(|error| {
        // serde's own messages for text that is no JSON are hard to read for two common causes: a byte order mark and a lone
        // surrogate. `hint` looks for those first.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let why = if error.is_data() && !is_object {
            // serde's own message ends in "column 0", and names no member.
            format!("must be a JSON object with {}, not {}", listed(&names), clip(&String::from_utf8_lossy(body)))
        } else if error.is_data() {
            format!("cannot be used: {error}")
        } else {
            json_interoperability::hint(body).unwrap_or_else(|| format!("is not JSON: {error}"))
        };
        Problem::body(format!("the body {why}"))
    })
}

/// Returns a required member.
pub(crate) fn required<'a>(member: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Problem> {
    member.ok_or_else(|| Problem::body(format!("member `{name}` is missing")))
}

/// Parses a required member that is a string.
pub(crate) fn string(member: Option<&RawValue>, name: &str) -> Result<String, Problem> {
    text(required(member, name)?, name)
}

/// Parses a member that is a string.
pub(crate) fn text(member: &RawValue, name: &str) -> Result<String, Problem> {
    let text = member.get();
    serde_json::from_str(text).map_err(|_| {
        let why = json_interoperability::hint(text.as_bytes());
        Problem::body(match why.filter(|_| text.starts_with('"')) {
            Some(why) => format!("member `{name}` {why}"),
            None => format!("member `{name}` must be a string of Unicode text, not {}", clip(text)),
        })
    })
}

/// Parses a member that is true or false; false where it is missing.
pub(crate) fn flag(member: Option<&RawValue>, name: &str) -> Result<bool, Problem> {
    match member.map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(text) => Err(Problem::body(format!("member `{name}` must be true or false, not {}", clip(text)))),
    }
}

/// The known names of members. A serde seed instead of a derived struct: the routes have different names, and the texts must
/// be borrowed and raw.
struct MembersSeed<const N: usize> {
    names: [&'static str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for MembersSeed<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for MembersSeed<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut values = [None; N];
        while let Some(name) = map.next_key::<String>()? {
            let Some(index) = self.names.iter().position(|known| *known == name) else {
                let known = listed(&self.names);
                return Err(M::Error::custom(format!("unknown member `{}`; this route knows {known}", clip(&name))));
            };
            // JSON leaves open which of two equal members counts. A proxy that checks the first one and a node that stores the
            // second would disagree, so both are refused.
            if values[index].replace(map.next_value::<&RawValue>()?).is_some() {
                return Err(M::Error::custom(format!("member `{name}` is given more than once")));
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::fair_memory::Source;
    use futures_util::FutureExt;
    use std::pin::Pin;
    use std::sync::LazyLock;

    type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, hyper::Error>>>>;

    fn stream(chunks: Vec<&'static str>) -> BodyStream {
        Box::pin(futures_util::stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)))))
    }

    fn soon() -> Deadline {
        Deadline(std::time::Instant::now() + Duration::from_secs(60))
    }

    fn quota(budget: &Arc<Budget>) -> BodyQuota<'_> {
        static HOLDER: LazyLock<Holder> = LazyLock::new(|| Source::loopback().into());
        // Timers belong to the runtime of one test.
        let timers = Box::leak(Box::default());
        BodyQuota { budget, holder: &HOLDER, grace: Duration::from_secs(5), timers }
    }

    #[tokio::test]
    async fn a_body_is_joined_from_its_chunks_and_refused_beyond_the_limit() {
        let budget = Budget::new(100);
        for chunks in [vec!["abcdef"], vec!["ab", "cdef"], vec!["a", "", "b", "c", "def"]] {
            let body = read(stream(chunks), None, 6, quota(&budget), soon()).await.ok().unwrap();
            assert_eq!(&body.bytes[..], b"abcdef");
            assert_eq!(budget.free(), 94);
        }
        assert_eq!(budget.free(), 100, "a dropped body releases its share");
        assert!(read(stream(vec!["abc", "def", "g"]), None, 6, quota(&budget), soon()).await.is_err());
        assert!(read(stream(vec![]), Some(7), 6, quota(&budget), soon()).await.is_err());
    }

    #[tokio::test]
    async fn allocated_bytes_count_and_a_body_that_does_not_fit_is_refused_at_once() {
        const KIB: usize = 1 << 10;
        let (chunk, limit) = (Bytes::from(vec![b' '; 32 * KIB]), 1024 * KIB);
        let budget = Budget::new(1024 * KIB);
        let chunks = |count: usize| -> BodyStream {
            Box::pin(futures_util::stream::iter(vec![chunk.clone(); count].into_iter().map(Ok)))
        };
        let body = read(chunks(5), None, limit, quota(&budget), soon()).await.ok().unwrap();
        assert_eq!((body.bytes.len(), budget.free()), (160 * KIB, 768 * KIB), "memory is doubled as it grows");
        let exact = read(chunks(5), Some(160 << 10), limit, quota(&budget), soon()).await.ok().unwrap();
        assert_eq!(
            (exact.bytes.len(), budget.free()),
            (160 * KIB, 608 * KIB),
            "the last allocation is as long as the content length"
        );
        assert!(read(chunks(20), None, limit, quota(&budget), soon()).await.is_err());
        assert_eq!(budget.free(), 608 * KIB);
        drop(body);
        assert!(read(chunks(10), Some(320 << 10), limit, quota(&budget), soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_content_length_alone_takes_no_memory() {
        let budget = Budget::new(1 << 20);
        let never: BodyStream = Box::pin(futures_util::stream::pending());
        let mut stalled = Box::pin(collect(never, Some(1 << 20), 1 << 20, quota(&budget)));
        assert!((&mut stalled).now_or_never().is_none());
        assert_eq!(budget.free(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_in_an_error_at_the_deadline_and_below_the_least_rate() {
        let budget = Budget::new(100);
        let never: BodyStream = Box::pin(futures_util::stream::pending());
        let deadline = Deadline(std::time::Instant::now() + Duration::from_millis(10));
        assert!(read(never, None, 10, quota(&budget), deadline).await.is_err());
        let never: BodyStream = Box::pin(futures_util::stream::pending());
        let began = tokio::time::Instant::now();
        assert!(read(never, None, 10, quota(&budget), soon()).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[test]
    fn members_keep_their_text() {
        let body = br#" { "value" :  [1.10, 1e400 , {"a":1, "a":2}] , "key":"\u00e9" } "#;
        let [key, value, other] = members(body, ["key", "value", "other"]).unwrap();
        assert_eq!(value.unwrap().get(), r#"[1.10, 1e400 , {"a":1, "a":2}]"#);
        assert_eq!(string(key, "key").unwrap(), "é");
        assert!(other.is_none());
        assert_eq!(members(br#"{"value":null}"#, ["value"]).unwrap()[0].unwrap().get(), "null");
    }
}
