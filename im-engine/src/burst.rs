//! Signals that wait together: those of the same users that follow each other are told as one.
//!
//! Under load a node has many notices waiting. To tell a session of each by itself costs a look-up, a lock and a place in its queue
//! for each; to tell it of all costs them once.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use im_core::{Cursor, Entry, Record, Signal, Signals, UserId};

use crate::entries::Entries;

/// How many bytes are told as one at most.
const RUN: usize = 32 << 10;

/// One signal, or several of the same users, each of which begins where the one before ends.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The users, and for each the cursor before the first signal, if known.
    pub(crate) users: &'a [(UserId, Option<Cursor>)],
    /// The cursor of the last entry.
    pub(crate) end: &'a Cursor,
    /// What all of them are sent, if it is carried.
    pub(crate) entries: Option<Arc<Entries>>,
}

/// The signals of a notice, each by itself.
pub(crate) fn signals(notice: &Signals) -> impl Iterator<Item = Run<'_>> {
    notice.signals.iter().filter_map(|signal| Run::new(&notice.records, signal))
}

/// The signals of notices, those of each user in their order. None with more than `max_bytes` is made of several.
pub(crate) fn runs(burst: &[Signals], max_bytes: usize) -> Vec<Run<'_>> {
    let max_bytes = max_bytes.min(RUN);
    let count = burst.iter().map(|notice| notice.signals.len()).sum();
    let mut runs: Vec<Run<'_>> = Vec::with_capacity(count);
    // By its first user: who is that in another one since then got something in between.
    let mut newest: HashMap<&UserId, usize, RandomState> =
        HashMap::with_capacity_and_hasher(count, RandomState::default());
    let signals =
        burst.iter().flat_map(|notice| notice.signals.iter().map(|signal| (&notice.records, signal)));
    for (records, signal) in signals {
        let Some((first, _)) = signal.users.first() else { continue };
        if newest
            .get(first)
            .and_then(|at| runs.get_mut(*at))
            .is_some_and(|run| run.join(records, signal, max_bytes))
        {
            continue;
        }
        // Whoever is told again of something stands nobody knows where: nothing that comes after it goes before it.
        if signal.users.iter().any(|(_, previous)| previous.is_none()) {
            newest.clear();
        }
        newest.insert(first, runs.len());
        runs.extend(Run::new(records, signal));
    }
    runs
}

impl<'a> Run<'a> {
    fn new(records: &[Arc<Record>], signal: &'a Signal) -> Option<Self> {
        let end = signal.cursors.last()?;
        let entries = entries(records, signal).map(|entries| Arc::new(Entries::new(entries)));
        Some(Self { users: &signal.users, end, entries })
    }

    /// Takes in what follows it; whether it did.
    ///
    /// What every user had before is this run's end, so nothing new lies between for any of them, and repeats end all runs: to tell
    /// it here puts it before nothing that came earlier.
    fn join(&mut self, records: &[Arc<Record>], next: &'a Signal, max_bytes: usize) -> bool {
        let follows = |((user, _), (next_user, previous)): (&(UserId, _), &(UserId, Option<Cursor>))| {
            previous.as_ref() == Some(self.end) && is_same(user, next_user)
        };
        let follow = self.users.len() == next.users.len() && self.users.iter().zip(&next.users).all(follows);
        let Some(entries) = self.entries.as_mut().filter(|_| follow).and_then(Arc::get_mut) else {
            return false;
        };
        let Some((more, end)) = self::entries(records, next).zip(next.cursors.last()) else { return false };
        let joined = entries.join(more, max_bytes);
        if joined {
            self.end = end;
        }
        joined
    }
}

/// Mostly both are the same copy of the name: that it is read at all costs more than the rest.
fn is_same(a: &UserId, b: &UserId) -> bool {
    std::ptr::eq(a.as_str(), b.as_str()) || a == b
}

/// What all users of a signal are sent, if it is carried.
fn entries(records: &[Arc<Record>], signal: &Signal) -> Option<Vec<Entry>> {
    if signal.records.is_empty() || signal.records.len() != signal.cursors.len() {
        return None;
    }
    let entry = |(index, cursor): (&u32, &Cursor)| {
        let record = records.get(*index as usize)?.clone();
        Some(Entry { cursor: cursor.clone(), record })
    };
    signal.records.iter().zip(&*signal.cursors).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::tests::{cursors, record};

    const LIMIT: usize = 64 << 10;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    /// One entry for some users, each of whom has what stands before it.
    fn notice(names: &[&str], previous: &str, end: &str) -> Signals {
        let users = names.iter().map(|name| (user(name), Some(Cursor::new(previous)))).collect();
        let signal = Signal { users, records: [0].into(), cursors: [Cursor::new(end)].into() };
        Signals { records: [record(1)].into(), signals: vec![signal] }
    }

    /// Who is told what, signal by signal; of what is not carried the end.
    fn told(burst: &[Signals], max_bytes: usize) -> Vec<(String, Vec<String>)> {
        let told = runs(burst, max_bytes).into_iter().map(|run| {
            let names: Vec<&str> = run.users.iter().map(|(user, _)| user.as_str()).collect();
            let sent = match &run.entries {
                Some(entries) => cursors(entries).concat(),
                None => vec![format!("end {:?}", run.end)],
            };
            assert!(run.entries.as_ref().is_none_or(|entries| entries.end() == Some(run.end)));
            (names.concat(), sent)
        });
        told.collect()
    }

    fn expected(runs: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |(names, sent): &(&str, &[&str])| {
            ((*names).to_owned(), sent.iter().map(|text| (*text).to_owned()).collect())
        };
        runs.iter().map(owned).collect()
    }

    #[test]
    fn what_follows_each_other_is_one() {
        let burst =
            [notice(&["a", "b"], "0", "1"), notice(&["a", "b"], "1", "2"), notice(&["a", "b"], "2", "3")];
        assert_eq!(told(&burst, LIMIT), expected(&[("ab", &["1", "2", "3"])]));
        let run = runs(&burst, LIMIT).pop().unwrap();
        assert_eq!(run.users, burst[0].signals[0].users, "who had what before the first");
        assert_eq!(run.entries.unwrap().parts().len(), 3);
    }

    #[test]
    fn nothing_goes_before_what_is_told_again() {
        let mut again = notice(&["b"], "0", "1");
        again.signals[0].users[0].1 = None;
        let burst = [notice(&["a", "b"], "0", "1"), again, notice(&["a", "b"], "1", "2")];
        assert_eq!(told(&burst, LIMIT), expected(&[("ab", &["1"]), ("b", &["1"]), ("ab", &["2"])]));
    }

    #[test]
    fn groups_side_by_side_are_each_one() {
        let names: Vec<String> = (0..100).map(|group| format!("g{group}-")).collect();
        let round = |n: u64| {
            let of = |name: &String| notice(&[name, "z"], &format!("{name}{n}"), &format!("{name}{}", n + 1));
            let signals = names.iter().flat_map(|name| of(name).signals).collect();
            Signals { records: [record(1)].into(), signals }
        };
        let burst: Vec<Signals> = (0..10).map(round).collect();
        let runs = runs(&burst, LIMIT);
        assert_eq!(runs.len(), 100);
        assert!(runs.iter().all(|run| run.entries.as_ref().unwrap().parts().len() == 10));
    }

    #[test]
    fn what_one_of_them_got_in_between_keeps_signals_apart() {
        let other = notice(&["b", "c"], "1", "2");
        let burst = [notice(&["a", "b"], "0", "1"), other, notice(&["a", "b"], "2", "3")];
        let apart = expected(&[("ab", &["1"]), ("bc", &["2"]), ("ab", &["3"])]);
        assert_eq!(told(&burst, LIMIT), apart);
        // Only b has it: the others' chain alone joins nothing.
        let mut last = notice(&["a", "b"], "1", "3");
        last.signals[0].users[1].1 = Some(Cursor::new("2"));
        let [first, other, _] = burst;
        assert_eq!(told(&[first, other, last], LIMIT), apart);
    }

    #[test]
    fn other_users_are_told_apart() {
        let first = notice(&["a", "b"], "0", "1");
        for names in [&["a", "c"][..], &["b", "a"], &["a"], &["a", "b", "c"]] {
            let burst = [first.clone(), notice(names, "1", "2")];
            assert_eq!(told(&burst, LIMIT), expected(&[("ab", &["1"]), (&names.concat(), &["2"])]));
        }
    }

    #[test]
    fn where_somebody_stood_must_be_known() {
        let mut next = notice(&["a", "b"], "1", "2");
        next.signals[0].users[1].1 = None;
        let burst = [notice(&["a", "b"], "0", "1"), next, notice(&["a", "b"], "2", "3")];
        assert_eq!(told(&burst, LIMIT), expected(&[("ab", &["1"]), ("ab", &["2", "3"])]));
    }

    #[test]
    fn what_is_not_carried_is_told_by_itself() {
        let mut bare = notice(&["a"], "1", "2");
        bare.signals[0].records = [].into();
        let burst = [notice(&["a"], "0", "1"), bare, notice(&["a"], "2", "3"), notice(&["a"], "3", "4")];
        let apart = expected(&[("a", &["1"]), ("a", &["end 2"]), ("a", &["3", "4"])]);
        assert_eq!(told(&burst, LIMIT), apart);
    }

    #[test]
    fn no_more_bytes_are_made_one_than_may_be() {
        // A record is taken for 200 + 256 bytes.
        let burst: Vec<Signals> =
            (0..100).map(|n| notice(&["a"], &n.to_string(), &(n + 1).to_string())).collect();
        let lengths = |max_bytes| -> Vec<usize> {
            told(&burst, max_bytes).into_iter().map(|(_, sent)| sent.len()).collect()
        };
        assert_eq!(lengths(50 * 456), [50, 50]);
        assert_eq!(lengths(50 * 456 - 1), [49, 49, 2]);
        assert_eq!(lengths(0), [1; 100]);
        assert_eq!(lengths(usize::MAX), [RUN / 456, 100 - RUN / 456]);
    }
}
