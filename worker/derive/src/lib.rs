//! Derives for Millrace's traits: `Key` and `State`.
