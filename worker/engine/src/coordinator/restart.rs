//! Restart policies. Pure: time and random numbers are arguments.

use millrace_protocol::head::RestartBudget;
use std::time::Duration;

/// What happens after a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum RestartPolicy {
    /// The job fails.
    None,
    /// Restart after `delay`, at most `attempts` times.
    FixedDelay {
        /// How often.
        attempts: u32,
        /// How long after.
        delay: Duration,
    },
    /// Restart, each time later.
    ExponentialBackoff {
        /// The first delay.
        initial: Duration,
        /// The longest delay.
        max: Duration,
        /// Each delay is this much longer than the one before.
        multiplier: f64,
        /// Delays vary by this share, up and down: `0.0..=1.0`.
        jitter: f64,
        /// A job that ran so long begins with the first delay again, and has all its
        /// restarts before it.
        reset_after: Duration,
        /// How often; `None`: for ever.
        limit: Option<u32>,
    },
    /// Restart after `delay`, unless there were more than `failures` within `interval`.
    FailureRate {
        /// How many failures are borne.
        failures: u32,
        /// Within which time.
        interval: Duration,
        /// How long after.
        delay: Duration,
    },
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self::ExponentialBackoff {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            multiplier: 2.0,
            jitter: 0.1,
            reset_after: Duration::from_secs(600),
            limit: None,
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Restart after this time.
    Restart(Duration),
    /// Give up.
    GiveUp,
}

/// What a policy remembers.
#[derive(Debug, Clone)]
pub struct Restarts {
    policy: RestartPolicy,
    budget: RestartBudget,
    failures: Vec<Duration>,
}

impl Restarts {
    /// Nothing has failed yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, budget: RestartBudget::default(), failures: Vec::new() }
    }

    /// Another policy counts from here on.
    pub fn set_policy(&mut self, policy: RestartPolicy) {
        self.policy = policy;
    }

    /// Restarts after failures.
    pub fn total(&self) -> u64 {
        self.budget.total
    }

    /// What a coordinator that takes over has to know.
    pub fn budget(&mut self, now: Duration) -> RestartBudget {
        self.forget(now);
        self.budget
    }

    /// Goes on where another coordinator, or an earlier program, left off. Of failures within
    /// an interval the number is known, not when they were: they count as of now.
    pub fn set_budget(&mut self, budget: RestartBudget, now: Duration) {
        self.budget = budget;
        if let RestartPolicy::FailureRate { failures, .. } = self.policy {
            let known = budget.used.min(failures.saturating_add(1)) as usize;
            self.failures.truncate(known);
            self.failures.resize(known, now);
        }
    }

    /// What is longer ago than the interval of a rate does not count.
    fn forget(&mut self, now: Duration) {
        if let RestartPolicy::FailureRate { interval, .. } = self.policy {
            self.failures.retain(|at| now.saturating_sub(*at) < interval);
            self.budget.used = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        }
    }

    /// The job failed. `healthy` is how long it ran, `random` lies in `0.0..1.0`.
    pub fn failed(&mut self, now: Duration, healthy: Duration, random: f64) -> Decision {
        let decision = self.decide(now, healthy, random);
        if matches!(decision, Decision::Restart(_)) {
            self.budget.total += 1;
        }
        decision
    }

    fn decide(&mut self, now: Duration, healthy: Duration, random: f64) -> Decision {
        match self.policy {
            RestartPolicy::None => Decision::GiveUp,
            RestartPolicy::FixedDelay { attempts, delay } => {
                if self.budget.used >= attempts {
                    return Decision::GiveUp;
                }
                self.budget.used += 1;
                Decision::Restart(delay)
            }
            RestartPolicy::ExponentialBackoff {
                initial,
                max,
                multiplier,
                jitter,
                reset_after,
                limit,
            } => {
                if healthy >= reset_after {
                    self.budget.used = 0;
                }
                if limit.is_some_and(|limit| self.budget.used >= limit) {
                    return Decision::GiveUp;
                }
                let (initial, max) = (initial.as_secs_f64(), max.as_secs_f64());
                let exponent = i32::try_from(self.budget.used.min(64)).unwrap_or(64);
                let delay = (initial * multiplier.max(1.0).powi(exponent)).min(max);
                let vary = 1.0 + jitter.clamp(0.0, 1.0) * (2.0 * random - 1.0);
                self.budget.used = self.budget.used.saturating_add(1);
                let delay = Duration::try_from_secs_f64(delay * vary);
                Decision::Restart(delay.unwrap_or(Duration::MAX))
            }
            RestartPolicy::FailureRate { failures, delay, .. } => {
                self.failures.push(now);
                self.forget(now);
                if self.budget.used > failures {
                    Decision::GiveUp
                } else {
                    Decision::Restart(delay)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn fixed_delay_counts() {
        let mut restarts = Restarts::new(RestartPolicy::FixedDelay { attempts: 2, delay: SECOND });
        let mut fail = || restarts.failed(SECOND, SECOND, 0.5);
        assert_eq!(fail(), Decision::Restart(SECOND));
        assert_eq!(fail(), Decision::Restart(SECOND));
        assert_eq!(fail(), Decision::GiveUp);
        assert_eq!(
            Restarts::new(RestartPolicy::None).failed(SECOND, SECOND, 0.5),
            Decision::GiveUp
        );
    }

    #[test]
    fn backoff_grows_to_its_maximum_and_starts_again_after_health() {
        let mut restarts = Restarts::new(RestartPolicy::ExponentialBackoff {
            initial: SECOND,
            max: 5 * SECOND,
            multiplier: 2.0,
            jitter: 0.5,
            reset_after: 60 * SECOND,
            limit: None,
        });
        for expected in [1, 2, 4, 5, 5] {
            assert_eq!(restarts.failed(SECOND, SECOND, 0.5), Decision::Restart(expected * SECOND));
        }
        for _ in 0..1000 {
            restarts.failed(SECOND, SECOND, 0.5);
        }
        assert_eq!(restarts.failed(SECOND, SECOND, 0.0), Decision::Restart(SECOND * 5 / 2));
        assert_eq!(restarts.failed(SECOND, 60 * SECOND, 0.5), Decision::Restart(SECOND));
    }

    #[test]
    fn backoff_may_have_a_limit_which_health_gives_back() {
        let mut restarts = Restarts::new(RestartPolicy::ExponentialBackoff {
            initial: SECOND,
            max: SECOND,
            multiplier: 1.0,
            jitter: 0.0,
            reset_after: 60 * SECOND,
            limit: Some(2),
        });
        for healthy in [0, 0, 60, 0] {
            let decision = restarts.failed(SECOND, healthy * SECOND, 0.5);
            assert_eq!(decision, Decision::Restart(SECOND), "{healthy}");
        }
        assert_eq!(restarts.failed(SECOND, SECOND, 0.5), Decision::GiveUp);
    }

    #[test]
    fn a_failure_rate_outlives_its_coordinator() {
        let policy =
            RestartPolicy::FailureRate { failures: 2, interval: 10 * SECOND, delay: SECOND };
        let mut restarts = Restarts::new(policy.clone());
        assert_eq!(restarts.failed(SECOND, SECOND, 0.5), Decision::Restart(SECOND));
        assert_eq!(restarts.failed(2 * SECOND, SECOND, 0.5), Decision::Restart(SECOND));
        let found = restarts.budget(3 * SECOND);
        assert_eq!(found, RestartBudget { used: 2, total: 2 });
        // Its own claim changes nothing.
        restarts.set_budget(found, 3 * SECOND);
        assert_eq!(restarts.budget(11 * SECOND).used, 1);
        // Another's clock begins elsewhere.
        let mut next = Restarts::new(policy.clone());
        next.set_budget(found, 100 * SECOND);
        assert_eq!(next.failed(109 * SECOND, SECOND, 0.5), Decision::GiveUp);
        let mut next = Restarts::new(policy.clone());
        next.set_budget(found, 100 * SECOND);
        assert_eq!(next.budget(110 * SECOND).used, 0);
        assert_eq!(next.failed(110 * SECOND, SECOND, 0.5), Decision::Restart(SECOND));
        // What cannot be takes no memory.
        let mut next = Restarts::new(policy);
        next.set_budget(RestartBudget { used: u32::MAX, total: 0 }, SECOND);
        assert_eq!(next.budget(SECOND).used, 3);
    }

    #[test]
    fn a_failure_rate_forgets() {
        let mut restarts = Restarts::new(RestartPolicy::FailureRate {
            failures: 2,
            interval: 10 * SECOND,
            delay: SECOND,
        });
        let mut fail = |at: u32| restarts.failed(at * SECOND, SECOND, 0.5);
        assert_eq!(fail(0), Decision::Restart(SECOND));
        assert_eq!(fail(5), Decision::Restart(SECOND));
        assert_eq!(fail(10), Decision::Restart(SECOND));
        assert_eq!(fail(11), Decision::GiveUp);
    }
}
