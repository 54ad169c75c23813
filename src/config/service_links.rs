//! The variables that Kubernetes and Docker set for services.
//!
//! Why: for a Service called `huskv` Kubernetes gives every container `HUSKV_PORT=tcp://10.0.0.7:2221`,
//! `HUSKV_SERVICE_HOST` and others, and for one called `huskv-raft` a `HUSKV_RAFT_PORT` that is the name of a setting.
//! Nobody wrote them, so they are no mistakes in writing a setting.
//!
//! Laws: recognized by the form of name and value that the platform gives them, and by nothing else. A port that is
//! written as a URL is never taken for the value of a setting.
//!
//! Not here: saying it in the log (`cli`).

use std::ffi::OsString;

use super::keys::{KEYS, Kind};
use super::{ENDPOINTS_VARIABLE, PREFIX};

/// The protocols that a service can have.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Whether the platform made this variable for a service: `NAME_PORT=tcp://...`, `NAME_PORT_2221_TCP`,
/// `NAME_PORT_2221_TCP_ADDR`, `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` or `NAME_SERVICE_PORT_HTTP`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let url = PROTOCOLS.iter().any(|protocol| value.strip_prefix(protocol).is_some_and(|rest| rest.starts_with("://")));
    if name.ends_with("_PORT") && url {
        return true;
    }
    if let Some((_, rest)) = name.split_once("_SERVICE_") {
        return match rest {
            "HOST" => value.parse::<std::net::IpAddr>().is_ok(),
            "PORT" => value.parse::<u16>().is_ok(),
            _ => rest.starts_with("PORT_") && value.parse::<u16>().is_ok(),
        };
    }
    let Some((_, rest)) = name.split_once("_PORT_") else { return false };
    let mut words = rest.split('_');
    let port = words.next().is_some_and(|port| port.parse::<u16>().is_ok());
    let protocol = words.next().is_some_and(|word| PROTOCOLS.iter().any(|known| known.to_uppercase() == word));
    let part = words.next();
    port && protocol && words.next().is_none() && matches!(part, None | Some("PROTO" | "PORT" | "ADDR"))
}

/// The variables of this environment that look like settings and are the platform's, in one sentence for the log; None
/// where there are none. Where the platform took the name of one of the four short settings, the sentence names the
/// way out.
#[must_use]
pub fn service_links(variables: &[(OsString, OsString)]) -> Option<String> {
    let texts = variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
    let ours = |name: &str| {
        name != ENDPOINTS_VARIABLE && (name.starts_with(PREFIX) || KEYS.iter().any(|key| key.short == Some(name)))
    };
    let mut names: Vec<_> =
        texts.filter(|(name, value)| ours(name) && is_service_link(name, value)).map(|(name, _)| name).collect();
    names.sort_unstable();
    let ports = KEYS.iter().filter(|key| matches!(key.kind, Kind::Port(_)));
    let taken = ports.flat_map(|key| [key.short.map(str::to_owned), Some(key.variable())]).flatten();
    let taken: Vec<_> = taken.filter(|variable| names.contains(&variable.as_str())).collect();
    let way_out = match taken.as_slice() {
        [] => String::new(),
        taken => format!(
            "; {} cannot be used for the setting of this name here: put enableServiceLinks: false into the pod's spec, or \
             rename the Service",
            taken.join(" and ")
        ),
    };
    (!names.is_empty()).then(|| format!("ignored, set by the platform for a service: {}{way_out}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_services_are_told_from_settings() {
        for (name, value) in [
            ("HUSKV_PORT", "tcp://10.96.0.7:2221"),
            ("HUSKV_RAFT_PORT", "tcp://10.96.0.7:1111"),
            ("SERVER_PORT", "tcp://10.96.0.7:80"),
            ("HUSKV_PORT_2221_TCP", "tcp://10.96.0.7:2221"),
            ("HUSKV_PORT_2221_TCP_ADDR", "10.96.0.7"),
            ("HUSKV_PORT_2221_TCP_PROTO", "tcp"),
            ("HUSKV_PORT_2221_TCP_PORT", "2221"),
            ("HUSKV_0_PORT_53_UDP_PORT", "53"),
            ("HUSKV_SERVICE_HOST", "10.96.0.7"),
            ("HUSKV_SERVICE_HOST", "fd00::7"),
            ("HUSKV_SERVICE_PORT", "2221"),
            ("HUSKV_RAFT_SERVICE_PORT_RAFT", "1111"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("HUSKV_PORT", "2221"),
            ("HUSKV_RAFT_PORT", "1111"),
            ("HUSKV_SERVICE_HOST", "kv1"),
            ("HUSKV_JION", "a:1"),
            ("HUSKV_PORT_X_TCP", "tcp://10.0.0.1:1"),
            ("HUSKV_LIMITS_KEY_BYTES", "7"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn the_sentence_names_the_way_out_only_where_a_setting_is_hidden() {
        let said = |pairs: &[(&str, &str)]| {
            let variables: Vec<_> = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
            service_links(&variables)
        };
        assert_eq!(said(&[("HUSKV_LOG", "debug"), ("REDIS_PORT", "tcp://10.0.0.1:1"), ("RAFT_PORT", "1111")]), None);
        let plain = said(&[("HUSKV_PORT", "tcp://10.0.0.1:1"), ("HUSKV_SERVICE_HOST", "10.0.0.1")]).unwrap();
        assert!(plain.contains("HUSKV_PORT, HUSKV_SERVICE_HOST") && !plain.contains("enableServiceLinks"), "{plain}");
        let hidden = said(&[("RAFT_PORT", "tcp://10.0.0.1:1")]).unwrap();
        assert!(hidden.contains("RAFT_PORT") && hidden.contains("enableServiceLinks: false"), "{hidden}");
    }
}
