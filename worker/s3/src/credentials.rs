//! Credentials in files: those of a mounted secret, read anew for every request, so that
//! replaced ones are used at once.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use std::io;
use std::path::PathBuf;

/// So often the files are read again if they are replaced meanwhile.
const TRIES: usize = 5;

/// Reads `accessKeyId`, `secretAccessKey` and perhaps `sessionToken` in a directory.
#[derive(Debug)]
pub(crate) struct InDirectory(pub(crate) PathBuf);

type Found = (String, String, Option<String>);

impl InDirectory {
    fn file(&self, name: &str) -> Result<Option<String>, CredentialsError> {
        let path = self.0.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CredentialsError::invalid_configuration(format!(
                "cannot read {}: {error}",
                path.display()
            ))),
        }
    }

    fn files(&self) -> Result<Found, CredentialsError> {
        let needed = |name: &str| {
            self.file(name)?.ok_or_else(|| {
                CredentialsError::invalid_configuration(format!(
                    "{} does not exist, or is empty",
                    self.0.join(name).display()
                ))
            })
        };
        Ok((needed("accessKeyId")?, needed("secretAccessKey")?, self.file("sessionToken")?))
    }

    fn read(&self) -> Result<Credentials, CredentialsError> {
        let mut found = self.files()?;
        // A pair of which one half is old would be refused.
        for _ in 0..TRIES {
            let again = self.files()?;
            if again == found {
                break;
            }
            found = again;
        }
        let (id, secret, token) = found;
        Ok(Credentials::new(id, secret, token, None, "millrace-directory"))
    }
}

impl ProvideCredentials for InDirectory {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_read_anew_and_missing_ones_named() {
        let directory = tempfile::tempdir().unwrap();
        let files = InDirectory(directory.path().to_owned());
        let error = CredentialsError::invalid_configuration("");
        assert_eq!(
            std::mem::discriminant(&files.read().unwrap_err()),
            std::mem::discriminant(&error)
        );
        fs::write(directory.path().join("accessKeyId"), "one\n").unwrap();
        fs::write(directory.path().join("secretAccessKey"), "two").unwrap();
        assert_eq!(files.read().unwrap().access_key_id(), "one");
        fs::write(directory.path().join("accessKeyId"), "three").unwrap();
        fs::write(directory.path().join("sessionToken"), "four").unwrap();
        let read = files.read().unwrap();
        assert_eq!((read.access_key_id(), read.session_token()), ("three", Some("four")));
    }
}
