//! Window operators against a naive interpreter.
