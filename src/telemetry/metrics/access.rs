//! Figures of TLS, tokens, limits and reloads.

use std::collections::BTreeMap;
use std::fmt;

use super::counters::Counter;
use super::exposition::Exposition;

/// The kinds of refused handshakes, as the log has them, and their labels. Any other kind is `other`.
const HANDSHAKES: [(&str, &str); 20] = [
    ("algorithm", "algorithm"),
    ("alert", "alert"),
    ("broken", "broken"),
    ("certificate", "certificate"),
    ("closed", "closed"),
    ("configuration", "configuration"),
    ("expired", "expired"),
    ("incompatible", "incompatible"),
    ("malformed", "malformed"),
    ("malformed certificate", "malformed_certificate"),
    ("name", "name"),
    ("no TLS", "no_tls"),
    ("no certificate", "no_certificate"),
    ("not yet valid", "not_yet_valid"),
    ("plain HTTP", "plain_http"),
    ("protocol", "protocol"),
    ("purpose", "purpose"),
    ("signature", "signature"),
    ("timeout", "timeout"),
    ("unknown issuer", "unknown_issuer"),
];

/// Requests that were refused.
#[derive(Debug, Default)]
pub struct Access {
    /// Without a valid token, 401.
    pub unauthorized: Counter,
    /// With one that lacks a right, 403.
    pub forbidden: Counter,
    /// Over the rate of their token.
    pub limited_by_token: Counter,
    /// Over the rate of their address.
    pub limited_by_address: Counter,
    /// When a reload last succeeded, in seconds since 1970; 0 for the start.
    pub reload_succeeded_at: super::Gauge,
}

/// What is known elsewhere, as of a scrape.
#[derive(Debug, Default)]
pub struct AccessState {
    /// The end of the HTTP port's certificate, in seconds since 1970; None without TLS.
    pub http_not_after: Option<u64>,
    /// The same of the peer port.
    pub peer_not_after: Option<u64>,
    /// Refused handshakes by the kind in the log.
    pub refused_handshakes: BTreeMap<&'static str, u64>,
    /// Whether the last reload failed.
    pub reload_failed: bool,
}

impl Access {
    pub(super) fn write(&self, to: &mut Exposition<'_>, state: &AccessState, started: u64) -> fmt::Result {
        to.gauges(
            "huskv_tls_certificate_not_after_timestamp_seconds",
            "End of the certificate of a port, since 1970; NaN without TLS.",
            [(vec![("use", "http")], state.http_not_after), (vec![("use", "peer")], state.peer_not_after)],
        )?;
        let of = |kind| state.refused_handshakes.get(kind).copied().unwrap_or_default();
        let known: u64 = HANDSHAKES.iter().map(|(kind, _)| of(*kind)).sum();
        let other = state.refused_handshakes.values().sum::<u64>().saturating_sub(known);
        let handshakes = HANDSHAKES.iter().map(|(kind, label)| (vec![("reason", *label)], of(*kind)));
        to.counters(
            "huskv_tls_handshake_failures",
            "Handshakes that this node has refused, on both ports.",
            handshakes.chain([(vec![("reason", "other")], other)]),
        )?;
        to.counters(
            "huskv_auth_denied",
            "Requests without a valid token (unauthorized), or with one that lacks a right (forbidden).",
            [
                (vec![("reason", "unauthorized")], self.unauthorized.get()),
                (vec![("reason", "forbidden")], self.forbidden.get()),
            ],
        )?;
        to.counters(
            "huskv_rate_limited",
            "Requests over the rate of their token or address.",
            [
                (vec![("by", "token")], self.limited_by_token.get()),
                (vec![("by", "address")], self.limited_by_address.get()),
            ],
        )?;
        to.gauge("huskv_config_last_reload_successful", "Whether the last reload succeeded.", !state.reload_failed)?;
        to.gauge(
            "huskv_config_last_reload_success_timestamp_seconds",
            "When the settings were last read without an error, since 1970.",
            match self.reload_succeeded_at.get() {
                0 => started,
                at => at,
            },
        )
    }
}
