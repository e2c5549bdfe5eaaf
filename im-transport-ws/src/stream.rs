//! The byte stream under a connection.

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::net::TcpStream;
use tokio_util::either::Either;

/// TCP as such, or whatever the host's server runs on (TLS, HTTP/2).
pub(crate) type Stream = Either<TcpStream, TokioIo<Upgraded>>;

/// Takes the stream out of its HTTP connection, with what was read of it already.
///
/// `axum::serve` leaves Nagle's algorithm on: an event right behind an answer would wait 40 ms for the client's delayed
/// acknowledgement. On TCP it is switched off here; a host with a stream of its own does that itself.
pub(crate) fn stream(upgraded: Upgraded) -> (Stream, Bytes) {
    let (tcp, read) = match tcp(upgraded) {
        Ok(tcp) => tcp,
        Err(upgraded) => return (Either::Right(TokioIo::new(upgraded)), Bytes::new()),
    };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "frames may be delayed");
    }
    (Either::Left(tcp), read)
}

/// TCP, if it is that: as `axum::serve` has it, or hyper's own connections.
fn tcp(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    match auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<TcpStream>>()?;
            Ok((parts.io.into_inner(), parts.read_buf))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::Request, routing::any};
    use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

    use super::*;

    #[tokio::test]
    async fn under_axum_serve_it_is_tcp_without_nagle() {
        let (found, mut streams) = mpsc::unbounded_channel();
        let app = Router::new().route(
            "/",
            any(move |mut request: Request| {
                let upgrade = hyper::upgrade::on(&mut request);
                let found = found.clone();
                tokio::spawn(async move { found.send(stream(upgrade.await.unwrap())) });
                async {
                    (
                        axum::http::StatusCode::SWITCHING_PROTOCOLS,
                        [("upgrade", "x"), ("connection", "upgrade")],
                    )
                }
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly";
        client.write_all(request).await.unwrap();
        let (stream, early) = streams.recv().await.unwrap();
        let Either::Left(tcp) = stream else { panic!("not TCP: hyper-util or axum wraps it otherwise now") };
        assert!(tcp.nodelay().unwrap());
        assert_eq!(&early[..], b"early", "what came with the request is not lost");
    }
}
