//! The token that all processes of a job share, and the key that follows from it.

use millrace_protocol::pinned::Pinned;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// A bearer token: what its holder may do is everything.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

/// Text that cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token must be 16 to 1024 visible ASCII characters")]
pub struct BadToken;

impl Token {
    /// From its text; white space around it is dropped, as files end with a newline.
    pub fn new(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if !(16..=1024).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadToken);
        }
        format!("Bearer {text}").parse().map(Self).map_err(|_| BadToken)
    }

    /// A new one.
    pub fn random() -> Self {
        let random = || format!("{:016x}", fastrand::u64(..));
        let text = format!("Bearer {}{}", random(), random());
        Self(text.parse().unwrap_or_else(|_| MetadataValue::from_static("Bearer")))
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap_or_default().trim_start_matches("Bearer ")
    }

    /// What connections between holders of it are protected with.
    pub fn pinned(&self) -> Result<Pinned, String> {
        Pinned::of(self.text()).map_err(|e| format!("no key can be made of the token: {e}"))
    }

    /// Whether a request carries it; compared in constant time.
    fn is_in<T>(&self, request: &Request<T>) -> bool {
        let Some(found) = request.metadata().get("authorization") else { return false };
        let (found, own) = (found.as_encoded_bytes(), self.0.as_encoded_bytes());
        let differing = found.iter().zip(own).fold(0, |sum, (a, b)| sum | (a ^ b));
        found.len() == own.len() && differing == 0
    }

    /// Lets in who shows it.
    pub fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    /// Shows it with every call.
    pub fn shown(&self) -> Shown {
        Shown(self.clone())
    }
}

/// Not its text.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A server's interceptor.
#[derive(Clone, Debug)]
pub struct Guard(Token);

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.0.is_in(&request) {
            return Ok(request);
        }
        Err(Status::unauthenticated(
            "missing or wrong token: show the job's own as `authorization: Bearer TOKEN`",
        ))
    }
}

/// A client's interceptor.
#[derive(Clone, Debug)]
pub struct Shown(Token);

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.0.clone());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_let_in() {
        let (one, two) = (Token::random(), Token::random());
        let shown = |token: &Token| token.shown().call(Request::new(())).unwrap();
        assert!(one.guard().call(shown(&one)).is_ok());
        assert!(one.guard().call(shown(&two)).is_err());
        assert!(one.guard().call(Request::new(())).is_err());
        assert_eq!(Token::new(&format!("{}\n", one.text())).unwrap().text(), one.text());
        for bad in ["", "short", "has a space in the middle", "ümlaut-ümlaut-ümlaut"] {
            assert_eq!(Token::new(bad).unwrap_err(), BadToken, "{bad}");
        }
        assert_eq!(format!("{one:?}"), "Token(..)");
    }
}
