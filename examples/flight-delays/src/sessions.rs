//! The days' work of an aircraft: departures with no longer pause between them.

use crate::flight::Flight;
use millrace::connectors::rfc3339;
use millrace::prelude::*;
use serde::{Deserialize, Serialize};

/// Counts an aircraft's departures, and finds its airline.
#[derive(Debug, Clone, Copy)]
pub struct Work;

/// Departures so far, and the code of the airline: of several, the first in the alphabet.
pub type Worked = (u64, Option<String>);

impl Aggregate<Flight> for Work {
    type Acc = Worked;
    type Out = Worked;

    fn create(&self) -> Worked {
        (0, None)
    }

    fn add(&self, worked: &mut Worked, flight: &Flight) {
        worked.0 += 1;
        if worked.1.as_ref().is_none_or(|carrier| flight.carrier < *carrier) {
            worked.1 = Some(flight.carrier.clone());
        }
    }

    fn merge(&self, worked: &mut Worked, other: &Worked) {
        worked.0 += other.0;
        worked.1 = match (worked.1.take(), other.1.clone()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn result(&self, worked: &Worked) -> Worked {
        worked.clone()
    }
}

/// A row of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    tailnum: String,
    #[serde(with = "rfc3339")]
    session_start: Ts,
    #[serde(with = "rfc3339")]
    session_end: Ts,
    flights: u64,
    /// Code of the airline.
    pub carrier: String,
    airline: Option<String>,
}

impl Session {
    /// The output row of a window, still without the airline's name.
    pub fn new(tailnum: &str, window: Window, (flights, carrier): Worked) -> Self {
        Self {
            tailnum: tailnum.to_owned(),
            session_start: window.start,
            session_end: window.end,
            flights,
            carrier: carrier.unwrap_or_default(),
            airline: None,
        }
    }
}

/// A row of `airlines.csv`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Airline {
    carrier: String,
    name: String,
}

/// What every subtask knows: the names of airlines.
#[derive(State, Default)]
pub struct Known {
    names: BroadcastMap<String, String>,
}

/// Sessions that wait for the name of their airline.
#[derive(State, Default)]
pub struct Waiting {
    sessions: ListState<Session>,
}

/// Gives sessions the names of their airlines. The two inputs are read side by side, so
/// a session may come before its airline: it waits, at the longest until all is read.
#[derive(Debug, Clone, Copy)]
pub struct Names;

impl KeyedBroadcast<String, Session, Airline> for Names {
    type Out = Session;
    type State = Waiting;
    type Shared = Known;

    fn process(
        &mut self,
        session: Session,
        waiting: &mut Waiting,
        known: &Known,
        cx: &mut Cx<'_, String, Session>,
    ) -> Res {
        match known.names.get(cx.key()) {
            Some(name) => cx.emit(Session { airline: Some(name.clone()), ..session }),
            None => {
                waiting.sessions.add(session);
                cx.register(Timer::Event(Ts::MAX));
            }
        }
        Ok(())
    }

    fn broadcast(
        &mut self,
        airline: Airline,
        known: &mut Known,
        cx: &mut BroadcastCx<'_, String, Waiting, Session>,
    ) -> Res {
        cx.with_key(&airline.carrier, |waiting, cx| {
            for session in waiting.sessions.get() {
                cx.emit(Session { airline: Some(airline.name.clone()), ..session.clone() });
            }
            waiting.sessions.clear();
            cx.delete(Timer::Event(Ts::MAX));
            Ok(())
        })?;
        known.names.put(airline.carrier, airline.name);
        Ok(())
    }

    /// The end of the input: these airlines have no name.
    fn on_timer(
        &mut self,
        _: Timer,
        waiting: &mut Waiting,
        _: &Known,
        cx: &mut Cx<'_, String, Session>,
    ) -> Res {
        for session in waiting.sessions.get() {
            cx.emit(session.clone());
        }
        waiting.sessions.clear();
        Ok(())
    }
}
