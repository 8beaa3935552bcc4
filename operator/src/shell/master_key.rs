//! The master key: read where it is mounted, made once if nobody gave one.
//!
//! It is no part of the chart's release: whoever renders the chart without a cluster would
//! make another key each time, and lock the controller out of jobs that run. The controller
//! may make Secrets and read none, so that one that is there is waited for as a file.

use super::kinds::What;
use super::options::Options;
use anyhow::{Context, bail};
use kube::Client;
use kube::api::{DynamicObject, PostParams};
use millrace_crds::names;
use serde_json::json;
use std::fmt::Write;
use std::io::{ErrorKind, Read};
use std::time::Duration;

/// Fewer bytes are no key.
const LEAST: usize = 16;
const MADE: usize = 32;
/// The kubelet takes a minute or two to bring a Secret that is made later into a pod that
/// runs, and no time where its container starts anew: who ends after this is started anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// The key.
pub(crate) async fn load(client: &Client, options: &Options) -> anyhow::Result<Vec<u8>> {
    load_within(client, options, PATIENCE).await
}

async fn load_within(
    client: &Client,
    options: &Options,
    patience: Duration,
) -> anyhow::Result<Vec<u8>> {
    if let Some(key) = read(options)? {
        return Ok(key);
    }
    let Some(name) = options.master_key_secret.as_ref().filter(|name| !name.is_empty()) else {
        bail!(
            "the master key {} is not there: mount a Secret with it",
            options.master_key_file.display()
        );
    };
    if let Some(key) = make(client, &options.own_namespace, name).await? {
        tracing::info!(secret = %name, "the master key was made");
        return Ok(key);
    }
    // Somebody was faster, or it is older than this pod.
    let until = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500).min(patience)).await;
        if let Some(key) = read(options)? {
            return Ok(key);
        }
    }
    bail!(
        "the Secret {name} of the namespace {} is there, and {} is not: it must have the entry \
         `key` and be mounted",
        options.own_namespace,
        options.master_key_file.display()
    )
}

fn read(options: &Options) -> anyhow::Result<Option<Vec<u8>>> {
    let file = &options.master_key_file;
    let key = match std::fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => {
            read.with_context(|| format!("the master key {} cannot be read", file.display()))?
        }
    };
    anyhow::ensure!(key.len() >= LEAST, "the master key has fewer than {LEAST} bytes");
    Ok(Some(key))
}

/// Makes the Secret, unless it is there.
async fn make(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let mut bytes = [0; MADE];
    let random = "/dev/urandom";
    std::fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .with_context(|| format!("no random bytes from {random}"))?;
    let mut key = String::with_capacity(2 * MADE);
    for byte in bytes {
        write!(key, "{byte:02x}")?;
    }
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": {"name": name, "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "millrace-operator"}},
        "stringData": {"key": key},
    }))?;
    let params = PostParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match What::Secret.api(client, namespace).create(&params, &object).await {
        Ok(_) => Ok(Some(key.into_bytes())),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("making the Secret {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::http::client_of;
    use crate::simulation::server::refused;
    use clap::Parser;
    use serde_json::Value;
    use std::sync::{Arc, Mutex};

    /// What is POSTed to a server that has a Secret of that name, or has not.
    fn server(there: bool) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let made = Arc::new(Mutex::new(Vec::new()));
        let list = made.clone();
        let client = client_of(move |call| {
            assert_eq!(call.method, "POST", "it may read no Secret");
            if there {
                return Ok(Err(refused(409, "AlreadyExists", "it is there")));
            }
            list.lock().unwrap().push(call.body.clone());
            Ok(Ok(call.body))
        });
        (client, made)
    }

    fn options(file: &std::path::Path, secret: &str) -> Options {
        let file = file.to_str().unwrap();
        let args = ["operator", "--own-namespace", "sys", "--master-key-file", file];
        Options::parse_from(args.into_iter().chain(["--master-key-secret", secret]))
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("millrace-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn a_key_is_made_only_where_none_is() {
        let folder = folder("key");
        let file = folder.join("key");
        let _ = std::fs::remove_file(&file);
        let (client, made) = server(false);
        let key = load(&client, &options(&file, "mine")).await.unwrap();
        {
            let made = made.lock().unwrap();
            assert_eq!(made[0]["metadata"]["name"], "mine");
            assert_eq!(made[0]["stringData"]["key"], String::from_utf8(key.clone()).unwrap());
            assert!(key.len() == 64);
        }
        let other = load(&client, &options(&file, "mine")).await.unwrap();
        assert_ne!(key, other, "random");
        // Nobody may make one: it must be there.
        let error = load(&client, &options(&file, "")).await.unwrap_err().to_string();
        assert!(error.contains("mount a Secret"), "{error}");
        // Mounted.
        std::fs::write(&file, "0123456789abcdef").unwrap();
        made.lock().unwrap().clear();
        let key = load(&client, &options(&file, "mine")).await.unwrap();
        assert_eq!((&*key, made.lock().unwrap().len()), (&b"0123456789abcdef"[..], 0));
        std::fs::write(&file, "short").unwrap();
        assert!(load(&client, &options(&file, "mine")).await.is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_key_that_is_there_is_waited_for() {
        let folder = folder("key-late");
        let file = folder.join("key");
        let _ = std::fs::remove_file(&file);
        let (client, _) = server(true);
        let options = options(&file, "mine");
        let short = Duration::from_millis(10);
        let error = load_within(&client, &options, short).await.unwrap_err().to_string();
        assert!(error.contains("mine"), "{error}");
        let late = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::fs::write(&file, "0123456789abcdef").unwrap();
        };
        let (key, ()) = tokio::join!(load(&client, &options), late);
        assert_eq!(key.unwrap(), b"0123456789abcdef");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
