//! The beginning of a connection on a port with TLS: the first byte, and the handshake.
//!
//! Why: a handshake costs round trips and a signature, so it belongs to the connection's own task; the accept loop never waits
//! for one. Until it is complete the connection is one whose request's head has not arrived: the same timeouts, and the
//! first to be evicted.
//!
//! ```text
//!   TcpStream --first byte--> 0x16: handshake -> SecureStream<WriteTimeout<Socket>> -> connection
//!                        `--> other: `accept`: plain connection; `on`: 400 `https_required`
//! ```
//!
//! Invariants: bytes of a client are read as HTTP only where the mode allows it. A refused handshake has its alert sent, and
//! one line in the log. An evicted or slow handshake is dropped without an answer.
//!
//! See also: [`crate::trust::acceptor`] (the handshake itself), [`super::lingering_close`] (clients that find no slot).

use std::net::SocketAddr;
use std::sync::Arc;

use slog::{Logger, debug};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch as signal;
use tokio::time::{sleep, timeout};

use super::client_socket::{Fin, Socket};
use super::connection::{self, Client, LATE_REQUEST, STOP_LINGER, linger, stopped, timeouts};
use super::connection_slots::ConnectionSlot;
use super::dispatch::{Dispatch, Routes};
use super::lingering_close::{LINGER, raw_response};
use super::write_timeout::WriteTimeout;
use crate::http::options::HttpTls;
use crate::http::request::client_certificate::ClientCertificate;
use crate::http::request::handler_context::ServerContext;
use crate::http::response::problem::Problem;
use crate::trust::Mode;
use crate::trust::acceptor::HANDSHAKE_RECORD;
use crate::trust::refusal::Refusal;

/// Serves a connection on a port with TLS until one side ends it.
pub(super) async fn serve<S>(
    (stream, tls): (TcpStream, Arc<HttpTls>),
    slot: ConnectionSlot,
    context: Arc<ServerContext>,
    dispatch: Dispatch<S>,
    mut stop_signal: signal::Receiver<bool>,
    log: Logger,
) where
    S: Routes,
{
    let Ok(address) = stream.peer_addr() else { return };
    let Some(first) = first_byte(&stream, &slot, &context, &mut stop_signal).await else { return };
    slot.activity.bytes_received();
    let (fin, grace) = (Fin::default(), context.options.rate_grace);
    let (socket, broken) = Socket::new(stream, fin.clone());
    let socket = WriteTimeout::new(socket, grace);
    if first != HANDSHAKE_RECORD && tls.mode == Mode::On {
        Refusal::not_tls(first).log(&tls.refusals, &log, "client", &address);
        drop(broken);
        refuse_plain(socket).await;
        return;
    }
    if first != HANDSHAKE_RECORD {
        let client = Client::at(address.ip(), fin);
        connection::serve((socket, broken), client, slot, context, dispatch, stop_signal, log).await;
        return;
    }
    let accepted = tokio::select! {
        accepted = tls.acceptor.accept(socket) => accepted,
        failed = abandoned(&slot, &context, &mut stop_signal) => {
            // The handshake's future owns the socket and is dropped with it.
            match failed {
                Some(refusal) => refusal.log(&tls.refusals, &log, "client", &address),
                None => debug!(log, "a TLS handshake was given up"; "address" => %address),
            }
            return;
        }
    };
    match accepted {
        Ok((stream, certificate)) => {
            slot.activity.handshake_done();
            let certificate = ClientCertificate(certificate.map(Arc::new));
            let client = Client { certificate, ..Client::at(address.ip(), fin) };
            connection::serve((stream, broken), client, slot, context, dispatch, stop_signal, log).await;
        }
        Err((refusal, socket)) => {
            // Without the other owner of the socket, so that it can be shut down.
            drop(broken);
            refused((&refusal, socket), &tls, address, &log).await;
        }
    }
}

/// Waits for the first byte, which stays unread. None where the connection has ended, or has to.
async fn first_byte(
    stream: &TcpStream,
    slot: &ConnectionSlot,
    context: &ServerContext,
    stop_signal: &mut signal::Receiver<bool>,
) -> Option<u8> {
    let mut first = [0];
    tokio::select! {
        peeked = stream.peek(&mut first) => matches!(peeked, Ok(1..)).then_some(first[0]),
        () = slot.activity.evicted() => None,
        () = sleep(timeouts(slot.kind, context).idle) => None,
        () = async { stopped(stop_signal).await; sleep(LATE_REQUEST).await } => None,
    }
}

/// Ends when a handshake has to be given up: at its time limit, which is worth a line in the log, after an eviction, or in a
/// shutdown.
async fn abandoned(
    slot: &ConnectionSlot,
    context: &ServerContext,
    stop_signal: &mut signal::Receiver<bool>,
) -> Option<Refusal> {
    let limit = timeouts(slot.kind, context).head;
    tokio::select! {
        () = sleep(limit) => Some(Refusal::timeout(limit)),
        () = slot.activity.evicted() => None,
        () = async { stopped(stop_signal).await; sleep(STOP_LINGER).await } => None,
    }
}

/// Logs a refused handshake, and closes the connection so that the client gets the alert.
async fn refused<S>((refusal, socket): (&Refusal, S), tls: &HttpTls, address: SocketAddr, log: &Logger)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    refusal.log(&tls.refusals, log, "client", &address);
    // With TLS 1.3 a client that is refused may have sent its request already. A close with unread bytes would reset the
    // connection, and the client would see that instead of the alert.
    linger(socket).await;
}

/// Answers a client that speaks plain HTTP to a port that does not.
async fn refuse_plain<S>(mut socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let response = raw_response(&Problem::https_required());
    if matches!(timeout(LINGER, socket.write_all(&response)).await, Ok(Ok(()))) {
        linger(socket).await;
    }
}
