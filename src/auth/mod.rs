//! Tokens: which secrets the node knows, what each of them may do, and when that ends.
//!
//! Why: a node on a network that is not trusted must know which client asks before it reads or changes a key. One file, the same on
//! all nodes, names the tokens; it holds hashes, so that it is of no use to a reader.
//!
//! ```text
//!   file --token_file--> TokenSet --store (reload)--> TokenStore --authenticate--> Token --allows--> yes or no
//! ```
//!
//! Invariants: what no grant allows is denied. A secret is compared with every token in constant time, and is never in a log line, in an
//! error or in `Debug`. A file that is wrong in any place changes nothing.
//!
//! See also: how a request carries a secret (`http::request::caller`), and what each route needs (`http::rules`).

mod expiry;
mod new_token;
mod secret;
mod store;
mod token_file;
mod token_set;

pub use expiry::{format_time, parse_expiry};
pub use new_token::{NewToken, NewTokenError};
pub use secret::{Malformed, Secret, hash};
pub use store::{LastReload, Loaded, TokenStore};
pub use token_file::{TokenFileError, parse};
pub use token_set::{Action, Denied, Grant, Token, TokenSet};
