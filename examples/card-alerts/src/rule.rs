//! The rule, with what it remembers of a card and for how long.

use crate::payment::Payment;
use millrace::prelude::*;
use serde::Serialize;

/// Less than this is small.
const SMALL_CENTS: u64 = 100;
/// More than this is large.
const LARGE_CENTS: u64 = 50_000;
/// The large one comes at most so long after the small one, in milliseconds.
const WITHIN_MS: i64 = 60_000;

/// What is raised.
#[derive(Debug, Serialize)]
pub struct Alert {
    /// Number of the card.
    card: u64,
    /// When the small payment was: milliseconds since 1970.
    small_at_ms: i64,
    /// When the large one followed.
    large_at_ms: i64,
    /// How much that was.
    cents: u64,
}

/// What is remembered of a card: nothing, most of the time.
#[derive(Default, State)]
pub struct Card {
    /// Payments that wait for the watermark, by their time: then all that are earlier have
    /// been seen, in whatever order they came.
    waiting: MapState<Ts, Vec<u64>>,
    /// When the last small payment was.
    small_at: Value<Ts>,
}

/// A large payment that follows a small one.
#[derive(Clone)]
pub struct SmallThenLarge;

impl KeyedProcess<u64, Payment> for SmallThenLarge {
    type Out = Alert;
    type State = Card;

    fn process(&mut self, payment: Payment, card: &mut Card, cx: &mut Cx<'_, u64, Alert>) -> Res {
        let Payment { at_ms, cents, .. } = payment;
        match card.waiting.get_mut(&at_ms)? {
            Some(waiting) => waiting.push(cents),
            None => {
                card.waiting.put(at_ms, vec![cents])?;
            }
        }
        cx.register(Timer::Event(at_ms));
        Ok(())
    }

    /// It is time for payments to be looked at, or for a small one to be forgotten.
    fn on_timer(&mut self, timer: Timer, card: &mut Card, cx: &mut Cx<'_, u64, Alert>) -> Res {
        let now = timer.at();
        for cents in card.waiting.remove(&now)?.unwrap_or_default() {
            if let Some(small_at_ms) = card.small_at.get().copied().filter(|_| cents > LARGE_CENTS)
            {
                cx.emit(Alert { card: *cx.key(), small_at_ms, large_at_ms: now, cents });
                card.small_at.clear();
            }
            if cents < SMALL_CENTS {
                card.small_at.set(now);
                cx.register(Timer::Event(now + WITHIN_MS));
            }
        }
        // One for an earlier small payment means nothing after a later one.
        if card.small_at.get().is_some_and(|at| at + WITHIN_MS <= now) {
            card.small_at.clear();
        }
        Ok(())
    }
}
