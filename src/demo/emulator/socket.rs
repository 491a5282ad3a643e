//! Connections that can be reset from inside a request: what no HTTP answer can
//! look like.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::demo::faults::Faults;

/// How long to wait when the system hands out no more connections.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The connection a request came on, as its handler sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire {
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    /// Resets the connection as soon as anything is written to it.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }
}

/// A TCP connection that its [`Wire`] can cut.
#[derive(Debug)]
pub(super) struct BrittleStream {
    inner: TcpStream,
    wire: Wire,
}

impl BrittleStream {
    fn check(&self) -> io::Result<()> {
        if !self.wire.is_cut.load(Ordering::Acquire) {
            return Ok(());
        }
        // No linger: the peer gets a reset in place of an orderly end.
        self.inner.set_zero_linger()?;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for BrittleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for BrittleStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Accepts connections, or resets them at once while the faults say so.
#[derive(Debug)]
pub(super) struct BrittleListener {
    inner: TcpListener,
    faults: Arc<Faults>,
}

impl BrittleListener {
    pub(super) const fn new(inner: TcpListener, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl Listener for BrittleListener {
    type Io = BrittleStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (inner, address) = match self.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the kinesis emulator cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            // Small answers must not wait for the acknowledgement of earlier ones.
            if let Err(error) = inner.set_nodelay(true) {
                tracing::debug!(%error, "a connection is gone already");
                continue;
            }
            let wire = Wire::default();
            let stream = BrittleStream { inner, wire };
            if self.faults.connections_refused() {
                stream.wire.cut();
                if stream.check().is_err() {
                    continue;
                }
            }
            return (stream, address);
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

impl Connected<IncomingStream<'_, BrittleListener>> for Wire {
    fn connect_info(incoming: IncomingStream<'_, BrittleListener>) -> Self {
        incoming.io().wire.clone()
    }
}
