//! Request bodies: read up to a bound, then taken apart as one JSON object of known members.
//!
//! Why: warp's own body filters refuse curl's default content type, refuse chunked bodies, or have no bound. And a
//! member that is not understood must be refused by name: a misspelt condition must not become an unconditional write.
//!
//! Laws: no more than the limit is ever kept, whatever the length header says or does not say. The bodies of all
//! requests under way share a budget, in which what is allocated counts. A client that sends too slowly is given up. A
//! member keeps the very text that was sent.
//!
//! Not here: what the members mean (the handlers).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream, StreamExt};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::query::{Deadline, listed};
use crate::http::response::problem::{Problem, clip};
use crate::http::server::memory_budget::{Budget, Share, Source};
use crate::http::server::min_rate::MinRate;
use crate::model::json;

/// The memory that a body grows to when it is more than one chunk.
const FIRST_BYTES: usize = 64 << 10;

/// A body that has not been read yet.
pub(crate) type Unread = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// A body in memory; it counts against the budget while it lives.
pub(crate) struct Body {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    share: Option<Share>,
}

impl Body {
    /// What it takes of the budget, for an answer of `bytes` that repeats it.
    pub(crate) fn into_share(self, bytes: usize) -> Option<Share> {
        self.share.map(|mut share| {
            // What is there already cannot be refused for its size.
            share.resize(bytes);
            share
        })
    }

    /// Counts `bytes` more: what is made of the body beside it.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let whole = self.bytes.len() + bytes;
        if self.share.as_mut().is_none_or(|share| share.resize(whole)) { Ok(()) } else { Err(Problem::bodies_full()) }
    }

    /// Whether it holds nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

/// Whose body it is, and which budget it counts against.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    /// The budget of bodies.
    pub(crate) budget: &'a Arc<Budget>,
    /// Where the client is.
    pub(crate) source: Source,
    /// See [`MinRate::new`].
    pub(crate) patience: Duration,
}

impl Account<'_> {
    /// Makes `share` hold `bytes`.
    fn hold(self, share: &mut Option<Share>, bytes: usize) -> Result<(), Problem> {
        let held = match share {
            Some(share) => share.resize(bytes),
            None => {
                *share = self.budget.take(self.source, bytes);
                share.is_some()
            }
        };
        if held { Ok(()) } else { Err(Problem::bodies_full()) }
    }
}

/// Makes one type of the stream that warp hands out.
pub(crate) fn boxed<B: Buf>(stream: impl Stream<Item = Result<B, warp::Error>> + Send + Sync + 'static) -> Unread {
    Box::pin(stream.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))))
}

/// Reads a body of at most `limit` bytes; `announced` is what its length header says, if there is one.
pub(crate) async fn read(
    stream: Unread,
    announced: Option<u64>,
    limit: usize,
    account: Account<'_>,
    deadline: Deadline,
) -> Result<Body, Problem> {
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(Problem::body_too_large(limit));
    }
    let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
    match tokio::time::timeout_at(deadline.0.into(), collect(stream, announced, limit, account)).await {
        Ok(body) => body,
        Err(_) => Err(Problem::body_timeout()),
    }
}

/// Reads a body to its end, or until it is over `limit`. Memory is taken as bytes come, whatever was announced.
pub(crate) async fn collect(
    mut stream: Unread,
    announced: Option<usize>,
    limit: usize,
    account: Account<'_>,
) -> Result<Body, Problem> {
    let mut share: Option<Share> = None;
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut pace = MinRate::new(account.patience);
    while let Some(chunk) = next(&mut stream, &mut pace).await? {
        let bytes = first.len() + whole.len() + chunk.len();
        if bytes > limit {
            return Err(Problem::body_too_large(limit));
        }
        if bytes == chunk.len() {
            // A small body is one chunk, which is used where it lies.
            account.hold(&mut share, bytes)?;
            first = chunk;
            continue;
        }
        if bytes > whole.capacity() {
            let room = (2 * whole.capacity()).max(FIRST_BYTES).min(announced.unwrap_or(limit)).max(bytes);
            account.hold(&mut share, room)?;
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&chunk);
    }
    Ok(Body { bytes: if whole.is_empty() { first } else { whole.into() }, share })
}

/// The next piece that is not empty; an error where the client sends too slowly.
async fn next(stream: &mut Unread, pace: &mut MinRate) -> Result<Option<Bytes>, Problem> {
    loop {
        let mut coming = stream.next();
        let chunk = match (&mut coming).now_or_never() {
            Some(chunk) => chunk,
            None => {
                let begun = Instant::now();
                let chunk = timeout(pace.left(), coming).await.map_err(|_| Problem::body_too_slow())?;
                pace.waited(begun.elapsed());
                chunk
            }
        };
        let Some(chunk) = chunk else { return Ok(None) };
        let chunk = chunk.map_err(|error| Problem::body(format!("the body broke off: {error}")))?;
        pace.moved(chunk.len());
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
}

/// Takes a body apart as one JSON object that may hold the members `names`, each at most once: their texts, in the
/// order of the names, without surrounding white space.
pub(crate) fn members<'a, const N: usize>(
    body: &'a [u8],
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::body(format!("the body is empty; a JSON object with {} is expected", listed(&names))));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let object = Object { names };
    object.deserialize(&mut json).and_then(|members| json.end().map(|()| members)).map_err(|error| {
        let why = if error.is_data() {
            format!("cannot be used: {error}")
        } else {
            json::hint(body).unwrap_or_else(|| format!("is not JSON: {error}"))
        };
        Problem::body(format!("the body {why}"))
    })
}

/// The text of a member that must be there.
pub(crate) fn required<'a>(member: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Problem> {
    member.ok_or_else(|| Problem::body(format!("member `{name}` is missing")))
}

/// A member that must be there and be a string.
pub(crate) fn string(member: Option<&RawValue>, name: &str) -> Result<String, Problem> {
    text(required(member, name)?, name)
}

/// The text of a member that must be a string.
pub(crate) fn text(member: &RawValue, name: &str) -> Result<String, Problem> {
    let text = member.get();
    serde_json::from_str(text).map_err(|_| {
        let why = json::hint(text.as_bytes());
        Problem::body(match why.filter(|_| text.starts_with('"')) {
            Some(why) => format!("member `{name}` {why}"),
            None => format!("member `{name}` must be a string of Unicode text, not {}", clip(text)),
        })
    })
}

/// A member that must be true or false, false where it is missing.
pub(crate) fn flag(member: Option<&RawValue>, name: &str) -> Result<bool, Problem> {
    match member.map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(text) => Err(Problem::body(format!("member `{name}` must be true or false, not {}", clip(text)))),
    }
}

/// What serde is told to look for.
struct Object<const N: usize> {
    names: [&'static str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Object<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Object<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut values = [None; N];
        while let Some(name) = map.next_key::<String>()? {
            let Some(place) = self.names.iter().position(|known| *known == name) else {
                let known = listed(&self.names);
                return Err(M::Error::custom(format!("unknown member `{}`; this route knows {known}", clip(&name))));
            };
            if values[place].replace(map.next_value::<&RawValue>()?).is_some() {
                return Err(M::Error::custom(format!("member `{name}` is given more than once")));
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(chunks: Vec<&'static str>) -> Unread {
        Box::pin(futures_util::stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)))))
    }

    fn soon() -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(60))
    }

    fn account(budget: &Arc<Budget>) -> Account<'_> {
        Account { budget, source: Source::loopback(), patience: Duration::from_secs(5) }
    }

    #[tokio::test]
    async fn a_body_is_put_together_from_its_chunks_and_refused_beyond_the_limit() {
        let budget = Budget::new(100);
        for chunks in [vec!["abcdef"], vec!["ab", "cdef"], vec!["a", "", "b", "c", "def"]] {
            let body = read(stream(chunks), None, 6, account(&budget), soon()).await.ok().unwrap();
            assert_eq!(&body.bytes[..], b"abcdef");
            assert_eq!(budget.free(), 94);
        }
        assert_eq!(budget.free(), 100, "a body gives its share back");
        assert!(read(stream(vec!["abc", "def", "g"]), None, 6, account(&budget), soon()).await.is_err());
        assert!(read(stream(vec![]), Some(7), 6, account(&budget), soon()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_allocated_counts_and_what_does_not_fit_is_refused_at_once() {
        const KIB: usize = 1 << 10;
        let (piece, limit) = (Bytes::from(vec![b' '; 32 * KIB]), 1024 * KIB);
        let budget = Budget::new(1024 * KIB);
        let pieces = |count: usize| -> Unread {
            Box::pin(futures_util::stream::iter(vec![piece.clone(); count].into_iter().map(Ok)))
        };
        let body = read(pieces(5), None, limit, account(&budget), soon()).await.ok().unwrap();
        assert_eq!((body.bytes.len(), budget.free()), (160 * KIB, 768 * KIB), "memory is doubled as it grows");
        let exact = read(pieces(5), Some(160 << 10), limit, account(&budget), soon()).await.ok().unwrap();
        assert_eq!((exact.bytes.len(), budget.free()), (160 * KIB, 608 * KIB), "what is announced is the end");
        assert!(read(pieces(20), None, limit, account(&budget), soon()).await.is_err());
        assert_eq!(budget.free(), 608 * KIB);
        drop(body);
        assert!(read(pieces(10), Some(320 << 10), limit, account(&budget), soon()).await.is_ok());
    }

    #[tokio::test]
    async fn an_announcement_alone_takes_no_memory() {
        let budget = Budget::new(1 << 20);
        let never: Unread = Box::pin(futures_util::stream::pending());
        let mut stalled = Box::pin(collect(never, Some(1 << 20), 1 << 20, account(&budget)));
        assert!((&mut stalled).now_or_never().is_none());
        assert_eq!(budget.free(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up_at_the_deadline_or_when_it_is_too_slow() {
        let budget = Budget::new(100);
        let never: Unread = Box::pin(futures_util::stream::pending());
        let deadline = Deadline(Instant::now() + Duration::from_millis(10));
        assert!(read(never, None, 10, account(&budget), deadline).await.is_err());
        let never: Unread = Box::pin(futures_util::stream::pending());
        let begun = tokio::time::Instant::now();
        assert!(read(never, None, 10, account(&budget), soon()).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 5);
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
