//! A departure, as a row of the input.

use millrace::connectors::rfc3339;
use millrace::prelude::Ts;
use serde::{Deserialize, Serialize};

/// A scheduled departure. Columns of the input that are not here are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flight {
    /// Airport.
    pub origin: String,
    /// Two-letter code of the airline.
    pub carrier: String,
    /// Number of the flight.
    pub flight: u32,
    /// The aircraft, if known.
    pub tailnum: Option<String>,
    /// Actual departure (local, hhmm); none: it was cancelled.
    pub dep_time: Option<u32>,
    /// Minutes it departed late; negative: early.
    pub dep_delay: Option<i64>,
    /// The hour of the scheduled departure, UTC.
    #[serde(with = "rfc3339")]
    pub time_hour: Ts,
    /// The minute of the scheduled departure.
    pub minute: i64,
}

impl Flight {
    /// Event time: when it should have departed.
    pub fn scheduled(&self) -> Ts {
        self.time_hour + self.minute * 60_000
    }
}
