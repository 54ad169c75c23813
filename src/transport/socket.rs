//! The options of a peer's socket.
//!
//! Why: what the system has taken cannot be overtaken any more, and by default it takes megabytes beyond what is on its way.
//!
//! See also: `link::send_queue` (what overtakes what).

use std::io;

use tokio::net::TcpStream;

/// The bytes that the system holds beyond those on their way.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// Sets the options; the socket can be used without them, too.
///
/// # Errors
/// If the system refuses one.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Control frames overtake appends in the send queue only, not in the socket. Linux takes up to 4 MiB into a socket
    // by default: on a link of 1 MB/s a heartbeat would wait 4 s behind them. With 128 KiB it waits 0.13 s, and for
    // what is on its way.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}
