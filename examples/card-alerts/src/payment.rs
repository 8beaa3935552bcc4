//! Payments, and some that are made up.

use serde::{Deserialize, Serialize};

/// A payment with a card.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Payment {
    /// Number of the card.
    pub card: u64,
    /// When: milliseconds since 1970.
    pub at_ms: i64,
    /// How much.
    pub cents: u64,
}

/// So many cards pay in turns.
const CARDS: u64 = 4_000;

/// 2024-01-01.
const START_MS: i64 = 1_704_067_200_000;

/// The payment of this index: every 5 ms one, and so every 20 s one of a card.
pub fn made_up(index: u64) -> Payment {
    // Looks random, and is the same each time.
    let mut dice = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    dice = (dice ^ (dice >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    dice ^= dice >> 32;
    let cents = match dice % 100 {
        0..3 => dice / 100 % 100,
        97..100 => 50_000 + dice / 100 % 50_000,
        _ => 100 + dice / 100 % 49_900,
    };
    Payment { card: index % CARDS, at_ms: START_MS + index as i64 * 5, cents }
}
