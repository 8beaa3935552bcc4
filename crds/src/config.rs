//! What workers are told: a StreamJob as [`config::Revision`] and [`config::Live`].

use crate::duration::BadDuration;
use crate::storage::{Addressing, Storage};
use crate::streamjob::{DesiredState, OnExistingState, RestoreFrom, StreamJobSpec};
use crate::tuning::{AlignmentMode, Backend, Exchange};
use millrace_protocol::config::{self, CONFIG_FORMAT};
use millrace_protocol::ids::JobUid;

/// Where the revision's file is in a pod.
pub const REVISION_FILE: &str = "/etc/millrace/revision/revision.json";
/// Where the live part's file is in a pod.
pub const LIVE_FILE: &str = "/etc/millrace/live/live.json";
/// Where the token of the control API is in a pod.
pub const TOKEN_FILE: &str = "/etc/millrace/token/token";
/// Where the files of the object store's credentials are.
pub const CREDENTIALS_DIR: &str = "/etc/millrace/credentials";
/// Where the object store's certificate authority is.
pub const CA_FILE: &str = "/etc/millrace/ca/ca.crt";
/// Where the keys of the exchange are.
pub const TLS_DIR: &str = "/etc/millrace/tls";
/// Local state and spools.
pub const STATE_DIR: &str = "/var/lib/millrace";
/// The shared volume, if the job's progress is kept in one.
pub const STORAGE_DIR: &str = "/var/lib/millrace-storage";

/// Whose configuration it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the StreamJob.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Uid of the cluster's `kube-system` namespace.
    pub cluster: String,
}

/// The job cannot be told to workers: the user must change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number does not fit.
    #[error("spec.{field} is {value}, which is out of range: set it between 1 and {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it is.
        value: i64,
        /// The largest value.
        max: i64,
    },
    /// A duration is none.
    #[error("spec.{field}: {source}")]
    Duration {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: BadDuration,
    },
    /// Neither or both places are set.
    #[error("spec.storage: set exactly one of s3 and volume")]
    Storage,
    /// No program.
    #[error("spec.job: set program")]
    Job,
}

/// The restart-relevant half.
pub fn revision(id: &Identity, spec: &StreamJobSpec) -> Result<config::Revision, ConfigError> {
    let program = spec.job.program.as_ref().ok_or(ConfigError::Job)?;
    Ok(config::Revision {
        format: CONFIG_FORMAT,
        name: format!("{}/{}", id.namespace, id.name),
        job: JobUid(id.uid.clone()),
        cluster: id.cluster.clone(),
        args: program.args.clone().unwrap_or_default(),
        max_parallelism: fit("maxParallelism", spec.max_parallelism.into(), 32_768)?,
        slots_per_worker: fit("slotsPerWorker", spec.slots_per_worker.into(), 1_024)?,
        storage: storage(id, &spec.storage)?,
        backend: match spec.state.as_ref().and_then(|state| state.backend) {
            None | Some(Backend::Memory) => config::Backend::Memory,
            Some(Backend::Disk) => config::Backend::Disk,
            Some(Backend::RocksDB) => config::Backend::RocksDB,
        },
        exchange: match spec.tls.as_ref().and_then(|tls| tls.exchange) {
            Some(Exchange::Mutual) => {
                config::ExchangeSecurity::Mutual { directory: TLS_DIR.to_owned() }
            }
            _ => config::ExchangeSecurity::Plaintext,
        },
        drop_state: spec
            .upgrade
            .as_ref()
            .and_then(|upgrade| upgrade.drop_state.clone())
            .unwrap_or_default(),
        on_existing_state: match spec.on_existing_state {
            OnExistingState::Refuse => config::OnExistingState::Refuse,
            OnExistingState::Resume => config::OnExistingState::Resume,
            OnExistingState::Ignore => config::OnExistingState::Ignore,
        },
    })
}

/// The half that a running job takes over. `revision` is [`config::Revision::hash`] of
/// the revision it belongs to; `restore` is where `restoreFrom` leads, once that is known;
/// `begun` whether the job must find its state.
pub fn live(
    spec: &StreamJobSpec,
    generation: u64,
    revision: String,
    restore: Option<config::RestoreFrom>,
    begun: bool,
) -> Result<config::Live, ConfigError> {
    Ok(config::Live {
        format: CONFIG_FORMAT,
        generation,
        revision,
        workers: fit("workers", spec.workers.into(), 10_000)?,
        parallelism: fit("parallelism", spec.effective_parallelism().into(), 32_768)?,
        desired: match spec.desired_state {
            DesiredState::Running => config::DesiredState::Running,
            DesiredState::Suspended => config::DesiredState::Suspended,
        },
        checkpoint: checkpoint(spec)?,
        restart: restart(spec)?,
        restore,
        begun,
    })
}

/// `restoreFrom` as workers are told, or `None` while the Savepoint it names has no path.
pub fn restore(from: &RestoreFrom, savepoint_path: Option<&str>) -> Option<config::RestoreFrom> {
    let path = match (&from.path, &from.savepoint_ref) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => Some(savepoint_path?.to_owned()),
        (None, None) => None,
    };
    Some(config::RestoreFrom { nonce: u64::try_from(from.nonce).unwrap_or(0), path })
}

/// The place of a job's data: a job's directory within what `storage` names.
pub fn storage(id: &Identity, storage: &Storage) -> Result<config::Storage, ConfigError> {
    let home = |base: &str| {
        let base = base.trim_matches('/');
        let slash = if base.is_empty() { "" } else { "/" };
        format!("{base}{slash}{}/{}", id.namespace, id.name)
    };
    match (&storage.s3, &storage.volume) {
        (Some(s3), None) => Ok(config::Storage::S3(config::S3Storage {
            bucket: s3.bucket.clone(),
            prefix: home(&s3.prefix),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            path_style: s3.addressing.map(|addressing| addressing == Addressing::Path),
            ca_file: s3.ca_secret_ref.as_ref().map(|_| CA_FILE.to_owned()),
            credentials_dir: s3.credentials.as_ref().map(|_| CREDENTIALS_DIR.to_owned()),
        })),
        (None, Some(volume)) => {
            Ok(config::Storage::Directory { path: format!("{STORAGE_DIR}/{}", home(&volume.path)) })
        }
        _ => Err(ConfigError::Storage),
    }
}

fn checkpoint(spec: &StreamJobSpec) -> Result<config::CheckpointSettings, ConfigError> {
    let mut settings = config::CheckpointSettings::default();
    let Some(given) = &spec.checkpoint else { return Ok(settings) };
    let bad = |field| move |source| ConfigError::Duration { field, source };
    if let Some(interval) = &given.interval {
        settings.interval_ms = interval.millis().map_err(bad("checkpoint.interval"))?;
    }
    if let Some(timeout) = &given.timeout {
        settings.timeout_ms = timeout.millis().map_err(bad("checkpoint.timeout"))?;
    }
    if let Some(pause) = &given.min_pause {
        settings.min_pause_ms = pause.millis().map_err(bad("checkpoint.minPause"))?;
    }
    if let Some(retained) = given.retained {
        settings.retained = fit("checkpoint.retained", retained.into(), 100)?;
    }
    if let Some(failures) = given.tolerated_failures {
        settings.tolerated_failures = u32::try_from(failures).unwrap_or(0);
    }
    if let Some(alignment) = &given.alignment {
        let after = match &alignment.timeout {
            Some(timeout) => Some(timeout.millis().map_err(bad("checkpoint.alignment.timeout"))?),
            None => settings.unaligned_after_ms,
        };
        settings.unaligned_after_ms = match alignment.mode {
            Some(AlignmentMode::Aligned) => None,
            Some(AlignmentMode::Unaligned) => Some(0),
            Some(AlignmentMode::AlignedThenUnaligned) | None => after,
        };
    }
    Ok(settings)
}

fn restart(spec: &StreamJobSpec) -> Result<config::RestartSettings, ConfigError> {
    let mut settings = config::RestartSettings::default();
    let Some(given) = &spec.restart else { return Ok(settings) };
    let bad = |field| move |source| ConfigError::Duration { field, source };
    if let Some(delay) = &given.initial_delay {
        settings.initial_delay_ms = delay.millis().map_err(bad("restart.initialDelay"))?;
    }
    if let Some(delay) = &given.max_delay {
        settings.max_delay_ms = delay.millis().map_err(bad("restart.maxDelay"))?;
    }
    if let Some(after) = &given.reset_after {
        settings.reset_after_ms = after.millis().map_err(bad("restart.resetAfter"))?;
    }
    settings.max_restarts = given.max_restarts.and_then(|max| u32::try_from(max).ok());
    Ok(settings)
}

fn fit<T: TryFrom<i64>>(field: &'static str, value: i64, max: i64) -> Result<T, ConfigError> {
    let out = || ConfigError::Range { field, value, max };
    if !(1..=max).contains(&value) {
        return Err(out());
    }
    T::try_from(value).map_err(|_| out())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(extra: serde_json::Value) -> StreamJobSpec {
        let mut spec = json!({"image": "i:1", "job": {"program": {"args": ["a"]}},
            "storage": {"s3": {"bucket": "b", "prefix": "/p/"}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn id() -> Identity {
        let own = str::to_owned;
        Identity { namespace: own("shop"), name: own("orders"), uid: own("u"), cluster: own("c") }
    }

    #[test]
    fn a_small_job_gets_every_default() {
        let spec = spec(json!({"workers": 4, "slotsPerWorker": 2}));
        let revision = revision(&id(), &spec).unwrap();
        assert_eq!(revision.storage.to_string(), "s3://b/p/shop/orders");
        assert_eq!(revision.max_parallelism, 1024);
        let live = live(&spec, 3, "r".to_owned(), None, false).unwrap();
        assert_eq!((live.workers, live.parallelism, live.generation), (4, 8, 3));
        assert_eq!(live.checkpoint, config::CheckpointSettings::default());
    }

    /// Workers refuse fields that they do not know, and an image is often older than the
    /// controller. These are the fields of format 1; one that comes later has to be left out
    /// while its value is the default, so that only jobs which use it need a newer image.
    #[test]
    fn a_job_that_uses_nothing_new_is_told_only_what_its_first_workers_knew() {
        let spec = spec(json!({"workers": 2}));
        let revision = serde_json::to_value(revision(&id(), &spec).unwrap()).unwrap();
        assert_eq!(
            revision,
            json!({"format": 1, "name": "shop/orders", "job": "u", "cluster": "c", "args": ["a"],
                "max_parallelism": 1024, "slots_per_worker": 1,
                "storage": {"s3": {"bucket": "b", "prefix": "p/shop/orders"}},
                "backend": "Memory", "exchange": "plaintext", "drop_state": [],
                "on_existing_state": "Refuse"})
        );
        let live = live(&spec, 3, "r".to_owned(), None, false).unwrap();
        assert_eq!(
            serde_json::to_value(live).unwrap(),
            json!({"format": 1, "generation": 3, "revision": "r", "workers": 2, "parallelism": 2,
                "desired": "Running",
                "checkpoint": {"interval_ms": 10_000, "timeout_ms": 600_000, "min_pause_ms": 0,
                    "retained": 3, "tolerated_failures": 3, "unaligned_after_ms": 30_000},
                "restart": {"initial_delay_ms": 1_000, "max_delay_ms": 60_000,
                    "reset_after_ms": 600_000}})
        );
    }

    #[test]
    fn alignment_becomes_one_number() {
        for (alignment, expected) in [
            (json!({"mode": "Aligned", "timeout": "5s"}), None),
            (json!({"mode": "Unaligned"}), Some(0)),
            (json!({"timeout": "5s"}), Some(5_000)),
            (json!({}), Some(30_000)),
        ] {
            let spec = spec(json!({"checkpoint": {"alignment": alignment}}));
            assert_eq!(checkpoint(&spec).unwrap().unaligned_after_ms, expected);
        }
    }

    #[test]
    fn what_an_old_schema_let_through_is_refused_with_its_field() {
        let error = live(&spec(json!({"workers": 0})), 1, String::new(), None, false).unwrap_err();
        assert!(error.to_string().contains("spec.workers is 0"), "{error}");
        let spec = spec(json!({"checkpoint": {"interval": "soon"}}));
        let error = live(&spec, 1, String::new(), None, false).unwrap_err();
        assert!(error.to_string().contains("spec.checkpoint.interval"), "{error}");
    }

    #[test]
    fn a_volume_becomes_a_directory() {
        let storage: Storage =
            serde_json::from_value(json!({"volume": {"claimName": "c", "path": "x"}})).unwrap();
        let storage = super::storage(&id(), &storage).unwrap();
        assert_eq!(storage.to_string(), "/var/lib/millrace-storage/x/shop/orders");
    }

    #[test]
    fn restore_waits_for_the_path_of_its_savepoint() {
        let from = |value| serde_json::from_value::<RestoreFrom>(value).unwrap();
        let named = from(json!({"savepointRef": {"name": "s"}, "nonce": 2}));
        assert_eq!(restore(&named, None), None);
        assert_eq!(restore(&named, Some("s3://x/y")).unwrap().path.as_deref(), Some("s3://x/y"));
        let empty = restore(&from(json!({"empty": {}})), None).unwrap();
        assert_eq!((empty.nonce, empty.path), (0, None));
    }
}
