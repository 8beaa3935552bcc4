//! The stories, and the harness that plays them one after the other on one cluster.
//!
//! `make e2e` plays all; `MILLRACE_E2E=1 cargo test -p millrace-e2e --test scenarios NAME`
//! plays some. Without `MILLRACE_E2E` they are listed as ignored and nothing is touched.

mod failures;
mod first;
mod image;
mod jobs;
mod rescale;
mod smoke;

use libtest_mimic::{Arguments, Failed, Trial};
use millrace_e2e::{Scenario, Stage, Wish};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// A story with its name.
struct Story {
    name: &'static str,
    play: fn(&mut Scenario<'_>) -> anyhow::Result<()>,
    /// Works on nodes, the control plane or the object store: a given cluster has no such
    /// handles.
    lab: bool,
    /// What it waits for, while it cannot be played yet.
    until: Option<&'static str>,
}

/// Why stories about jobs are not played yet.
const MERGE: &str = "until operator and workers are there";

macro_rules! stories {
    ($($module:ident :: $name:ident $(, $flag:ident $(= $value:expr)?)*;)*) => {
        [$({
            #[allow(unused_mut)]
            let mut story = Story {
                name: concat!(stringify!($module), "::", stringify!($name)),
                play: $module::$name,
                lab: false,
                until: None,
            };
            $(stories!(@ story $flag $(= $value)?);)*
            story
        }),*]
    };
    (@ $story:ident lab) => { $story.lab = true; };
    (@ $story:ident until = $value:expr) => { $story.until = Some($value); };
}

fn stories() -> impl IntoIterator<Item = Story> {
    stories![
        smoke::a_deleted_pod_comes_back_under_its_name;
        smoke::a_killed_container_is_started_again, lab;
        smoke::pods_reach_each_other_by_name, lab;
        smoke::a_pod_reaches_the_object_store, lab;
        smoke::pods_live_on_while_the_api_server_is_away, lab;
        smoke::the_pod_of_a_dead_node_is_freed_by_force_and_comes_back_elsewhere, lab;
        image::a_program_runs_without_privileges_and_with_nothing_beside_it, lab;
        first::the_example_is_applied_and_its_output_is_that_of_a_local_run, lab, until = MERGE;
        first::what_kubectl_says_of_a_job_is_true_at_every_stage, lab, until = MERGE;
        failures::a_deleted_worker_restarts_the_job_and_nothing_is_lost_or_doubled, lab, until = MERGE;
        failures::the_job_survives_its_coordinator, lab, until = MERGE;
        failures::the_job_survives_the_loss_of_all_of_its_pods, lab, until = MERGE;
        failures::a_killed_process_restarts_the_job_in_the_pods_that_are_there, lab, until = MERGE;
        rescale::a_job_is_scaled_up_and_down_under_load, lab, until = MERGE;
        rescale::parallelism_is_edited_twice_in_quick_succession, lab, until = MERGE;
        rescale::a_rescale_is_taken_back_in_mid_flight, lab, until = MERGE;
    ]
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the cluster, and some of them break it.
    arguments.test_threads = Some(1);
    let wish = if arguments.list { Wish::Run } else { Wish::of_caller() };
    let skipped = match wish {
        Wish::Run => false,
        Wish::Skip(why) => {
            eprintln!("scenarios are ignored: {why}");
            true
        }
        Wish::Impossible(why) => {
            eprintln!("scenarios cannot be played: {why}");
            return ExitCode::FAILURE;
        }
    };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let results = target.parent().unwrap_or(target).join("e2e");
    let given = std::env::var_os("MILLRACE_E2E_KUBECONFIG").is_some();
    let stage = Arc::new(Stage::new(2, results));
    let trial = |story: Story| {
        let stage = Arc::clone(&stage);
        let ignored = skipped || story.until.is_some() || (given && story.lab);
        let reason = if story.lab && given { Some("needs the lab") } else { story.until };
        let trial = Trial::test(story.name, move || {
            Scenario::play(&stage, story.name, story.play)
                .map_err(|error| Failed::from(format!("{error:#}")))
        });
        trial.with_ignored_flag(ignored).with_kind(reason.unwrap_or_default())
    };
    let trials = stories().into_iter().map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.clear();
    conclusion.exit_code()
}
