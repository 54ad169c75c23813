//! Tests of validation as tables: accepted and refused commands, and the code of each refusal.
//!
//! Why: each limit protects every node at once, so each is tested at its edge, in every command that it concerns.
//!
//! See also: [`crate::model::decide_write`] (an invalid command changes nothing).

use super::*;
use crate::model::{Condition, NodeKind, Role};

const ALL: Limits = Limits::ALL_NODES;

fn put(key: impl Into<bytes::Bytes>, content_type: &str, value: impl Into<bytes::Bytes>) -> Command {
    let value = Value { content_type: content_type.into(), bytes: value.into() };
    Command::Put { key: key.into(), value, condition: Condition::Always, ttl: None }
}

fn gets(count: usize) -> Vec<Operation> {
    (0..count).map(|at| Operation::Get { key: at.to_string().into() }).collect()
}

fn txn_of(checks: Vec<Check>, then: Vec<Operation>, otherwise: Vec<Operation>) -> Command {
    Command::Txn(Txn { checks, then, otherwise })
}

fn checks(count: usize) -> Vec<Check> {
    (0..count).map(|_| Check { key: "k".into(), test: Test::Is(Condition::Exists) }).collect()
}

fn code(command: Command) -> Result<(), Code> {
    write(&command.into(), &ALL).map_err(|refusal| {
        assert!(refusal.detail.len() < 500, "a message is short: {}", refusal.detail);
        refusal.code
    })
}

fn named(key: impl Into<bytes::Bytes>, command: Command) -> Write {
    Write { idempotency_key: Some(IdempotencyKey { key: key.into(), fingerprint: 0 }), by: None, command }
}

#[test]
fn only_a_clients_command_has_a_token_name() {
    let named = |command| write(&Write { by: Some("t".parse().unwrap()), ..Write::from(command) }, &ALL).is_ok();
    assert!(named(Command::put("k", "v")) && named(Command::DeletePrefix { prefix: "k".into() }));
    assert!(!named(Command::Tick) && !named(Command::Expire { keys: vec![] }));
}

#[test]
fn keys_are_utf_8_of_bounded_length_in_every_command() {
    let commands = |key: &[u8]| {
        let key = bytes::Bytes::copy_from_slice(key);
        let value = Value::binary("v");
        let operations = [
            Operation::Get { key: key.clone() },
            Operation::Delete { key: key.clone() },
            Operation::Put { key: key.clone(), value, ttl: None },
        ];
        let touch = Command::Touch { key: key.clone(), ttl: Ttl(1), condition: Condition::Always };
        let mut all = vec![Command::put(key.clone(), "v"), Command::delete(key.clone()), touch];
        all.push(Command::DeletePrefix { prefix: key.clone() });
        for test in [Test::Is(Condition::Absent), Test::Holds("v".into())] {
            all.push(txn_of(vec![Check { key: key.clone(), test }], vec![], vec![]));
        }
        for operation in operations {
            all.push(txn_of(vec![], vec![operation.clone()], vec![]));
            all.push(txn_of(vec![], vec![], vec![operation]));
        }
        all
    };
    for key in [&b"k"[..], "\u{e9}\0/ %".as_bytes(), &[b'k'; KEY_BYTES]] {
        assert!(commands(key).into_iter().all(|command| code(command) == Ok(())), "{key:?}");
    }
    // Empty, invalid bytes, a truncated sequence, an encoded surrogate, one byte too long, and far too long.
    for key in [&b""[..], b"\xff", b"a\xc3", b"\xed\xa0\x80", &[b'k'; KEY_BYTES + 1], &vec![b'k'; 2 << 20]] {
        for command in commands(key) {
            assert_eq!(code(command), Err(Code::BadKey));
        }
    }
}

#[test]
fn values_are_bounded_and_match_their_content_type() {
    assert_eq!(code(put("k", "a/b", vec![0; VALUE_BYTES])), Ok(()));
    assert_eq!(code(put("k", "a/b", vec![0; VALUE_BYTES + 1])), Err(Code::TooLarge));
    let held = |bytes| vec![Check { key: "k".into(), test: Test::Holds(vec![0; bytes].into()) }];
    assert_eq!(code(txn_of(held(VALUE_BYTES), vec![], vec![])), Ok(()));
    assert_eq!(code(txn_of(held(VALUE_BYTES + 1), vec![], vec![])), Err(Code::TooLarge));
    for (kind, bytes) in [("application/json", &b" {\"a\":[1]} "[..]), ("a/b+json; c=d", b"null"), ("text/x", b"\xff")]
    {
        assert_eq!(code(put("k", kind, bytes)), Ok(()), "{kind}");
    }
    let long = format!("a/{}", "b".repeat(CONTENT_TYPE_BYTES));
    for kind in ["", "text", "a/", "a b/c", "a/b\r\nx: y", "a/b;\u{7f}", "a/b\u{1b}[2J", "\u{e9}/x", &long] {
        assert_eq!(code(put("k", kind, "1")), Err(Code::BadRequest), "{kind:?}");
    }
    let deep = "[".repeat(json_interoperability::DEPTH + 1) + &"]".repeat(json_interoperability::DEPTH + 1);
    for bytes in [&b""[..], b"{", b"1,\"x\":2", b"\"\xff\"", b"1 2", b"nope", deep.as_bytes(), &[b'['; 100_000]] {
        for kind in ["application/json", "APPLICATION/JSON;x", "a/b+json"] {
            assert_eq!(code(put("k", kind, bytes.to_vec())), Err(Code::BadRequest), "{kind}");
        }
        let value = Value { content_type: "application/json".into(), bytes: bytes.to_vec().into() };
        let operation = Operation::Put { key: "k".into(), value, ttl: None };
        assert_eq!(code(txn_of(vec![], vec![], vec![operation])), Err(Code::BadRequest));
    }
}

#[test]
fn counts_and_the_whole_are_bounded() {
    assert_eq!(code(txn_of(checks(TXN_PARTS), gets(TXN_PARTS), gets(TXN_PARTS))), Ok(()));
    for command in [
        txn_of(checks(TXN_PARTS + 1), vec![], vec![]),
        txn_of(vec![], gets(TXN_PARTS + 1), vec![]),
        txn_of(vec![], vec![], gets(200_000)),
    ] {
        assert_eq!(code(command), Err(Code::BadRequest));
    }
    let large =
        |key: &'static str| Operation::Put { key: key.into(), value: Value::binary(vec![0; VALUE_BYTES]), ttl: None };
    assert_eq!(code(txn_of(vec![], vec![large("a")], vec![])), Ok(()));
    assert_eq!(code(txn_of(vec![], vec![large("a")], vec![large("b")])), Err(Code::TooLarge));
    let twice = vec![
        Operation::Delete { key: "a".into() },
        Operation::Put { key: "a".into(), value: Value::binary(""), ttl: None },
    ];
    assert_eq!(code(txn_of(vec![], twice, vec![])), Err(Code::BadRequest));
    let keys = |count: usize, bytes: usize| (0..count).map(|_| (vec![0; bytes].into(), 1)).collect();
    assert_eq!(code(Command::Expire { keys: keys(EXPIRE_KEYS, 512) }), Ok(()));
    for (count, bytes) in [(EXPIRE_KEYS + 1, 1), (1_000_000, 0), (EXPIRE_KEYS, 513), (1, 2 << 20)] {
        assert_eq!(code(Command::Expire { keys: keys(count, bytes) }), Err(Code::TooLarge), "{count} {bytes}");
    }
}

#[test]
fn ttls_and_idempotency_keys_are_within_their_ranges() {
    for (seconds, sound) in [(0, false), (1, true), (Ttl::MAX_SECONDS, true), (Ttl::MAX_SECONDS + 1, false)] {
        let ttl = Ttl(seconds);
        let value = Value::binary("v");
        let put = Command::Put { key: "k".into(), value: value.clone(), condition: Condition::Always, ttl: Some(ttl) };
        let touch = Command::Touch { key: "k".into(), ttl, condition: Condition::Always };
        let operation = Operation::Put { key: "k".into(), value, ttl: Some(ttl) };
        for command in [put, touch, txn_of(vec![], vec![operation], vec![])] {
            assert_eq!(code(command).is_ok(), sound, "{seconds}");
        }
    }
    for (key, sound) in [("", false), ("a", true), ("a b", false), ("\u{e9}", false), ("a\n", false)] {
        assert_eq!(write(&named(key, Command::delete("k")), &ALL).is_ok(), sound, "{key:?}");
    }
    assert!(write(&named(vec![b'a'; IDEMPOTENCY_KEY_BYTES], Command::delete("k")), &ALL).is_ok());
    assert!(write(&named(vec![b'a'; IDEMPOTENCY_KEY_BYTES + 1], Command::delete("k")), &ALL).is_err());
    assert!(write(&named("a", Command::Tick), &ALL).is_err());
}

#[test]
fn a_client_cannot_send_internal_commands() {
    let moved = |raft_address: &str| Command::Move {
        raft_id: 1,
        raft_address: raft_address.into(),
        http_address: "a:2".into(),
    };
    let expire = Command::Expire { keys: vec![("k".into(), 1)] };
    for command in [moved("a:1"), expire, Command::Tick] {
        assert_eq!(code(command.clone()), Ok(()), "a leader proposes it");
        assert!(request(&Request::Write(command.into()), &ALL).is_err());
    }
    assert_eq!(code(moved("a\r\n:1")), Err(Code::BadRequest));
    assert!(request(&Request::Write(Command::put("k", "v").into()), &ALL).is_ok());
    let own = |raft_address: &str| Request::Move {
        raft_id: 1,
        raft_address: raft_address.into(),
        http_address: "a:2".into(),
    };
    let join = |node_id: &str, raft_address: &str| Request::Join {
        node_id: node_id.into(),
        raft_address: raft_address.into(),
        force: true,
    };
    let transfer = |node_id: &str| Request::Transfer { node_id: Some(node_id.into()) };
    let remove = |node_id: &str| Request::Remove { node_id: node_id.into() };
    for sound in [own("a:1"), join("n", "a:1"), transfer("n"), remove("n"), Request::Transfer { node_id: None }] {
        assert_eq!(request(&sound, &ALL), Ok(()));
    }
    let long = "n".repeat(2 << 20);
    for bad in [own("a"), join("n", "0.0.0.0:1"), join("", "a:1"), transfer("n\u{1b}"), remove(""), remove(&long)] {
        assert_eq!(request(&bad, &ALL).map_err(|refusal| refusal.code), Err(Code::BadRequest));
    }
}

#[test]
fn a_setting_can_only_be_stricter() {
    let strict = Limits::of_settings(4, 8, 64);
    for (command, here) in [
        (Command::put("four", "12345678"), Ok(())),
        (Command::put("fives", "1"), Err(Code::BadKey)),
        (Command::put("k", "123456789"), Err(Code::TooLarge)),
        (txn_of(vec![], gets(10), vec![]), Ok(())),
        (txn_of(checks(128), gets(128), vec![]), Err(Code::TooLarge)),
    ] {
        assert_eq!(code(command.clone()), Ok(()));
        assert_eq!(write(&command.into(), &strict).map_err(|refusal| refusal.code), here);
    }
    assert_eq!(Limits::of_settings(usize::MAX, usize::MAX, usize::MAX), ALL);
}

#[test]
fn names_and_addresses_of_members_are_valid() {
    let row = |name: &str, raft_id, http_address: &str| Member {
        name: name.into(),
        raft_id,
        raft_address: "a:1".into(),
        http_address: http_address.into(),
        role: Role::Voter,
    };
    assert_eq!(member_change(&MemberChange::Set(row("n", MAX_RAFT_ID, "a:2"))), Ok(()));
    assert_eq!(member_change(&MemberChange::Remove { raft_id: 0 }), Ok(()));
    for bad in [row("", 1, "a:2"), row("n", 0, "a:2"), row("n", MAX_RAFT_ID + 1, "a:2"), row("n", 1, "\u{1b}:2")] {
        assert!(member(&bad).is_err());
    }
    let who = |node_id: &str| WhoAmI {
        node_id: node_id.into(),
        raft_id: 1,
        cluster_id: 1,
        http_address: "a:2".into(),
        kind: NodeKind::Member,
        offers: Vec::new(),
        raft_address: "a:1".into(),
        moved: false,
    };
    assert!(who_am_i(&who("n")).is_ok() && who_am_i(&who("n\n")).is_err());
    let joined = |http_address: &str| JoinAccepted {
        raft_id: 1,
        started_as: "n".into(),
        http_address: http_address.into(),
        dropped: None,
    };
    assert!(join_accepted(&joined("a:2")).is_ok() && join_accepted(&joined("a")).is_err());
}

#[test]
fn a_long_input_is_shortened_in_messages() {
    assert_eq!(clip("short"), "short");
    assert_eq!(clip(&"\u{e9}".repeat(65)), format!("{}...", "\u{e9}".repeat(64)));
}
