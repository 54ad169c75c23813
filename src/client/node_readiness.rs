//! Reader of `/readyz`: whether a node takes requests, and what each of its checks says.
//!
//! Invariants: the status decides; lines that cannot be read are left out, so the answer of another version is readable.
//!
//! See also: `http::api::probes`, which writes the lines; [`super::NodeClient::readiness`].

use serde::Serialize;

/// The answer of a node to `/readyz?verbose`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it takes requests.
    pub ready: bool,
    /// Its checks, in their order; empty to a client without a token, where the node wants one.
    pub checks: Vec<ReadinessCheck>,
}

/// One check of readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadinessCheck {
    /// Its name, such as `leader`.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// The stable code where it does not, such as `no_leader`.
    pub code: Option<String>,
    /// The explanation.
    pub detail: Option<String>,
}

impl Readiness {
    /// Reads a response with this status.
    #[must_use]
    pub fn parse(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        Self { ready: status == 200, checks: text.lines().filter_map(ReadinessCheck::parse).collect() }
    }

    /// The reasons why it takes no requests, each once: `leader: this node knows no leader`.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut details: Vec<&str> = Vec::new();
        let mut reasons = Vec::new();
        for check in self.checks.iter().filter(|check| !check.ok) {
            let detail = check.detail.as_deref().unwrap_or_default();
            if !details.contains(&detail) {
                details.push(detail);
                reasons.push(format!("{}: {detail}", check.name));
            }
        }
        reasons
    }
}

impl ReadinessCheck {
    /// Reads `[+]joined ok`, `[+]disk excluded: ok` or `[-]leader failed: no_leader: why`.
    fn parse(line: &str) -> Option<Self> {
        if let Some(rest) = line.strip_prefix("[+]") {
            let name = rest.split(' ').next()?.to_owned();
            return Some(Self { name, ok: true, ..Self::default() });
        }
        let (name, why) = line.strip_prefix("[-]")?.split_once(" failed: ")?;
        let (code, detail) = why.split_once(": ")?;
        Some(Self { name: name.to_owned(), ok: false, code: Some(code.to_owned()), detail: Some(detail.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_from_their_lines_and_a_reason_is_given_once() {
        let body = "[+]joined ok\n[-]leader failed: no_leader: it knows: none\n[-]read_index failed: no_leader: it knows: none\n\
                    [+]disk excluded: ok\nnonsense\n[-]nonsense\nnot ready\n";
        let readiness = Readiness::parse(503, body.as_bytes());
        let names: Vec<_> = readiness.checks.iter().map(|check| (check.name.as_str(), check.ok)).collect();
        assert_eq!(names, [("joined", true), ("leader", false), ("read_index", false), ("disk", true)]);
        assert_eq!(readiness.checks[1].code.as_deref(), Some("no_leader"));
        assert_eq!(readiness.reasons(), ["leader: it knows: none"]);
        assert!(!readiness.ready);
        for (status, body) in [(200, "ok\n"), (503, "not ready\n"), (503, r#"{"code":"starting"}"#)] {
            let readiness = Readiness::parse(status, body.as_bytes());
            assert_eq!(readiness, Readiness { ready: status == 200, checks: Vec::new() });
        }
    }
}
