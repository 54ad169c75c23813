//! Settings: defaults, then the file, then the environment, then flags; later wins.
//!
//! Why: four variables start a node, everything else can be tuned, and whoever mistypes a setting must be told its name
//! and where it came from before anything happens.
//!
//! Laws: all sources go through the one table of [`keys`], so none knows a key that another does not. Unknown keys and
//! unknown `HUSKV_` variables are errors, except what Kubernetes and Docker set for services. An empty value is an error unless the default is empty. Nothing is opened,
//! bound or created here, except that the file is read.
//!
//! Not here: what the settings do. No room below [`crate::node`] imports this one; each has its own small `Options`.

mod did_you_mean;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use thiserror::Error;

mod addresses;
mod check;
pub mod keys;
mod service_links;

pub use did_you_mean::near_misses;
use keys::{AUTO, KEYS, Key, Kind};
use service_links::is_service_link;
pub use service_links::{hidden_ports, service_links};

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "HUSKV_CONFIG";
/// The variable that names the cluster to the client subcommands; a node leaves it alone.
pub const ENDPOINTS_VARIABLE: &str = "HUSKV_ENDPOINTS";
/// The flag that names the file, without the dashes.
pub const CONFIG_FLAG: &str = "config";
/// What every variable of ours begins with; the short ones of the tutorial do not.
const PREFIX: &str = "HUSKV_";
/// What stands for the node's name in `raft.vol_dir`.
const NAME_IN_PATH: &str = "{node_id}";
/// The largest settings file that is read, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// Every setting of a node, checked. The sections are those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The address that both ports bind, without brackets.
    pub host: String,
    /// What other nodes dial, without brackets; never empty once checked.
    pub advertise_host: String,
    /// The HTTP addresses of the nodes that form one cluster; empty for none.
    pub join: Vec<String>,
    /// `[server]`
    pub server: Server,
    /// `[raft]`
    pub raft: Raft,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[snapshot]`
    pub snapshot: Snapshot,
    /// `[storage]`
    pub storage: Storage,
    /// `[limits]`
    pub limits: Limits,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
}

/// `[server]`: the HTTP face.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// The HTTP port; 0 is picked and kept.
    pub port: u16,
    /// The port that clients are told instead; 0 for none.
    pub advertise_port: u16,
}

/// `[raft]`: who the node is and how it keeps time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raft {
    /// The node's name.
    pub node_id: String,
    /// The peer port; 0 is picked and kept.
    pub port: u16,
    /// The port that other nodes are told to dial instead; 0 for none.
    pub advertise_port: u16,
    /// The node's directory; once checked, with the name in its place.
    pub vol_dir: PathBuf,
    /// The length of a tick in milliseconds.
    pub tick_ms: u64,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: u64,
    /// Ticks without a leader until a follower campaigns.
    pub election_ticks: u64,
}

/// `[cluster]`: what members believe of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Whether a member is followed to the address that it says it has now.
    pub follow_moves: bool,
}

/// `[snapshot]`: durable cuts and copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Entries between two cuts.
    pub every_entries: u64,
    /// Bytes of log between two cuts.
    pub every_bytes: u64,
    /// Entries kept behind a cut.
    pub keep_entries: u64,
    /// The most MiB that a copy may spool.
    pub spool_mb: u64,
}

/// `[storage]`: the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// MiB of the tree's cache; 0 for what follows from the memory.
    pub cache_mb: u64,
    /// MiB of the disk that are left free; None for what suits the disk.
    pub reserve_mb: Option<u64>,
}

/// `[limits]`: what clients may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// MiB that the node may take; 0 for what follows from the limits of the system.
    pub memory_mb: u64,
    /// The longest key in bytes.
    pub key_bytes: u64,
    /// The longest value in bytes.
    pub value_bytes: u64,
    /// The longest body in bytes.
    pub body_bytes: u64,
    /// How many requests may wait.
    pub pending_requests: u64,
    /// How many clients may watch.
    pub watchers: u64,
    /// How many events are kept for them.
    pub watch_events: u64,
    /// How many MiB of events are kept for them; 0 for what follows from the memory.
    pub watch_mb: u64,
    /// The default deadline in milliseconds.
    pub request_timeout_ms: u64,
}

/// `[http]`: browsers and connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// Origins that may use the node, in lower case.
    pub allowed_origins: Vec<String>,
    /// Hosts that requests may be for, in lower case; `*` is any.
    pub allowed_hosts: Vec<String>,
    /// How long a connection may be idle, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a client may be slower than the least rate, in milliseconds.
    pub rate_grace_ms: u64,
}

/// `[log]`: the log on stderr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The least severe level, in lower case.
    pub level: String,
    /// `terminal` or `json`.
    pub format: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file of this name.
    File(String),
    /// The variable of this name.
    Variable(String),
    /// The flag of this name, without the dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "the file {path}"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Flag(name) => write!(f, "the flag --{name}"),
        }
    }
}

/// What is wrong with the settings, in one line that names the setting and its source.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", plain(&format!("{setting}: {problem} (from {origin})")))]
pub struct ConfigError {
    /// The key, or what was taken for one.
    pub setting: String,
    /// Where it came from.
    pub origin: Source,
    /// What is wrong.
    pub problem: String,
}

/// `line` without what would end it or steer a terminal: a file can hold any character.
fn plain(line: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    line.chars().map(shown).collect()
}

fn error(setting: &str, origin: Source, problem: impl Into<String>) -> ConfigError {
    ConfigError { setting: setting.into(), origin, problem: problem.into() }
}

/// What was given beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Flags: the path of the key and the value.
    pub flags: Vec<(&'static str, String)>,
    /// The value of the flag that names the file.
    pub config: Option<String>,
    /// The whole environment; what is not ours is left alone.
    pub variables: Vec<(OsString, OsString)>,
}

/// Makes the settings out of all sources and checks them.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong; nothing has been created.
pub fn load(given: &Given) -> Result<Config, ConfigError> {
    let mut merge = Merge::defaults()?;
    let variables = ours(&given.variables)?;
    let file = match (&given.config, variables.get(CONFIG_VARIABLE)) {
        (Some(path), _) => Some((path.clone(), Source::Flag(CONFIG_FLAG.into()))),
        (None, Some(path)) => Some((path.clone(), Source::Variable(CONFIG_VARIABLE.into()))),
        (None, None) => None,
    };
    if let Some((path, origin)) = file.filter(|(path, _)| !path.is_empty()) {
        merge.file(&path, &read(&path, origin)?)?;
    }
    for key in KEYS {
        let long = key.variable();
        let named = |name: &str| variables.get(name).map(|value| (name.to_owned(), value));
        let short = key.short.filter(|short| *short != long).and_then(named);
        let value = match (named(&long), short) {
            (Some((name, _)), Some((short, _))) => {
                return Err(error(key.path, Source::Variable(name), format!("set twice, {short} says it too")));
            }
            (long, short) => long.or(short),
        };
        if let Some((name, value)) = value {
            merge.text(key, value, Source::Variable(name))?;
        }
    }
    for (path, value) in &given.flags {
        let key = keys::find(path).ok_or_else(|| error(path, Source::Flag((*path).into()), "unknown setting"))?;
        merge.text(key, value, Source::Flag(key.flag()))?;
    }
    merge.finish()
}

/// The settings that `text`, the content of a file called `name`, gives beside the defaults.
///
/// # Errors
/// [`ConfigError`] as for [`load`].
pub fn parse_file(name: &str, text: &str) -> Result<Config, ConfigError> {
    let mut merge = Merge::defaults()?;
    merge.file(name, text)?;
    merge.finish()
}

fn read(path: &str, origin: Source) -> Result<String, ConfigError> {
    let wrong = |problem: String| error("config", origin.clone(), format!("cannot read {path:?}: {problem}"));
    let file = std::fs::File::open(path).map_err(|source| wrong(source.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(|source| wrong(source.to_string()))?;
    if text.len() as u64 > FILE_BYTES {
        return Err(wrong(format!("more than {FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// The variables that concern a node. Every variable with our prefix must be one that we know.
fn ours(variables: &[(OsString, OsString)]) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if name == ENDPOINTS_VARIABLE || value.to_str().is_some_and(|value| is_service_link(&name, value, variables)) {
            continue;
        }
        let known = name == CONFIG_VARIABLE
            || KEYS.iter().any(|key| key.short == Some(name.as_str()) || key.variable() == name);
        if !known && name.starts_with(PREFIX) {
            return Err(error(&name, Source::Variable(name.clone()), "unknown setting; huskv --help lists all"));
        }
        if known {
            let Some(value) = value.to_str() else {
                return Err(error(&name, Source::Variable(name.clone()), "not UTF-8"));
            };
            found.insert(name, value.to_owned());
        }
    }
    Ok(found)
}

/// The settings while sources are laid over each other.
struct Merge {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Merge {
    fn defaults() -> Result<Self, ConfigError> {
        let mut merge = Self { config: Config::default(), sources: BTreeMap::new() };
        for key in KEYS {
            merge.text(key, key.default, Source::Default)?;
        }
        Ok(merge)
    }

    /// Takes a value as it stands in a variable or a flag.
    fn text(&mut self, key: &'static Key, text: &str, origin: Source) -> Result<(), ConfigError> {
        let text = text.trim();
        let items = match key.kind {
            Kind::List { .. } if text.is_empty() => Vec::new(),
            Kind::List { .. } => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => vec![text.to_owned()],
        };
        self.set(key, items, origin)
    }

    /// Checks and stores a value: one text, or the elements of a list.
    fn set(&mut self, key: &'static Key, items: Vec<String>, origin: Source) -> Result<(), ConfigError> {
        let wrong = |problem: String| error(key.path, origin.clone(), problem);
        let list = matches!(key.kind, Kind::List { .. });
        if items.iter().any(String::is_empty) && (list || !key.default.is_empty()) {
            return Err(wrong("empty".into()));
        }
        let first = items.first().map_or("", String::as_str);
        match key.kind {
            Kind::Number { min, max, set } => set(&mut self.config, check::number(first, min, max).map_err(wrong)?),
            Kind::NumberOrAuto { set, .. } if first == AUTO => set(&mut self.config, None),
            Kind::NumberOrAuto { min, max, set } => {
                let number = check::number(first, min, max).map_err(|problem| format!("{problem}, or {AUTO}"));
                set(&mut self.config, Some(number.map_err(wrong)?));
            }
            Kind::Port(set) => {
                let port = check::number(first, 0, u64::from(u16::MAX)).map_err(wrong)?;
                set(&mut self.config, u16::try_from(port).unwrap_or(u16::MAX));
            }
            Kind::Switch(set) => set(&mut self.config, check::switch(first).map_err(wrong)?),
            Kind::Text { check, set } => {
                if !first.is_empty() {
                    check(first).map_err(wrong)?;
                }
                set(&mut self.config, first.to_owned());
            }
            Kind::List { check, set } => {
                items.iter().try_for_each(|item| check(item)).map_err(wrong)?;
                set(&mut self.config, items);
            }
        }
        self.sources.insert(key.path, origin);
        Ok(())
    }

    /// Takes every key of a file.
    fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let origin = Source::File(name.into());
        let table: toml::Table = toml::from_str(text).map_err(|problem| {
            let line = problem.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let message = problem.message().replace('\n', " ");
            error("config", origin.clone(), format!("line {line}: {message}"))
        })?;
        for (name, value) in table {
            match value {
                toml::Value::Table(section) => {
                    for (key, value) in section {
                        self.entry(&format!("{name}.{key}"), value, &origin)?;
                    }
                    if !KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(section, _)| section == name)) {
                        return Err(error(&name, origin, "unknown section"));
                    }
                }
                value => self.entry(&name, value, &origin)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, value: toml::Value, origin: &Source) -> Result<(), ConfigError> {
        let Some(key) = keys::find(path) else {
            return Err(error(path, origin.clone(), "unknown setting"));
        };
        let text = |value: toml::Value| match value {
            toml::Value::String(text) => Some(text.trim().to_owned()),
            _ => None,
        };
        let (items, expected) = match (&key.kind, value) {
            (Kind::Number { .. } | Kind::Port(_), value) => {
                (value.as_integer().map(|n| vec![n.to_string()]), "a number")
            }
            (Kind::NumberOrAuto { .. }, value @ toml::Value::String(_)) => (text(value).map(|text| vec![text]), "auto"),
            (Kind::NumberOrAuto { .. }, value) => {
                (value.as_integer().map(|n| vec![n.to_string()]), "a number, or \"auto\",")
            }
            (Kind::Switch(_), value) => (value.as_bool().map(|on| vec![on.to_string()]), "true or false"),
            (Kind::Text { .. }, value) => (text(value).map(|text| vec![text]), "a text in quotes"),
            (Kind::List { .. }, toml::Value::Array(values)) => {
                (values.into_iter().map(text).collect(), "a list of texts")
            }
            (Kind::List { .. }, _) => (None, "a list of texts, [\"...\"]"),
        };
        match items {
            Some(items) => self.set(key, items, origin.clone()),
            None => Err(error(path, origin.clone(), format!("{expected} is expected"))),
        }
    }

    /// Checks what must fit together and fills in what follows from other settings.
    fn finish(mut self) -> Result<Config, ConfigError> {
        if let Some((path, other, why)) = check::together(&self.config) {
            let source = |path: &str| self.sources.get(path).cloned().unwrap_or(Source::Default);
            // Whoever set only one of the two is told about that one.
            let (path, other) = match other {
                Some(other) if source(path) == Source::Default => (other, Some(path)),
                other => (path, other),
            };
            let other = other.map(|other| format!("; {other} is from {}", source(other))).unwrap_or_default();
            return Err(error(path, source(path), format!("{why}{other}")));
        }
        let config = &mut self.config;
        if config.advertise_host.is_empty() {
            config.advertise_host.clone_from(&config.host);
        }
        let directory = config.raft.vol_dir.to_string_lossy().replace(NAME_IN_PATH, &config.raft.node_id);
        config.raft.vol_dir = directory.into();
        Ok(self.config)
    }
}
