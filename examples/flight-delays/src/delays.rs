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
        match (flight.dep_time, flight.dep_delay) {
            (Some(_), Some(delay)) => {
                sum.total_delay += delay;
                sum.max_delay = sum.max_delay.max(Some(delay));
            }
            _ => sum.cancelled += 1,
        }
    }

    fn merge(&self, sum: &mut Sum, other: &Sum) {
        sum.flights += other.flights;
        sum.cancelled += other.cancelled;
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
        let departed = self.flights - self.cancelled;
        DelayRow {
            origin: origin.to_owned(),
            window_start: window.start,
            window_end: window.end,
            flights: self.flights,
            cancelled: self.cancelled,
            mean_dep_delay: (departed > 0).then(|| self.total_delay as f64 / departed as f64),
            max_dep_delay: self.max_delay,
        }
    }
}
