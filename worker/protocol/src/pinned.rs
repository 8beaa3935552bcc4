//! TLS of the connections between a job's processes and its controller: one key, which
//! follows from the job's secret.
//!
//! Who knows the secret knows the key and the certificate to expect, so there is neither
//! an authority nor a certificate to be renewed, and no server but one of the job's own
//! gets to see the token. The certificate is signed by its own Ed25519 key; those
//! signatures have no randomness, so that all processes make the same bytes of it.

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// The name in the certificate: a process is known by its key, not by its address.
pub const NAME: &str = "millrace";

/// A client that has not shaken hands by then is let go.
const SHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Before a seed of 32 bytes, an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Key and certificate of a job.
#[derive(Clone)]
pub struct Pinned {
    certificate: String,
    key: String,
}

impl Pinned {
    /// Those that follow from a job's secret.
    pub fn of(secret: &str) -> Result<Self, rcgen::Error> {
        let seed = Sha256::new().chain_update(b"millrace control key v1\0").chain_update(secret);
        let der = [PKCS8.as_slice(), &seed.finalize()].concat();
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der.as_slice().into(), &PKCS_ED25519)?;
        let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Of a server that proves to be the job's.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .timeout(SHAKE_WITHIN)
    }

    /// Of a client that talks to the job's processes only.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.certificate))
            .domain_name(NAME)
    }
}

/// Whether a connection failed because what answered has another key, or speaks no TLS.
pub fn is_stranger(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        // As a source, an `io::Error` names what is below the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = wrapped.map_or_else(
            || error.downcast_ref::<rustls::Error>(),
            |wrapped| wrapped.downcast_ref::<rustls::Error>(),
        );
        matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)))
    })
}

/// Without the key.
impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pinned(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::Pinned;

    #[test]
    fn whoever_knows_the_secret_makes_the_same_certificate() {
        let of = |secret: &str| Pinned::of(secret).unwrap();
        assert_eq!(of("one").certificate(), of("one").certificate());
        assert_eq!(of("one").key, of("one").key);
        assert_ne!(of("one").certificate(), of("two").certificate());
        assert_eq!(format!("{:?}", of("one")), "Pinned(..)");
    }
}
