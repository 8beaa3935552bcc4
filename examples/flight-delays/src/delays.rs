//! Delays of an airport within a window.

use crate::flight::Flight;
use millrace::connectors::rfc3339;
use millrace::prelude::{Aggregate, Ts, Window};
use serde::{Deserialize, Serialize};

/// Sums up departures.
#[derive(Debug, Clone, Copy)]
pub struct Delays;

/// What is kept of a window's departures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    flights: u64,
    cancelled: u64,
    /// Departures whose delay is not known. Checkpoints of before it was counted have none.
    #[serde(default)]
    unmeasured: u64,
    total_delay: i64,
    max_delay: Option<i64>,
}

impl Aggregate<Flight> for Delays {
    type Acc = Sum;
    type Out = Sum;

    fn create(&self) -> Sum {
        Sum::default()
    }

    fn add(&self, sum: &mut Sum, flight: &Flight) {
        sum.flights += 1;
        if flight.dep_time.is_none() {
            sum.cancelled += 1;
        } else if let Some(delay) = flight.dep_delay {
            sum.total_delay += delay;
            sum.max_delay = sum.max_delay.max(Some(delay));
        } else {
            sum.unmeasured += 1;
        }
    }

    fn merge(&self, sum: &mut Sum, other: &Sum) {
        sum.flights += other.flights;
        sum.cancelled += other.cancelled;
        sum.unmeasured += other.unmeasured;
        sum.total_delay += other.total_delay;
        sum.max_delay = sum.max_delay.max(other.max_delay);
    }

    fn result(&self, sum: &Sum) -> Sum {
        sum.clone()
    }
}

/// A row of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelayRow {
    origin: String,
    #[serde(with = "rfc3339")]
    window_start: Ts,
    #[serde(with = "rfc3339")]
    window_end: Ts,
    flights: u64,
    cancelled: u64,
    mean_dep_delay: Option<f64>,
    max_dep_delay: Option<i64>,
}

impl Sum {
    /// The output row of a window.
    pub fn row(self, origin: &str, window: Window) -> DelayRow {
        let measured = self.flights - self.cancelled - self.unmeasured;
        DelayRow {
            origin: origin.to_owned(),
            window_start: window.start,
            window_end: window.end,
            flights: self.flights,
            cancelled: self.cancelled,
            mean_dep_delay: (measured > 0).then(|| self.total_delay as f64 / measured as f64),
            max_dep_delay: self.max_delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(dep_time: Option<u32>, dep_delay: Option<i64>) -> Flight {
        Flight {
            origin: "JFK".into(),
            carrier: "B6".into(),
            flight: 1,
            tailnum: None,
            dep_time,
            dep_delay,
            time_hour: 0,
            minute: 0,
        }
    }

    /// A flight without `dep_time` was cancelled, whatever else is known; of one that
    /// departed the delay may be unknown.
    #[test]
    fn a_flight_that_departed_was_not_cancelled() {
        let flights = [(Some(517), Some(2)), (Some(533), None), (None, Some(7)), (None, None)];
        let flights = flights.map(|(time, delay)| flight(time, delay));
        let sum_of = |flights: &[Flight]| {
            let mut sum = Delays.create();
            flights.iter().for_each(|flight| Delays.add(&mut sum, flight));
            sum
        };
        let mut merged = sum_of(&flights[..1]);
        Delays.merge(&mut merged, &sum_of(&flights[1..]));
        assert_eq!(merged, sum_of(&flights));
        let row = merged.row("JFK", Window { start: 0, end: 3_600_000 });
        assert_eq!((row.flights, row.cancelled), (4, 2));
        assert_eq!((row.mean_dep_delay, row.max_dep_delay), (Some(2.0), Some(2)));
        let row = sum_of(&flights[1..]).row("JFK", Window { start: 0, end: 3_600_000 });
        assert_eq!((row.cancelled, row.mean_dep_delay, row.max_dep_delay), (2, None, None));
    }
}
