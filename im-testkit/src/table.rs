//! The one table of all clauses, from which tests and the test of the tests are made.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::{Fixture, Verdict, Violation, violation::ensure};

/// How long a clause may take: a wait that never ends is a violation too.
const LIMIT: Duration = Duration::from_secs(120);

/// What a clause may need of a fixture; what is missing must be declared in words.
pub const NEEDS: &[(&str, &str)] = &[
    ("log", "the log part"),
    ("store", "the store part"),
    ("inbox", "the inbox part"),
    ("presence", "the presence part"),
    ("notifier", "the notifier part"),
    ("outbox", "messages that a host sends inside its own transaction"),
    ("trim", "a log that gives back space; it must have a dedupe window"),
    ("dedupe_window", "a log that forgets send keys"),
    ("lose_tail", "a way to lose the newest acked data"),
    ("turn_back", "a way to turn the clock back"),
    ("same_data", "log and store on the same data, so that a message is written once"),
];

/// One clause of a contract.
#[derive(Debug, Clone, Copy)]
pub struct Clause {
    /// Trait and clause, such as `log::dense`.
    pub name: &'static str,
    /// What it needs, of [`NEEDS`].
    pub needs: &'static [&'static str],
    run: for<'a> fn(&'a dyn Fixture) -> BoxFuture<'a, Verdict>,
}

impl Clause {
    /// Runs the clause on fresh data, within two minutes.
    ///
    /// # Errors
    /// The violation that it found.
    pub async fn run(&self, fixture: &dyn Fixture) -> Verdict {
        let late = || Violation::new(format!("{} did not end within {LIMIT:?}", self.name));
        tokio::time::timeout(LIMIT, (self.run)(fixture)).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The table: each contract's clauses with what they need. Hands itself to another macro; not to be called by hand.
#[doc(hidden)]
#[macro_export]
macro_rules! __clauses {
    ($then:ident $($args:tt)*) => {
        $crate::$then! {
            $($args)*
            log {
                durable [log]
                dense [log]
                ordinal [log]
                never_passed [log]
                time [log]
                time_turned_back [log turn_back]
                idempotent [log]
                dedupe_window [log dedupe_window]
                unseeded [log]
                epoch [log]
                isolated [log]
                trimmed [log trim]
                held [log trim]
                waits [log]
                hostile_ids [log]
                lost_tail [log lose_tail]
            }
            leases {
                exclusive [log]
                renewed [log]
                free_again [log]
            }
            store {
                with_checkpoint [store]
                once [store]
                forward_only [store]
                fenced [store]
                exact_pages [store]
                behind [store]
                own_sends_are_read [store]
                epochs_increase [store]
                above [store]
                answers [store]
                lost_tail [store lose_tail]
            }
            conversations {
                create_once [store]
                in_record_order [store]
                members_at_a_record [store]
                settings_stay [store]
                state_version [store]
                fenced [store]
                unapplied [store]
                exact_pages [store]
                large_groups [store]
                hostile_ids [store]
            }
            user_state {
                forward_only [store]
                behind [store]
                with_its_ordinal [store]
                state_version [store]
                durable [store]
                another_incarnation [store]
                device_begins_high [store]
                forget_devices [store]
            }
            inbox {
                in_order [inbox]
                never_passed [inbox]
                no_silent_gap [inbox]
                expired_cursors [inbox]
                one_write [inbox]
                checkpoint_last [inbox]
                forward_only [inbox]
                fenced [inbox]
                replay [inbox]
                an_end_for_everyone [inbox]
                expiry [inbox]
                many_recipients [inbox]
                hostile_ids [inbox]
                reopened [inbox]
                lost_tail [inbox lose_tail]
            }
            same_data {
                written_once [log store same_data]
            }
            presence {
                atomic_connect [presence]
                kick_or_reject [presence]
                dead_nodes_vanish [presence]
                told_at_next_beat [presence]
                live_nodes [presence]
                own_disconnect_only [presence]
                hostile_ids [presence]
            }
            notifier {
                to_its_node [notifier]
                in_order [notifier]
                lagged_not_silent [notifier]
                nobody_there [notifier]
            }
            outbox {
                committed [store outbox]
                never_passed [store outbox]
                in_order [store outbox]
                kept [store outbox]
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    ($($module:ident { $($name:ident [$($need:ident)*])* })*) => {
        /// All clauses.
        pub const CLAUSES: &[Clause] = &[$($(
            Clause {
                name: concat!(stringify!($module), "::", stringify!($name)),
                needs: &[$(stringify!($need)),*],
                run: |fixture| Box::pin($crate::$module::$name(fixture)),
            },
        )*)*];
    };
}

__clauses! { __table }

/// Makes a `#[test]` of every clause for a fixture; see `CERTIFY.md`.
///
/// ```text
/// im_testkit::conformance! {
///     MyFixture::default(),
///     lacks {
///         presence: "the log alone is implemented",
///         lose_tail: "an acked write is on disk; nothing here can lose it",
///     }
/// }
/// ```
///
/// The fixture's expression is evaluated once for each test. What the fixture lacks is named as in [`NEEDS`](crate::NEEDS),
/// with the reason in words; the clauses that need it are not made, and the test `declared` prints the reasons. Nothing else is
/// left out.
#[macro_export]
macro_rules! conformance {
    ($fixture:expr) => { $crate::conformance! { $fixture, lacks {} } };
    ($fixture:expr, lacks { $($need:ident : $why:literal),* $(,)? } $(,)?) => {
        #[test]
        fn declared() -> $crate::Verdict {
            $crate::declared(&$fixture, &[$((stringify!($need), $why)),*])
        }
        $crate::__clauses! { __tests ($fixture) [$($need)*] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($fixture:tt $lacks:tt $($module:ident { $($name:ident $needs:tt)* })*) => { $(
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $( $crate::__test! { $fixture $lacks $module $name $needs } )*
        }
    )* };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test {
    (($fixture:expr) $lacks:tt $module:ident $name:ident []) => {
        #[test]
        fn $name() -> $crate::Verdict {
            $crate::certify(&$fixture, concat!(stringify!($module), "::", stringify!($name)))
        }
    };
    ($fixture:tt $lacks:tt $module:ident $name:ident [$need:ident $($more:ident)*]) => {
        $crate::__unless! { $need $lacks { $crate::__test! { $fixture $lacks $module $name [$($more)*] } } }
    };
}

/// Expands to the last argument unless the need is in the list.
#[doc(hidden)]
#[macro_export]
macro_rules! __unless {
    ($need:ident [] { $($then:tt)* }) => { $($then)* };
    (log [log $($rest:ident)*] $then:tt) => {};
    (store [store $($rest:ident)*] $then:tt) => {};
    (inbox [inbox $($rest:ident)*] $then:tt) => {};
    (presence [presence $($rest:ident)*] $then:tt) => {};
    (notifier [notifier $($rest:ident)*] $then:tt) => {};
    (outbox [outbox $($rest:ident)*] $then:tt) => {};
    (trim [trim $($rest:ident)*] $then:tt) => {};
    (dedupe_window [dedupe_window $($rest:ident)*] $then:tt) => {};
    (lose_tail [lose_tail $($rest:ident)*] $then:tt) => {};
    (turn_back [turn_back $($rest:ident)*] $then:tt) => {};
    (same_data [same_data $($rest:ident)*] $then:tt) => {};
    ($need:ident [$other:ident $($rest:ident)*] $then:tt) => { $crate::__unless! { $need [$($rest)*] $then } };
}

/// Runs one clause, named as in [`CLAUSES`], on a runtime of its own.
///
/// # Errors
/// The violation that it found, or that there is no such clause.
pub fn certify(fixture: &dyn Fixture, name: &str) -> Verdict {
    let clause = CLAUSES.iter().find(|clause| clause.name == name);
    let clause = clause.ok_or_else(|| Violation::new(format!("there is no clause {name}")))?;
    block_on(clause.run(fixture))
}

/// Compares what a fixture declares to lack with what it has, and prints the reasons.
///
/// # Errors
/// When a need is unknown or without a reason, or a part is there that was said to be lacking, or the other way round.
pub fn declared(fixture: &dyn Fixture, lacks: &[(&str, &str)]) -> Verdict {
    for (need, why) in lacks {
        ensure!(NEEDS.iter().any(|(known, _)| known == need), "there is no need called {need}");
        ensure!(!why.trim().is_empty(), "why {need} is lacking must be said in words");
        println!("not certified, lacking {need}: {why}");
    }
    let (parts, own_log) = block_on(async {
        let data = fixture.fresh().await?;
        Ok((data.node().await?, data.own_log()))
    })?;
    if let Some(why) = own_log {
        ensure!(!why.trim().is_empty(), "why the inbox serves its own log only must be said in words");
        println!("the inbox is certified for the log of its own data only: {why}");
    }
    let there = [
        ("log", parts.log.is_some()),
        ("store", parts.store.is_some()),
        ("inbox", parts.inbox.is_some()),
        ("presence", parts.presence.is_some()),
        ("notifier", parts.notifier.is_some()),
        ("outbox", parts.store.as_ref().is_some_and(|store| store.outbox.is_some())),
    ];
    for (part, there) in there {
        let lacking = lacks.iter().any(|(need, _)| *need == part);
        ensure!(
            there != lacking,
            "the part {part} is {}",
            if there { "there, but said to lack" } else { "missing" }
        );
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = Result<T, Violation>>) -> Result<T, Violation> {
    // Several threads: a backend's races must be able to happen.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|why| Violation::new(format!("no runtime: {why}")))?.block_on(work)
}
