//! The thread of what writes.
//!
//! A transaction is a few hops between SQLite's thread and whoever binds the next statement. On the host's runtime each hop would
//! queue behind all that is ready there, such as a thousand sends whose acks the commit before has just given: the writer, of which
//! there is one, would stand still meanwhile.

use std::{future::poll_fn, io, panic::AssertUnwindSafe, task::Poll, thread};

use futures::FutureExt;
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
        // A panic is an error here, wherever it happens.
        let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        let first = poll_fn(|cx| {
            // What waits for a time waits for that of the thread on which it goes on.
            let _inside = self.tasks.enter();
            Poll::Ready(work.as_mut().poll(cx))
        });
        let done = match first.await {
            Poll::Ready(done) => Some(done),
            Poll::Pending => self.tasks.spawn(work).await.ok(),
        };
        let failed = |message| Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, message));
        match done {
            Some(Ok(result)) => result,
            Some(Err(_)) => failed("it panicked"),
            None => failed("the writer's thread has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use im_core::Outcome;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_at_once_and_later() {
        let thread = WriterThread::start().unwrap();
        for later in [false, true] {
            let work = async move {
                if later {
                    tokio::task::yield_now().await;
                }
                assert_eq!(2 + 2, 5, "as it is meant to");
                Ok(())
            };
            let error = thread.run("test", work).await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
        }
        assert_eq!(thread.run("test", async { Ok(7) }).await.unwrap(), 7);
    }
}
