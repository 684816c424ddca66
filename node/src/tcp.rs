//! Connections over TCP, and clients that say nothing.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

/// Sets up a connection: small messages go at once, and one whose other end is gone without a word (a host without power,
/// packets that are dropped), or takes nothing, breaks after `unacknowledged`. Without that, what was not acknowledged is
/// sent again ever more rarely: a connection stays silent for as long as the network was away once that is back, and up to
/// a quarter of an hour if it never is; and one that nobody reads is kept for good (tcp(7), `TCP_USER_TIMEOUT`).
pub fn prepare(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    // For connections on which nothing is sent.
    let probes =
        TcpKeepalive::new().with_time(unacknowledged).with_interval(Duration::from_secs(1)).with_retries(3);
    socket.set_tcp_keepalive(&probes)
}

/// The next connection that there is `room` for, set up by [`prepare`]; more wait in the kernel's queue. Fails once `room` is
/// closed.
pub async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    unacknowledged: Duration,
) -> Result<(TcpStream, OwnedSemaphorePermit), AcquireError> {
    let permit = room.clone().acquire_owned().await?;
    Ok((next(listener, unacknowledged).await, permit))
}

/// The next connection, set up by [`prepare`].
pub async fn next(listener: &TcpListener, unacknowledged: Duration) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match prepare(&stream, unacknowledged) {
                Ok(()) => return stream,
                Err(error) => tracing::debug!(%from, %error, "a connection was gone at once"),
            },
            Err(error) => {
                // Out of file descriptors, most likely: others may close some.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A connection that breaks unless its other end says within a time whether it begins with a preface.
pub struct Expectant<S> {
    stream: S,
    /// Until when that has to show; none once it does.
    patience: Option<Pin<Box<Sleep>>>,
    /// What is missing of the preface.
    preface: &'static [u8],
    /// Who wants to know that all of it came; nobody once something else did.
    whole: Option<oneshot::Sender<()>>,
}

impl<S> Expectant<S> {
    /// All of `preface`, or something else, has to come within `patience`. The receiver learns when it was the preface,
    /// and fails when it was something else.
    pub fn new(stream: S, preface: &'static [u8], patience: Duration) -> (Self, oneshot::Receiver<()>) {
        let (whole, is_whole) = oneshot::channel();
        let patience = Some(Box::pin(tokio::time::sleep(patience)));
        (Self { stream, patience, preface, whole: Some(whole) }, is_whole)
    }

    fn hear(&mut self, said: &[u8]) {
        match self.preface.strip_prefix(said) {
            Some(rest) if !rest.is_empty() => self.preface = rest,
            _ => {
                self.patience = None;
                let whole = self.whole.take().filter(|_| said.starts_with(self.preface));
                if let Some(whole) = whole {
                    // Who does not listen any more does not want to know.
                    whole.send(()).ok();
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Expectant<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(patience) = &mut self.patience {
            if read.is_pending() {
                ready!(patience.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.hear(&buffer.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Expectant<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_connection_whose_other_end_is_gone_breaks_soon() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let patience = Duration::from_secs(7);
        prepare(&stream, patience).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(patience));
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), patience);
    }

    #[tokio::test]
    async fn who_says_too_little_is_not_waited_for() {
        for (said, is_enough, is_preface) in [
            ("", false, false),
            ("PR", false, false),
            ("PRI", true, true),
            ("PRI * HT", true, true),
            ("G", true, false),
            ("PG", true, false),
        ] {
            let (mut client, server) = tokio::io::duplex(64);
            let (mut server, mut whole) = Expectant::new(server, b"PRI", Duration::from_millis(20));
            client.write_all(said.as_bytes()).await.unwrap();
            let mut heard = vec![0; said.len()];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, said.as_bytes());
            // Who has said enough may be silent for as long as they like.
            assert_eq!(server.patience.is_none(), is_enough, "{said}");
            assert_eq!(whole.try_recv().is_ok(), is_preface, "{said}");
            if !is_enough {
                let error = server.read(&mut [0; 64]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{said}");
            }
        }
    }
}
