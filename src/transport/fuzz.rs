//! Fuzz targets: what an unknown peer can send to the peer port.
//!
//! Invariants: every target returns, whatever the input. A decoded frame encodes to bytes that decode to the same frame.

use futures_util::FutureExt;

use super::admission::{admit, check_message, check_snapshot};
use super::handshake::dial::PeerAddress;
use super::handshake::{Hello, WIRE_VERSION};
use super::wire::frame_limits;
use super::wire::framing::{Preamble, read_frame, read_preamble};
use super::wire::{Frame, HEAD_BYTES};
use crate::model::{PeerTable, check_address, check_events, codec};

/// A whole connection: preamble, handshake, frames.
pub fn stream(mut bytes: &[u8]) {
    let opening = read_preamble(&mut bytes).now_or_never().expect("bytes in memory are never waited for");
    if !matches!(opening, Ok(Preamble::Huskv(WIRE_VERSION))) {
        return;
    }
    let mut limits = frame_limits::HELLO;
    while let Some(Ok(frame)) = read_frame(&mut bytes, limits).now_or_never() {
        understood(&frame);
        limits = frame_limits::ANY;
    }
}

/// One frame with correct length and checksum: kind, then payload. The version byte of our encodings is prepended, so
/// that the fuzzer need not find it.
pub fn frame(bytes: &[u8]) {
    let Some((&kind, payload)) = bytes.split_first() else { return };
    for version in [None, Some(codec::VERSION)] {
        let payload: Vec<u8> = version.into_iter().chain(payload.iter().copied()).collect();
        let Ok(length) = u32::try_from(payload.len()) else { return };
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4] = kind;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head);
        sum.update(&payload);
        let body = [&payload[..], &sum.finalize().to_le_bytes()].concat();
        if let Ok(frame) = Frame::decode(head, body) {
            understood(&frame);
        }
    }
}

/// An address that an unknown peer reports as its own.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let sound = check_address(text).is_ok();
    let mut peer_address = PeerAddress::new("table:1");
    peer_address.set_self_reported(text);
    peer_address.set_gossiped(text);
    let taken = (0..3).any(|attempt| peer_address.address(attempt) == text);
    assert!(taken == sound || text == "table:1", "what is no address is not dialled");
}

fn understood(frame: &Frame) {
    let bytes = frame.encode().expect("what came in one frame fits into one");
    let (head, body) = bytes.split_at(HEAD_BYTES);
    let again = Frame::decode(head.try_into().expect("a head is that long"), body.to_vec());
    assert_eq!(again.ok().as_ref(), Some(frame), "a frame means the same after a second trip");
    match frame {
        Frame::Hello(hello) => asked(hello),
        Frame::Step(message) => drop(check_message(message, message.from, message.to)),
        Frame::End(message) => drop(check_snapshot(message, message.from, message.to)),
        Frame::PeerAddresses(known) => {
            known.iter().for_each(|(_, text)| address(text.as_bytes()));
        }
        Frame::Report(report) => drop(report.check()),
        Frame::Events(events) => drop(check_events(events)),
        _ => {}
    }
}

fn asked(hello: &Hello) {
    let table =
        PeerTable { raft_id: hello.to, cluster_id: hello.cluster_id, tombstones: vec![9], ..Default::default() };
    let admitted = admit(Some(&table), hello, || Ok(()));
    assert_eq!(admitted.is_ok(), ![9, 0, hello.to].contains(&hello.from));
    address(hello.raft_address.as_bytes());
}
