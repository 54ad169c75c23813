//! Framed I/O: reading and writing frames, bounded in bytes and time.
//!
//! Invariants: memory grows only with the bytes that arrived. An unexpected kind or a length over its limit is refused before the
//! body is read. A started read must be finished or the connection closed: reads are not resumable.
//!
//! See also: [`super`] (the bytes of a frame).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frame_limits;
use super::frame_limits::FrameLimits;
use super::{CHECKSUM_BYTES, Frame, HEAD_BYTES, WireError};
use crate::transport::handshake::MAGIC;
use crate::transport::memory_budget::BudgetPermit;

/// The maximum allocation ahead of the bytes that arrive.
const AHEAD_BYTES: usize = 64 << 10;

/// The preamble of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Preamble {
    /// A huskv of this wire version.
    Huskv(u16),
    /// Another protocol: the bytes up to the first mismatch.
    Foreign(Vec<u8>),
    /// The other end closed before its preamble was complete.
    Closed,
}

/// Reads a preamble, at most up to the first mismatch.
///
/// # Errors
/// If the connection fails.
pub async fn read_preamble<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Preamble> {
    let mut bytes = [0; MAGIC.len() + 2];
    let mut filled = 0;
    while filled < bytes.len() {
        let count = reader.read(&mut bytes[filled..]).await?;
        if count == 0 {
            return Ok(Preamble::Closed);
        }
        filled += count;
        let magic = filled.min(MAGIC.len());
        if bytes[..magic] != MAGIC[..magic] {
            return Ok(Preamble::Foreign(bytes[..filled].to_vec()));
        }
    }
    Ok(Preamble::Huskv(u16::from_le_bytes([bytes[MAGIC.len()], bytes[MAGIC.len() + 1]])))
}

/// Reads one frame of a kind and size within `limits`.
///
/// # Errors
/// [`WireError`]; the connection cannot be read any further then.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, limits: FrameLimits) -> Result<Frame, WireError> {
    let (head, length) = read_head(reader, limits).await?;
    read_body(reader, head, length).await
}

/// Reads the head of a frame; returns it and the payload length.
async fn read_head<R: AsyncRead + Unpin>(
    reader: &mut R,
    limits: FrameLimits,
) -> Result<([u8; HEAD_BYTES], usize), WireError> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head).await.map_err(closed)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    frame_limits::check(limits, head[4], length)?;
    Ok((head, length))
}

async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    head: [u8; HEAD_BYTES],
    length: usize,
) -> Result<Frame, WireError> {
    let length = length + CHECKSUM_BYTES;
    // Grows with the bytes that arrive: a claimed length of 32 MiB allocates 64 KiB.
    let mut body = Vec::with_capacity(length.min(AHEAD_BYTES));
    reader.take(length as u64).read_to_end(&mut body).await.map_err(closed)?;
    if body.len() < length {
        return Err(WireError::Closed);
    }
    Frame::decode(head, body)
}

/// As [`read_body`], but each piece has to arrive within `limit`, and `progress` is called with each.
async fn read_body_in_pieces<R: AsyncRead + Unpin>(
    reader: &mut R,
    (head, length): ([u8; HEAD_BYTES], usize),
    limit: Duration,
    mut progress: impl FnMut(),
) -> Result<Frame, WireError> {
    let length = length + CHECKSUM_BYTES;
    let mut body = Vec::new();
    while body.len() < length {
        if body.len() == body.capacity() {
            // As many bytes again as have arrived.
            body.reserve_exact((length - body.len()).min(AHEAD_BYTES.max(body.len())));
        }
        let left = (length - body.len()) as u64;
        let count = timeout(limit, (&mut *reader).take(left).read_buf(&mut body)).await;
        if count.map_err(|_| WireError::Silent(limit.as_secs()))?.map_err(closed)? == 0 {
            return Err(WireError::Closed);
        }
        progress();
    }
    Frame::decode(head, body)
}

/// As [`read_frame`], within a time limit.
///
/// # Errors
/// [`WireError`], [`WireError::Silent`] included.
pub async fn read_frame_within<R: AsyncRead + Unpin>(
    reader: &mut R,
    limits: FrameLimits,
    limit: Duration,
) -> Result<Frame, WireError> {
    timeout(limit, read_frame(reader, limits)).await.unwrap_or(Err(WireError::Silent(limit.as_secs())))
}

/// As [`read_frame_within`], but waits for a memory budget permit between head and body; each has `limit`.
///
/// # Errors
/// As [`read_frame_within`].
pub async fn read_budgeted<R: AsyncRead + Unpin, F: Future<Output = BudgetPermit>>(
    reader: &mut R,
    limits: FrameLimits,
    limit: Duration,
    reserve: impl FnOnce(usize) -> F,
) -> Result<(Frame, BudgetPermit), WireError> {
    let silent = |_| WireError::Silent(limit.as_secs());
    let (head, length) = timeout(limit, read_head(reader, limits)).await.map_err(silent)??;
    // Not limited in time: it is this node that lacks memory, and the peer is not at fault.
    let permit = reserve(length).await;
    Ok((timeout(limit, read_body(reader, head, length)).await.map_err(silent)??, permit))
}

/// As [`read_budgeted`], but the body may take as long as each piece of it arrives within `limit`. `progress` is called
/// with each piece. For peers that may hold their permit that long.
///
/// # Errors
/// As [`read_frame_within`].
pub async fn read_budgeted_in_pieces<R: AsyncRead + Unpin, F: Future<Output = BudgetPermit>>(
    reader: &mut R,
    limits: FrameLimits,
    limit: Duration,
    reserve: impl FnOnce(usize) -> F,
    progress: impl FnMut(),
) -> Result<(Frame, BudgetPermit), WireError> {
    let head = timeout(limit, read_head(reader, limits)).await.map_err(|_| WireError::Silent(limit.as_secs()))??;
    let permit = reserve(head.1).await;
    Ok((read_body_in_pieces(reader, head, limit, progress).await?, permit))
}

/// Writes one frame and flushes; all of it has to be taken within `limit`.
///
/// # Errors
/// [`WireError`]; the connection cannot be written any further then.
pub async fn write_frame_within<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frame: &Frame,
    limit: Duration,
) -> Result<(), WireError> {
    let bytes = frame.encode()?;
    let written = timeout(limit, async {
        writer.write_all(&bytes).await?;
        writer.flush().await
    });
    written.await.map_err(|_| WireError::Silent(limit.as_secs()))?.map_err(closed)
}

/// Shuts down the write side and reads on, for at most `limit` and `max_bytes`, until the other end has closed: closing
/// over unread bytes would reset the connection and lose what was written last.
pub async fn close_gracefully<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, max_bytes: usize, limit: Duration) {
    let closing = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(max_bytes as u64), &mut tokio::io::sink()).await
    };
    drop(timeout(limit, closing).await);
}

fn closed(error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => WireError::Closed,
        _ => WireError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::handshake::preamble;
    use crate::transport::memory_budget::{Budget, ConnectionShare};
    use crate::transport::wire::frame_limits::{ANY, HELLO};

    #[tokio::test]
    async fn an_opening_is_judged_at_the_first_byte_that_does_not_fit() {
        let mut sound = &preamble(513)[..];
        assert_eq!(read_preamble(&mut sound).await.unwrap(), Preamble::Huskv(513));
        let (mut end, mut peer) = tokio::io::duplex(64);
        peer.write_all(b"G").await.unwrap();
        assert_eq!(read_preamble(&mut end).await.unwrap(), Preamble::Foreign(b"G".to_vec()));
        let mut end_at = &preamble(1)[..9];
        assert_eq!(read_preamble(&mut end_at).await.unwrap(), Preamble::Closed);
    }

    #[tokio::test]
    async fn a_length_over_the_bound_is_refused_before_its_bytes_come() {
        let (mut end, mut liar) = tokio::io::duplex(64);
        liar.write_all(&[0xff, 0xff, 0xff, 0xff, 1]).await.unwrap();
        let result = read_frame(&mut end, HELLO).await;
        assert!(matches!(result, Err(WireError::TooLong(0xffff_ffff, _))));
    }

    #[tokio::test]
    async fn a_frame_that_stops_short_is_a_closed_connection() {
        let bytes = Frame::Changes(vec![7; 10_000]).encode().unwrap();
        let mut whole = &bytes[..];
        assert_eq!(read_frame(&mut whole, ANY).await.unwrap(), Frame::Changes(vec![7; 10_000]));
        for end_at in [0, 3, 5, 9_000, bytes.len() - 1] {
            let mut torn = &bytes[..end_at];
            assert!(matches!(read_frame(&mut torn, ANY).await, Err(WireError::Closed)), "{end_at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_arrives_slowly_is_read_as_long_as_it_goes_on() {
        let limit = Duration::from_secs(10);
        let frame = Frame::Changes(vec![7; 1 << 20]);
        let bytes = frame.encode().unwrap();
        for (pieces, pause, expected) in [(100, 9, true), (2, 9, true), (100, 11, false)] {
            let (mut end, mut slow) = tokio::io::duplex(2 << 20);
            let (bytes, budget, share) = (bytes.clone(), Budget::new(0), ConnectionShare::new());
            let writer = tokio::spawn(async move {
                for piece in bytes.chunks(bytes.len() / pieces) {
                    slow.write_all(piece).await?;
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                }
                io::Result::Ok(slow)
            });
            let mut progress = 0;
            let reserve = |bytes| budget.reserve(&share, true, bytes);
            let read = read_budgeted_in_pieces(&mut end, ANY, limit, reserve, || progress += 1).await;
            match read {
                Ok((read, _)) => assert!(expected && read == frame && progress >= pieces, "{pieces} {pause}"),
                Err(error) => assert!(!expected && matches!(error, WireError::Silent(10)), "{pieces} {pause}: {error}"),
            }
            drop(end);
            drop(writer.await);
        }
    }

    #[tokio::test]
    async fn pieces_end_where_the_connection_does() {
        let bytes = Frame::Changes(vec![7; 200_000]).encode().unwrap();
        let (budget, limit) = (Budget::new(0), Duration::from_secs(10));
        for end_at in [HEAD_BYTES, 9_000, bytes.len() - 1, bytes.len()] {
            let (share, mut torn) = (ConnectionShare::new(), &bytes[..end_at]);
            let reserve = |bytes| budget.reserve(&share, true, bytes);
            match read_budgeted_in_pieces(&mut torn, ANY, limit, reserve, || ()).await {
                Ok((read, _)) => assert!(end_at == bytes.len() && read == Frame::Changes(vec![7; 200_000]), "{end_at}"),
                Err(error) => assert!(end_at < bytes.len() && matches!(error, WireError::Closed), "{end_at}: {error}"),
            }
        }
    }

    #[tokio::test]
    async fn silence_in_the_middle_of_a_frame_is_noticed() {
        let (mut end, mut slow) = tokio::io::duplex(64);
        slow.write_all(&Frame::Ping.encode().unwrap()[..4]).await.unwrap();
        let result = read_frame_within(&mut end, ANY, Duration::from_millis(20)).await;
        assert!(matches!(result, Err(WireError::Silent(_))));
    }
}
