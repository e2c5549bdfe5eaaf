//! The figures of a replay, as a table for people and as JSON for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use im_testkit::checker::Report;
use serde::Serialize;

use crate::history::History;

/// How many findings of a kind are told in words.
const TOLD: usize = 5;

/// The figures of a replay.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Messages that were acked.
    pub(crate) messages: u64,
    /// Messages that clients showed, each client's counted.
    pub(crate) deliveries: u64,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) disordered: usize,
    pub(crate) unread_wrong: usize,
    pub(crate) phantom: usize,
    pub(crate) differing: usize,
    /// Messages that the server refused for good; there is no reason for it here.
    pub(crate) refused: u64,
    /// Messages of the log that were never acked, and clients that did not become level with the server.
    pub(crate) unfinished: u64,
    pub(crate) reconnects: u64,
    pub(crate) kills: u64,
    pub(crate) seconds: f64,
    /// How long the checker took of that.
    pub(crate) check_seconds: f64,
    pub(crate) ack_p50_ms: f64,
    pub(crate) ack_p99_ms: f64,
    pub(crate) receive_p50_ms: f64,
    pub(crate) receive_p99_ms: f64,
}

/// What happened beside what the history tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Happened {
    pub(crate) refused: u64,
    pub(crate) unfinished: u64,
    pub(crate) reconnects: u64,
    pub(crate) kills: u64,
}

impl Figures {
    pub(crate) fn new(history: &History, report: &Report, happened: Happened) -> Self {
        let (messages, deliveries) = history.counts();
        let (ack, receive) = history.latencies();
        let Happened { refused, unfinished, reconnects, kills } = happened;
        Self {
            messages,
            deliveries,
            lost: report.lost.len(),
            duplicated: report.duplicated.len(),
            disordered: report.disordered.len(),
            unread_wrong: report.unread_wrong.len(),
            phantom: report.phantom.len(),
            differing: report.differing.len(),
            refused,
            unfinished,
            reconnects,
            kills,
            seconds: 0.0,
            check_seconds: 0.0,
            ack_p50_ms: ms(ack, 0.5),
            ack_p99_ms: ms(ack, 0.99),
            receive_p50_ms: ms(receive, 0.5),
            receive_p99_ms: ms(receive, 0.99),
        }
    }

    fn findings(&self) -> [(&'static str, u64); 8] {
        [
            ("lost", self.lost as u64),
            ("duplicated", self.duplicated as u64),
            ("disordered", self.disordered as u64),
            ("unread wrong", self.unread_wrong as u64),
            ("phantom", self.phantom as u64),
            ("differing", self.differing as u64),
            ("refused", self.refused),
            ("unfinished", self.unfinished),
        ]
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_right(&self) -> bool {
        self.findings().iter().all(|(_, count)| *count == 0)
    }

    /// One object.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A table.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(table, "{name:<20} {value:>12}");
        };
        row("messages", self.messages.to_string());
        row("deliveries", self.deliveries.to_string());
        for (name, count) in self.findings() {
            row(name, count.to_string());
        }
        row("reconnects", self.reconnects.to_string());
        row("kills", self.kills.to_string());
        row("seconds", format!("{:.1}", self.seconds));
        row("check seconds", format!("{:.1}", self.check_seconds));
        row("ack p50 ms", format!("{:.1}", self.ack_p50_ms));
        row("ack p99 ms", format!("{:.1}", self.ack_p99_ms));
        row("receive p50 ms", format!("{:.1}", self.receive_p50_ms));
        row("receive p99 ms", format!("{:.1}", self.receive_p99_ms));
        table
    }
}

fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    let us = u32::try_from(histogram.value_at_quantile(quantile)).unwrap_or(u32::MAX);
    f64::from(us) / 1000.0
}

/// The first findings of each kind, in words.
pub(crate) fn words(report: &Report) -> Vec<String> {
    let kinds = [
        ("lost", &report.lost),
        ("duplicated", &report.duplicated),
        ("disordered", &report.disordered),
        ("unread wrong", &report.unread_wrong),
        ("phantom", &report.phantom),
        ("differing", &report.differing),
    ];
    let told = |(kind, list): (&str, &Vec<String>)| {
        list.iter().take(TOLD).map(|finding| format!("{kind}: {finding}")).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(told).collect()
}

#[cfg(test)]
mod tests {
    use im_protocol::{Int, RecordView};

    use super::*;
    use crate::history::Unread;

    fn record(seq: u64, id: &str) -> RecordView<'_> {
        RecordView {
            conversation: "g".into(),
            seq: seq.into(),
            ordinal: seq.into(),
            created_at: Int::from(1_u64),
            from: "a".into(),
            client_msg_id: id.into(),
            kind: "message".into(),
            content_type: "text".into(),
            content: "x".into(),
            hole_after: None,
        }
    }

    /// Two messages of `a`, read by `b`, who shows these.
    fn figures(shown_by_b: &[(u64, &str)], unread: u64) -> Figures {
        let mut history = History::new(["g".to_owned()]);
        for (seq, id) in [(1, "m1"), (2, "m2")] {
            history.sent(0, "a", id);
            history.acked(0, "a", id, seq);
            history.shown(0, "a", &record(seq, id), true);
        }
        for (seq, id) in shown_by_b {
            history.shown(0, "b", &record(*seq, id), true);
        }
        for user in ["a", "b"] {
            history.member(0, user, 1, None);
            history.done(0, user);
        }
        history.unread(0, "b", Unread { unread, read: 1, head: 2 });
        Figures::new(&history, &history.check(), Happened::default())
    }

    #[test]
    fn a_right_history_is_right() {
        let figures = figures(&[(1, "m1"), (2, "m2")], 1);
        assert!(figures.is_right(), "{figures:?}");
        assert_eq!((figures.messages, figures.deliveries), (2, 4));
        assert!(figures.table().contains("deliveries") && figures.json().contains(r#""lost":0"#));
    }

    #[test]
    fn each_wrong_is_found() {
        let lost = figures(&[(1, "m1")], 1);
        assert!(lost.lost == 1 && !lost.is_right());
        let doubled = figures(&[(1, "m1"), (2, "m2"), (2, "m2")], 1);
        assert!(doubled.duplicated == 1 && !doubled.is_right());
        let disordered = figures(&[(2, "m2"), (1, "m1")], 1);
        assert!(disordered.disordered == 1 && !disordered.is_right());
        let miscounted = figures(&[(1, "m1"), (2, "m2")], 2);
        assert!(miscounted.unread_wrong == 1 && !miscounted.is_right());
        let phantom = figures(&[(1, "m1"), (2, "m2"), (3, "m3")], 2);
        assert!(phantom.phantom == 1 && !phantom.is_right());
        let differing = figures(&[(1, "m2"), (2, "m1")], 1);
        assert!(differing.differing >= 1 && !differing.is_right());
    }
}
