//! A way to the server that can be cut.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

#[derive(Debug)]
pub(crate) struct Proxy {
    here: SocketAddr,
    server: String,
    running: JoinHandle<()>,
    stalled: watch::Sender<()>,
}

impl Proxy {
    /// To a server's URL of the form `redis://host:port`.
    pub(crate) async fn to(url: &str) -> Self {
        let server = url.rsplit(['/', '@']).next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let mut proxy =
            Self { here, server, running: tokio::spawn(async {}), stalled: watch::Sender::new(()) };
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
        self.running = tokio::spawn(run(listener, self.server.clone(), self.stalled.subscribe()));
    }

    /// Passes nothing on any more on the connections that there are, and keeps them open.
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(());
    }
}

async fn run(listener: TcpListener, server: String, stalled: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut stalled = stalled.clone();
        stalled.mark_unchanged();
        connections.spawn(pass(client, server.clone(), stalled));
    }
}

async fn pass(mut client: TcpStream, server: String, mut stalled: watch::Receiver<()>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = stalled.changed() => std::future::pending().await,
    }
}
