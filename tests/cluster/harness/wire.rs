//! Peer protocol by hand: preamble, frames and values as bytes.
//!
//! Why: an attacker can send what the program's own types cannot express.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::node::Node;
use super::wait::secs;

/// Purposes of a connection, as the handshake numbers them.
pub const ADOPT: u32 = 3;

/// Kinds of frames.
pub const HELLO: u8 = 1;
/// Whether the dialler may come in.
pub const VERDICT: u8 = 2;
/// The receiver's raft id is no more.
pub const REMOVED: u8 = 8;
/// Who answers.
pub const WHO: u8 = 9;
/// An offer to adopt.
pub const OFFER: u8 = 10;
/// The answer to it.
pub const ADOPTED: u8 = 11;

/// A value on the wire: the version of the encoding, then fields one after the other.
pub struct Value(Vec<u8>);

impl Value {
    /// No field yet.
    pub fn new() -> Self {
        Self(vec![1])
    }
    /// A byte, such as a truth.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    /// Which variant of several.
    pub fn variant(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    /// A number, or the length of a list.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    /// A text.
    pub fn text(self, value: &str) -> Self {
        let mut value_with_length = self.u64(value.len() as u64);
        value_with_length.0.extend(value.bytes());
        value_with_length
    }
}

/// What every connection begins with; the version is the one that `node` speaks.
pub fn preamble(node: &Node) -> Vec<u8> {
    // Another version is answered with its own.
    let mut stream = TcpStream::connect(&node.raft).expect("the peer port takes connections");
    stream.set_read_timeout(Some(secs(10))).expect("a timeout");
    stream.write_all(b"\x89HUSKV\r\n\xff\xff").expect("a preamble is written");
    let mut answer = vec![0; 10];
    stream.read_exact(&mut answer).expect("a preamble is answered with one");
    answer
}

/// One frame.
pub fn frame(kind: u8, value: &Value) -> Vec<u8> {
    let mut bytes = u32::try_from(value.0.len()).expect("small").to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(&value.0);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// The next frame: its kind and its payload.
pub fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut body = vec![0; length + 4];
    stream.read_exact(&mut body)?;
    body.truncate(length);
    Ok((head[4], body))
}

/// A connection on which the handshake is done, as one that wants what `purpose` says.
pub fn connect(node: &Node, purpose: u32) -> TcpStream {
    let preamble = preamble(node);
    let mut stream = TcpStream::connect(&node.raft).expect("the peer port takes connections");
    stream.set_read_timeout(Some(secs(20))).expect("a timeout");
    let hello = Value::new().variant(purpose).u64(0).u64(0).u64(0).text("stranger").text("127.0.0.1:1");
    // Not moved, no life, none before it, and none of the node that it knows.
    let hello = hello.u8(0).u64(0).u64(0).u64(0).u8(0);
    stream.write_all(&[preamble, frame(HELLO, &hello)].concat()).expect("a handshake is written");
    stream.read_exact(&mut [0; 10]).expect("the preamble of the node");
    let (kind, verdict) = read_frame(&mut stream).expect("a verdict");
    assert_eq!((kind, &verdict[..5]), (VERDICT, &[1, 0, 0, 0, 0][..]), "strangers may ask");
    stream
}
