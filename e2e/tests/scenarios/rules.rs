//! The rules of the definitions, tried on a real API server.

use anyhow::{Context, Result};
use millrace_e2e::Scenario;

/// The tests are the definitions' own (`crds/tests/cel.rs`): they want no more than an API
/// server, also one that is not of the lab.
pub fn every_rule_takes_what_is_right_and_refuses_what_is_not(s: &mut Scenario<'_>) -> Result<()> {
    let cluster = s.cluster()?;
    let args = ["test", "--package", "millrace-crds", "--test", "cel", "--", "--ignored"];
    let told = cluster.cargo(&args)?;
    let both = told.contains("test result: ok. 2 passed");
    both.then_some(()).with_context(|| format!("not all of the rules were tried:\n{told}"))
}
