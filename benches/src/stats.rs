//! Medians and latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Outcome;

/// The median; none of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Latencies from 1 µs to 10 minutes, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    const LONGEST: Duration = Duration::from_secs(600);

    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self(Histogram::new_with_bounds(1, Self::LONGEST.as_micros() as u64, 3)?))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// Takes another's latencies too.
    pub(crate) fn add(&mut self, other: &Self) -> Outcome {
        Ok(self.0.add(&other.0)?)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// What this share of all latencies stays at or below, in milliseconds; none while there are none.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn quantiles_are_those_of_all_that_was_recorded() {
        let mut low = Latencies::new().unwrap();
        assert_eq!(low.quantile_ms(0.5), None);
        let mut high = low.clone();
        (1..=500).for_each(|ms| low.record(Duration::from_millis(ms)));
        (501..=1000).for_each(|ms| high.record(Duration::from_millis(ms)));
        low.add(&high).unwrap();
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = low.quantile_ms(share).unwrap();
            assert!((found - ms).abs() <= ms / 500.0, "{share}: {found}");
        }
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_longest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.quantile_ms(0.1), Some(0.001));
        assert!(latencies.quantile_ms(1.0).unwrap() >= 600_000.0);
    }
}
