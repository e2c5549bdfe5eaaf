//! The log's epoch: taken from the store when the log's data are not those of its epoch.

use std::sync::Mutex;

use im_core::{Epoch, LogInfo, Result};

use crate::builder::Complete;

/// The epoch that this node appends under.
#[derive(Debug)]
pub(crate) struct Numbering {
    current: Mutex<Current>,
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    pub(crate) epoch: Epoch,
    pub(crate) began: im_core::Timestamp,
    /// Whether it is the first of all data.
    pub(crate) first: bool,
}

impl Numbering {
    pub(crate) async fn open(parts: &Complete) -> Result<Self> {
        let current = take(parts).await?;
        Ok(Self { current: Mutex::new(current), renewing: tokio::sync::Mutex::new(()) })
    }

    pub(crate) fn current(&self) -> Current {
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes the epoch anew if the log is in another one: another node may have opened it, and nobody need append here.
    pub(crate) async fn follow(&self, parts: &Complete) -> Result<()> {
        let info = parts.log.log.info().await?;
        let epoch = self.current().epoch;
        if is_open(&info, epoch) { Ok(()) } else { self.renew(parts, epoch).await }
    }

    /// Takes the epoch anew after one was refused as `refused`; once, however many ask.
    pub(crate) async fn renew(&self, parts: &Complete, refused: Epoch) -> Result<()> {
        let _one_at_a_time = self.renewing.lock().await;
        if self.current().epoch != refused {
            return Ok(());
        }
        let current = take(parts).await?;
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = current;
        Ok(())
    }
}

/// The store numbers the epochs and fences older ones before the log opens one: a floor read after this is final.
async fn take(parts: &Complete) -> Result<Current> {
    let info = parts.log.log.info().await?;
    let epoch = parts.store.messages.open_epoch(&info.incarnation).await?;
    if !is_open(&info, epoch) {
        parts.log.log.open_epoch(epoch, &info.incarnation).await?;
    }
    let (log, store) = futures::try_join!(parts.log.log.info(), parts.store.messages.info())?;
    Ok(Current { epoch, began: log.epoch_began, first: store.first_epoch == Some(epoch) })
}

fn is_open(info: &LogInfo, epoch: Epoch) -> bool {
    info.epoch.as_ref().is_some_and(|(open, incarnation)| *open == epoch && *incarnation == info.incarnation)
}
