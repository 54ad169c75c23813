//! Tests of closes that the node begins: a response announces them, and no request is left without a response.
//!
//! Why: a client reuses a connection whose last response did not say `Connection: close`, and cannot know whether a request
//! that ended in a reset was carried out.
//!
//! See also: other closes ([`super::connections`]).

use super::*;

#[tokio::test]
async fn a_request_that_crosses_a_shutdown_is_answered_and_the_close_announced() {
    let node = Node::working();
    let mut reused = Vec::new();
    for sent in [&b""[..], b"GET /store/k HTTP/1.1\r\nHo", b"GET /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            reused.push((stream, sent));
        }
    }
    let stop = node.server.stop(Duration::from_secs(60));
    let asks = async {
        // `join!` polls the stop first, and nothing else runs before these writes.
        for (stream, sent) in &reused {
            assert_eq!(stream.try_write(if sent.is_empty() { b"G" } else { sent }).unwrap(), sent.len().max(1));
        }
        for (stream, sent) in &mut reused {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let answer = TestResponse::parse(&answer);
            assert_eq!(answer.header("connection"), Some("close"), "{sent:?} {answer:?}");
            if answer.status != 404 {
                answer.is_problem(503, "stopping");
            }
        }
        reused.clear();
    };
    tokio::join!(stop, asks);
}

#[tokio::test]
async fn a_503_stopping_announces_the_close() {
    let node = Node::refusing(Refusal::not_applied(Code::Stopping, "stopping"));
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = TestResponse::parse(&answer[..count]);
    answer.is_problem(503, "stopping");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_broken_body_is_a_400_that_announces_the_close() {
    let node = Node::working();
    let chunked = "Transfer-Encoding: chunked";
    for (header, body, why) in [
        (chunked, "zz\r\na\r\n0\r\n\r\n", "a malformed chunk"),
        (chunked, "5\r\nabcdeXX0\r\n\r\n", "a malformed chunk"),
        (chunked, "5\r\nab", "ended before its length"),
        ("Content-Length: 10", "abc", "ended before its length"),
    ] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let request = format!("PUT /store/k HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = TestResponse::parse(&answer);
        let problem = answer.is_problem(400, "bad_body");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{body:?}: {problem}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
}
