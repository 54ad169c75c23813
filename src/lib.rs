//! huskv: a replicated key-value node. One binary, four environment variables, a Raft cluster you can curl.
//!
//! This is the architecture page. It says what the node promises, which room does what, and which way a request takes
//! through the house.
//!
//! # Promises
//!
//! 1. A 2xx answer to a write means: synced to the disks of a majority, applied, and never lost again, whatever is killed
//!    or unplugged next. An error says whether the write was `not_applied` or is `unknown`.
//! 2. A read is linearizable on any node unless the caller asks for `stale`.
//! 3. A membership change cannot lose the quorum by accident, cannot destroy data that was not handed over, and never
//!    deposes a healthy leader.
//! 4. No manual upkeep: no defragmentation, no alarm to disarm. Space is used again, though not given back; what would fill
//!    a disk is refused before it does.
//! 5. A node that cannot keep these promises (disk error, corrupted file, impossible log) stops with a clear message and
//!    a non-zero exit code.
//!
//! # Floor plan
//!
//! | room | what it is | may use |
//! |---|---|---|
//! | [`model`] | values and the pure rule from command to outcome | nothing |
//! | [`storage`] | the disk: journal, machine, identity; the only sled | model |
//! | [`consensus`] | the loop around raft; the only `RawNode` | model, storage |
//! | [`transport`] | peers: frames, connections, streams | model, storage's snapshot ends, consensus's door |
//! | [`http`] | clients: routes, errors; the only warp | model, consensus's door |
//! | [`client`] | the Rust client: endpoints, leader first, retries by `outcome`, watches | model |
//! | [`node`] | puts the rooms together, stops them in reverse | all of these |
//! | [`plant`] | bugs that a test build can let in; not in a release | nothing |
//! | [`config`] | settings | model |
//! | [`logging`], [`cli`] | the log, the command line | config, logging, node, client |
//!
//! `tests/tidy.rs` holds the table. Nothing below holds a handle to anything above: a request carries its own reply.
//!
//! # The life of one PUT
//!
//! 1. `http::api::store` reads the body up to its limit, checks key, value and condition ([`model::validate`]), and calls
//!    [`consensus::Handle::request`]. The queue behind it is bounded; a full one is a 503 at once.
//! 2. The loop (`consensus::task`) drains its inbox, checks each request again, whoever sent it, and, once the writes
//!    before them are committed, steps all that have gathered as one proposal, one log entry each (`consensus::proposals`). So the raft index of the entry is the version
//!    of the key.
//! 3. `consensus::driver::ready`: the leader's appends leave while its own [`storage::Journal`] writes one record and syncs it
//!    once. Followers do the same and acknowledge only then.
//! 4. Committed entries become one atomic batch of the [`storage::StateMachine`], with the applied index in it.
//!    [`model::decide`] says what each does, and whether its condition is true. Batches gather in memory and go into the
//!    tree many as one (`storage::kv::memtable`): the journal is the durability.
//! 5. `consensus::proposals::waiters` wakes the request that waits for exactly this (term, index), and http answers.
//!
//! On a follower, step 2 is [`consensus::Outbox::forward`]: one hop over the peer connection to the leader's loop, and
//! the answer comes back the same way. A follower that does not reach the leader sends writes through one voter that
//! does; further no request goes ([`consensus::Hop`]), and none is proposed again once its outcome is unknown.
//!
//! # The life of one event
//!
//! Applying a batch also says what became of each key, on every node alike ([`model::Event`]). The loop hands that to the
//! [`changefeed::ChangeFeed`], a bounded memory of the latest events, before it wakes the waiters of step 5. One task of
//! `http::api::watch` hears of it and wakes the watchers; each reads on from its own cursor, in bounded pieces, and is told
//! when it has fallen behind what is kept. An event is named by its place in the log, so a watcher goes on after it on any
//! node.
//!
//! # Laws
//!
//! * One thread owns raft, journal, machine and waiters. Nothing is stepped between `ready()` and its advance.
//! * No follower's answer leaves before its sync; nor does a leader's message that rests on a new term or vote.
//! * `applied <= commit <= last`. Effects and the applied index are one batch.
//! * Whatever changes state is one entry, and is decided where it is applied: conditions, transactions, removals by prefix,
//!   and whether a request with an idempotency key was done before.
//! * What a command may be is one check, [`model::validate`]: by http, by the loop before it proposes, and where an entry
//!   is decided, as a refusal alike on every node. Nothing is appended that cannot be decoded (`consensus::raft_node::entry_codec`).
//! * Apply reads no clock: the leader stamps each entry with the cluster's time (`consensus::proposals::cluster_clock`), and a key goes when
//!   the entry that removes it is applied.
//! * The work and the time of a turn are bounded: inputs, reads, pages and committed entries that ask for more wait for the
//!   next one, and heartbeats leave between two.
//! * No request is proposed after its deadline, and a refusal after an effect never says `not_applied`.
//! * A node that lags behind its leader refuses linearizable reads at once, and says so (`consensus::liveness::readiness`).
//! * What a leader once sent proves nothing about now: a node's state counts as fresh from the moment it asked.
//! * Reads, pages too, are answered between two batches, so each is one state.
//! * No start and no guarantee depends on the wall clock, and libraries see it within 1970 to 9999 (`storage::sled::wall_clock`).
//! * sled's flush is made a real fdatasync (`storage::sled::fsync`), and a node that cannot prove it does not start. Values
//!   are stored in pieces of at most 4 KiB, because sled never syncs what it puts into `blobs/`.
//! * What a client holds at its own speed is bounded, divided by where it comes from, and taken from it where it is too slow
//!   (`http::server::memory_budget`, `http::server::min_rate`); all of it follows from one number (`node::memory`). What is refused costs the loop nothing.
//! * The loop waits for no watcher. A watcher sees every event from its cursor on once and in order, or is told that it
//!   cannot.
//! * The log is compacted only behind what the machine has synced.
//! * A raft id is one incarnation of one directory: random, never reused, a tombstone once removed. Joining means a new
//!   incarnation, made before any log entry names it; the one before is kept, and can be gone back to, until the cluster's
//!   state is installed (`consensus::driver::lifecycle`).
//! * What comes in at the peer port is bounded before it is decoded, and a snapshot is taken from the present leader alone.
//!   Nobody's word but the member table makes a node dial an address for long.
//! * What would end a node if it were true (its removal, a lost log, a state that is not the leader's) is a claim: the node
//!   stops serving and asks the other voters (`consensus::verification`). A term is believed within a bound far below what
//!   can be counted (`consensus::verification::term_bound`).
//! * Members tell what their disks have left ([`model::DiskSpace`]), less what they have yet to write. While a voter has less
//!   than its reserve, nothing that may make the state larger is proposed for a client (`consensus::proposals::disk_space`), and no
//!   copy of the state touches a reserve. Below its floor nothing that changes a key is proposed, and its checkpoints wait.
//! * The loop closes no database: that is done elsewhere, as is every removal.
//! * Nodes compare their states: the leader tells its digest every second (`consensus::verification::digests`), and who differs ends.
//! * A start of a process is a life ([`model::BootHistory`]). A peer is spoken to only in the life that is known or one that
//!   follows from it, durably noted first ([`storage::Peers`]): a copy of a disk is no member.
//! * Poison: after a failed write or sync nothing is believed any more, and the process ends.
//!
//! # What is left out
//!
//! gRPC, other storage engines, and asynchronous replication: each would double what has to be proven. Leases for reads:
//! a transfer of leadership breaks them. Asynchronous appends: no gain at up to 64 clients, and two more ways to diverge.
//! TLS and logins: the ports bind loopback unless asked otherwise; put a proxy in front.

pub mod changefeed;
pub mod cli;
pub mod client;
pub mod config;
pub mod consensus;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod logging;
pub mod model;
pub mod node;
pub mod plant;
pub mod storage;
pub mod transport;
