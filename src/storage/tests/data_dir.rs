//! Data directory tests: fresh, restarted, joined, half created, of another node.

use std::fs;

use raft::eraftpb::{ConfState, Entry, HardState};

use super::{boot, put, sled};
use crate::model::Role;
use crate::storage::layout;
use crate::storage::layout::IDENTITY;
use crate::storage::{Copied, DataDir, Error, Incarnation, SledEngine, identity, peek};

fn start(dir: &std::path::Path, name: &str) -> Result<(DataDir, Incarnation), Error> {
    DataDir::open(sled(dir), boot(name))
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: "x".into(), ..Entry::default() }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

#[test]
fn a_fresh_directory_is_a_cluster_of_one_as_if_a_snapshot_existed() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, Incarnation { journal, state_machine }) = start(&dir.path().join("a/b"), "n1").unwrap();
    let identity = data_dir.identity().clone();
    assert!(identity.ready && !identity.formed && !identity.removed && identity.started_as == "n1");
    assert!((1..1 << 53).contains(&identity.raft_id) && (1..1 << 53).contains(&identity.cluster_id));
    assert_eq!((journal.first_index(), journal.last_index(), journal.term(1)), (2, 1, Some(1)));
    assert_eq!((journal.hard_state(), journal.generation()), (hard_state(1, 0, 1), 1));
    assert_eq!((state_machine.applied(), state_machine.keys(), state_machine.was_written()), ((1, 1), 0, false));
    assert_eq!(state_machine.conf_state(), &ConfState { voters: vec![identity.raft_id], ..ConfState::default() });
    let member = state_machine.members().get(identity.raft_id).unwrap();
    assert_eq!((member.name.as_str(), member.role), ("n1", Role::Voter));
    assert_eq!(peek(&dir.path().join("a/b")).unwrap(), Some(identity));
}

#[test]
fn synced_entries_survive_a_restart_and_the_commit_covers_the_applied_index() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, Incarnation { mut journal, mut state_machine }) = start(dir.path(), "n1").unwrap();
    journal.append(&[entry(2, 1), entry(3, 1)], &hard_state(1, 9, 1)).unwrap();
    journal.sync().unwrap();
    state_machine.apply(vec![put(2, b"k", vec![5; 70_000]), put(3, b"l", vec![6])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    let identity = data_dir.identity().clone();
    drop((data_dir, journal, state_machine));
    let (data_dir, Incarnation { journal, state_machine }) = start(dir.path(), "n1").unwrap();
    let boot_history = &data_dir.identity().boot_history;
    assert_eq!((boot_history.current.count, &boot_history.before), (2, &vec![identity.boot_history.current]));
    assert_ne!(boot_history.current.nonce, identity.boot_history.current.nonce);
    assert_eq!(data_dir.identity(), &identity::Identity { boot_history: boot_history.clone(), ..identity });
    assert_eq!(peek(dir.path()).unwrap().as_ref(), Some(data_dir.identity()), "it is durable before anything is said");
    assert_eq!(journal.hard_state(), hard_state(1, 9, 3));
    assert_eq!(journal.entries(2, 4, u64::MAX).unwrap(), [entry(2, 1), entry(3, 1)]);
    assert_eq!(state_machine.get(b"k").unwrap().unwrap().value.bytes, vec![5; 70_000]);
    assert_eq!((state_machine.applied(), state_machine.keys()), ((3, 1), 2));
}

#[test]
fn a_log_that_does_not_reach_the_state_is_lost() {
    for (entries, applied, hard) in [
        (vec![entry(2, 1)], 3, hard_state(1, 0, 2)),
        (vec![entry(2, 1), entry(3, 2)], 3, hard_state(2, 0, 3)),
        (vec![entry(2, 1)], 2, hard_state(1, 0, 3)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, Incarnation { mut journal, mut state_machine }) = start(dir.path(), "n1").unwrap();
        journal.append(&entries, &hard).unwrap();
        state_machine.apply((2..=applied).map(|index| put(index, b"k", vec![1])).collect(), usize::MAX).unwrap();
        state_machine.flush().unwrap();
        drop((data_dir, journal, state_machine));
        let error = start(dir.path(), "n1").err().unwrap();
        assert!(error.to_string().contains("log lost") && error.to_string().contains("/raft/join"), "{error}");
    }
}

#[test]
fn a_log_that_begins_after_the_state_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, Incarnation { mut journal, state_machine }) = start(dir.path(), "n1").unwrap();
    journal.append(&[entry(2, 1)], &hard_state(1, 0, 2)).unwrap();
    journal.append(&[entry(3, 1)], &hard_state(1, 0, 3)).unwrap();
    journal.compact(2, 100).unwrap();
    drop((data_dir, journal, state_machine));
    let error = start(dir.path(), "n1").err().unwrap();
    assert!(error.to_string().contains("begins with entry 3"), "{error}");
}

#[test]
fn a_rewritten_journal_is_in_use_once_the_identity_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, Incarnation { mut journal, state_machine }) = start(dir.path(), "n1").unwrap();
    let own = data_dir.identity().raft_id;
    journal.append(&[entry(2, 1), entry(3, 1)], &hard_state(1, 0, 2)).unwrap();
    let mut rewrite = data_dir.rewrite_journal(&journal, &hard_state(1, 0, 2), 0).unwrap();
    assert_eq!(rewrite.step(&journal, &hard_state(1, 0, 2), u64::MAX).unwrap(), Copied::Complete);
    assert!(data_dir.garbage(1).unwrap().is_empty(), "one is in use, the other is being written");
    drop((data_dir, rewrite, journal, state_machine));
    // A crash before the switch.
    let (mut data_dir, Incarnation { journal, state_machine }) = start(dir.path(), "n1").unwrap();
    assert_eq!((data_dir.identity().journal, journal.last_index()), (0, 3));
    assert_eq!(data_dir.garbage(1).unwrap(), [format!("{own}/journal-1")]);
    let mut rewrite = data_dir.rewrite_journal(&journal, &hard_state(1, 7, 3), 0).unwrap();
    assert_eq!(rewrite.step(&journal, &hard_state(1, 7, 3), u64::MAX).unwrap(), Copied::Complete);
    let copy = data_dir.switch_journal(rewrite).unwrap();
    let mut garbage = data_dir.garbage(1).unwrap();
    garbage.sort();
    assert_eq!(garbage, ["journal", "journal-1"].map(|name| format!("{own}/{name}")));
    drop((journal, copy, state_machine));
    garbage.iter().for_each(|name| data_dir.engine().remove(name).unwrap());
    drop(data_dir);
    let (data_dir, Incarnation { journal, .. }) = start(dir.path(), "n1").unwrap();
    assert_eq!((data_dir.identity().journal, journal.last_index()), (2, 3));
    assert_eq!((journal.hard_state(), journal.term(2)), (hard_state(1, 7, 3), Some(1)));
    assert!(data_dir.garbage(1).unwrap().is_empty());
}

#[test]
fn a_rewritten_journal_begins_behind_what_a_compaction_would_remove() {
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, Incarnation { mut journal, .. }) = start(dir.path(), "n1").unwrap();
    journal.append(&[entry(2, 1), entry(3, 1), entry(4, 2)], &hard_state(2, 0, 4)).unwrap();
    journal.record_checkpoint(4, 2);
    let mut rewrite = data_dir.rewrite_journal(&journal, &hard_state(2, 0, 4), 3).unwrap();
    assert_eq!(rewrite.last_index(), 3);
    // A compaction that goes no further than the copy does not disturb it.
    journal.compact(3, usize::MAX).unwrap();
    assert_eq!(rewrite.step(&journal, &hard_state(2, 0, 4), u64::MAX).unwrap(), Copied::Complete);
    let copy = data_dir.switch_journal(rewrite).unwrap();
    assert_eq!((copy.first_index(), copy.last_index(), copy.term(3), copy.checkpoint()), (4, 4, Some(1), (4, 2)));
}

#[test]
fn one_directory_one_process_one_name() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), "n1").unwrap();
    assert!(matches!(SledEngine::new(dir.path()), Err(Error::Busy { .. })));
    drop(running);
    let other = start(dir.path(), "n2").err().unwrap();
    assert!(matches!(&other, Error::OtherName { found, asked, .. } if found == "n1" && asked == "n2"), "{other}");
    start(dir.path(), "n1").unwrap();
}

#[test]
fn a_start_that_was_killed_is_begun_again_and_a_lost_identity_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, incarnation) = start(dir.path(), "n1").unwrap();
    let mut identity = data_dir.identity().clone();
    drop((data_dir, incarnation));
    let folder = dir.path().join(identity.raft_id.to_string());
    identity.ready = false;
    fs::write(dir.path().join(IDENTITY), identity::encode(&identity)).unwrap();
    fs::remove_file(folder.join("journal/conf")).unwrap();
    let (data_dir, incarnation) = start(dir.path(), "n1").unwrap();
    assert!(data_dir.identity().ready);
    assert_eq!(data_dir.identity().raft_id, identity.raft_id);
    drop((data_dir, incarnation));
    fs::remove_file(dir.path().join(IDENTITY)).unwrap();
    let error = start(dir.path(), "n1").err().unwrap();
    assert!(error.to_string().contains("identity is missing"), "{error}");
    assert!(!dir.path().join(IDENTITY).exists(), "nothing was written");
}

#[test]
fn a_join_commits_with_the_identity_and_keeps_the_old_incarnation_until_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, old) = start(dir.path(), "n1").unwrap();
    let old_id = data_dir.identity().raft_id;
    let Incarnation { journal, state_machine } = data_dir.switch_incarnation(77, "r:1", "h:1", false).unwrap();
    assert_eq!((journal.first_index(), journal.last_index(), journal.term(0)), (1, 0, Some(0)));
    assert_eq!((journal.hard_state(), state_machine.applied()), (HardState::default(), (0, 0)));
    assert!(state_machine.members().is_empty() && state_machine.conf_state() == &ConfState::default());
    assert!(data_dir.garbage(1).unwrap().is_empty());
    let identity = data_dir.identity().clone();
    assert!(identity.cluster_id == 77 && identity.raft_id != old_id && !identity.formed);
    drop((data_dir, old, journal, state_machine));
    let (mut data_dir, incarnation) = start(dir.path(), "n1").unwrap();
    let boot_history = data_dir.identity().boot_history.clone();
    assert_eq!(data_dir.identity(), &identity::Identity { boot_history, ..identity });
    assert_eq!(incarnation.state_machine.applied(), (0, 0));
    assert!(data_dir.garbage(1).unwrap().is_empty(), "nor is it after a start");
    data_dir.commit_join().unwrap();
    assert!(data_dir.identity().formed && data_dir.identity().previous.is_none());
    assert_eq!(data_dir.garbage(1).unwrap(), [old_id.to_string()]);
    for name in data_dir.garbage(1).unwrap() {
        data_dir.engine().remove(&name).unwrap();
    }
    assert!(!dir.path().join(old_id.to_string()).exists());
}

#[test]
fn an_install_commits_with_the_journal_and_garbage_is_what_nothing_names() {
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, Incarnation { mut journal, mut state_machine }) = start(dir.path(), "n1").unwrap();
    journal.append(&[entry(2, 1)], &hard_state(1, 0, 2)).unwrap();
    state_machine.apply(vec![put(2, b"k", vec![1])], usize::MAX).unwrap();
    let folder = data_dir.identity().raft_id;
    for name in ["7", "7/machine-1", "07", "other"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::create_dir_all(dir.path().join(layout::state_machine(folder, 4))).unwrap();
    let mut writer = data_dir.reserve_generation().unwrap().open(0).unwrap();
    assert_eq!(data_dir.garbage(1).unwrap(), ["7".into(), layout::state_machine(folder, 4)]);
    let (mut spooler, mut reader) = state_machine.begin_snapshot(data_dir.engine().scratch().unwrap(), 1 << 20);
    state_machine.flush().unwrap();
    state_machine.end_snapshot();
    super::spool_rest(&mut spooler).unwrap();
    let metadata = loop {
        match reader.next().unwrap() {
            crate::storage::Frame::Scan(changes) | crate::storage::Frame::Effects(changes) => {
                writer.write(&changes).unwrap()
            }
            crate::storage::Frame::End(metadata) => break metadata,
        }
    };
    let (generation, snapshot) = writer.finish(&metadata).unwrap().take();
    assert_eq!(generation, 5);
    assert!(!data_dir.garbage(1).unwrap().contains(&layout::state_machine(folder, 5)), "taken, and about to be named");
    journal.install(2, 1, generation, &hard_state(3, 0, 2)).unwrap();
    assert_eq!(
        data_dir.garbage(5).unwrap(),
        ["7".into(), layout::state_machine(folder, 1), layout::state_machine(folder, 4)]
    );
    drop((data_dir, journal, state_machine, snapshot, spooler, reader));
    let (data_dir, incarnation) = start(dir.path(), "n1").unwrap();
    assert_eq!((incarnation.journal.generation(), incarnation.journal.term(2)), (5, Some(1)));
    assert_eq!(incarnation.state_machine.get(b"k").unwrap().unwrap().version, 2);
    assert_eq!(data_dir.garbage(5).unwrap().len(), 3);
}

#[test]
fn picked_ports_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    drop(start(dir.path(), "n1").unwrap());
    let mut picked = boot("n1");
    picked.picked_http_port = Some(4000);
    drop(DataDir::open(sled(dir.path()), picked).unwrap());
    drop(start(dir.path(), "n1").unwrap());
    let identity = peek(dir.path()).unwrap().unwrap();
    assert_eq!((identity.picked_http_port, identity.picked_raft_port), (Some(4000), None));
}
