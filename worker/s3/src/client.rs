//! Makes the SDK's client from a job's settings.

use crate::credentials::InDirectory;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use millrace_protocol::config::S3Storage;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::PathBuf;
use std::time::Duration;

/// So often a call is made, with growing and jittered pauses.
pub(crate) const ATTEMPTS: u32 = 6;
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// A request, its body included; of a response only the head.
const ATTEMPT: Duration = Duration::from_secs(30);
/// A call with all its attempts.
const CALL: Duration = Duration::from_secs(180);
/// A body that stands still so long is given up.
const STALL: Duration = Duration::from_secs(20);
/// What most servers that are not AWS take for theirs.
const ANY_REGION: &str = "us-east-1";

/// A client for the server that `storage` names.
pub(crate) async fn client(storage: &S3Storage) -> Result<Client, String> {
    let tls =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let tls = match &storage.ca_file {
        Some(file) => tls.tls_context(trusting(file)?),
        None => tls,
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(CALL)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(tls.build_https())
        .timeout_config(timeouts)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(FIRST_PAUSE)
                .with_max_backoff(LONGEST_PAUSE),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(STALL).build(),
        )
        // Uploads say theirs; what servers of older protocols do not know is not asked for.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenSupported);
    if let Some(endpoint) = &storage.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(directory) = &storage.credentials_dir {
        loader = loader
            .credentials_provider(InDirectory(PathBuf::from(directory)))
            .identity_cache(IdentityCache::no_cache());
    }
    loader = match (&storage.region, &storage.endpoint) {
        (Some(region), _) => loader.region(Region::new(region.clone())),
        // The rest of the chain asks for a machine's metadata, which takes long elsewhere.
        (None, Some(_)) => loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::builder().build())
                .or_else(Region::new(ANY_REGION)),
        ),
        (None, None) => loader,
    };
    let loaded = loader.load().await;
    let elsewhere = loaded.endpoint_url().is_some();
    let region = match loaded.region() {
        Some(region) => region.clone(),
        None if elsewhere => Region::new(ANY_REGION),
        None => return Err("no region is known: give one, or set AWS_REGION".to_owned()),
    };
    let config = aws_sdk_s3::config::Builder::from(&loaded)
        .region(region)
        .force_path_style(storage.path_style.unwrap_or(elsewhere))
        .build();
    Ok(Client::from_conf(config))
}

/// Trusts the authorities in `file` besides the system's.
fn trusting(file: &str) -> Result<TlsContext, String> {
    let bad = |why: String| format!("the certificate authority in {file} cannot be used: {why}");
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    // Here and not in the client, which panics.
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate in PEM".to_owned()));
    }
    let trust = TrustStore::default().with_pem_certificate(pem);
    TlsContext::builder().with_trust_store(trust).build().map_err(|error| bad(error.to_string()))
}
