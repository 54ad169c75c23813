//! huskv: a replicated key-value node. One binary, four environment variables, a Raft cluster you can curl.
//!
//! This is the architecture page: what the node promises, what each module does, and the path of a request.
//!
//! # Promises
//!
//! 1. A 2xx answer to a write means: synced to the disks of a majority, applied, and never lost again, whatever is killed
//!    or unplugged next. An error says whether the write was `not_applied` or is `unknown`.
//! 2. A read is linearizable on any node unless the caller asks for `stale`.
//! 3. A membership change cannot lose the quorum by accident, cannot destroy a node's own data without `force`, and
//!    never deposes a healthy leader.
//! 4. No manual upkeep: no defragmentation, no alarm to disarm. The space of old values is given back;
//!    what would fill a disk is refused before it does.
//! 5. A node that cannot keep these promises (disk error, corrupted file, impossible log) stops with a clear message and
//!    a non-zero exit code.
//!
//! # Modules
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`model`] | values, and the pure rule from command to result | nothing |
//! | [`storage`] | the disk: journal, state machine, snapshots, identity; the only sled | model, plant |
//! | [`changefeed`] | a bounded memory of the latest events, for watchers | model |
//! | [`consensus`] | the loop around raft; the only `RawNode` | model, storage, changefeed, telemetry, plant |
//! | [`transport`] | peers: frames, connections, snapshot streams | model, telemetry, trust, plant, the snapshot types of storage, the facade of consensus |
//! | [`trust`] | TLS: key pairs, CA bundles, handshakes, who is at the other end, refusals in words; a CA and what it issues; the only rustls | telemetry |
//! | [`auth`] | tokens: their file, secrets, grants, reloads | model, telemetry |
//! | [`http`] | clients: routes, errors; the only warp | model, changefeed, auth, telemetry, trust, the facade of consensus |
//! | [`client`] | the Rust client: endpoints, leader first, retries by `outcome`, watches | model, trust |
//! | [`config`] | settings | model, trust |
//! | [`node`] | composes the modules, and stops them in reverse; `node::fuzzing`, the fuzz targets, in test builds only | all of these |
//! | [`cli`] | the command line | auth, config, telemetry, node, client, trust |
//! | [`telemetry`] | what a node says of itself: the log with its rate limits, the file of the audit, figures for Prometheus, the load of the last minutes, the latest events of the node; the only prometheus_client | nothing |
//! | [`plant`] | planted bugs for test builds; not in a release | nothing |
//!
//! `tests/tidy.rs` holds the table. No module holds a handle to one above it: a request carries its own reply.
//!
//! # Threads
//!
//! The loop (`consensus::thread`) is one thread with raft, journal and state machine. Network I/O and reads of the state run on tokio's
//! workers. Removals, closes, flushes, rewrites, snapshot scans, the log and the audit file have threads of their own, and so has the cleaner of each sled database. `docs/design.md` draws them with their queues.
//!
//! # A PUT
//!
//! 1. `http::api::store` reads the body up to its limit, checks key, value and condition ([`model::validate`]), and calls
//!    [`consensus::Handle::request`]. The queue behind it is bounded in requests and bytes; a full one is a 503 at once.
//! 2. The loop (`consensus::thread`) drains its inbox, validates each request again, and, once the writes before them are
//!    committed, proposes all that have gathered, one log entry each (`consensus::proposals`). So the raft index of the entry
//!    is the version of the key.
//! 3. `consensus::driver::ready`: the leader's appends leave while its own [`storage::Journal`] writes one record and syncs it
//!    once. Followers do the same and acknowledge only then.
//! 4. Committed entries are applied by the [`storage::StateMachine`], in order. [`model::decide`] says what each does, and whether
//!    its condition is true. Its changes enter the memtable with the applied index (`storage::kv::memtable`): the journal is the
//!    durability. A thread of its own flushes the memtable into the tree (`storage::kv::flush`).
//! 5. `consensus::proposals::waiters` wakes the request that waits for exactly this (term, index), and http answers.
//!
//! On a follower, step 2 is [`consensus::Outbox::forward`]: one hop over the peer connection to the leader's loop, and
//! the answer comes back the same way. A follower that does not reach the leader sends writes through one voter that
//! does. No request goes further ([`consensus::Hop`]), and none is proposed again once its outcome is unknown.
//!
//! # An event
//!
//! Applying a batch also yields the change of each key, alike on every node ([`model::Event`]). The loop appends it to the
//! [`changefeed::ChangeFeed`] before it wakes the waiters of step 5. One task of `http::api::watch` wakes the watchers. Each
//! reads on from its own cursor, in bounded pieces, and is told when its cursor is no longer kept. An event is named by its
//! place in the log, so a watcher goes on after it on any node.
//!
//! # Invariants
//!
//! * One thread owns raft, journal, state machine and waiters. Nothing is stepped between `ready()` and its advance.
//! * No follower's answer leaves before its sync; nor does a leader's message that rests on a new term or vote.
//! * `applied <= commit <= last`. Effects and the applied index become visible at once, and reach the tree by one flush, whose redo
//!   record is durable before its first change (`storage::kv::flush::redo`).
//! * A change of state is one entry, and is decided where it is applied: conditions, transactions, removals by prefix,
//!   and whether a request with an idempotency key was done before.
//! * What a command may be is one check, [`model::validate`]: in http, in the loop before it proposes, and where an entry is
//!   decided, as a refusal alike on every node. No entry is appended that cannot be decoded (`consensus::raft_rs_adapter::entry_decode`).
//! * Apply reads no clock: the leader stamps each entry with the cluster's time (`consensus::proposals::cluster_clock`), and a
//!   key expires when the entry that removes it is applied.
//! * The work and the time of a turn are bounded: inputs and committed entries beyond the bound wait for the next one, and
//!   heartbeats leave between two.
//! * No request is proposed after its deadline, and a refusal after an effect never says `not_applied`.
//! * A node that lags behind its leader refuses linearizable reads at once, and says so (`consensus::liveness::readiness`).
//! * A node's state counts as fresh as of the moment when its read index round began, not when the answer came.
//! * Reads are answered by the threads that serve clients, from memtables and tree, and each is one state (`storage::kv::layers`). Pages
//!   of more than 32 keys have threads of their own, of low priority (`consensus::handle::page_readers`).
//! * No start and no guarantee depends on the wall clock, the dates of certificates aside, and libraries see it within 1970 to
//!   9999 (`storage::sled::clamped_system_time`).
//! * sled's flush is made a real fdatasync (`storage::sled::sync_override`), and a node that cannot prove it does not start. Values
//!   are stored in chunks of at most 4 KiB, because sled never syncs what it puts into `blobs/`.
//! * Memory that clients hold at their own speed is bounded, shared out by token or address, and taken from clients below a least rate
//!   (`http::server::fair_memory`, `http::server::min_rate`). All bounds follow from one number (`node::memory`). A refused
//!   request costs the loop nothing, and neither does one over its caller's rate (`http::clients::rate_limit`).
//! * A scrape of figures asks neither the loop nor the disk, and no label of them has a key ([`telemetry::metrics`]).
//! * What happens to a node (its leader, members, disk) is noted with its reason in a bounded ring, by the code that writes the log line, so both
//!   say the same ([`telemetry::node_events`]). Asking for it asks no loop.
//! * The loop waits for no watcher. A watcher sees every event from its cursor on once and in order, or is told that it
//!   cannot.
//! * The log is compacted only behind the checkpoint, which is what the state machine has synced.
//! * A raft id is one incarnation of one directory: random, never reused, a tombstone once removed. A join begins a new
//!   incarnation before any log entry names it. The previous one is kept, and can be rolled back to, until the cluster's
//!   state is installed (`consensus::driver::own_incarnation_switch`).
//! * Input at the peer port is bounded before it is decoded, and a snapshot is taken from the present leader alone. Only the
//!   member table makes a node dial an address for long.
//! * With TLS a peer speaks for the name in its certificate alone (`transport::admission`), and a member that has spoken TLS is never
//!   spoken to in plain again ([`storage::Peers`]).
//! * A message that would end a node if it were true (its removal, a lost log, a state that is not the leader's) is a claim:
//!   the node stops serving and asks the other voters (`consensus::claim_verification`). A term is believed within a bound far below
//!   what can be counted (`consensus::claim_verification::plausibility`).
//! * Members tell their free disk space ([`model::DiskSpace`]), less what they have yet to write. While a voter has less than
//!   its reserve, no client's write that may make the state larger is proposed (`consensus::proposals::disk_space`), and no
//!   snapshot takes from a reserve; a rewrite does where that is touched already, because it gives more back
//!   (`consensus::snapshots::reclaim`). Below the floor no change of a key is proposed, and checkpoints wait.
//! * The loop closes no database and removes no directory: a background thread does.
//! * Nodes compare their states: the leader tells its digest every second (`consensus::claim_verification::state_divergence`), and a node
//!   that differs ends.
//! * Each start of a process has a boot id ([`model::BootHistory`]). A peer is spoken to only under the boot id that is known or
//!   one that follows from it, recorded durably first ([`storage::Peers`]): a copied disk is no member.
//! * Poison: after a failed write or sync the process ends.
//!
//! # What is left out
//!
//! gRPC, other storage engines, and asynchronous replication: each would double what has to be proven. Leases for reads:
//! a transfer of leadership breaks them. Asynchronous appends: no gain at up to 64 clients, and two more ways to diverge.
//! Logins with passwords: a secret of 256 random bits needs no slow hash ([`auth`]).

pub mod auth;
pub mod changefeed;
pub mod cli;
pub mod client;
pub mod config;
pub mod consensus;
pub mod http;
pub mod model;
pub mod node;
pub mod plant;
pub mod storage;
pub mod telemetry;
pub mod transport;
pub mod trust;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use node::fuzzing;
