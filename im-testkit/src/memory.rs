//! The fixture of the memory backends: the example for others, and what the clauses themselves are tested with.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{Outgoing, Parts, StorePart, Timestamp, memory::Memory};

use crate::{Data, Fixture, Host, ManualClock, Part, Violation, desk::Desk};

/// Fresh memory backends: 4 partitions, a dedupe window of 120 s, an expiry of an hour, a presence TTL of 30 s.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryFixture;

#[derive(Debug)]
struct MemoryData {
    memory: Memory,
    clock: ManualClock,
    desk: Desk,
}

#[async_trait]
impl Fixture for MemoryFixture {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        let clock = ManualClock::starting_at(Timestamp(1_800_000_000_000));
        let memory = Memory::builder()
            .partitions(4)
            .dedupe_window(Some(Duration::from_secs(120)))
            .expiry(Duration::from_secs(3600))
            .presence_ttl(Duration::from_secs(30))
            .clock(Arc::new(clock.clone()))
            .build();
        Ok(Box::new(MemoryData { memory, clock, desk: Desk::default() }))
    }
}

#[async_trait]
impl Data for MemoryData {
    async fn node(&self) -> Result<Parts, Violation> {
        let parts = Parts::from(&self.memory);
        let with_outbox = |store| StorePart { outbox: Some(Arc::new(self.desk.clone())), ..store };
        Ok(Parts { store: parts.store.map(with_outbox), ..parts })
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn host(&self) -> Result<Box<dyn Host>, Violation> {
        Ok(self.desk.host())
    }

    async fn refused_sends(&self) -> Result<Vec<(Outgoing, String)>, Violation> {
        Ok(self.desk.refused())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        self.clock.turn_back(time);
        Ok(())
    }

    async fn lose_tail(&self, part: Part, n: usize) -> Result<(), Violation> {
        match part {
            Part::Log => self.memory.log().lose_tail(n),
            Part::Store => self.memory.store().lose_tail(n),
            Part::Inbox => self.memory.inbox().lose_tail(n),
        }
        Ok(())
    }
}
