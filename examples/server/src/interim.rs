//! Stands in for im-store-sqlite until that is there.

use std::{path::Path, time::Duration};

use im_engine::{Parts, Result, memory::Memory};

#[derive(Debug, Clone)]
pub(crate) struct Sqlite(Memory);

impl Sqlite {
    pub(crate) fn builder(_: &Path) -> Self {
        Self(Memory::new())
    }
    pub(crate) fn restored(self, _: bool) -> Self {
        self
    }
    pub(crate) fn expiry(self, _: Duration) -> Self {
        self
    }
    pub(crate) async fn open(self) -> Result<Self> {
        Ok(self)
    }
    pub(crate) async fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl From<Sqlite> for Parts {
    fn from(sqlite: Sqlite) -> Self {
        sqlite.0.into()
    }
}
