//! One timer for whatever may become due on a connection; none while nothing can.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that exists only while something is due one day.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once `due` has come.
    pub(crate) fn poll(&mut self, due: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = due else {
            self.sleep = None;
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_due_and_follows_what_is_due() {
        let (start, mut alarm) = (Instant::now(), Alarm::default());
        poll_fn(|cx| alarm.poll(Some(start + Duration::from_secs(3)), cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(alarm.poll(Some(start + Duration::from_secs(9)), &mut cx).is_pending());
        assert!(alarm.poll(None, &mut cx).is_pending());
        assert!(alarm.sleep.is_none());
        poll_fn(|cx| alarm.poll(Some(start + Duration::from_secs(5)), cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
