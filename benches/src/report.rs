//! What is printed.

use serde::Serialize;

use crate::{
    args::Plan,
    process::steal,
    stats::{Latencies, median},
};

/// One measured case.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) work: &'static str,
    pub(crate) case: String,
    pub(crate) backend: &'static str,
    /// The share of the maximum at which an open loop ran; none: a closed loop at the maximum.
    pub(crate) load: Option<f64>,
    /// What `rate` and `limit` count.
    pub(crate) unit: &'static str,
    pub(crate) rate: Option<f64>,
    /// The raw limit.
    pub(crate) limit: Option<f64>,
    /// The share of the raw limit that was reached: 1 is as good as the bare loop, more is better.
    pub(crate) ratio: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p999_ms: Option<f64>,
    pub(crate) rss_kb: u64,
    /// The share of the machine's processor time that others were given since the line before: latencies tell nothing where it is
    /// much.
    pub(crate) steal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_kb_per_connection: Option<f64>,
    /// Other figures of the case, by name.
    #[serde(flatten)]
    pub(crate) more: serde_json::Map<String, serde_json::Value>,
}

impl Line {
    pub(crate) fn new(plan: &Plan, work: &'static str, case: impl Into<String>, unit: &'static str) -> Self {
        Self {
            work,
            case: case.into(),
            backend: plan.backend.as_str(),
            load: None,
            unit,
            rate: None,
            limit: None,
            ratio: None,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            rss_kb: 0,
            steal: None,
            rss_kb_per_connection: None,
            more: serde_json::Map::new(),
        }
    }

    /// A rate beside its limit.
    pub(crate) fn rate(mut self, rate: Option<f64>, limit: Option<f64>) -> Self {
        (self.rate, self.limit) = (rate, limit);
        self.ratio = rate.zip(limit).map(|(rate, limit)| rate / limit);
        self
    }

    pub(crate) fn latencies(mut self, latencies: &Latencies) -> Self {
        self.p50_ms = latencies.quantile_ms(0.5);
        self.p99_ms = latencies.quantile_ms(0.99);
        self.p999_ms = latencies.quantile_ms(0.999);
        self
    }

    /// The medians of each round's.
    pub(crate) fn median_latencies(mut self, rounds: &[Latencies]) -> Self {
        let middle =
            |share| median(rounds.iter().filter_map(|latencies| latencies.quantile_ms(share)).collect());
        (self.p50_ms, self.p99_ms, self.p999_ms) = (middle(0.5), middle(0.99), middle(0.999));
        self
    }

    pub(crate) fn load(mut self, load: f64) -> Self {
        self.load = Some(load);
        self
    }

    pub(crate) fn rss_kb(mut self, rss_kb: u64) -> Self {
        self.rss_kb = rss_kb;
        self
    }

    /// Another figure.
    pub(crate) fn more(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Prints the line now, as JSON or as a row of a table.
    pub(crate) fn print(mut self, plan: &Plan) {
        self.steal = steal();
        match serde_json::to_string(&self) {
            Ok(json) if plan.json => println!("{json}"),
            _ => println!("{}", self.row()),
        }
    }

    fn row(&self) -> String {
        let load = self.load.map_or("max".into(), |load| format!("{load:.2}"));
        let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2}"));
        let count = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.*}", digits(rate)));
        let ratio = self.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let more: String = self.more.iter().map(|(name, value)| format!("  {name} {value}")).collect();
        format!(
            "{:<8} {:<16} {:<7} {:>4}  {:>11} {:>11} {:<18} {:>5}  {:>8} {:>8} {:>8}  {:>8} KB {:>5}{}",
            self.work,
            self.case,
            self.backend,
            load,
            count(self.rate.or(self.rss_kb_per_connection)),
            count(self.limit),
            self.unit,
            ratio,
            ms(self.p50_ms),
            ms(self.p99_ms),
            ms(self.p999_ms),
            self.rss_kb,
            self.steal.map_or("-".into(), |share| format!("{share:.2}")),
            more
        )
    }
}

fn digits(figure: f64) -> usize {
    if figure < 100.0 { 2 } else { 0 }
}

/// Prints the head of the table.
pub(crate) fn head(plan: &Plan) {
    // The first line's share counts from here.
    steal();
    if !plan.json {
        println!(
            "{:<8} {:<16} {:<7} {:>4}  {:>11} {:>11} {:<18} {:>5}  {:>8} {:>8} {:>8}  {:>11} {:>5}",
            "work",
            "case",
            "backend",
            "load",
            "own",
            "limit",
            "unit",
            "ratio",
            "p50 ms",
            "p99 ms",
            "p99.9",
            "rss",
            "steal"
        );
    }
}
