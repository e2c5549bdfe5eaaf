//! The listener and its connections: what axum's own loop does, with a limit on how long a client may take to ask.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::StartError;

/// How many connections may wait to be accepted; the system may allow fewer (Linux: `net.core.somaxconn`). After a restart all
/// clients come at once.
const BACKLOG: u32 = 4096;
/// How long a client may take over its request, and how long a connection may be idle between two.
const REQUEST: Duration = Duration::from_secs(10);
/// The largest request head. It is also what is allocated for a connection at first, and hyper's least.
const HEAD_BYTES: usize = 8192;
/// How long requests may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// Listens.
pub(crate) fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    let socket = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Or the address cannot be taken again for minutes after a crash.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    socket().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressTaken(addr),
        _ => StartError::Listen { addr, source },
    })
}

/// Serves every connection until the stop; then waits for requests to end, but not for WebSockets.
pub(crate) async fn serve(mut listener: TcpListener, app: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Goes on after an error, such as too many open files, by itself.
            (stream, _) = Listener::accept(&mut listener) => stream,
        };
        connections.spawn(connection(stream, app.clone(), stop.clone()));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::warn!("requests were cut off: they did not end in {GRACE:?}");
    }
}

/// One connection, until it ends or becomes a WebSocket.
async fn connection(stream: TcpStream, app: Router, stop: CancellationToken) {
    // Small frames go out at once; where this fails they are late, no more.
    let _ = stream.set_nodelay(true);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
            .with_upgrades()
    );
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}
