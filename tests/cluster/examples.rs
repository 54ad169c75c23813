//! The programs under `examples/`, used on a real cluster.
//!
//! Why: an example is copied. It must do what its page says, also where clients compete.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use huskv::client::{Client, Write};

use crate::harness::Cluster;

// Their `main` is not used here.
#[allow(dead_code)]
#[path = "../../examples/counter.rs"]
mod counter;
#[allow(dead_code)]
#[path = "../../examples/leader_election.rs"]
mod leader_election;
#[allow(dead_code)]
#[path = "../../examples/lock.rs"]
mod lock;
#[allow(dead_code)]
#[path = "../../examples/watch.rs"]
mod watch;

crate::harness::cases![
    a_lock_has_one_holder_and_growing_fencing_tokens,
    concurrent_additions_to_a_counter_all_count,
    a_mirror_follows_the_keys_under_a_prefix,
    a_candidate_leads_once_the_leader_resigns,
];

/// Runs `test` with a client of three nodes.
fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) {
    let cluster = Cluster::of(3);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(Client::new(cluster.addresses(), Duration::from_secs(30))));
}

fn a_lock_has_one_holder_and_growing_fencing_tokens() {
    with_client(async |client| {
        let first = lock::acquire(&client, "lock", "a").await.unwrap().expect("free");
        assert_eq!(lock::acquire(&client, "lock", "b").await.unwrap(), None, "held by a");
        let renewed = lock::renew(&client, "lock", "a", first).await.unwrap().expect("still held");
        assert!(renewed > first);
        assert!(!lock::release(&client, "lock", first).await.unwrap(), "the token is not the present one");
        assert!(lock::release(&client, "lock", renewed).await.unwrap());
        assert_eq!(lock::renew(&client, "lock", "a", renewed).await.unwrap(), None, "released");
        assert!(lock::acquire(&client, "lock", "b").await.unwrap().expect("free again") > renewed);
    });
}

fn concurrent_additions_to_a_counter_all_count() {
    with_client(async |client| {
        let clients = (0..4).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    counter::add(&client, "counter", 2).await.unwrap();
                }
            })
        });
        for adding in clients.collect::<Vec<_>>() {
            adding.await.unwrap();
        }
        assert_eq!(counter::add(&client, "counter", 0).await.unwrap(), 40);
    });
}

fn a_mirror_follows_the_keys_under_a_prefix() {
    with_client(async |client| {
        let put = async |key: &str, value: &str| {
            client.put(key, value.to_owned(), &Write::default()).await.unwrap();
        };
        put("m/1", "one").await;
        put("other", "x").await;
        let (tell, told) = mpsc::channel();
        let following = client.clone();
        let following = tokio::spawn(async move {
            let record = |mirror: &watch::Mirror| {
                tell.send(mirror.clone()).unwrap();
                if mirror.contains_key("m/end") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            watch::follow(&following, "m/", record).await.unwrap();
        });
        put("m/2", "two").await;
        client.delete("m/1", &Write::default()).await.unwrap();
        put("m/end", "").await;
        following.await.unwrap();
        let last = told.iter().last().expect("it was told of the list");
        assert_eq!(last.keys().collect::<Vec<_>>(), ["m/2", "m/end"]);
        assert_eq!(last["m/2"], "\"two\"");
    });
}

fn a_candidate_leads_once_the_leader_resigns() {
    with_client(async |client| {
        let first = leader_election::campaign(&client, "job", "a").await.unwrap();
        let waiting = client.clone();
        let second = tokio::spawn(async move { leader_election::campaign(&waiting, "job", "b").await.unwrap() });
        let renewed = leader_election::renew(&client, "job", "a", first).await.unwrap();
        assert!(!second.is_finished());
        assert_eq!(leader_election::leader(&client, "job").await.unwrap().as_deref(), Some("a"));
        leader_election::resign(&client, "job", renewed).await.unwrap();
        assert!(second.await.unwrap() > renewed);
        assert_eq!(leader_election::leader(&client, "job").await.unwrap().as_deref(), Some("b"));
    });
}
