//! How many more nodes may fail, as a number and as a sentence.
//!
//! Why: whether another failure can be taken is the second question of every alarm, and its answer should need no arithmetic.
//!
//! Invariants: it is never more than the leader says, and never more than the voters that answer here allow.

/// What a node knows of the voters.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// Whether the node is a member of a cluster.
    pub(super) is_member: bool,
    /// The leader that it knows.
    pub(super) leader: Option<&'a str>,
    /// Whether that leader has answered that it does not lead.
    pub(super) is_denied: bool,
    /// Another member that is ready, so it hears a leader.
    pub(super) ready: Option<&'a str>,
    /// How many more voters may fail by the leader's own report.
    pub(super) of_leader: Option<u64>,
    /// The voters.
    pub(super) voters: &'a [Voter<'a>],
}

/// A voter.
#[derive(Debug)]
pub(super) struct Voter<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Whether it answers.
    pub(super) answers: bool,
    /// The space on its disk.
    pub(super) disk: Disk,
}

/// The space on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// Enough, as far as is known.
    Room,
    /// Less than the reserve: nothing is written that may add data.
    NearlyFull,
    /// Less than the floor: nothing is written.
    BelowFloor,
}

/// Returns how many more nodes may fail before writes stop, None where that is not known or they have; and the same in words.
pub(super) fn tolerance(view: &View<'_>) -> (Option<u64>, String) {
    if !view.is_member {
        return (None, "not known: this node is in no cluster".to_owned());
    }
    let count = view.voters.len();
    let quorum = count / 2 + 1;
    let silent: Vec<&str> = view.voters.iter().filter(|voter| !voter.answers).map(|voter| voter.name).collect();
    let answering = count - silent.len();
    let Some(leader) = view.leader else {
        if let Some(ready) = view.ready {
            return (None, format!("not known: this node does not hear a leader, and {ready} does"));
        }
        let why = if answering < quorum {
            format!("{answering} of {count} voters {}, and {quorum} are needed", verb(answering, "answers", "answer"))
        } else {
            "there is no leader; an election takes some seconds".to_owned()
        };
        return (None, format!("writes are stopped: {why}"));
    };
    if silent.contains(&leader) {
        return (None, format!("not known: the leader {leader} does not answer"));
    }
    if view.is_denied {
        return (None, format!("not known: {leader} was the leader, and does not say that it leads"));
    }
    let here = answering.saturating_sub(quorum) as u64;
    let left = view.of_leader.map_or(here, |of_leader| of_leader.min(here));
    for (disk, stopped) in [(Disk::BelowFloor, "all writes"), (Disk::NearlyFull, "writes that add data")] {
        let full: Vec<&str> = view.voters.iter().filter(|voter| voter.disk == disk).map(|voter| voter.name).collect();
        if !full.is_empty() {
            let (disks, are) = (verb(full.len(), "disk", "disks"), verb(full.len(), "is", "are"));
            let full = listed(&full);
            return (Some(left), format!("{stopped} are stopped: the {disks} of {full} {are} nearly full"));
        }
    }
    let sentence = match left {
        0 if !silent.is_empty() => {
            format!("no node may fail: {} {} not answer", listed(&silent), verb(silent.len(), "does", "do"))
        }
        0 if here > 0 => "no node may fail: a voter does not answer the leader".to_owned(),
        0 => {
            let voters_have = verb(count, "voter has", "voters have");
            format!("no node may fail: {count} {voters_have} none to spare")
        }
        1 => "one more node may fail".to_owned(),
        2 => "two more nodes may fail".to_owned(),
        more => format!("{more} more nodes may fail"),
    };
    (Some(left), sentence)
}

fn verb(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

/// Lists names for a sentence.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentence about voters `n1`, `n2`, ... of which these do not answer.
    fn about(count: usize, silent: &[usize], leader: Option<&str>, of_leader: Option<u64>) -> (Option<u64>, String) {
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let voters = names.iter().enumerate();
        let voters = voters.map(|(at, name)| Voter { name, answers: !silent.contains(&(at + 1)), disk: Disk::Room });
        tolerance(&View {
            is_member: true,
            leader,
            is_denied: false,
            ready: None,
            of_leader,
            voters: &voters.collect::<Vec<_>>(),
        })
    }

    #[test]
    fn the_sentence_follows_from_the_voters_that_answer_and_the_leader() {
        let n1 = Some("n1");
        for (found, number, sentence) in [
            (about(3, &[], n1, Some(1)), Some(1), "one more node may fail"),
            (about(5, &[], n1, Some(2)), Some(2), "two more nodes may fail"),
            (about(7, &[], n1, Some(3)), Some(3), "3 more nodes may fail"),
            (about(3, &[], n1, None), Some(1), "one more node may fail"),
            (about(1, &[], n1, Some(0)), Some(0), "no node may fail: 1 voter has none to spare"),
            (about(2, &[], n1, Some(0)), Some(0), "no node may fail: 2 voters have none to spare"),
            (about(3, &[3], n1, Some(1)), Some(0), "no node may fail: n3 does not answer"),
            (about(5, &[3, 5], n1, Some(0)), Some(0), "no node may fail: n3 and n5 do not answer"),
            (about(3, &[], n1, Some(0)), Some(0), "no node may fail: a voter does not answer the leader"),
            (about(3, &[1], n1, None), None, "not known: the leader n1 does not answer"),
            (about(3, &[2, 3], None, None), None, "writes are stopped: 1 of 3 voters answers, and 2 are needed"),
            (about(5, &[1, 2, 3], None, None), None, "writes are stopped: 2 of 5 voters answer, and 3 are needed"),
            (
                about(3, &[1], None, None),
                None,
                "writes are stopped: there is no leader; an election takes some seconds",
            ),
        ] {
            assert_eq!(found, (number, sentence.to_owned()));
        }
    }

    #[test]
    fn a_node_that_alone_does_not_hear_the_leader_does_not_say_that_writes_are_stopped() {
        let voters = ["n1", "n2", "n3"].map(|name| Voter { name, answers: name != "n1", disk: Disk::Room });
        let view = View {
            is_member: true,
            leader: None,
            is_denied: false,
            ready: Some("n3"),
            of_leader: None,
            voters: &voters,
        };
        let sentence = "not known: this node does not hear a leader, and n3 does";
        assert_eq!(tolerance(&view), (None, sentence.to_owned()));
    }

    #[test]
    fn a_leader_that_denies_it_is_none() {
        let voters = ["n1", "n2", "n3"].map(|name| Voter { name, answers: true, disk: Disk::Room });
        let view = View {
            is_member: true,
            leader: Some("n3"),
            is_denied: true,
            ready: None,
            of_leader: None,
            voters: &voters,
        };
        assert_eq!(tolerance(&view), (None, "not known: n3 was the leader, and does not say that it leads".to_owned()));
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_named() {
        use Disk::{BelowFloor, NearlyFull, Room};
        for ([n1, n2, n3], sentence) in [
            (
                [NearlyFull, Room, NearlyFull],
                "writes that add data are stopped: the disks of n1 and n3 are nearly full",
            ),
            ([NearlyFull, Room, BelowFloor], "all writes are stopped: the disk of n3 is nearly full"),
        ] {
            let voters = [("n1", n1), ("n2", n2), ("n3", n3)];
            let voters = voters.map(|(name, disk)| Voter { name, answers: true, disk });
            let view = View {
                is_member: true,
                leader: Some("n1"),
                is_denied: false,
                ready: None,
                of_leader: Some(1),
                voters: &voters,
            };
            assert_eq!(tolerance(&view), (Some(1), sentence.to_owned()));
        }
    }
}
