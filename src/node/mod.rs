//! The composition root: the only place that knows all rooms, builds them from the ground up and stops them in reverse.
//!
//! Why: no room below knows the settings or another room's life; each gets its small `Options` and its neighbour's door.
//!
//! Laws: both ports are bound before anything is created, so a refused start leaves nothing behind. A stop is bounded:
//! after `STOP_LIMIT` the process ends whatever hangs, and since every acknowledgement was durable, nothing is lost.
//! When the loop ends by itself the process ends at once: no HTTP server outlives the node behind it.
//!
//! Not here: what a signal or an exit code is to a shell (`cli`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use slog::{Logger, crit, info, warn};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::consensus::{self, Handle, Inbox, Input};
use crate::http;
use crate::logging::{self, Guard};
use crate::storage::{self, DataDir, Identity, Incarnation, OpenOptions, Peers, SledEngine};
use crate::transport;

mod files;
mod forming;
mod listen;
mod memory;
mod options;
pub mod panics;
pub mod process;
mod signals;
mod start;

use files::Files;
use listen::Ports;
use memory::Memory;
pub use signals::Stop;

/// How long the loop has to hand leadership over and to finish or answer what is pending.
const LOOP_LIMIT: Duration = Duration::from_secs(3);

/// How long HTTP connections are drained; a little longer than the loop takes, so that its last answers get out, and those
/// of a loop that a disk holds up are given in its place.
const DRAIN_LIMIT: Duration = Duration::from_millis(3_500);

/// How long a stop may take altogether.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// The file in the node's directory that says where the node listens.
const ADDRESSES: &str = "addresses.json";

/// The exit code of a node that could not start, or whose disk or log broke.
const FAILED: u8 = 1;

/// Why a node does not run. The process ends with one line that says it.
#[derive(Debug, Error)]
pub enum Error {
    /// A port cannot be bound.
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The system refuses something that every process needs.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system has no random numbers, without which no node id is safe.
    #[error("no random numbers: {0}")]
    Randomness(String),
    /// The process may open so few files that clients and peers would take those of the disk.
    #[error(
        "this process may open {0} files, and a node needs {least} at least; raise the hard limit (`ulimit -Hn`, `LimitNOFILE=` of \
         systemd, `--ulimit nofile=` of Docker)",
        least = files::LEAST
    )]
    TooFewFiles(usize),
    /// The loop is gone and left no reason.
    #[error("the loop ended without saying why")]
    LoopLost,
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Runs one node until `stop` or its own end, and returns the exit code: 0 after a stop, 1 where it could not start or
/// broke. The reason is in the log, in one line.
#[must_use]
pub fn run(config: &Config, stop: Stop, log: &Logger, guard: &Guard) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("async").build() {
        Ok(runtime) => runtime,
        Err(source) => {
            crit!(log, "huskv cannot start: {}", system("cannot start threads")(source));
            return FAILED;
        }
    };
    let code = runtime.block_on(Box::pin(live(config, stop, log, guard)));
    // Whatever still runs in the background has answered nobody and holds nothing that is not on disk.
    runtime.shutdown_background();
    code
}

async fn live(config: &Config, stop: Stop, log: &Logger, guard: &Guard) -> u8 {
    let mut stop = match stop.listen() {
        Ok(stop) => stop,
        Err(source) => {
            crit!(log, "huskv cannot start: {}", system("cannot listen for signals")(source));
            return FAILED;
        }
    };
    let mut node = tokio::select! {
        started = Node::start(config, log) => match started {
            Ok(node) => node,
            Err(error) => {
                crit!(log, "huskv cannot start: {}", error);
                return FAILED;
            }
        },
        why = stop.wait() => {
            info!(log, "huskv stops while it starts"; "reason" => why);
            return 0;
        }
    };
    let why = tokio::select! {
        ended = &mut node.ended => {
            crit!(log, "huskv stops: {}", reason(ended).err().unwrap_or(Error::LoopLost));
            return FAILED;
        }
        why = stop.wait() => why,
    };
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

fn reason(ended: Result<Result<(), storage::Error>, oneshot::error::RecvError>) -> Result<(), Error> {
    Ok(ended.map_err(|_| Error::LoopLost)??)
}

/// Ends the process at [`STOP_LIMIT`], from a thread of its own: whatever hangs must not be able to hold this up too.
fn bound_the_stop(log: Logger, guard: Guard) {
    let watch = move || {
        std::thread::sleep(STOP_LIMIT);
        crit!(log, "huskv stops without waiting any longer; what was acknowledged is on disk");
        guard.flush();
        std::process::exit(0);
    };
    // Without a thread the stop is only not bounded.
    drop(std::thread::Builder::new().name("stop-limit".into()).spawn(watch));
}

/// A running node.
struct Node {
    server: http::Server,
    transport: transport::Transport,
    handle: Handle,
    forming: Option<tokio::task::JoinHandle<()>>,
    giving_back: tokio::task::JoinHandle<()>,
    ended: oneshot::Receiver<Result<(), storage::Error>>,
}

impl Node {
    async fn start(config: &Config, log: &Logger) -> Result<Self, Error> {
        let directory = config.raft.vol_dir.clone();
        let files = Files::of_the_process();
        if let Some(all) = files.too_few() {
            return Err(Error::TooFewFiles(all));
        }
        let nonce = getrandom::u64().map_err(|source| Error::Randomness(source.to_string()))?;
        let seen = blocking({
            let directory = directory.clone();
            move || storage::peek(&directory)
        })
        .await?;
        let ports = listen::bind_or_wait(config, seen.as_ref(), log).await?;
        info!(log, "huskv starts"; "version" => env!("CARGO_PKG_VERSION"), "node" => &config.raft.node_id,
            "directory" => directory.display().to_string(), "http" => &ports.http.address,
            "raft" => &ports.raft.address, "advertised" => config.advertised_raft(ports.raft.port));
        let memory = Memory::new(config.limits.memory_mb);
        info!(log, "memory"; "limit_mb" => memory.whole.map_or(0, |bytes| bytes >> 20), "cache_mb" => options::cache_bytes(config, memory) >> 20);
        if memory.whole.is_some_and(|bytes| bytes < memory::LEAST) {
            warn!(log, "a node takes more than that under load, whatever limits.memory_mb says"; "least_mb" => memory::LEAST >> 20);
        }
        if memory.is_small() {
            process::refuse_huge_pages(log);
        }
        let boot = options::boot(config, &ports, memory);
        let addresses = json!({ "http": ports.http.address, "raft": ports.raft.address });
        let (handle, inbox) = consensus::channel(options::size(config.limits.pending_requests));
        let handle = handle.bound_writes(memory.writes(), memory.writes());
        // Whoever asks meanwhile is told that the node starts.
        let serves = options::http(config, &ports, memory, files);
        let Ports { http, raft } = ports;
        let server = http::start(http.listener, handle.clone(), serves, log.clone())
            .map_err(system("cannot serve the HTTP port"))?;
        let reserve = options::reserve(config);
        let opened = start::told(log, blocking(move || open(&directory, reserve, boot, &addresses))).await?;
        process::check_directory(&config.raft.vol_dir, log);
        let bound = Bound { server, raft: raft.listener, raft_port: raft.port, http_port: http.port, memory, files };
        Self::compose(config, bound, (handle, inbox), nonce, opened, log)
    }

    /// Starts the rooms, from the ground up.
    fn compose(
        config: &Config,
        bound: Bound,
        (handle, inbox): (Handle, Inbox),
        nonce: u64,
        Opened { data_dir, incarnation, peers }: Opened,
        log: &Logger,
    ) -> Result<Self, Error> {
        let forms = may_form(config, data_dir.identity());
        let loops = options::consensus(config, &bound, nonce, forms);
        let advertised = loops.raft_address.clone();
        let settings = options::transport(bound.memory, bound.files);
        let (transport, outbox) = transport::start(bound.raft, handle.clone(), peers, settings, log.clone())
            .map_err(system("cannot serve the peer port"))?;
        let raft_log = logging::for_raft(log, logging::level_named(&config.log.level));
        let start = consensus::Start { data_dir, incarnation, outbox, options: loops, log: log.clone(), raft_log };
        let running =
            consensus::spawn(inbox, handle.clone(), start).map_err(system("cannot start the consensus thread"))?;
        let forming = forms.then(|| {
            let list = forming::List::new(&config.join, &config.raft.node_id, &advertised);
            tokio::spawn(forming::form(list, handle.clone(), log.clone()))
        });
        let giving_back = tokio::spawn(memory::give_back());
        Ok(Self { server: bound.server, transport, handle, forming, giving_back, ended: running.ended })
    }

    /// Stops the rooms, from the top down: no new clients, then the loop answers the ones that wait, then no peers.
    async fn stop(self) -> Result<(), Error> {
        if let Some(forming) = self.forming {
            forming.abort();
        }
        self.giving_back.abort();
        let (handle, ended) = (self.handle, self.ended);
        let end = async {
            let limit = u64::try_from(LOOP_LIMIT.as_millis()).unwrap_or(u64::MAX);
            handle.deliver(Input::Stop { deadline: handle.clock().now() + limit }).await;
            reason(ended.await)
        };
        // Both at once: connections that wait for the loop's last answers are drained while the loop gives them.
        let ((), ended) = tokio::join!(self.server.stop(DRAIN_LIMIT), end);
        self.transport.stop().await;
        ended
    }
}

/// What a node has before its directory is read.
struct Bound {
    server: http::Server,
    raft: std::net::TcpListener,
    raft_port: u16,
    http_port: u16,
    memory: Memory,
    files: Files,
}

/// What a node's directory holds.
struct Opened {
    data_dir: DataDir,
    incarnation: Incarnation,
    peers: Arc<Peers>,
}

/// Whether the join list is for this node: a member or a removed node ignores it.
fn may_form(config: &Config, identity: &Identity) -> bool {
    !config.join.is_empty() && !identity.formed && !identity.removed
}

/// Opens the directory and writes down where the node listens.
fn open(
    directory: &Path,
    reserve: Option<u64>,
    boot: OpenOptions,
    addresses: &serde_json::Value,
) -> Result<Opened, storage::Error> {
    let engine = Arc::new(SledEngine::with_reserve(directory, reserve)?);
    let peers = Arc::new(Peers::open(engine.clone())?);
    let (data_dir, incarnation) = DataDir::open(engine, boot)?;
    data_dir.engine().replace_file(ADDRESSES, format!("{addresses}\n").as_bytes())?;
    Ok(Opened { data_dir, incarnation, peers })
}

/// Runs what waits for the disk off the async threads, so that a signal is heard meanwhile.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, storage::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        // A panic has ended the process already; see `panics`.
        Err(_) => Err(Error::LoopLost),
    }
}
