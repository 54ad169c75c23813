//! Baseline server: warp without a store, the cost of HTTP alone.
//!
//! Why: the cost of huskv in a request is the difference to this server under the same load. Run it with a port and the
//! size of its values (256 bytes), then `huskv bench --to 127.0.0.1:PORT`; it responds like a store that has every key.
//!
//! Invariants: the responses have the form and size of huskv's.

use std::error::Error;

use warp::Filter;
use warp::http::header::CONTENT_TYPE;
use warp::reply::{Reply, with_header};

fn answer(key: &str, bytes: usize) -> impl Reply + use<> {
    let item = serde_json::json!({
        "key": key, "value": "v".repeat(bytes), "version": 1, "create_version": 1, "content_type": "text/plain; charset=utf-8",
    });
    let body = serde_json::json!({ "data": item, "message": "success" });
    with_header(body.to_string(), CONTENT_TYPE, "application/json")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().ok_or("usage: bare PORT [BYTES]")?.parse::<u16>()?;
    let bytes = arguments.next().map_or(Ok(256), |bytes| bytes.parse::<usize>())?;
    let get = warp::get().and(warp::path!("store" / String)).map(move |key: String| answer(&key, bytes));
    let put = warp::post().and(warp::path!("store")).and(warp::body::bytes()).map(move |_| answer("key", bytes));
    let health = warp::path!("health").map(|| warp::reply::json(&serde_json::json!({ "leader": null })));
    warp::serve(get.or(put).or(health)).run(([127, 0, 0, 1], port)).await;
    Ok(())
}
