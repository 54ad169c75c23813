//! Text that the demo prints once its nodes are joined: the nodes, and commands to try.
//!
//! Invariants: each command can be pasted into a shell in the directory in which the demo was started. No secret is printed:
//! curl and huskv read it from its file.

use std::path::Path;

use super::credentials::Credentials;
use super::processes::Plan;

/// The text, for nodes of a cluster with this leader and number of voters.
pub(super) fn text(
    plan: &[&Plan],
    leader: &str,
    members: usize,
    page: &str,
    credentials: Option<&Credentials>,
) -> String {
    let count = plan.len();
    let (scheme, how) = match credentials {
        Some(_) => ("https", ", with TLS on both ports"),
        None => ("http", ""),
    };
    let urls: Vec<String> = plan.iter().map(|node| format!("{scheme}://{}", node.http())).collect();
    let mut lines = vec![String::new(), format!("{count} nodes run{how}:")];
    for (node, url) in plan.iter().zip(&urls) {
        let (directory, log) = (node.directory.display(), node.log.display());
        lines.push(format!("  {}  {url}  raft {}  {directory}  {log}", node.name, node.raft()));
    }
    if members > count {
        lines.push(format!("The cluster has {members} members, demo --nodes {members} starts them all."));
    }
    if let (Some(first), Some(last)) = (urls.first(), urls.last()) {
        match credentials {
            None => lines.push(format!("In a browser: {page}")),
            Some(credentials) => {
                lines.push(format!(
                    "In a browser: {page}, which asks for the secret in {}",
                    credentials.secret().display()
                ));
            }
        }
        match credentials {
            None => plain(leader, first, last, &mut lines),
            Some(credentials) => secure(leader, &urls, &plan[0].log, credentials, &mut lines),
        }
    }
    lines.push("Ctrl-C stops them all.\n".to_owned());
    lines.join("\n")
}

/// The address of the page: the demo's own at this port, or that of a node.
pub(super) fn page(node: &Plan, port: Option<u16>, credentials: Option<&Credentials>) -> String {
    match (port, credentials) {
        (Some(port), _) => format!("http://127.0.0.1:{port}/ui/"),
        (None, Some(_)) => format!("https://{}/ui/", node.http()),
        (None, None) => format!("http://{}/ui/", node.http()),
    }
}

fn plain(leader: &str, first: &str, last: &str, lines: &mut Vec<String>) {
    lines.extend([
        format!("{leader} leads; any node takes any request. Try:"),
        format!("  curl -X POST {first}/store -d '{{\"key\": \"foo\", \"value\": \"bar\"}}'"),
        format!("  curl {last}/store/foo"),
        format!("  curl -X DELETE {last}/store/foo"),
        format!("  curl {first}/raft/stats"),
    ]);
}

fn secure(leader: &str, urls: &[String], log: &Path, credentials: &Credentials, lines: &mut Vec<String>) {
    let (Some(first), Some(last)) = (urls.first(), urls.last()) else { return };
    let (ca, secret) = (quoted(&credentials.ca()), quoted(&credentials.secret()));
    let header = quoted(Path::new(&format!("@{}", credentials.header().display())));
    let huskv = std::env::args_os().next().unwrap_or_else(|| "huskv".into());
    let huskv = quoted(Path::new(&huskv));
    let place = if credentials.folder().is_absolute() { "" } else { ", in this directory" };
    lines.extend([
        format!("{leader} leads; any node takes any request. Try in another terminal{place}:"),
        format!("  curl --cacert {ca} -H {header} {first}/store/foo -X PUT -d bar"),
        format!("  curl --cacert {ca} -H {header} {last}/store/foo"),
        "The same with huskv:".to_owned(),
        format!("  export HUSKV_ENDPOINTS={}", urls.join(",")),
        format!("  export HUSKV_CA={ca} HUSKV_TOKEN_FILE={secret}"),
        format!("  {huskv} put foo bar"),
        format!("  {huskv} get foo; echo"),
        format!("  {huskv} status"),
        format!("Strangers are refused; {} says which handshakes, and why:", log.display()),
    ]);
    let refused = [
        (format!("curl {first}/store/foo"), "curl does not know the CA"),
        (format!("curl --cacert {ca} {first}/store/foo"), "401: no token"),
        (format!("curl {}/store/foo", first.replacen("https", "http", 1)), "400: no TLS"),
    ];
    let width = refused.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    lines.extend(refused.iter().map(|(command, why)| format!("  {command:width$}  # {why}")));
}

/// The path as a word of the shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-@+:,=".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_the_shell() {
        for (path, word) in [
            ("data/certs/ca.pem", "data/certs/ca.pem"),
            ("@/tmp/x", "@/tmp/x"),
            ("my data/ca.pem", "'my data/ca.pem'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("~/x", "'~/x'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }
}
