//! A way to the server that can be cut, or slow.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// How much is on its way at once.
const PIECE: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Proxy {
    here: SocketAddr,
    server: String,
    running: JoinHandle<()>,
    stalled: watch::Sender<()>,
    delay: watch::Sender<Duration>,
}

impl Proxy {
    /// To a server's URL of the form `redis://host:port`.
    pub(crate) async fn to(url: &str) -> Self {
        let server = url.rsplit(['/', '@']).next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let mut proxy = Self {
            here,
            server,
            running: tokio::spawn(async {}),
            stalled: watch::Sender::new(()),
            delay: watch::Sender::new(Duration::ZERO),
        };
        proxy.serve(listener);
        proxy
    }

    /// The URL by way of the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replacen(&self.server, &self.here.to_string(), 1)
    }

    /// Breaks all connections and takes no more.
    pub(crate) async fn cut(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
    }

    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(self.here).await.unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stalled, delay) = (self.stalled.subscribe(), self.delay.subscribe());
        self.running = tokio::spawn(run(listener, self.server.clone(), stalled, delay));
    }

    /// Passes nothing on any more on the connections that there are, and keeps them open.
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(());
    }

    /// From now on each piece is so long on its way, in either direction, and the next waits behind it.
    pub(crate) fn slow(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }
}

async fn run(
    listener: TcpListener,
    server: String,
    stalled: watch::Receiver<()>,
    delay: watch::Receiver<Duration>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut stalled = stalled.clone();
        stalled.mark_unchanged();
        connections.spawn(pass(client, server.clone(), stalled, delay.clone()));
    }
}

async fn pass(
    mut client: TcpStream,
    server: String,
    mut stalled: watch::Receiver<()>,
    delay: watch::Receiver<Duration>,
) {
    // A server that is away takes nobody.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::select! {
        _ = copy(from_client, to_server, &delay) => {}
        _ = copy(from_server, to_client, &delay) => {}
        _ = stalled.changed() => std::future::pending().await,
    }
}

/// Until one of them ends.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: &watch::Receiver<Duration>,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        let delay = *delay.borrow();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&piece[..length]).await?;
    }
}
