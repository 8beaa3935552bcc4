//! What an error of S3 means: whether the call may have happened, and who must act.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use millrace_engine::store::{Certainty, Fault, StoreError};
use std::error::Error;
use std::io;

/// What came back instead of a result.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// HTTP's status, if there was an answer.
    pub(crate) status: Option<u16>,
    code: String,
    fault: Fault,
    certainty: Certainty,
    reason: String,
}

impl<E> From<SdkError<E, HttpResponse>> for Refusal
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match &error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let code = service.err().code().unwrap_or_default();
                Self::answered(status, code, service.err().message().unwrap_or_default())
            }
            SdkError::TimeoutError(_) => Self::unanswered(
                Certainty::Unknown,
                "there was no answer in time: see whether the endpoint can be reached".to_owned(),
            ),
            other => Self::not_dispatched(other),
        }
    }
}

impl Refusal {
    pub(crate) fn unanswered(certainty: Certainty, reason: String) -> Self {
        Self { status: None, code: String::new(), fault: Fault::Other, certainty, reason }
    }

    /// The request was put off the way before there was an answer.
    fn not_dispatched(error: &(dyn Error + 'static)) -> Self {
        let (mut chain, mut next) = (Vec::new(), error.source());
        while let Some(cause) = next {
            if let Some(credentials) = cause.downcast_ref::<CredentialsError>() {
                return Self::without_credentials(credentials);
            }
            chain.push(cause.to_string());
            let refused = cause
                .downcast_ref::<io::Error>()
                .is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused);
            if refused {
                let why = "nobody answers at the endpoint (connection refused): see whether it is \
                           right and the server runs";
                return Self::unanswered(Certainty::Failed, why.to_owned());
            }
            if let Some(why) = distrust(cause) {
                return Self { fault: Fault::Denied, ..Self::unanswered(Certainty::Failed, why) };
            }
            next = cause.source();
        }
        chain.dedup();
        let certainty = match chain.iter().any(|cause| cause.contains("dns error")) {
            true => Certainty::Failed,
            false => Certainty::Unknown,
        };
        Self::unanswered(
            certainty,
            format!(
                "the request failed on its way ({}): see whether the endpoint is right",
                chain.join(": ")
            ),
        )
    }

    fn without_credentials(error: &CredentialsError) -> Self {
        let mut why = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            why = format!("{why}: {cause}");
            next = cause.source();
        }
        let reason = format!(
            "there are no credentials ({why}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
             AWS_PROFILE, or whatever else the AWS SDK looks for"
        );
        Self { fault: Fault::Denied, ..Self::unanswered(Certainty::Failed, reason) }
    }

    /// The server answered with an error.
    pub(crate) fn answered(status: u16, code: &str, message: &str) -> Self {
        let (fault, hint) = meaning(status, code);
        // Others may repeat the request; of these it is certain that it did nothing.
        let certainty = match status {
            408 | 409 | 429 => Certainty::Unknown,
            400..=499 | 501 => Certainty::Failed,
            _ => Certainty::Unknown,
        };
        let certainty = if fault == Fault::Key { Certainty::Failed } else { certainty };
        let mut reason = match (code, message) {
            ("", "") => format!("status {status}"),
            (code, "") => format!("status {status}, {code}"),
            ("", message) => format!("status {status}: {message}"),
            (code, message) => format!("status {status}, {code}: {message}"),
        };
        if !hint.is_empty() {
            reason = format!("{hint} ({reason})");
        }
        Self { status: Some(status), code: code.to_owned(), fault, certainty, reason }
    }

    /// A range beyond an object's end.
    pub(crate) fn beyond(reason: String) -> Self {
        Self::unanswered(Certainty::Failed, reason)
    }

    /// The key is a prefix of others.
    pub(crate) fn is_key_clash(&self) -> bool {
        self.fault == Fault::Key
    }

    /// There is no such object (and it is not the bucket that is missing).
    pub(crate) fn is_missing(&self) -> bool {
        self.fault == Fault::Missing
    }

    /// There is no such multipart upload, perhaps any more.
    pub(crate) fn is_no_upload(&self) -> bool {
        self.code == "NoSuchUpload"
    }

    /// The object is there already.
    pub(crate) fn is_precondition(&self) -> bool {
        self.status == Some(412)
    }

    pub(crate) fn at(self, action: &'static str, object: String) -> StoreError {
        let Self { fault, certainty, reason, .. } = self;
        StoreError { action, object, certainty, fault, reason }
    }
}

/// What is wrong with the server's certificate, if that is why there is no connection.
fn distrust(cause: &(dyn Error + 'static)) -> Option<String> {
    // An IO error that wraps another is not its cause, but passes that one's on.
    if let Some(inner) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return distrust(inner);
    }
    match cause.downcast_ref()? {
        rustls::Error::InvalidCertificate(why) => Some(format!(
            "the server's certificate is not trusted ({why:?}): see whether the endpoint is right, \
             and name the authority that signed it (ca_file; caSecretRef in Kubernetes)"
        )),
        _ => None,
    }
}

/// Who must act, and how; by the codes of AWS, versitygw and MinIO.
fn meaning(status: u16, code: &str) -> (Fault, &'static str) {
    match code {
        "NoSuchKey" | "NotFound" | "NoSuchVersion" => (Fault::Missing, ""),
        "NoSuchUpload" => (Fault::Missing, "the upload is gone"),
        "NoSuchBucket" => {
            (Fault::Denied, "there is no such bucket: create it, or give the right one")
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            (Fault::Denied, "the credentials have expired: renew them")
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" => {
            (Fault::Denied, "the server does not know these credentials: see which are used")
        }
        "RequestTimeTooSkewed" => {
            (Fault::Denied, "the clocks of this machine and of the server differ: set them")
        }
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            (Fault::Denied, "the bucket is in another region: give that one")
        }
        "InvalidRange" => (Fault::Other, "the bytes are beyond its end"),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => (
            Fault::Denied,
            "the credentials lack a permission: s3:GetObject, PutObject, DeleteObject and \
             AbortMultipartUpload on the objects, s3:ListBucket on the bucket",
        ),
        "NotImplemented" => (Fault::Denied, "the server cannot do what is needed: use another"),
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientStorage" => (Fault::Full, "the storage is full"),
        "ObjectParentIsFile"
        | "ExistingObjectIsDirectory"
        | "DirectoryObjectContainsData"
        | "XMinioParentIsObject"
        | "XMinioObjectExistsAsDirectory" => {
            (Fault::Key, "a key cannot be both an object and a prefix of others")
        }
        _ => match status {
            301 | 307 => (Fault::Denied, "the bucket is elsewhere: give its region or endpoint"),
            401 | 403 => (
                Fault::Denied,
                "the credentials lack a permission, or the bucket belongs to somebody else",
            ),
            404 => (Fault::Missing, ""),
            507 => (Fault::Full, "the storage is full"),
            _ => (Fault::Other, ""),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_nobody_trusts_is_the_users_matter_however_deep_it_is_wrapped() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let why = distrust(&io::Error::other(io::Error::other(tls))).unwrap();
        assert!(why.contains("UnknownIssuer") && why.contains("caSecretRef"), "{why}");
        let other = rustls::Error::HandshakeNotComplete;
        assert_eq!(distrust(&io::Error::other(other)), None);
        assert_eq!(distrust(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }

    #[test]
    fn only_what_surely_did_nothing_has_failed() {
        for (status, code, fault, certainty) in [
            (404, "NoSuchKey", Fault::Missing, Certainty::Failed),
            (404, "NoSuchBucket", Fault::Denied, Certainty::Failed),
            (403, "AccessDenied", Fault::Denied, Certainty::Failed),
            (400, "ExpiredToken", Fault::Denied, Certainty::Failed),
            (409, "ConditionalRequestConflict", Fault::Other, Certainty::Unknown),
            (409, "ObjectParentIsFile", Fault::Key, Certainty::Failed),
            (500, "InternalError", Fault::Other, Certainty::Unknown),
            (503, "SlowDown", Fault::Other, Certainty::Unknown),
            (501, "NotImplemented", Fault::Denied, Certainty::Failed),
            (507, "", Fault::Full, Certainty::Unknown),
            (403, "", Fault::Denied, Certainty::Failed),
        ] {
            let refusal = Refusal::answered(status, code, "");
            assert_eq!((refusal.fault, refusal.certainty), (fault, certainty), "{status} {code}");
        }
    }
}
