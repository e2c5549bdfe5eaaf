//! A way to the server that can be cut.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum New {
    Served,
    /// Taken, and served when others are again.
    Waiting,
    /// Taken and closed at once.
    Closed,
}

/// What becomes of a connection on which a commit was asked for, before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Silent,
    Cut,
}

/// As a whole command.
const COMMIT: &[u8] = b"COMMIT\0";

#[derive(Debug)]
pub(crate) struct Proxy {
    here: SocketAddr,
    server: String,
    running: JoinHandle<()>,
    stalled: watch::Sender<()>,
    new: watch::Sender<New>,
    commit: watch::Sender<Option<Lost>>,
}

#[derive(Debug, Clone)]
struct Faults {
    stalled: watch::Receiver<()>,
    new: watch::Receiver<New>,
    commit: watch::Receiver<Option<Lost>>,
}

impl Proxy {
    /// To a server's URL of the form `postgres://user@host:port/database`.
    pub(crate) async fn to(url: &str) -> Self {
        let server = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let (stalled, new, commit) =
            (watch::Sender::new(()), watch::Sender::new(New::Served), watch::Sender::new(None));
        let mut proxy = Self { here, server, running: tokio::spawn(async {}), stalled, new, commit };
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
        let faults = Faults {
            stalled: self.stalled.subscribe(),
            new: self.new.subscribe(),
            commit: self.commit.subscribe(),
        };
        self.running = tokio::spawn(run(listener, self.server.clone(), faults));
    }

    /// Passes nothing on any more on the connections that there are, and keeps them open.
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(());
    }

    /// Says what becomes of new connections from now on.
    pub(crate) fn new_ones(&self, new: New) {
        self.new.send_replace(new);
    }

    /// Says what becomes of connections on which a commit is asked for from now on; the server gets to hear of it.
    pub(crate) fn at_commit(&self, lost: Option<Lost>) {
        self.commit.send_replace(lost);
    }
}

async fn run(listener: TcpListener, server: String, faults: Faults) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut faults = faults.clone();
        faults.stalled.mark_unchanged();
        if *faults.new.borrow() == New::Closed {
            continue;
        }
        connections.spawn(pass(client, server.clone(), faults));
    }
}

async fn pass(mut client: TcpStream, server: String, mut faults: Faults) {
    let _ = faults.new.wait_for(|new| *new == New::Served).await;
    let mut server = TcpStream::connect(server).await.unwrap();
    let (from_client, mut to_client) = client.split();
    let (mut from_server, to_server) = server.split();
    tokio::select! {
        lost = ask(from_client, to_server, faults.commit) => match lost {
            Some(Lost::Silent) => std::future::pending().await,
            Some(Lost::Cut) | None => {}
        },
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        _ = faults.stalled.changed() => std::future::pending().await,
    }
}

/// Passes on what the client asks, until it has asked for a commit whose answer is to be lost.
async fn ask(
    mut client: impl AsyncRead + Unpin,
    mut server: impl AsyncWrite + Unpin,
    commit: watch::Receiver<Option<Lost>>,
) -> Option<Lost> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = client.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        server.write_all(&buffer[..count]).await.ok()?;
        let lost = *commit.borrow();
        if lost.is_some() && buffer[..count].windows(COMMIT.len()).any(|some| some == COMMIT) {
            return lost;
        }
    }
}
