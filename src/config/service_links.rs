//! Service link variables: what Kubernetes and Docker set in every container for a service.
//!
//! Why: for a Service called `huskv` Kubernetes gives every container `HUSKV_PORT=tcp://10.0.0.7:2221`,
//! `HUSKV_SERVICE_HOST` and others, and for one called `huskv-raft` a `HUSKV_RAFT_PORT`, which is the name of a setting.
//! The operator did not write them, so they are neither settings nor misspelt settings.
//!
//! Invariants: recognized by name and value in the form of the platform, and by nothing else. A port that is written as a
//! URL is never the value of a setting.
//!
//! See also: `cli::serve`, which logs the warning.

use std::ffi::OsString;

use super::keys::{KEYS, Key, Kind};
use super::{CLIENT_VARIABLES, Config, PREFIX};

/// The protocols that a service can have.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// The infix of variables that Docker copies from a linked container: `ALIAS_ENV_NAME`.
const COPIED: &str = "_ENV_";

/// Whether the platform has set this variable for a service; `variables` are all of the process.
///
/// Kubernetes and Docker make `X_PORT=tcp://...`, `X_PORT_2221_TCP` and the same with `_ADDR`, `_PORT` and `_PROTO`;
/// Kubernetes also `X_SERVICE_HOST`, `X_SERVICE_PORT` and `X_SERVICE_PORT_HTTP`; Docker also `_START`, `_END`, `_PORT_START`
/// and `_PORT_END` for a range of ports, `X_NAME=/container/x`, and `X_ENV_Y` for each variable of the linked container.
pub(super) fn is_service_link(name: &str, value: &str, variables: &[(OsString, OsString)]) -> bool {
    // A pod's spec cannot remove a variable, so an operator disables one by an empty value.
    let is_port = value.is_empty() || value.parse::<u16>().is_ok();
    // `HUSKV_SERVICE_HOST=kv1` has no address, so it is not of the platform and is reported as an unknown setting.
    if name.ends_with("_SERVICE_HOST") {
        return value.is_empty() || value.parse::<std::net::IpAddr>().is_ok();
    }
    if is_port && (name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_")) {
        return true;
    }
    // `HUSKV_RAFT_PORT=tcp://...` is a link although it is the name of a setting; with a number it is the setting.
    (name.ends_with("_PORT") && is_url(value))
        || after(name, "_PORT_").any(|(_, rest)| is_numbered(rest))
        || is_link_name(name, value)
        || after(name, COPIED).any(|(alias, _)| {
            // `HUSKV_ENV_LOG` alone could be a mistake: only beside `HUSKV_NAME=/web/huskv` it is Docker's.
            let linked = format!("{alias}_NAME");
            variables.iter().any(|(name, value)| {
                name.to_str() == Some(&linked) && value.to_str().is_some_and(|value| is_link_name(&linked, value))
            })
        })
}

/// Whether the value is the URL of a service: `tcp://10.0.0.7:2221`.
fn is_url(value: &str) -> bool {
    PROTOCOLS.iter().any(|protocol| value.strip_prefix(protocol).is_some_and(|rest| rest.starts_with("://")))
}

/// Splits `name` at every occurrence of `word`: a service may itself be called `huskv-port-2`.
fn after<'a>(name: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    name.char_indices().filter_map(move |(at, _)| Some((&name[..at], name[at..].strip_prefix(word)?)))
}

/// Whether this is the rest of a name after `X_PORT_` for one port: `2221_TCP`, `2221_TCP_ADDR`.
fn is_numbered(rest: &str) -> bool {
    let mut words = rest.splitn(3, '_');
    let port = words.next().is_some_and(|port| port.parse::<u16>().is_ok());
    let protocol = words.next().is_some_and(|word| PROTOCOLS.iter().any(|known| known.to_uppercase() == word));
    let part = words.next();
    let known = ["PROTO", "PORT", "ADDR", "START", "END", "PORT_START", "PORT_END"];
    port && protocol && part.is_none_or(|part| known.contains(&part))
}

/// Whether this is Docker's variable for the name of a link: `HUSKV_NAME=/web/huskv`.
fn is_link_name(name: &str, value: &str) -> bool {
    let alias = value.strip_prefix('/').and_then(|path| path.rsplit_once('/')).map(|(_, alias)| alias);
    let prefix = name.strip_suffix("_NAME");
    alias.zip(prefix).is_some_and(|(alias, prefix)| alias.to_uppercase().replace('-', "_") == prefix)
}

/// Returns a sentence for the log with the service link variables that have names of settings or our prefix, and with
/// [`hidden_ports`]; None where there are none.
#[must_use]
pub fn service_links(variables: &[(OsString, OsString)], config: &Config) -> Option<String> {
    let names: Vec<_> = links(variables).into_iter().map(|(name, _)| name).collect();
    let hidden = hidden_ports(variables, config).map(|hidden| format!("; {hidden}")).unwrap_or_default();
    (!names.is_empty()).then(|| format!("ignored, set by the platform for a service: {}{hidden}", names.join(", ")))
}

/// Returns a sentence about settings of a port whose variable the platform has overwritten: the value that holds instead,
/// and how to avoid it; None where there are none.
///
/// A variable in the spec of a pod or the command of a container takes precedence over the platform's. So an operator who
/// has set the port does not get this sentence; one who relies on the default, or on a variable of the image, does.
#[must_use]
pub fn hidden_ports(variables: &[(OsString, OsString)], config: &Config) -> Option<String> {
    let links = links(variables);
    let hidden = KEYS.iter().filter_map(|key| {
        let Kind::Port(_) = key.kind else { return None };
        let spellings = [key.short.map(str::to_owned), Some(key.variable())];
        let (name, value) = links.iter().find(|(name, _)| spellings.iter().flatten().any(|known| known == name))?;
        // The name of the Service as Kubernetes has it: HUSKV_RAFT_PORT is of `huskv-raft`.
        let service = name.trim_end_matches("_PORT").to_lowercase().replace('_', "-");
        let (path, port) = (key.path, port(key, config));
        Some(format!("{name}={value} is of a Service called {service} and sets no port; {path} is {port}"))
    });
    let hidden: Vec<_> = hidden.collect();
    (!hidden.is_empty()).then(|| {
        format!("{}: put enableServiceLinks: false into the pod's spec, or rename the Service", hidden.join("; "))
    })
}

/// Returns the value of a setting of [`Kind::Port`].
fn port(key: &Key, config: &Config) -> u16 {
    match key.path {
        "server.port" => config.server.port,
        "server.advertise_port" => config.server.advertise_port,
        "raft.port" => config.raft.port,
        _ => config.raft.advertise_port,
    }
}

/// Returns the service link variables with names of settings or our prefix, sorted, and their values.
fn links(variables: &[(OsString, OsString)]) -> Vec<(&str, &str)> {
    let is_ours = |name: &str| {
        !CLIENT_VARIABLES.contains(&name)
            && (name.starts_with(PREFIX) || KEYS.iter().any(|key| key.short == Some(name)))
    };
    let texts = variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
    let mut links: Vec<_> =
        texts.filter(|(name, value)| is_ours(name) && is_service_link(name, value, variables)).collect();
    links.sort_unstable();
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// The variables of Kubernetes for one service with these ports: name, number, protocol (`pkg/kubelet/envvars`).
    fn of_kubernetes(service: &str, address: &str, ports: &[(&str, u16, &str)]) -> Vec<(String, String)> {
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let service = upper(service);
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let mut made = vec![(format!("{service}_SERVICE_HOST"), address.to_owned())];
        for (place, (name, number, protocol)) in ports.iter().enumerate() {
            let url = format!("{protocol}://{host}:{number}");
            if place == 0 {
                made.push((format!("{service}_SERVICE_PORT"), number.to_string()));
                made.push((format!("{service}_PORT"), url.clone()));
            }
            if !name.is_empty() {
                made.push((format!("{service}_SERVICE_PORT_{}", upper(name)), number.to_string()));
            }
            let link = format!("{service}_PORT_{number}_{}", upper(protocol));
            made.push((format!("{link}_PROTO"), (*protocol).to_owned()));
            made.push((format!("{link}_PORT"), number.to_string()));
            made.push((format!("{link}_ADDR"), address.to_owned()));
            made.push((link, url));
        }
        made
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_recognized() {
        let services = [
            "huskv",
            "huskv-0",
            "huskv-raft",
            "huskv-http",
            "huskv-service",
            "huskv-service-port",
            "huskv-port",
            "huskv-log",
            "server",
            "raft",
        ];
        let ports = [("http", 80, "tcp"), ("port-2", 2221, "tcp"), ("", 53, "udp"), ("sig", 2905, "sctp")];
        for service in services {
            for address in ["10.96.0.7", "fd00:10:96::7"] {
                for from in 0..ports.len() {
                    for (name, value) in of_kubernetes(service, address, &ports[from..]) {
                        assert!(is_service_link(&name, &value, &[]), "{name}={value}");
                        let given = variables(&[(&name, &value)]);
                        let loaded =
                            crate::config::load(&crate::config::Given { variables: given, ..Default::default() });
                        assert!(loaded.is_ok(), "{name}={value}: {loaded:?}");
                    }
                }
            }
        }
        for name in ["HUSKV_SERVICE_HOST", "HUSKV_SERVICE_PORT", "HUSKV_SERVICE_PORT_HTTP", "HUSKV_PORT_80_TCP_ADDR"] {
            assert!(is_service_link(name, "", &[]), "{name} was set to nothing");
        }
    }

    #[test]
    fn variables_of_a_docker_link_are_recognized() {
        let made = variables(&[
            ("HUSKV_2_NAME", "/web/huskv-2"),
            ("HUSKV_2_ENV_RAFT_NODE_ID", "node2"),
            ("HUSKV_2_ENV_HUSKV_LOG", "debug"),
            ("HUSKV_2_PORT", "tcp://172.17.0.5:1111"),
            ("HUSKV_2_PORT_1111_TCP_START", "tcp://172.17.0.5:1111"),
            ("HUSKV_2_PORT_1111_TCP_PORT_START", "1111"),
            ("HUSKV_2_PORT_1111_TCP_END", "tcp://172.17.0.5:1112"),
            ("HUSKV_2_PORT_1111_TCP_PORT_END", "1112"),
            ("HUSKV_2_PORT_1111_TCP_ADDR", "172.17.0.5"),
        ]);
        for (name, value) in &made {
            assert!(is_service_link(name.to_str().unwrap(), value.to_str().unwrap(), &made), "{name:?}={value:?}");
        }
        let unlinked = variables(&[("HUSKV_NAME", "node2"), ("HUSKV_ENV_LOG", "debug")]);
        assert!(
            !is_service_link("HUSKV_NAME", "node2", &unlinked) && !is_service_link("HUSKV_ENV_LOG", "debug", &unlinked)
        );
    }

    #[test]
    fn settings_and_misspelt_settings_are_no_links() {
        for (name, value) in [
            ("HUSKV_PORT", "2221"),
            ("HUSKV_PORT", ""),
            ("HUSKV_RAFT_PORT", "1111"),
            ("SERVER_PORT", "80"),
            ("SERVER_PORT", "http://10.0.0.1:80"),
            ("HUSKV_SERVICE_HOST", "kv1"),
            ("HUSKV_SERVICE_PORT", "http"),
            ("HUSKV_NAME", "/web/other"),
            ("HUSKV_JION", "a:1"),
            ("HUSKV_PORT_X_TCP", "tcp://10.0.0.1:1"),
            ("HUSKV_PORT_80_TCP_NAME", "x"),
            ("HUSKV_LIMITS_KEY_BYTES", "7"),
        ] {
            assert!(!is_service_link(name, value, &[]), "{name}={value}");
        }
    }

    #[test]
    fn the_sentence_names_the_remedy_only_where_a_port_is_hidden() {
        let said = |pairs: &[(&str, &str)]| {
            let variables = variables(pairs);
            let config =
                crate::config::load(&crate::config::Given { variables: variables.clone(), ..Default::default() });
            service_links(&variables, &config.unwrap())
        };
        assert_eq!(said(&[("HUSKV_LOG", "debug"), ("REDIS_PORT", "tcp://10.0.0.1:1"), ("RAFT_PORT", "1112")]), None);
        let plain = said(&[("HUSKV_PORT", "tcp://10.0.0.1:1"), ("HUSKV_SERVICE_HOST", "10.0.0.1")]).unwrap();
        assert!(plain.contains("HUSKV_PORT, HUSKV_SERVICE_HOST") && !plain.contains("enableServiceLinks"), "{plain}");
        let hidden = said(&[("RAFT_PORT", "tcp://10.0.0.1:1")]).unwrap();
        for part in ["RAFT_PORT=tcp://10.0.0.1:1", "called raft", "raft.port is 1111", "enableServiceLinks: false"] {
            assert!(hidden.contains(part), "{hidden}");
        }
        let other = said(&[("HUSKV_SERVER_PORT", "tcp://10.0.0.1:1"), ("SERVER_PORT", "7")]).unwrap();
        assert!(other.contains("called huskv-server") && other.contains("server.port is 7"), "{other}");
    }
}
