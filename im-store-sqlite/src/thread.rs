//! The thread of what writes.
//!
//! A transaction is a few hops between SQLite's thread and whoever binds the next statement. On the host's runtime each hop would
//! queue behind all that is ready there, such as a thousand sends whose acks the commit before has just given: the writer, of which
//! there is one, would stand still meanwhile.

use std::{io, task::Poll, thread};

use futures::poll;
use im_core::{Error, ErrorKind, Result};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::error::BACKEND;

/// Runs tasks on a thread of its own until it is dropped.
#[derive(Debug)]
pub(crate) struct WriterThread {
    tasks: Handle,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl WriterThread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let tasks = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name("im-sqlite-writer".into()).spawn(move || {
            // The other side is dropped, never used.
            runtime.block_on(stopped).ok()
        })?;
        Ok(Self { tasks, _stop: stop })
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn(work)
    }

    /// Runs what must not stop half-way, so that a caller that goes away leaves nothing half done. It begins at once where the
    /// caller is: mostly the writer is free, and then SQLite is at work before another thread has woken up.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut work = Box::pin(work);
        if let Poll::Ready(done) = poll!(&mut work) {
            return done;
        }
        self.tasks.spawn(work).await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, "the writer's thread has ended")
                .with_source(error))
        })
    }
}
