//! The composition root: builds all modules from the bottom up, and stops them from the top down.
//!
//! Why: no module below knows the settings or owns another one; each gets its small `Options` and a handle to its
//! neighbour.
//!
//! ```text
//! start:  signals -> ports -> HTTP server (503 starting) -> data directory -> transport -> consensus thread -> bootstrap
//! stop:   drain (all go on) -> bootstrap -> HTTP server and consensus thread, together -> transport
//! ```
//!
//! Invariants: both ports are bound before anything is created, so a refused start leaves nothing behind. A stop is bounded:
//! `STOP_LIMIT` after the drain the process ends, whatever blocks; every acknowledged write is durable, so nothing is lost. When the
//! consensus thread ends by itself the process ends at once: no HTTP server outlives it.
//!
//! See also: `cli` (exit codes), `src/lib.rs` (the modules).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slog::{Logger, crit, info, warn};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::auth::{TokenFileError, TokenStore};
use crate::config::{Config, Loaded};
use crate::consensus::{self, Handle, Inbox, Input};
use crate::http;
use crate::storage::{self, DataDir, Identity, Incarnation, OpenOptions, Peers, SledEngine};
use crate::telemetry::logging::{self, Guard};
use crate::transport;
use crate::trust::TrustError;
use crate::trust::peer_tls::PeerTls;

mod access_warnings;
mod allocator;
mod directory_size;
mod fd_budget;
mod forming;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod listen;
mod memory;
mod module_options;
mod open_progress;
pub mod panics;
pub mod process_settings;
mod reload;
mod shutdown_signals;

use fd_budget::FileLimit;
use listen::Ports;
use memory::Memory;
use reload::Reloader;
use shutdown_signals::StopSignals;
pub use shutdown_signals::{ISOLATE, RECONNECT, Stop};

/// How long the consensus thread has to transfer leadership and to answer pending requests.
const CONSENSUS_LIMIT: Duration = Duration::from_secs(3);

/// How long HTTP connections are drained: a little longer than [`CONSENSUS_LIMIT`], so that the last answers are sent, and
/// that the server answers by itself where a slow disk blocks the consensus thread.
const DRAIN_LIMIT: Duration = Duration::from_millis(3_500);

/// How long a stop takes at most, behind the drain.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// The file in the node's directory with the addresses that the node listens on.
const ADDRESSES: &str = "addresses.json";

/// The exit code of a node that could not start, or that failed.
const FAILED: u8 = 1;

/// Why a node does not run; the last line of the log.
#[derive(Debug, Error)]
pub enum Error {
    /// A port cannot be bound.
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    /// The data directory cannot be opened, or a write or sync failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A certificate, key or bundle cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The system refuses something that every process needs.
    #[error("{what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The system has no random numbers, without which no node id is safe.
    #[error("no random numbers: {0}")]
    Randomness(String),
    /// The process may open so few files that clients and peers would take those that the disk needs.
    #[error(
        "this process may open {0} files, and a node needs {least} at least; raise the hard limit (`ulimit -Hn`, `LimitNOFILE=` of \
         systemd, `--ulimit nofile=` of Docker)",
        least = fd_budget::MIN_FILES
    )]
    TooFewFiles(usize),
    /// The token file cannot be read or is wrong.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The audit file cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
    /// The consensus thread ended without an error.
    #[error("the consensus thread ended without a reason")]
    ConsensusLost,
}

/// Why the audit file cannot be used.
#[derive(Debug, Error)]
#[error("audit.file: cannot open {path:?} for appending: {source}")]
pub struct AuditFileError {
    path: PathBuf,
    source: std::io::Error,
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Runs one node until a stop condition or a failure, and returns the exit code: 0 after a stop, 1 where it could not start
/// or failed. The last line of the log has the reason.
#[must_use]
pub fn run(settings: &Loaded, stop: Stop, log: &Logger, guard: &Guard) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("async").build() {
        Ok(runtime) => runtime,
        Err(source) => {
            crit!(log, "huskv cannot start: {}", system("cannot start threads")(source));
            return FAILED;
        }
    };
    // On the heap, because the future holds the start of every module.
    let code = runtime.block_on(Box::pin(start_and_serve(settings, stop, log, guard)));
    // Tasks that still run have acknowledged nothing that is not on disk.
    runtime.shutdown_background();
    code
}

async fn start_and_serve(settings: &Loaded, stop: Stop, log: &Logger, guard: &Guard) -> u8 {
    let mut stop = match stop.listen() {
        Ok(stop) => stop,
        Err(source) => {
            crit!(log, "huskv cannot start: {}", system("cannot listen for signals")(source));
            return FAILED;
        }
    };
    let reload = Arc::clone(&stop.reload);
    // A start can take minutes with a large directory, and must be stoppable meanwhile.
    let mut node = tokio::select! {
        started = Node::start(settings, reload, log, guard) => match started {
            Ok(node) => node,
            Err(error) => {
                crit!(log, "huskv cannot start: {}", error);
                return FAILED;
            }
        },
        why = stop.wait() => {
            info!(log, "huskv stops before it has started"; "reason" => why);
            return 0;
        }
    };
    let why = tokio::select! {
        ended = &mut node.ended => {
            crit!(log, "huskv stops: {}", outcome(ended).err().unwrap_or(Error::ConsensusLost));
            return FAILED;
        }
        why = stop.wait() => why,
    };
    if let Err(error) =
        drain(&mut node, &mut stop, (why, Duration::from_millis(settings.config.http.drain_ms)), log).await
    {
        crit!(log, "huskv stops: {}", error);
        return FAILED;
    }
    info!(log, "huskv stops"; "reason" => why);
    bound_the_stop(log.clone(), guard.clone());
    match node.stop().await {
        Ok(()) => {
            info!(log, "huskv has stopped");
            0
        }
        Err(error) => {
            crit!(log, "huskv stops: {}", error);
            FAILED
        }
    }
}

/// Serves on for `limit`, or until the node is asked to stop once more, while `/readyz` fails.
async fn drain(
    node: &mut Node,
    stop: &mut StopSignals,
    (why, limit): (&str, Duration),
    log: &Logger,
) -> Result<(), Error> {
    node.server.control().begin_drain();
    if limit.is_zero() {
        return Ok(());
    }
    info!(log, "huskv is to stop: /readyz fails from now on, and requests are served until then"; "reason" => why,
        "http.drain_ms" => u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    tokio::select! {
        ended = &mut node.ended => outcome(ended).and(Err(Error::ConsensusLost)),
        () = tokio::time::sleep(limit) => Ok(()),
        _ = stop.wait() => Ok(()),
    }
}

/// The result of the consensus thread; a panic there has left none.
fn outcome(ended: Result<Result<(), storage::Error>, oneshot::error::RecvError>) -> Result<(), Error> {
    Ok(ended.map_err(|_| Error::ConsensusLost)??)
}

/// Ends the process after [`STOP_LIMIT`], from a thread of its own, which no blocked task or worker can hold up.
fn bound_the_stop(log: Logger, guard: Guard) {
    let watch = move || {
        std::thread::sleep(STOP_LIMIT);
        crit!(log, "the stop takes too long and is cut short; acknowledged writes are on disk");
        guard.flush();
        std::process::exit(0);
    };
    // If no thread can be started, the stop goes on without the bound.
    drop(std::thread::Builder::new().name("stop-limit".into()).spawn(watch));
}

/// A running node.
struct Node {
    server: http::Server,
    metrics_server: Option<http::Server>,
    transport: transport::Transport,
    handle: Handle,
    forming: Option<tokio::task::JoinHandle<()>>,
    /// The reloads and the purge, which end with the node.
    background: JoinSet<()>,
    ended: oneshot::Receiver<Result<(), storage::Error>>,
}

impl Node {
    /// Starts the node; `hangup` is notified when its settings are to be read again.
    async fn start(settings: &Loaded, hangup: Arc<Notify>, log: &Logger, guard: &Guard) -> Result<Self, Error> {
        let config = &settings.config;
        let directory = config.raft.vol_dir.clone();
        let files = FileLimit::of_the_process();
        if let Some(all) = files.too_few() {
            return Err(Error::TooFewFiles(all));
        }
        let http_tls = module_options::http_tls(config)?;
        let peer_tls = module_options::peer_tls(config)?;
        let tokens = config.auth.tokens.as_ref().map(|path| TokenStore::open(path, log.clone())).transpose()?;
        // Drawn before anything is created: without randomness no raft id is safe.
        let nonce = getrandom::u64().map_err(|source| Error::Randomness(source.to_string()))?;
        // The ports that an earlier start has picked are in the directory, which is opened only after the ports are bound.
        let stored = blocking({
            let directory = directory.clone();
            move || storage::peek(&directory)
        })
        .await?;
        let ports = listen::bind_or_wait(config, stored.as_ref(), log).await?;
        info!(log, "huskv starts"; "version" => env!("CARGO_PKG_VERSION"), "node" => &config.raft.node_id,
            "directory" => directory.display().to_string(), "http" => &ports.http.address,
            "raft" => &ports.raft.address, "advertised" => config.advertised_raft(ports.raft.port));
        let audit = http::Audit::new(&config.raft.node_id, log.clone());
        audit.switch(module_options::open_audit(config)?).map_err(system("cannot start threads"))?;
        guard.attach(audit.lines());
        let memory = Memory::new(config.limits.memory_mb);
        info!(log, "memory"; "limit_mb" => memory.whole.map_or(0, |bytes| bytes >> 20), "cache_mb" => module_options::cache_bytes(config, memory) >> 20);
        if memory.whole.is_some_and(|bytes| bytes < memory::MIN_MEMORY) {
            warn!(log, "the memory budget is below the minimum; under load the node takes more"; "min_mb" => memory::MIN_MEMORY >> 20);
        }
        if memory.is_small() {
            process_settings::disable_huge_pages(log);
        }
        allocator::set_purge_delay(memory.is_small());
        let open_options = module_options::open_options(config, &ports, memory);
        let addresses = json!({ "http": ports.http.address, "raft": ports.raft.address });
        let (handle, inbox) = consensus::channel(module_options::size(config.limits.pending_requests));
        let handle = handle.bound_writes(memory.writes(), memory.writes());
        handle.metrics().node.store(module_options::first_state(config));
        // The server starts first: while the directory is read, clients get 503 `starting` instead of a refused connection,
        // and `/livez` answers.
        let (reloads, reload_requests) = mpsc::channel(reload::WAITING);
        let (trusted, late) = ((tokens.as_ref(), peer_tls.as_ref()), (audit.clone(), reloads));
        let http_options = module_options::http(config, &ports, (memory, files), http_tls.as_ref(), trusted, late);
        let mut background = JoinSet::new();
        access_warnings::at_start(&http_options, log);
        let asks_for_certificates = access_warnings::asks_for_certificates(&http_options);
        let Ports { http, raft, metrics } = ports;
        let server = http::start(http.listener, handle.clone(), http_options, log.clone())
            .map_err(system("cannot serve the HTTP port"))?;
        let metrics = metrics.map(|port| http::start_metrics(port.listener, &server.control(), log.clone()));
        let metrics_server = metrics.transpose().map_err(system("cannot serve the metrics port"))?;
        let reloader = Reloader {
            settings: settings.clone(),
            http: http_tls.map(|(_, credentials)| credentials),
            peer: peer_tls.as_ref().map(|tls| Arc::clone(tls.credentials())),
            tokens,
            asks_for_certificates,
            control: server.control(),
            handle: handle.clone(),
            audit,
            memory,
            log: log.clone(),
            guard: guard.clone(),
        };
        background.spawn(reloader.run(hangup, reload_requests));
        let reserve = module_options::reserve(config);
        let opening = blocking(move || open(&directory, reserve, open_options, &addresses));
        let opened = open_progress::logged(log, opening).await?;
        process_settings::check_directory(&config.raft.vol_dir, log);
        let (raft, raft_port, http_port) = (raft.listener, raft.port, http.port);
        let bound = Bound { server, metrics_server, raft, raft_port, http_port, memory, files, peer_tls, background };
        Self::compose(config, bound, (handle, inbox), nonce, opened, (log, guard))
    }

    /// Starts transport, consensus thread and bootstrap, in this order: the consensus thread sends from its first turn on.
    fn compose(
        config: &Config,
        mut bound: Bound,
        (handle, inbox): (Handle, Inbox),
        nonce: u64,
        Opened { data_dir, incarnation, peers }: Opened,
        (log, guard): (&Logger, &Guard),
    ) -> Result<Self, Error> {
        let forms = may_form(config, data_dir.identity());
        let loops = module_options::consensus(config, &bound, nonce, forms);
        let advertised = loops.raft_address.clone();
        if bound.peer_tls.is_none() {
            peers.forget_tls()?;
        }
        let settings = module_options::transport(config, bound.memory, bound.files, bound.peer_tls);
        let (transport, outbox) = transport::start(bound.raft, handle.clone(), peers, settings, log.clone())
            .map_err(system("cannot serve the peer port"))?;
        // raft-rs logs every step at info, which is for its developers.
        let raft_log = logging::for_raft(log, guard);
        let start = consensus::Start { data_dir, incarnation, outbox, options: loops, log: log.clone(), raft_log };
        let running =
            consensus::spawn(inbox, handle.clone(), start).map_err(system("cannot start the consensus thread"))?;
        let forming = match forms {
            false => None,
            true => {
                let list = forming::JoinList::new(&config.join, &config.raft.node_id, &advertised);
                let access = module_options::forming_access(config)?;
                Some(tokio::spawn(forming::form(list, access, transport.join_requester(), handle.clone(), log.clone())))
            }
        };
        bound.background.spawn(memory::purge_freed());
        let metrics = Arc::clone(handle.metrics());
        bound.background.spawn(Arc::clone(&metrics).keep_load_history());
        bound.background.spawn(directory_size::measure(config.raft.vol_dir.clone(), metrics));
        let (server, metrics_server, background) = (bound.server, bound.metrics_server, bound.background);
        Ok(Self { server, metrics_server, transport, handle, forming, background, ended: running.ended })
    }

    /// Stops the modules from the top down: no new clients, then answers to the pending requests, then no peers.
    async fn stop(self) -> Result<(), Error> {
        if let Some(forming) = self.forming {
            forming.abort();
        }
        drop(self.background);
        let (handle, ended) = (self.handle, self.ended);
        handle.begin_draining();
        let end = async {
            let limit = u64::try_from(CONSENSUS_LIMIT.as_millis()).unwrap_or(u64::MAX);
            handle.deliver(Input::Stop { deadline: handle.clock().now() + limit }).await;
            outcome(ended.await)
        };
        // Both at once: a connection whose request is pending can be drained only after the consensus thread has answered it.
        // The transport is last, because a transfer of leadership and forwarded answers need the peers.
        let metrics = async {
            if let Some(server) = self.metrics_server {
                server.stop(DRAIN_LIMIT).await;
            }
        };
        let ((), (), ended) = tokio::join!(self.server.stop(DRAIN_LIMIT), metrics, end);
        self.transport.stop().await;
        ended
    }
}

/// What a node has before its directory is opened.
struct Bound {
    server: http::Server,
    metrics_server: Option<http::Server>,
    raft: std::net::TcpListener,
    raft_port: u16,
    http_port: u16,
    memory: Memory,
    files: FileLimit,
    peer_tls: Option<Arc<PeerTls>>,
    background: JoinSet<()>,
}

/// An opened data directory.
struct Opened {
    data_dir: DataDir,
    incarnation: Incarnation,
    peers: Arc<Peers>,
}

/// Whether the node follows its join list: a member or a removed node ignores it.
fn may_form(config: &Config, identity: &Identity) -> bool {
    !config.join.is_empty() && !identity.formed && !identity.removed
}

/// Opens the directory and writes [`ADDRESSES`].
fn open(
    directory: &Path,
    reserve: Option<u64>,
    options: OpenOptions,
    addresses: &serde_json::Value,
) -> Result<Opened, storage::Error> {
    // The engine locks the directory, so a second process fails here, before it reads or writes anything.
    let engine = Arc::new(SledEngine::with_reserve(directory, reserve)?);
    let peers = Arc::new(Peers::open(engine.clone())?);
    let (data_dir, incarnation) = DataDir::open(engine, options)?;
    data_dir.engine().replace_file(ADDRESSES, format!("{addresses}\n").as_bytes())?;
    Ok(Opened { data_dir, incarnation, peers })
}

/// Runs blocking disk I/O on a thread for that, so that signals are handled meanwhile.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, storage::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        // A panic has ended the process already; see `panics`.
        Err(_) => Err(Error::ConsensusLost),
    }
}
