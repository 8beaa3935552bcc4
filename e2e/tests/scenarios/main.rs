//! The stories, and the harness that plays them one after the other on one cluster.
//!
//! `make e2e` plays all; `MILLRACE_E2E=1 cargo test -p millrace-e2e --test scenarios
//! NAME,NAME` plays some. Without `MILLRACE_E2E` they are listed as ignored and nothing is touched.

mod chart;
mod clusters;
mod controller;
mod crowd;
mod deletion;
mod failures;
mod figures;
mod first;
mod image;
mod jobs;
mod life;
mod names;
mod nodes;
mod rescale;
mod roles;
mod rules;
mod settings;
mod smoke;
mod storage;
mod upgrades;

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
}

macro_rules! stories {
    ($($module:ident :: $name:ident $(, $flag:ident)*;)*) => {
        [$({
            #[allow(unused_mut)]
            let mut story = Story {
                name: concat!(stringify!($module), "::", stringify!($name)),
                play: $module::$name,
                lab: false,
            };
            $(story.$flag = true;)*
            story
        }),*]
    };
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
        first::the_example_is_applied_and_its_output_is_that_of_a_local_run, lab;
        first::a_program_of_ones_own_becomes_an_image_and_a_job, lab;
        first::what_kubectl_says_of_a_job_is_true_at_every_stage, lab;
        failures::a_deleted_worker_restarts_the_job_and_nothing_is_lost_or_doubled, lab;
        failures::the_job_survives_its_coordinator, lab;
        failures::the_job_survives_the_loss_of_all_of_its_pods, lab;
        failures::a_killed_process_restarts_the_job_in_the_pods_that_are_there, lab;
        failures::pods_that_are_asked_to_leave_take_a_checkpoint_first, lab;
        failures::every_restart_tells_where_its_own_time_went, lab;
        rescale::a_job_is_scaled_up_and_down_under_load, lab;
        rescale::parallelism_is_edited_twice_in_quick_succession, lab;
        rescale::a_rescale_is_taken_back_in_mid_flight, lab;
        rescale::an_autoscaler_drives_the_workers, lab;
        life::a_suspended_job_goes_on_where_it_stopped, lab;
        life::another_job_starts_from_the_savepoint_of_a_deleted_one, lab;
        life::a_savepoint_of_a_suspended_job_outlives_its_data, lab;
        life::a_new_job_of_an_old_name_asks_before_it_goes_on_from_what_it_finds, lab;
        life::jobs_that_share_a_bucket_do_not_meet, lab;
        upgrades::image_and_arguments_are_upgraded_under_load, lab;
        upgrades::a_program_that_panics_at_its_start_does_not_replace_the_one_that_runs, lab;
        upgrades::a_program_without_a_place_for_the_state_is_refused_until_it_may_be_dropped, lab;
        upgrades::a_program_that_fails_when_it_runs_is_rolled_back, lab;
        upgrades::a_check_alone_says_what_would_become_of_an_upgrade, lab;
        upgrades::an_upgrade_may_go_on_from_the_newest_checkpoint, lab;
        upgrades::an_upgrade_of_the_controller_restarts_nothing, lab;
        controller::a_job_lives_without_its_controller, lab;
        controller::a_controller_that_is_killed_again_and_again_completes_every_edit, lab;
        controller::a_controller_that_is_removed_at_each_step_of_an_upgrade_holds_up_no_job, lab;
        controller::a_controller_that_is_killed_again_and_again_suspends_saves_and_deletes, lab;
        controller::of_two_controllers_one_leads_and_the_other_takes_over, lab;
        controller::a_job_and_its_controller_outlive_a_restart_of_the_api_server, lab;
        controller::a_slow_store_of_the_cluster_harms_no_job, lab;
        names::answers_that_are_half_a_minute_old_hold_up_no_recovery, lab;
        names::a_job_recovers_as_soon_as_names_are_known_again, lab;
        storage::an_object_store_with_a_certificate_of_ones_own_is_trusted_when_told, lab;
        storage::a_job_whose_state_is_gone_says_so_and_does_not_begin_anew, lab;
        settings::state_is_kept_on_disk_and_rows_go_by_mutual_tls, lab;
        settings::checkpoints_go_to_a_volume_that_all_pods_share, lab;
        settings::a_savepoint_at_a_path_of_ones_own_starts_another_job, lab;
        settings::what_is_wrong_with_the_storage_is_told_and_healed_by_an_edit, lab;
        deletion::jobs_are_deleted_in_every_state_and_their_data_stays, lab;
        deletion::jobs_are_deleted_in_every_state_and_their_data_goes, lab;
        deletion::jobs_go_with_their_namespace, lab;
        deletion::an_object_store_that_stays_away_does_not_keep_a_job_for_ever, lab;
        clusters::of_two_clusters_one_owns_the_storage, lab;
        clusters::a_job_goes_on_in_another_cluster_and_the_first_one_stays_away, lab;
        nodes::the_pods_of_a_dead_node_are_freed_and_the_job_goes_on_elsewhere, lab;
        nodes::a_job_survives_the_node_of_its_coordinator_and_of_its_controller, lab;
        chart::an_uninstall_leaves_jobs_running_and_the_next_install_takes_them_up, lab;
        chart::a_release_of_another_name_takes_the_jobs_up, lab;
        chart::every_set_of_values_renders_what_the_api_server_takes;
        rules::every_rule_takes_what_is_right_and_refuses_what_is_not;
        roles::the_controller_may_do_what_it_does_and_nothing_else, lab;
        crowd::many_jobs_run_and_at_rest_nothing_is_written, lab;
        figures::what_a_user_waits_for, lab;
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
    let given = millrace_e2e::given().is_some();
    let stage = Arc::new(Stage::new(2, results));
    let trial = |story: Story| {
        let stage = Arc::clone(&stage);
        let needs = given && story.lab;
        let trial = Trial::test(story.name, move || {
            Scenario::play(&stage, story.name, story.play)
                .map_err(|error| Failed::from(format!("{error:#}")))
        });
        let kind = if needs { "needs the lab" } else { "" };
        trial.with_ignored_flag(skipped || needs).with_kind(kind)
    };
    // Several names, with commas between them, are one run on one cluster.
    let filter = arguments.filter.take().unwrap_or_default();
    let wanted = |name: &str| filter.split(',').any(|part| name.contains(part));
    let trials = stories().into_iter().filter(|story| wanted(story.name)).map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.clear();
    conclusion.exit_code()
}
