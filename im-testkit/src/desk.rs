//! An outbox in memory: the reference.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use im_core::{Outbox, Outgoing, Place, Refusal, Result, Waiting};

use crate::{Host, Verdict};

/// What hosts of a [`MemoryFixture`](crate::MemoryFixture) sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    transactions: u64,
    waiting: BTreeMap<Place, Outgoing>,
    refused: Vec<(Outgoing, String)>,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn host(&self) -> Box<dyn Host> {
        let mut state = self.state();
        state.transactions += 1;
        Box::new(Transaction { desk: self.clone(), transaction: state.transactions, sent: Vec::new() })
    }

    pub(crate) fn refused(&self) -> Vec<(Outgoing, String)> {
        self.state().refused.clone()
    }
}

#[async_trait]
impl Outbox for Desk {
    async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>> {
        let state = self.state();
        let later = state.waiting.iter().filter(|(place, _)| Some(**place) > after);
        let waiting =
            |(place, message): (&Place, &Outgoing)| Waiting { place: *place, message: message.clone() };
        Ok(later.take(max).map(waiting).collect())
    }

    async fn done(&self, places: &[Place]) -> Result<()> {
        self.state().waiting.retain(|place, _| !places.contains(place));
        Ok(())
    }

    async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()> {
        let mut state = self.state();
        for (place, refusal) in refused {
            if let Some(message) = state.waiting.remove(place) {
                state.refused.push((message, refusal.code().to_owned()));
            }
        }
        Ok(())
    }

    async fn pass_on(&self) -> Result<bool> {
        Ok(false)
    }
}

#[derive(Debug)]
struct Transaction {
    desk: Desk,
    transaction: u64,
    sent: Vec<Outgoing>,
}

#[async_trait]
impl Host for Transaction {
    async fn send(&mut self, message: &Outgoing) -> Verdict {
        self.sent.push(message.clone());
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Verdict {
        let place = |number| Place { transaction: self.transaction, number };
        self.desk.state().waiting.extend((1..).map(place).zip(self.sent.clone()));
        Ok(())
    }

    async fn roll_back(self: Box<Self>) -> Verdict {
        Ok(())
    }
}
