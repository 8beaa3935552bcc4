//! Broadcast state: a stream whose rows reach every subtask of an operator, and the
//! state that they build up there, the same in each.

use crate::api::env::Env;
use crate::api::keyed::{KeySelector, KeyedStream, add_operator_with_id, declare};
use crate::api::pipe::{Head, Pipe};
use crate::api::process::{Cx, Timer};
use crate::api::stream::{DataStream, OperatorSpec};
use crate::api::tags::{AnyTag, SideOutputs};
use crate::data::{Data, Fun, Res};
use crate::exchange::codec::Packets;
use crate::graph::{NodeId, Partitioning};
use crate::operators::process::broadcast::{Broadcasted, KeyedBroadcasted};
use crate::operators::process::core::{KeyedCore, STATE};
use crate::operators::process::row::TimedRow;
use crate::operators::process::shared::Shared;
use crate::runtime::partition::Broadcast;
use crate::state::row::FieldShape;
use crate::state::{Field, MapState, State};
use millrace_protocol::key::Key;
use millrace_protocol::shape::ShapeError;
use std::sync::Arc;

pub use crate::operators::process::broadcast::BroadcastCx;
pub use crate::operators::process::plain::ProcessCx;

/// A map that every subtask has the same of: a field of a function's shared state.
///
/// It is always in memory, so that reading needs no `Res`. At a checkpoint one subtask
/// writes it, and all read it at a restore.
pub struct BroadcastMap<K, V>(MapState<K, V>);

impl<K, V> Default for BroadcastMap<K, V> {
    fn default() -> Self {
        Self(MapState::default())
    }
}

impl<K: Key, V: Data> BroadcastMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).ok().flatten()
    }

    /// Whether there is a value for a key.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of a key and gives the one it had.
    pub fn put(&mut self, key: K, value: V) -> Option<V> {
        self.0.put(key, value).ok().flatten()
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key).ok().flatten()
    }

    /// All keys with their values, in order of insertion until one is removed.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().into_iter().flatten()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<K: Key, V: Data> Field for BroadcastMap<K, V> {
    fn is_empty(&self) -> bool {
        Field::is_empty(&self.0)
    }

    fn is_dirty(&self) -> bool {
        self.0.is_dirty()
    }

    fn clean(&mut self) {
        self.0.clean();
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        self.0.write(out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        Field::read(bytes, old).map(Self)
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        MapState::<K, V>::shape(name)
    }

    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

/// Hangs the stream on an input of a node.
type Connect = Box<dyn FnOnce(&Env, NodeId, usize)>;

/// A stream whose rows go to every subtask of the operator it is connected to.
pub struct BroadcastStream<B> {
    connect: Connect,
    _row: std::marker::PhantomData<fn(B)>,
}

impl<T: Send + 'static, P: Pipe<Out = T>> DataStream<T, P> {
    /// For [`KeyedStream::connect_broadcast`] and [`DataStream::connect_broadcast`].
    pub fn broadcast(self) -> BroadcastStream<T>
    where
        T: Data + Clone,
    {
        let connect = Box::new(move |env: &Env, node: NodeId, input: usize| {
            let codec = Arc::new(Packets::<T>::new());
            let edge = env.edge(self.output.node, node, input, Partitioning::Broadcast, codec);
            self.attach(move |cx| Ok(Broadcast::new(cx.outgoing(edge))));
        });
        BroadcastStream { connect, _row: std::marker::PhantomData }
    }

    /// Connects the stream with one whose rows reach every subtask.
    pub fn connect_broadcast<B: Send + 'static>(
        self,
        broadcast: BroadcastStream<B>,
    ) -> BroadcastConnected<T, B, P> {
        BroadcastConnected { stream: self, broadcast }
    }
}

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    /// Connects the stream with one whose rows reach every subtask.
    pub fn connect_broadcast<B: Send + 'static>(
        self,
        broadcast: BroadcastStream<B>,
    ) -> KeyedBroadcastConnected<T, B, S> {
        KeyedBroadcastConnected { keyed: self, broadcast }
    }
}

/// A function over the rows of a key, and over rows that reach every subtask.
///
/// [`KeyedBroadcast::Shared`] is the same in all subtasks because they all get the same
/// rows and only [`KeyedBroadcast::broadcast`] can write to it. With several subtasks
/// *upstream*, the order of their rows differs from subtask to subtask: let the outcome
/// not depend on it (a map whose keys have one writer each does not).
///
/// Nothing makes one input wait for the other. Rows that cannot be handled before some
/// broadcast row has come belong in the key's state until then; see
/// [`BroadcastCx::with_key`] and [`BroadcastCx::each`].
pub trait KeyedBroadcast<K: Key, A, B>: Fun {
    /// What it emits.
    type Out: Send + 'static;
    /// The state of a key.
    type State: State;
    /// The state that all subtasks share: a struct of [`BroadcastMap`]s. It has no time
    /// to live.
    type Shared: State;

    /// The side outputs that it emits to.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }

    /// Called once per subtask and attempt, before any row.
    fn open(&mut self) -> Res {
        Ok(())
    }

    /// Takes a row of the keyed input.
    fn process(
        &mut self,
        row: A,
        state: &mut Self::State,
        shared: &Self::Shared,
        cx: &mut Cx<'_, K, Self::Out>,
    ) -> Res;

    /// Takes a row of the broadcast input, in every subtask. What it emits is emitted by
    /// every subtask; what it emits per key ([`BroadcastCx::each`]) once.
    fn broadcast(
        &mut self,
        row: B,
        shared: &mut Self::Shared,
        cx: &mut BroadcastCx<'_, K, Self::State, Self::Out>,
    ) -> Res;

    /// A timer of the key is due.
    fn on_timer(
        &mut self,
        _timer: Timer,
        _state: &mut Self::State,
        _shared: &Self::Shared,
        _cx: &mut Cx<'_, K, Self::Out>,
    ) -> Res {
        Ok(())
    }
}

/// As [`KeyedBroadcast`], over rows without a key, and so without state of their own.
pub trait BroadcastProcess<A, B>: Fun {
    /// What it emits.
    type Out: Send + 'static;
    /// The state that all subtasks share: a struct of [`BroadcastMap`]s.
    type Shared: State;

    /// The side outputs that it emits to.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }

    /// Called once per subtask and attempt, before any row.
    fn open(&mut self) -> Res {
        Ok(())
    }

    /// Takes a row of the main input.
    fn process(&mut self, row: A, shared: &Self::Shared, cx: &mut ProcessCx<'_, Self::Out>) -> Res;

    /// Takes a row of the broadcast input, in every subtask.
    fn broadcast(
        &mut self,
        row: B,
        shared: &mut Self::Shared,
        cx: &mut ProcessCx<'_, Self::Out>,
    ) -> Res;
}

/// A keyed stream and a broadcast one.
pub struct KeyedBroadcastConnected<T, B, S: KeySelector<T>> {
    keyed: KeyedStream<T, S>,
    broadcast: BroadcastStream<B>,
}

impl<T: Send + 'static, B: Send + 'static, S: KeySelector<T>> KeyedBroadcastConnected<T, B, S> {
    /// Runs a function over both. `uid` identifies its state.
    pub fn process<F: KeyedBroadcast<S::Key, T, B>>(self, uid: &str, f: F) -> DataStream<F::Out> {
        let env = self.keyed.env().clone();
        let states = declare::<S::Key, TimedRow<F::State>>(&env, uid, STATE, false);
        let selector = self.keyed.selector.clone();
        let declared = SideOutputs::new(f.side_outputs());
        let sides = declared.clone();
        let spec = OperatorSpec::new("broadcast process", Some(uid), states);
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| {
            let core = KeyedCore::new(cx.spilling_table(node)?, sides.build(cx)?);
            let shared = Shared::restore(cx, node)?;
            Ok(KeyedBroadcasted::new(selector.clone(), f.clone(), core, shared))
        });
        Shared::<F::Shared>::declare(&env, node);
        self.keyed.into_input(node, 0);
        (self.broadcast.connect)(&env, node, 1);
        DataStream::new(env, output, Head::new()).with_sides(declared)
    }
}

/// A stream and a broadcast one.
pub struct BroadcastConnected<T, B, P: Pipe<Out = T>> {
    stream: DataStream<T, P>,
    broadcast: BroadcastStream<B>,
}

impl<T: Data, B: Send + 'static, P: Pipe<Out = T>> BroadcastConnected<T, B, P> {
    /// Runs a function over both. `uid` identifies its state.
    pub fn process<F: BroadcastProcess<T, B>>(self, uid: &str, f: F) -> DataStream<F::Out> {
        let env = self.stream.env.clone();
        let declared = SideOutputs::new(f.side_outputs());
        let sides = declared.clone();
        let spec = OperatorSpec::new("broadcast process", Some(uid), Vec::new());
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| {
            let shared = Shared::restore(cx, node)?;
            Ok(Broadcasted::<T, B, F>::new(f.clone(), shared, sides.build(cx)?))
        });
        Shared::<F::Shared>::declare(&env, node);
        self.stream.forward_to(node, 0);
        (self.broadcast.connect)(&env, node, 1);
        DataStream::new(env, output, Head::new()).with_sides(declared)
    }
}
