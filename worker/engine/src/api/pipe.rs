//! Chains of closures, push style: monomorphic from a head to the next exchange, with
//! one virtual call per batch at the head.

use crate::data::{Fun, Res};
use std::marker::PhantomData;

/// A chain of stateless steps.
pub trait Pipe: Fun {
    /// What goes in.
    type In: Send + 'static;
    /// What comes out.
    type Out;
    /// Runs a value through the chain; `out` gets what comes out.
    fn push<O: FnMut(Self::Out) -> Res>(&mut self, value: Self::In, out: &mut O) -> Res;
}

/// The empty chain.
pub struct Head<T>(PhantomData<fn(T)>);

impl<T> Head<T> {
    /// The empty chain.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Head<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Head<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: Send + 'static> Pipe for Head<T> {
    type In = T;
    type Out = T;

    #[inline(always)]
    fn push<O: FnMut(T) -> Res>(&mut self, value: T, out: &mut O) -> Res {
        out(value)
    }
}

/// A chain and a closure from one value to one.
#[derive(Clone)]
pub struct Map<P, F>(pub(crate) P, pub(crate) F);

impl<P: Pipe, U, F: FnMut(P::Out) -> U + Fun> Pipe for Map<P, F> {
    type In = P::In;
    type Out = U;

    #[inline(always)]
    fn push<O: FnMut(U) -> Res>(&mut self, value: P::In, out: &mut O) -> Res {
        let f = &mut self.1;
        self.0.push(value, &mut |v| out(f(v)))
    }
}

/// A chain and a closure from one value to one, which may fail.
#[derive(Clone)]
pub struct TryMap<P, F>(pub(crate) P, pub(crate) F);

impl<P: Pipe, U, F: FnMut(P::Out) -> Res<U> + Fun> Pipe for TryMap<P, F> {
    type In = P::In;
    type Out = U;

    #[inline(always)]
    fn push<O: FnMut(U) -> Res>(&mut self, value: P::In, out: &mut O) -> Res {
        let f = &mut self.1;
        self.0.push(value, &mut |v| out(f(v)?))
    }
}

/// A chain and a predicate.
#[derive(Clone)]
pub struct Filter<P, F>(pub(crate) P, pub(crate) F);

impl<P: Pipe, F: FnMut(&P::Out) -> bool + Fun> Pipe for Filter<P, F> {
    type In = P::In;
    type Out = P::Out;

    #[inline(always)]
    fn push<O: FnMut(P::Out) -> Res>(&mut self, value: P::In, out: &mut O) -> Res {
        let f = &mut self.1;
        self.0.push(value, &mut |v| if f(&v) { out(v) } else { Ok(()) })
    }
}

/// A chain and a closure from one value to any number.
#[derive(Clone)]
pub struct FlatMap<P, F>(pub(crate) P, pub(crate) F);

impl<P: Pipe, I: IntoIterator, F: FnMut(P::Out) -> I + Fun> Pipe for FlatMap<P, F> {
    type In = P::In;
    type Out = I::Item;

    #[inline(always)]
    fn push<O: FnMut(I::Item) -> Res>(&mut self, value: P::In, out: &mut O) -> Res {
        let f = &mut self.1;
        self.0.push(value, &mut |v| f(v).into_iter().try_for_each(&mut *out))
    }
}
