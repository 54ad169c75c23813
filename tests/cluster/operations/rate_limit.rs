//! The limit of requests per second on real nodes: bursts, callers beside each other, proxies, and clients that wait.
//!
//! Invariants: buckets gain one request a second, and requests are sent many at once, so that a slow machine changes no result.
//!
//! See also: the buckets with a clock of their own (`src/http/clients/rate_limit.rs`), every route (`src/http/tests/limits.rs`).

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::api::tokens::TokenFile;
use crate::harness::{Answer, Cluster, Node, Setup, binary, check, eventually, read_head, secs};

crate::harness::cases![
    a_caller_over_its_limit_waits_and_all_others_are_served,
    each_token_has_a_limit_and_wrong_ones_share_that_of_their_address,
    a_forwarded_request_counts_where_it_was_sent_to,
    subcommands_wait_as_long_as_a_429_says,
    forged_addresses_take_bounded_memory_and_delay_no_other_client.alone(),
];

const BURST: usize = 40;
/// More than a burst, and more than a slow machine's seconds add to it.
const MANY: usize = 100;

fn limited(setup: Setup, burst: usize) -> Setup {
    setup.set("HUSKV_LIMITS_REQUESTS_PER_SECOND", 1).set("HUSKV_LIMITS_REQUEST_BURST", burst)
}

/// A client at 127.0.0.`last`.
fn connect(node: &Node, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect(&node.http.parse::<SocketAddr>().unwrap().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(secs(60))).unwrap();
    stream
}

/// Sends requests one behind the other without waiting, from 127.0.0.`last`; the heads of the answers, which have no bodies.
fn heads(node: &Node, last: u8, requests: impl Iterator<Item = String>) -> Vec<Answer> {
    let requests: Vec<String> = requests.collect();
    let (count, text) = (requests.len(), requests.concat());
    let mut stream = connect(node, last);
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let sender = thread::spawn(move || stream.write_all(text.as_bytes()));
    let heads = (0..count).map(|_| read_head(&mut answers).expect("an answer to each request")).collect();
    sender.join().expect("no panic").expect("the node reads all requests");
    heads
}

/// As [`heads`], with [`MANY`] requests HEAD for this path.
fn many(node: &Node, last: u8, path: &str) -> Vec<Answer> {
    many_with(node, last, path, "")
}

/// As [`many`], with a header line.
fn many_with(node: &Node, last: u8, path: &str, header: &str) -> Vec<Answer> {
    heads(node, last, (0..MANY).map(|_| format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n")))
}

fn allowed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status != 429).count()
}

/// Asserts that a bucket that was full at `since` is what these requests were taken from.
#[track_caller]
fn is_one_bucket(allowed: usize, burst: usize, since: Instant) {
    let gained = usize::try_from(since.elapsed().as_secs()).unwrap() + 1;
    assert!((burst..=burst + gained).contains(&allowed), "{allowed} of a burst of {burst}, and {gained} s");
}

fn a_caller_over_its_limit_waits_and_all_others_are_served() {
    let node = limited(Setup::named("node1"), BURST).start();
    let since = Instant::now();
    let answers = many(&node, 2, "/store/k");
    is_one_bucket(allowed(&answers), BURST, since);
    let refused = answers.iter().find(|answer| answer.status == 429).expect("more than a burst");
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused}");
    assert_eq!(refused.header("x-huskv-node"), Some("node1"), "{refused}");
    // A write over the limit changes nothing: as many keys are there as writes were allowed.
    let since = Instant::now();
    let head = "HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1";
    let writes: String = (0..MANY)
        .map(|number| format!("PUT /store/{number} {head}\r\nX-Forwarded-For: 9.9.9.{number}\r\n\r\n1"))
        .collect();
    let mut stream = connect(&node, 3);
    stream.write_all(writes.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    let (stored, refused) = (text.matches("HTTP/1.1 200").count(), text.matches("HTTP/1.1 429").count());
    assert_eq!(stored + refused, MANY, "{text}");
    is_one_bucket(stored, BURST, since);
    assert_eq!(text.matches(r#""code":"rate_limited""#).count(), refused);
    assert_eq!(text.matches(r#""outcome":"not_applied""#).count(), refused);
    assert_eq!(node.get("/health").json()["keys"], stored.to_string(), "{text}");
    // Probes are never limited, and the time that the answer names is enough.
    for path in ["/livez", "/readyz", "/health"] {
        assert!(many(&node, 2, path).iter().all(|answer| answer.status == 200), "{path}");
    }
    eventually(secs(10), "the caller is served again", || {
        let answer = heads(&node, 2, std::iter::once("HEAD /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()));
        check(answer[0].status == 404, &answer[0])
    });
}

fn each_token_has_a_limit_and_wrong_ones_share_that_of_their_address() {
    let file = TokenFile::of(&[&["root", "--admin"], &["billing", "--read", "billing/"]]);
    let node = limited(file.setup(Setup::named("node1")), BURST).start();
    let bearer = |secret: &str| format!("Authorization: Bearer {secret}\r\n");
    // Wrong ones from one address first: no token loses anything by that.
    let guesses = [bearer("guess"), String::new()];
    for (guess, address) in guesses.iter().zip([2, 3]) {
        let since = Instant::now();
        let answers = many_with(&node, address, "/store/billing/a", guess);
        assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)), "{}", answers[0]);
        is_one_bucket(allowed(&answers), BURST, since);
    }
    for secret in &file.secrets {
        let since = Instant::now();
        let answers = many_with(&node, 2, "/store/billing/a", &bearer(secret));
        assert!(answers.iter().all(|answer| [404, 429].contains(&answer.status)), "{}", answers[0]);
        let elsewhere = many_with(&node, 4, "/store/billing/a", &bearer(secret));
        is_one_bucket(allowed(&answers) + allowed(&elsewhere), BURST, since);
    }
}

fn a_forwarded_request_counts_where_it_was_sent_to() {
    let cluster = Cluster::with(2, |setup| limited(setup, 500));
    let leader = cluster.agreed();
    let follower = &cluster.nodes[1 - leader];
    let requests = || (0..600).map(|_| "HEAD /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned());
    for node in [follower, &cluster.nodes[leader]] {
        let since = Instant::now();
        let answers = heads(node, 2, requests());
        assert!(answers.iter().all(|answer| [404, 429].contains(&answer.status)), "{}", answers[0]);
        is_one_bucket(allowed(&answers), 500, since);
    }
}

fn subcommands_wait_as_long_as_a_429_says() {
    let node = limited(Setup::named("node1"), 1).start();
    let huskv = |arguments: &[&str]| {
        Command::new(binary()).args(arguments).args(["--endpoints", &node.http]).output().expect("huskv runs")
    };
    let since = Instant::now();
    for command in [&["put", "k", "1"][..], &["get", "k"], &["status"], &["status"], &["put", "k", "2"]] {
        let output = huskv(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    assert!(since.elapsed() >= secs(4), "five requests of a caller with one a second took {:?}", since.elapsed());
    // One that may not wait so long says why.
    let output = eventually(secs(30), "a command with a short timeout is refused", || {
        let output = huskv(&["put", "k", "3", "--timeout", "500ms"]);
        check(!output.status.success(), format!("{output:?}")).map(|()| output)
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("(rate_limited)") && output.status.code() == Some(1), "{output:?}");
}

/// A node with so little memory has room for the buckets of so many addresses.
const MEMORY_MB: usize = 6;
const ADDRESSES: usize = 256;

fn forged_addresses_take_bounded_memory_and_delay_no_other_client() {
    const EACH: usize = 10;
    let request = |number: usize| {
        let address = Ipv4Addr::from(0xc633_0000 + u32::try_from(number).unwrap());
        format!("HEAD /nowhere HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6, {address}, 10.0.0.9\r\n\r\n")
    };
    // A bucket from which all was taken is forgotten after so many seconds. A machine that is slower than that has another try.
    let full_again = Duration::from_secs(EACH as u64);
    for _ in 0..5 {
        let setup = limited(Setup::named("node1"), EACH).set("HUSKV_HTTP_TRUSTED_PROXIES", "127.0.0.2,10.0.0.0/8");
        let node = setup.set("HUSKV_LIMITS_MEMORY_MB", MEMORY_MB).start();
        let since = Instant::now();
        let known = heads(&node, 2, (0..ADDRESSES).flat_map(|number| vec![request(number); EACH]));
        let unknown = heads(&node, 2, (ADDRESSES..3 * ADDRESSES).map(request));
        if since.elapsed() < full_again {
            assert_eq!(allowed(&known), ADDRESSES * EACH, "each address has a bucket of its own");
            is_one_bucket(allowed(&unknown), EACH, since);
            // A client that is not behind the proxy is a new address, too. What the others share holds it up for a second at most.
            eventually(secs(10), "a new address is served", || {
                let answer = heads(&node, 3, std::iter::once(request(0)));
                check(answer[0].status == 404, &answer[0])
            });
            return;
        }
    }
    panic!("this machine sends fewer than {} requests in {full_again:?}", ADDRESSES * (EACH + 2));
}
