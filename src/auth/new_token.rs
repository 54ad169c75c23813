//! A new secret, and the table of its token for the token file.
//!
//! Invariants: the table holds the hash and never the secret. What is returned was parsed by the same code as a token file.

use std::fmt::Write;

use thiserror::Error;
use toml::Value;

use super::secret::{Secret, hash};
use super::token_file::{TokenFileError, parse};

/// What a new token may do.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// The prefixes that it may read.
    pub read: Vec<String>,
    /// The prefixes that it may write.
    pub write: Vec<String>,
    /// Whether it may do everything.
    pub admin: bool,
    /// Whether it may read the figures of the node.
    pub metrics: bool,
    /// When it ends, RFC 3339; None for never.
    pub expires: Option<String>,
}

/// Why there is no new token.
#[derive(Debug, Error)]
pub enum NewTokenError {
    /// A name, a prefix or a time is wrong.
    #[error(transparent)]
    Wrong(#[from] TokenFileError),
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Randomness(String),
}

impl NewToken {
    /// Draws a secret and returns it with the table of its token.
    ///
    /// # Errors
    /// [`NewTokenError`] where a token file with the table would be refused.
    pub fn draw(&self) -> Result<(Secret, String), NewTokenError> {
        let secret = Secret::generate().map_err(|error| NewTokenError::Randomness(error.to_string()))?;
        let digest = hash(secret.expose()).unwrap_or_default();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let table = self.table(&hex);
        parse(table.as_bytes())?;
        Ok((secret, table))
    }

    fn table(&self, sha256: &str) -> String {
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        let mut table = format!("[[token]]\nname = {}\nsha256 = \"{sha256}\"\n", quoted(&self.name));
        let mut prefixes: Vec<&String> = self.read.iter().chain(&self.write).collect();
        prefixes.sort();
        prefixes.dedup();
        let grants = prefixes.into_iter().map(|prefix| {
            let actions = [("read", &self.read), ("write", &self.write)];
            let granted = actions.iter().filter(|(_, prefixes)| prefixes.contains(prefix));
            let granted: Vec<String> = granted.map(|(action, _)| quoted(action)).collect();
            format!("{{ prefix = {}, do = [{}] }}", quoted(prefix), granted.join(", "))
        });
        let grants: Vec<String> = grants.collect();
        // Writing to a String cannot fail.
        if !grants.is_empty() {
            writeln!(table, "allow = [{}]", grants.join(", ")).ok();
        }
        if self.admin {
            table.push_str("admin = true\n");
        }
        if self.metrics {
            table.push_str("metrics = true\n");
        }
        if let Some(expires) = &self.expires {
            writeln!(table, "expires = {}", quoted(expires)).ok();
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    use crate::auth::Action;

    #[test]
    fn the_table_of_a_new_token_is_one_that_the_node_reads() {
        let new = NewToken {
            name: "billing".into(),
            read: vec!["b/".into(), "a\"\n".into()],
            write: vec!["b/".into()],
            admin: false,
            metrics: true,
            expires: Some("2999-01-01T00:00:00Z".into()),
        };
        let (secret, table) = new.draw().unwrap();
        assert!(
            !table.contains(secret.expose()) && table.contains(r#"{ prefix = "b/", do = ["read", "write"] }"#),
            "{table}"
        );
        let token = parse(table.as_bytes()).unwrap().authenticate(secret.expose(), SystemTime::now()).unwrap();
        assert!(token.allows(Action::Write, b"b/x") && token.allows(Action::Read, b"a\"\n") && !token.is_admin());
        assert!(!token.allows(Action::Write, b"a\"\n") && token.allows_metrics());
        let admin = NewToken { name: "root".into(), admin: true, ..NewToken::default() };
        assert!(admin.draw().unwrap().1.contains("admin = true"));
        for (wrong, reason) in [
            (NewToken { name: "a b".into(), ..admin.clone() }, "name must be"),
            (NewToken { admin: false, ..admin.clone() }, "it allows nothing"),
            (NewToken { expires: Some("soon".into()), ..admin.clone() }, "expires"),
        ] {
            assert!(wrong.draw().unwrap_err().to_string().contains(reason), "{reason}");
        }
    }
}
