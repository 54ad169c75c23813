//! Request bodies: read up to a bound, then taken apart as one JSON object of known members.
//!
//! Why: warp's own body filters refuse curl's default content type, refuse chunked bodies, or have no bound. And a
//! member that is not understood must be refused by name: a misspelt condition must not become an unconditional write.
//!
//! Laws: no more than the limit is ever kept, whatever the length header says or does not say. The bodies of all
//! requests under way share a budget of [`BODIES_BYTES`]. A member keeps the very text that was sent.
//!
//! Not here: what the members mean (the handlers).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::{Problem, clip};
use super::query::{Deadline, listed};
use crate::model::json;

/// How many bytes the bodies of all requests under way hold together at most; what goes beyond is refused at once.
pub(super) const BODIES_BYTES: usize = 256 << 20;

/// A body that has not been read yet.
pub(super) type Unread = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// A body in memory; it counts against the budget while it lives.
pub(super) struct Body {
    /// Its bytes.
    pub(super) bytes: Bytes,
    share: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// What it takes of the budget, for an answer that repeats it.
    pub(super) fn into_share(self) -> Option<OwnedSemaphorePermit> {
        self.share
    }

    /// Whether it holds nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

/// Makes one type of the stream that warp hands out.
pub(super) fn boxed<B: Buf>(stream: impl Stream<Item = Result<B, warp::Error>> + Send + Sync + 'static) -> Unread {
    Box::pin(stream.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))))
}

/// Reads a body of at most `limit` bytes; `announced` is what its length header says, if there is one.
pub(super) async fn read(
    stream: Unread,
    announced: Option<u64>,
    limit: usize,
    budget: &Arc<Semaphore>,
    deadline: Deadline,
) -> Result<Body, Problem> {
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(Problem::body_too_large(limit));
    }
    match tokio::time::timeout_at(deadline.0.into(), collect(stream, limit, budget)).await {
        Ok(body) => body,
        Err(_) => Err(Problem::body_timeout()),
    }
}

/// Reads a body to its end, or until it is over `limit`.
pub(super) async fn collect(mut stream: Unread, limit: usize, budget: &Arc<Semaphore>) -> Result<Body, Problem> {
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Problem::body(format!("the body broke off: {error}")))?;
        if first.len() + rest.len() + chunk.len() > limit {
            return Err(Problem::body_too_large(limit));
        }
        let part = u32::try_from(chunk.len()).map_err(|_| Problem::body_too_large(limit))?;
        let part = Arc::clone(budget).try_acquire_many_owned(part).map_err(|_| Problem::bodies_full())?;
        match share.as_mut() {
            Some(share) => share.merge(part),
            None => share = Some(part),
        }
        // A small body is one chunk, which is used where it lies.
        if first.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.reserve(first.len() + chunk.len());
            }
            rest.extend_from_slice(&chunk);
        }
    }
    let bytes = if rest.is_empty() {
        first
    } else {
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        whole.freeze()
    };
    Ok(Body { bytes, share })
}

/// Takes a body apart as one JSON object that may hold the members `names`, each at most once: their texts, in the
/// order of the names, without surrounding white space.
pub(super) fn members<'a, const N: usize>(
    body: &'a [u8],
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::body(format!("the body is empty; a JSON object with {} is expected", listed(&names))));
    }
    if body.starts_with(json::BYTE_ORDER_MARK) {
        return Err(Problem::body("the body begins with a byte order mark; send the JSON without those three bytes"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let object = Object { names };
    object.deserialize(&mut json).and_then(|members| json.end().map(|()| members)).map_err(|error| {
        let what = if error.is_data() { "cannot be used" } else { "is not JSON" };
        Problem::body(format!("the body {what}: {error}"))
    })
}

/// The text of a member that must be there.
pub(super) fn required<'a>(member: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Problem> {
    member.ok_or_else(|| Problem::body(format!("member `{name}` is missing")))
}

/// A member that must be there and be a string.
pub(super) fn string(member: Option<&RawValue>, name: &str) -> Result<String, Problem> {
    let text = required(member, name)?.get();
    serde_json::from_str(text)
        .map_err(|_| Problem::body(format!("member `{name}` must be a string of Unicode text, not {}", clip(text))))
}

/// A member that must be true or false, false where it is missing.
pub(super) fn flag(member: Option<&RawValue>, name: &str) -> Result<bool, Problem> {
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
    use std::time::{Duration, Instant};

    fn stream(chunks: Vec<&'static str>) -> Unread {
        Box::pin(futures_util::stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)))))
    }

    fn soon() -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_body_is_put_together_from_its_chunks_and_refused_beyond_the_limit() {
        let budget = Arc::new(Semaphore::new(100));
        for chunks in [vec!["abcdef"], vec!["ab", "cdef"], vec!["a", "", "b", "c", "def"]] {
            let body = read(stream(chunks), None, 6, &budget, soon()).await.ok().unwrap();
            assert_eq!(&body.bytes[..], b"abcdef");
            assert_eq!(budget.available_permits(), 94);
        }
        assert_eq!(budget.available_permits(), 100, "a body gives its share back");
        assert!(read(stream(vec!["abc", "def", "g"]), None, 6, &budget, soon()).await.is_err());
        assert!(read(stream(vec![]), Some(7), 6, &budget, soon()).await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_the_budget_cannot_hold_is_refused_at_once() {
        let budget = Arc::new(Semaphore::new(5));
        let first = read(stream(vec!["abc"]), None, 10, &budget, soon()).await.ok().unwrap();
        assert!(read(stream(vec!["ab", "c"]), None, 10, &budget, soon()).await.is_err());
        drop(first);
        assert!(read(stream(vec!["ab", "c"]), None, 10, &budget, soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up_at_the_deadline() {
        let budget = Arc::new(Semaphore::new(5));
        let never: Unread = Box::pin(futures_util::stream::pending());
        let deadline = Deadline(Instant::now() + Duration::from_millis(10));
        assert!(read(never, None, 10, &budget, deadline).await.is_err());
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
