//! Messages of etcd's gRPC API that the benchmark needs, encoded and parsed by hand: `PutRequest`, `RangeRequest`, and
//! the key and value of a `RangeResponse`.
//!
//! Why: two requests of two fields each need neither a schema compiler nor a generated type, and a generator that shares
//! its machine with the system under test must not allocate for them.
//!
//! Invariants: a message is written with its gRPC prefix (RFC of gRPC over HTTP/2: a zero byte, four bytes of length). A
//! response is checked to its end; an unknown field is skipped.
//!
//! See also: `grpc_client`, which sends them.

use bytes::{BufMut, Bytes, BytesMut};

/// The size of the prefix of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The wire types of protobuf that occur: a varint, eight bytes, a length with so many bytes, four bytes.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// Field 1 of `PutRequest` and `RangeRequest`, and of a `KeyValue`.
const KEY: u64 = 1;

/// Field 2 of `PutRequest`.
const PUT_VALUE: u64 = 2;

/// Field 7 of `RangeRequest`: a read of the member's own state, without a quorum.
const SERIALIZABLE: u64 = 7;

/// Field 2 of `RangeResponse`: a `KeyValue`.
const KVS: u64 = 2;

/// Field 5 of `KeyValue`.
const VALUE: u64 = 5;

/// A key and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// Encodes a `PutRequest`.
pub(super) fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    message(field_len(key) + field_len(value), |out| {
        put_field(out, KEY, key);
        put_field(out, PUT_VALUE, value);
    })
}

/// Encodes a `RangeRequest` of one key.
pub(super) fn range_request(key: &[u8], serializable: bool) -> Bytes {
    message(field_len(key) + 2 * usize::from(serializable), |out| {
        put_field(out, KEY, key);
        if serializable {
            put_varint(out, SERIALIZABLE << 3 | VARINT);
            put_varint(out, 1);
        }
    })
}

fn message(length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    write(&mut out);
    out.freeze()
}

/// The size of a field of at most 15 with these bytes.
fn field_len(bytes: &[u8]) -> usize {
    let mut length = bytes.len() + 2;
    let mut rest = bytes.len() >> 7;
    while rest > 0 {
        (length, rest) = (length + 1, rest >> 7);
    }
    length
}

fn put_field(out: &mut BytesMut, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Seven bits a byte, the lowest first, with the high bit set in all but the last: 300 is `1010_1100 0000_0010`.
fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// The payload of a response that consists of one uncompressed message.
pub(super) fn payload(body: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = body.split_first_chunk::<PREFIX_BYTES>()?;
    let [compressed, length @ ..] = *prefix;
    (compressed == 0 && u32::from_be_bytes(length) as usize == rest.len()).then_some(rest)
}

/// The key and the value of the first pair of a `RangeResponse`, none where the key does not exist; an error where the
/// bytes are no such message.
pub(super) fn first_pair(response: &[u8]) -> Result<Option<Pair<'_>>, &'static str> {
    const WRONG: &str = "the answer is no RangeResponse";
    let mut found = None;
    for_each_bytes(response, |number, bytes| {
        if number == KVS && found.is_none() {
            found = Some(bytes);
        }
    })
    .ok_or(WRONG)?;
    let Some(pair) = found else { return Ok(None) };
    let (mut key, mut value) = (&[][..], &[][..]);
    for_each_bytes(pair, |number, bytes| match number {
        KEY => key = bytes,
        VALUE => value = bytes,
        _ => {}
    })
    .ok_or(WRONG)?;
    Ok(Some((key, value)))
}

/// Calls `each` for every field with a length; none where the bytes are no message.
fn for_each_bytes<'a>(mut rest: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) -> Option<()> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            VARINT => {
                varint(&mut rest)?;
                0
            }
            FIXED_64 => 8,
            DELIMITED => usize::try_from(varint(&mut rest)?).ok()?,
            FIXED_32 => 4,
            _ => return None,
        };
        let (bytes, after) = rest.split_at_checked(length)?;
        if tag & 7 == DELIMITED {
            each(tag >> 3, bytes);
        }
        rest = after;
    }
    Some(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_bytes_of_the_schema() {
        assert_eq!(put_request(b"k1", b"vw")[..], *b"\0\0\0\0\x08\x0a\x02k1\x12\x02vw");
        assert_eq!(range_request(b"k", false)[..], *b"\0\0\0\0\x03\x0a\x01k");
        assert_eq!(range_request(b"k", true)[..], *b"\0\0\0\0\x05\x0a\x01k\x38\x01");
        for size in [0, 127, 128, 300, 20_000] {
            let bytes = put_request(b"k", &vec![b'v'; size]);
            let fields = payload(&bytes).expect("the length in the prefix is that of the message");
            let mut seen = Vec::new();
            for_each_bytes(fields, |number, bytes| seen.push((number, bytes.len()))).unwrap();
            assert_eq!(seen, [(1, 1), (2, size)]);
        }
    }

    #[test]
    fn the_pair_of_a_response_is_found_and_damage_is_an_error() {
        // header {revision: 300}, kvs {key, create_revision: 2, mod_revision: 300, version: 1, value}, count: 1.
        let pair = b"\x0a\x02k1\x10\x02\x18\xac\x02\x20\x01\x2a\x02vw";
        let response = [&b"\x0a\x03\x18\xac\x02\x12"[..], &[pair.len() as u8], pair, b"\x20\x01"].concat();
        assert_eq!(first_pair(&response), Ok(Some((&b"k1"[..], &b"vw"[..]))));
        assert_eq!(first_pair(b"\x0a\x03\x18\xac\x02"), Ok(None));
        for cut in 1..response.len() {
            first_pair(&response[..cut]).ok();
        }
        for bad in [&b"\x12\x05k"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x09\x01"] {
            assert!(first_pair(bad).is_err(), "{bad:?}");
        }
        assert_eq!(payload(b"\0\0\0\0\x01"), None);
        assert_eq!(payload(b"\x01\0\0\0\x01a"), None, "compressed");
        assert_eq!(payload(b"\0\0\0\0\0"), Some(&[][..]));
    }
}
