//! Edits of workers and parallelism while the job runs.

use crate::jobs;
use anyhow::Result;
use millrace_e2e::Scenario;

fn scale(s: &Scenario<'_>, workers: u32) -> Result<()> {
    s.kubectl(&["scale", jobs::JOB, &format!("--replicas={workers}")]).map(drop)
}

/// The job runs with so many workers, on exactly their pods, and its output goes on.
fn scaled(s: &mut Scenario<'_>, workers: u32) -> Result<()> {
    jobs::runs_with(s, workers.into())?;
    s.wait_ready(jobs::PODS, workers as usize)?;
    jobs::output_goes_on(s)
}

pub fn a_job_is_scaled_up_and_down_under_load(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 1)?;
    for workers in [3, 2, 4, 1] {
        scale(s, workers)?;
        scaled(s, workers)?;
    }
    jobs::ends_exactly_once(s)
}

pub fn parallelism_is_edited_twice_in_quick_succession(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    jobs::merge(s, r#"{"spec":{"slotsPerWorker":4}}"#)?;
    jobs::runs_with(s, 8)?;
    jobs::merge(s, r#"{"spec":{"parallelism":3}}"#)?;
    jobs::merge(s, r#"{"spec":{"parallelism":5}}"#)?;
    jobs::runs_with(s, 5)?;
    jobs::output_goes_on(s)?;
    jobs::ends_exactly_once(s)
}

pub fn a_rescale_is_taken_back_in_mid_flight(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    scale(s, 4)?;
    // No pause: at whatever stage the rescale is by now.
    scale(s, 2)?;
    scaled(s, 2)?;
    jobs::ends_exactly_once(s)
}

/// Without metrics an autoscaler still keeps to its bounds.
fn bounds(s: &Scenario<'_>, least: u32, most: u32) -> Result<()> {
    s.apply(&format!(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: counts}}
spec:
  scaleTargetRef: {{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, name: counts}}
  minReplicas: {least}
  maxReplicas: {most}
"
    ))
}

pub fn an_autoscaler_drives_the_workers(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 1)?;
    bounds(s, 3, 4)?;
    // It acts in its own time, every 15 s.
    s.wait_field(jobs::JOB, "/spec/workers", 3)?;
    scaled(s, 3)?;
    s.wait_field("hpa/counts", "/status/currentReplicas", 3)?;
    bounds(s, 1, 2)?;
    s.wait_field(jobs::JOB, "/spec/workers", 2)?;
    scaled(s, 2)?;
    jobs::ends_exactly_once(s)
}
