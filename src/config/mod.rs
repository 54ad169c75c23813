//! Settings of a node, from defaults, the file, environment variables and flags; later sources take precedence.
//!
//! Why: four variables start a node (`SERVER_PORT`, `RAFT_NODE_ID`, `RAFT_PORT`, `RAFT_VOL_DIR`), and everything else
//! can be tuned; a wrong setting must be refused with its name and its source before anything else happens.
//!
//! Invariants: all sources go through the one table of [`keys`], so all know the same keys. Unknown keys and unknown
//! `HUSKV_` variables are errors, except what Kubernetes and Docker set for services. An empty value is an error unless
//! the default is empty. Nothing is opened, bound or created here, except that the file is read.
//!
//! Example: the file has `raft.tick_ms = 10`, `HUSKV_RAFT_TICK_MS=20` is set, and no flag is given: the tick is 20 ms.
//!
//! See also: [`crate::node`], the only module that uses these settings; each one below has its own small `Options`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;

use crate::model::NodeAddress;

mod derived_addresses;
mod key;
pub mod keys;
mod loaded;
mod misspelt_unprefixed;
mod sections;
mod service_links;
mod setting_error;
mod tls;
mod validate;
mod variables;

use keys::{AUTO, KEYS, Key, Kind};
pub use loaded::{Change, Loaded, RELOADED};
pub use misspelt_unprefixed::near_misses;
pub use sections::{Audit, Auth, Cluster, Http, Limits, Log, Network, Raft, Server, Snapshot, Storage, Ui};
pub use service_links::{hidden_ports, service_links};
pub use setting_error::{ConfigError, Source};
pub use tls::Tls;
pub use validate::parse_address;

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "HUSKV_CONFIG";
/// The variable with the endpoints of the client subcommands; a node ignores it.
pub const ENDPOINTS_VARIABLE: &str = "HUSKV_ENDPOINTS";
/// The variable with the file of the CA that a client trusts.
pub const CA_VARIABLE: &str = "HUSKV_CA";
/// The variable with the file of a client's certificate.
pub const CERT_VARIABLE: &str = "HUSKV_CERT";
/// The variable with the file of its key.
pub const KEY_VARIABLE: &str = "HUSKV_KEY";
/// The variable with a client's token.
pub const TOKEN_VARIABLE: &str = "HUSKV_TOKEN";
/// The variable with the file of a client's token.
pub const TOKEN_FILE_VARIABLE: &str = "HUSKV_TOKEN_FILE";
/// The variables of the client subcommands; a node ignores them.
pub const CLIENT_VARIABLES: [&str; 6] =
    [ENDPOINTS_VARIABLE, CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, TOKEN_VARIABLE, TOKEN_FILE_VARIABLE];
/// The flag that names the file, without the dashes.
pub const CONFIG_FLAG: &str = "config";
/// The prefix of all variables, except the short ones.
const PREFIX: &str = "HUSKV_";
/// The placeholder of the node's name in `raft.vol_dir`.
const NAME_IN_PATH: &str = "{node_id}";
/// The maximum size of a settings file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Every setting of a node, checked. The sections are those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The address that both ports bind, without brackets.
    pub host: String,
    /// The host that other nodes dial, without brackets; never empty once checked.
    pub advertise_host: String,
    /// The HTTP addresses of the nodes that form one cluster; empty for none.
    pub join: Vec<NodeAddress>,
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
    /// `[tls]`
    pub tls: Tls,
    /// `[network]`
    pub network: Network,
    /// `[auth]`
    pub auth: Auth,
    /// `[audit]`
    pub audit: Audit,
    /// `[ui]`
    pub ui: Ui,
    /// `[log]`
    pub log: Log,
}

fn error(setting: &str, origin: Source, problem: impl Into<String>) -> ConfigError {
    ConfigError { setting: setting.into(), origin, problem: problem.into() }
}

/// The sources besides the defaults and the file.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The flags: path of the key, and value.
    pub flags: Vec<(&'static str, String)>,
    /// The path of the file, from the flag.
    pub config: Option<String>,
    /// The whole environment; variables of other programs are ignored.
    pub variables: Vec<(OsString, OsString)>,
    /// Whether the sources are merged again: then the file must be a regular one, for a pipe has been read to its end, and the
    /// open of one would wait.
    pub again: bool,
}

/// Merges all sources and checks the result.
///
/// # Errors
/// [`ConfigError`] for the first wrong setting.
pub fn load(given: &Given) -> Result<Config, ConfigError> {
    merged(given)?.finish()
}

fn merged(given: &Given) -> Result<Merge, ConfigError> {
    let mut merge = Merge::defaults()?;
    let variables = variables::select(&given.variables)?;
    // An empty name means no file, so a flag can disable the file of the variable.
    let file = match (&given.config, variables.get(CONFIG_VARIABLE)) {
        (Some(path), _) => Some((path.clone(), Source::Flag(CONFIG_FLAG.into()))),
        (None, Some(path)) => Some((path.clone(), Source::Variable(CONFIG_VARIABLE.into()))),
        (None, None) => None,
    };
    if let Some((path, origin)) = file.filter(|(path, _)| !path.is_empty()) {
        merge.file(&path, &read(&path, origin, given.again)?)?;
    }
    for key in KEYS {
        let long = key.variable();
        let named = |name: &str| variables.get(name).map(|value| (name.to_owned(), value));
        // Both names of one key are an error even with equal values: one of them would silently lose after a change.
        let short = key.short.filter(|short| *short != long).and_then(named);
        let value = match (named(&long), short) {
            (Some((name, _)), Some((short, _))) => {
                return Err(error(key.path, Source::Variable(name), format!("set twice, also by {short}")));
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
    Ok(merge)
}

/// Parses `text`, the content of a settings file called `name`, on top of the defaults.
///
/// # Errors
/// [`ConfigError`] as for [`load`].
pub fn parse_file(name: &str, text: &str) -> Result<Config, ConfigError> {
    let mut merge = Merge::defaults()?;
    merge.file(name, text)?;
    merge.finish()
}

fn read(path: &str, origin: Source, again: bool) -> Result<String, ConfigError> {
    let wrong = |problem: String| error("config", origin.clone(), format!("cannot read {path:?}: {problem}"));
    if again && std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(wrong("it is no regular file, so it cannot be read again".to_owned()));
    }
    let file = std::fs::File::open(path).map_err(|source| wrong(source.to_string()))?;
    // Bounded: the path could be a device.
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|source| wrong(source.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Returns what is wrong about an empty value, or an empty element of a list.
fn empty(key: &Key, list: bool, origin: &Source) -> String {
    match origin {
        _ if list => "an element of the list is empty".into(),
        // docker-compose and `env:` of a pod pass a variable that is not set on as an empty one.
        Source::Variable(name) => format!("empty; unset {name} for the default, {}, or give it a value", key.default),
        _ => "empty".into(),
    }
}

/// The settings while the sources are merged, each value with its source.
struct Merge {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Merge {
    fn empty() -> Self {
        Self { config: Config::default(), sources: BTreeMap::new(), values: BTreeMap::new() }
    }

    fn defaults() -> Result<Self, ConfigError> {
        let mut merge = Self::empty();
        for key in KEYS {
            merge.text(key, key.default, Source::Default)?;
        }
        Ok(merge)
    }

    /// Sets a key from the text of a variable or a flag.
    fn text(&mut self, key: &'static Key, text: &str, origin: Source) -> Result<(), ConfigError> {
        let text = text.trim();
        // An empty text is an empty list, but `a:1,` has an empty element, which `set` refuses.
        let items = match key.kind {
            Kind::List { .. } if text.is_empty() => Vec::new(),
            Kind::List { .. } => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => vec![text.to_owned()],
        };
        self.set(key, items, origin)
    }

    /// Parses and stores a value: one text, or the elements of a list.
    fn set(&mut self, key: &'static Key, items: Vec<String>, origin: Source) -> Result<(), ConfigError> {
        let wrong = |problem: String| error(key.path, origin.clone(), problem);
        let list = matches!(key.kind, Kind::List { .. });
        if items.iter().any(String::is_empty) && (list || !key.default.is_empty()) {
            return Err(wrong(empty(key, list, &origin)));
        }
        let first = items.first().map_or("", String::as_str);
        match key.kind {
            Kind::Number { min, max, set } => set(&mut self.config, validate::number(first, min, max).map_err(wrong)?),
            Kind::NumberOrAuto { set, .. } if first == AUTO => set(&mut self.config, None),
            Kind::NumberOrAuto { min, max, set } => {
                let number = validate::number(first, min, max).map_err(|problem| format!("{problem}, or {AUTO}"));
                set(&mut self.config, Some(number.map_err(wrong)?));
            }
            Kind::Port(set) => {
                let port = validate::number(first, 0, u64::from(u16::MAX)).map_err(wrong)?;
                set(&mut self.config, u16::try_from(port).unwrap_or(u16::MAX));
            }
            Kind::Switch(set) => set(&mut self.config, validate::switch(first).map_err(wrong)?),
            Kind::Text { set } => set(&mut self.config, first).map_err(wrong)?,
            Kind::List { set } => set(&mut self.config, &items).map_err(wrong)?,
        }
        self.sources.insert(key.path, origin);
        self.values.insert(key.path, items);
        Ok(())
    }

    /// Sets every key of a file.
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
                    // An unknown key has been refused above; this refuses an unknown section without keys.
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
        // TOML has types: `port = "7"` is an error, though a variable has texts only.
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

    /// Checks the settings against each other, and derives those that follow from others.
    fn finish(mut self) -> Result<Config, ConfigError> {
        if let Some((path, other, why)) = validate::together(&self.config) {
            let source = |path: &str| self.sources.get(path).cloned().unwrap_or(Source::Default);
            // The error names the setting that was changed: with only the other one set, the default is not at fault.
            let (path, other) = match other {
                Some(other) if source(path) == Source::Default => (other, Some(path)),
                other => (path, other),
            };
            let other = other.map(|other| format!("; {other} is from {}", source(other))).unwrap_or_default();
            return Err(error(path, source(path), format!("{why}{other}")));
        }
        let config = &mut self.config;
        // `validate::together` has refused a wildcard host without an advertised one.
        if config.raft.host.is_empty() {
            config.raft.host.clone_from(&config.host);
        }
        let advertised = Some(&config.advertise_host).filter(|host| !host.is_empty());
        config.raft.advertise_host = advertised.unwrap_or(&config.raft.host).clone();
        if config.advertise_host.is_empty() {
            config.advertise_host.clone_from(&config.host);
        }
        // Name and directory may come from different sources, so the name is inserted last.
        let directory = config.raft.vol_dir.to_string_lossy().replace(NAME_IN_PATH, &config.raft.node_id);
        config.raft.vol_dir = directory.into();
        Ok(self.config)
    }
}
