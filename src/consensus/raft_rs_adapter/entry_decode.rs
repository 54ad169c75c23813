//! Decoding of log entries into commands and membership changes.
//!
//! Why: a follower that acknowledges an entry makes it part of what is committed, and what is committed must be applied
//! by every node, after every restart. So what cannot be decoded is refused before it is appended.
//!
//! Invariants: the type of an entry is checked before its data. Every appended entry can be decoded. A command that
//! decodes and is invalid is not refused here, but where it is decided, on every node alike.
//!
//! See also: terms and indexes of a message (`transport::admission`), and what a command may be
//! ([`crate::model::validate`]).

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};

use super::decoded_entries::Decoded;
use crate::model::validate;
use crate::model::{MemberChange, Proposal, Role, codec};

/// The payload of an entry.
#[derive(Debug, PartialEq)]
pub(crate) enum Payload {
    /// Nothing: the first entry of a leader's term, or a membership change that raft dropped.
    Nothing,
    /// A command.
    Command(Proposal),
    /// A membership change: for raft, and for the member table.
    Membership(ConfChange, MemberChange),
}

/// Decodes an entry.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(entry: &Entry) -> Result<Payload, String> {
    match entry.get_entry_type() {
        // A leader's first entry, and what raft puts in the place of a dropped change, have no data. A command always
        // has some.
        EntryType::EntryNormal if entry.data.is_empty() => Ok(Payload::Nothing),
        EntryType::EntryNormal => codec::decode(&entry.data).map(Payload::Command).map_err(|error| error.to_string()),
        EntryType::EntryConfChange => {
            let conf_change = ConfChange::parse_from_bytes(&entry.data).map_err(|error| error.to_string())?;
            let change = codec::decode(&entry.context).map_err(|error| error.to_string())?;
            Ok(Payload::Membership(conf_change, change))
        }
        EntryType::EntryConfChangeV2 => Err("it changes several members at once, which no huskv proposes".to_owned()),
    }
}

/// Checks that both halves of a membership change agree, and that its names and addresses are valid.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_membership(conf_change: &ConfChange, change: &MemberChange) -> Result<(), String> {
    let wanted = match change {
        MemberChange::Set(member) if member.role == Role::Voter => (ConfChangeType::AddNode, member.raft_id),
        MemberChange::Set(member) => (ConfChangeType::AddLearnerNode, member.raft_id),
        MemberChange::Remove { raft_id } => (ConfChangeType::RemoveNode, *raft_id),
    };
    if (conf_change.get_change_type(), conf_change.node_id) != wanted {
        return Err("what it means to raft is not what it means to the member table".to_owned());
    }
    validate::member_change(change).map_err(|refusal| refusal.detail)
}

/// Checks that every entry of a message could be applied once it is committed; returns its commands.
///
/// # Errors
/// What is wrong with the first entry that cannot.
pub(crate) fn check_append(message: &Message) -> Result<Vec<Decoded>, String> {
    match message.get_msg_type() {
        MessageType::MsgAppend => {}
        MessageType::MsgPropose => return Err("a proposal, which never travels so".to_owned()),
        // Raft looks at its first entry without a question.
        MessageType::MsgReadIndex if message.entries.len() != 1 => {
            return Err("a request for a read index without its context".to_owned());
        }
        _ => return Ok(Vec::new()),
    }
    // Beyond the end of a log raft takes its term for 0, and would find that it matches.
    if message.index > 0 && message.log_term == 0 {
        return Err(format!("an append behind entry {} of no term", message.index));
    }
    let mut decoded = Vec::with_capacity(message.entries.len());
    for entry in message.entries.iter() {
        let sound = decode(entry).and_then(|payload| match payload {
            Payload::Membership(conf_change, change) => check_membership(&conf_change, &change),
            Payload::Command(proposal) => {
                let (index, term, data) = (entry.index, entry.term, entry.data.clone());
                decoded.push(Decoded { index, term, data, proposal });
                Ok(())
            }
            Payload::Nothing => Ok(()),
        });
        sound.map_err(|why| format!("entry {} of term {} cannot be read: {why}", entry.index, entry.term))?;
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Command, Member};

    fn check_append(message: &Message) -> Result<(), String> {
        super::check_append(message).map(drop)
    }

    fn append(entry: Entry) -> Message {
        Message { msg_type: MessageType::MsgAppend, entries: vec![entry].into(), ..Message::default() }
    }

    fn command(data: Vec<u8>) -> Entry {
        Entry { data: data.into(), ..Entry::default() }
    }

    fn membership(kind: ConfChangeType, node_id: u64, context: Vec<u8>) -> Entry {
        let mut conf_change = ConfChange { node_id, ..ConfChange::default() };
        conf_change.set_change_type(kind);
        let data = conf_change.write_to_bytes().unwrap();
        let mut entry = Entry { data: data.into(), context: context.into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        entry
    }

    fn member(role: Role) -> Member {
        let (raft_address, http_address) = ("a:1".to_owned(), "a:2".to_owned());
        Member { name: "a".into(), raft_id: 5, raft_address, http_address, role }
    }

    fn set(member: Member) -> Vec<u8> {
        codec::encode(&MemberChange::Set(member))
    }

    #[test]
    fn what_a_leader_proposes_is_appended() {
        let removal = codec::encode(&MemberChange::Remove { raft_id: 5 });
        for entry in [
            Entry::default(),
            command(Proposal::encode(7, &Command::put("k", "v").into())),
            // It is refused where it is decided, on every node alike.
            command(Proposal::encode(7, &Command::put("", "v").into())),
            membership(ConfChangeType::AddLearnerNode, 5, set(member(Role::Learner))),
            membership(ConfChangeType::AddNode, 5, set(member(Role::Voter))),
            membership(ConfChangeType::RemoveNode, 5, removal),
        ] {
            assert_eq!(check_append(&append(entry)), Ok(()));
        }
    }

    #[test]
    fn what_no_node_could_apply_is_not_appended() {
        let sound = Proposal::encode(7, &Command::put("k", "v").into());
        let mut longer = sound.clone();
        longer.push(0);
        let mut newer = sound.clone();
        newer[0] += 1;
        let mut joint = Entry::default();
        joint.set_entry_type(EntryType::EntryConfChangeV2);
        let named = |name: &str| set(Member { name: name.into(), ..member(Role::Learner) });
        let addressed = |address: &str| set(Member { http_address: address.into(), ..member(Role::Learner) });
        let learner = ConfChangeType::AddLearnerNode;
        for entry in [
            command(b"x".to_vec()),
            command(sound[..sound.len() - 1].to_vec()),
            command(longer),
            command(newer),
            joint,
            membership(learner, 5, Vec::new()),
            membership(learner, 5, b"\x01\x09".to_vec()),
            membership(learner, 6, set(member(Role::Learner))),
            membership(learner, 5, set(member(Role::Voter))),
            membership(ConfChangeType::RemoveNode, 5, set(member(Role::Learner))),
            membership(learner, 0, set(Member { raft_id: 0, ..member(Role::Learner) })),
            membership(learner, 5, named("")),
            membership(learner, 5, named("a\r\n\u{1b}[2J")),
            membership(learner, 5, addressed("a")),
            membership(learner, 5, addressed("0.0.0.0:1")),
        ] {
            let message = append(entry);
            assert!(check_append(&message).is_err(), "{message:?}");
        }
        let proposal = Message { msg_type: MessageType::MsgPropose, ..append(command(sound)) };
        assert!(check_append(&proposal).is_err());
    }

    #[test]
    fn what_would_end_raft_is_not_stepped() {
        let beyond =
            |log_term| Message { msg_type: MessageType::MsgAppend, index: 105, log_term, ..Message::default() };
        assert!(check_append(&beyond(0)).is_err() && check_append(&beyond(1)).is_ok());
        let read = |entries: usize| Message {
            msg_type: MessageType::MsgReadIndex,
            entries: vec![Entry::default(); entries].into(),
            ..Message::default()
        };
        assert!(check_append(&read(0)).is_err() && check_append(&read(1)).is_ok() && check_append(&read(2)).is_err());
    }
}
