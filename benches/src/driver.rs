//! The clients' process, as the server under measurement has it.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{Outcome, args::Shape};

/// How long nothing may come while something is awaited.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long all connections may take to be made.
const CONNECTING: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Driver {
    lines: Lines<BufReader<ChildStdout>>,
    /// Closing it ends the clients, as the death of the server's process does.
    _stdin: ChildStdin,
    child: Child,
}

impl Driver {
    /// Connects all clients, each with its cursor, in the order of the shape's places.
    pub(crate) async fn connect(addr: SocketAddr, shape: Shape, cursors: &[String]) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("drive")
            .args(["--addr", &addr.to_string()])
            .args(["--groups", &shape.groups.to_string(), "--members", &shape.members.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("no way to the clients")?;
        let lines = BufReader::new(child.stdout.take().ok_or("no way from the clients")?).lines();
        stdin.write_all((cursors.join("\n") + "\n").as_bytes()).await?;
        let mut driver = Self { lines, _stdin: stdin, child };
        match driver.line(CONNECTING).await?.as_str() {
            "ready" => Ok(driver),
            other => Err(format!("the clients said {other:?}").into()),
        }
    }

    /// Ends the clients.
    pub(crate) async fn end(mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    /// How many frames had come, per connection, when this was written.
    pub(crate) async fn rounds(&mut self) -> Outcome<u64> {
        Ok(self.line(PATIENCE).await?.parse()?)
    }

    async fn line(&mut self, patience: Duration) -> Outcome<String> {
        let line = tokio::time::timeout(patience, self.lines.next_line()).await;
        line.map_err(|_| "the clients got less than was sent")??.ok_or_else(|| "the clients are gone".into())
    }
}
