//! Functions with keyed state, timers and side outputs.

use crate::api::keyed::{KeySelector, KeyedStream, declare};
use crate::api::stream::DataStream;
use crate::api::tags::{AnyTag, SideOutputs};
use crate::data::{Fun, Res};
use crate::operators::process::core::{KeyedCore, STATE};
use crate::operators::process::keyed::Process;
use crate::operators::process::row::TimedRow;
use crate::state::State;
use millrace_protocol::key::Key;

pub use crate::operators::process::core::Cx;
pub use crate::operators::process::timers::Timer;

/// A function over the rows of a key, with state and timers of that key.
///
/// There is one instance per subtask. What it holds in its own fields is lost at a
/// restore: state belongs in [`KeyedProcess::State`], of which every key has its own.
/// Calls for one key follow the order in which each upstream subtask sent its rows.
///
/// An error (or a panic) in a call fails the attempt with the operator's name; the job
/// goes on from its last checkpoint under its restart policy.
///
/// Timers are part of the key's state. Those due fire in order of time, then of the
/// key's hash; event-time timers before the watermark is passed on. Each fires exactly
/// once, also across a restore. What a call did before a failure is undone with the
/// restore; what it did *outside* of state and outputs is not.
///
/// At the end of a bounded input the watermark becomes `TS_MAX`: all event-time timers
/// fire (also those that are registered meanwhile), and processing-time timers do not. So
/// a timer whose call registers the next one, for ever, keeps the job from ending: let it
/// do so only while [`Cx::watermark`] is below `TS_MAX`.
pub trait KeyedProcess<K: Key, T>: Fun {
    /// What it emits.
    type Out: Send + 'static;
    /// The state of a key: a struct of state fields. With a time to live
    /// ([`State::TTL`], by processing time), state that has expired is found empty.
    type State: State;

    /// The side outputs that it emits to. Asked once, when the graph is built.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }

    /// Called once per subtask and attempt, before any row.
    fn open(&mut self) -> Res {
        Ok(())
    }

    /// Takes a row.
    fn process(&mut self, row: T, state: &mut Self::State, cx: &mut Cx<'_, K, Self::Out>) -> Res;

    /// A timer of the key is due. It is no longer registered.
    fn on_timer(
        &mut self,
        _timer: Timer,
        _state: &mut Self::State,
        _cx: &mut Cx<'_, K, Self::Out>,
    ) -> Res {
        Ok(())
    }
}

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    /// Runs a function with state and timers per key. `uid` identifies its state across
    /// versions of the program. Its side outputs are read from the resulting stream with
    /// [`DataStream::side_output`].
    pub fn process<F: KeyedProcess<S::Key, T>>(self, uid: &str, f: F) -> DataStream<F::Out> {
        let states = declare::<S::Key, TimedRow<F::State>>(self.env(), uid, STATE, false);
        let selector = self.selector.clone();
        let declared = SideOutputs::new(f.side_outputs());
        let sides = declared.clone();
        let stream = self.operator("process", uid, states, move |cx, node| {
            let core = KeyedCore::new(cx.spilling_table(node)?, sides.build(cx)?);
            Ok(Process::new(selector.clone(), f.clone(), core))
        });
        stream.with_sides(declared)
    }
}
