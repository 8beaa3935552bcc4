//! The way to the API server, on which nothing waits for ever: a server, or what lies before
//! it, may die without a word, and a job whose pass waits for that is looked at no more.

use anyhow::Context;
use kube::{Client, Config};
use std::time::Duration;

/// No answer comes that says nothing for so long: the server ends watches, which may have
/// nothing to say, sooner ([`super::cache::RENEWED`]).
const SILENCE: Duration = Duration::from_secs(45);

/// A client as the process's surroundings say.
pub(crate) async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context("no way to the API server")?;
    Client::try_from(patient_for(SILENCE, config)).context("no way to the API server")
}

fn patient_for(silence: Duration, mut config: Config) -> Config {
    config.read_timeout = Some(silence);
    config.write_timeout = Some(silence);
    // What counts is the time since the request, not since the connection was used before.
    config.reset_reader_on_write = true;
    config
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // helpers of tests panic as tests do
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const ANSWER: &str = r#"{"major":"1","minor":"34","gitVersion":"v1.34.0","gitCommit":"",
        "gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;

    /// Answers a request, if it `speaks`; otherwise takes it and says nothing.
    async fn serve(connection: &mut TcpStream, speaks: bool) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
        if speaks {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
            let answer = format!("{head}{}\r\n\r\n{ANSWER}", ANSWER.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_holds_up_no_call_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let silent = tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            serve(&mut first, true).await;
            // Either the same, or another one that was made since.
            tokio::select! {
                () = serve(&mut first, false) => {}
                Ok((mut next, _)) = listener.accept() => serve(&mut next, false).await,
            }
            std::future::pending::<()>().await;
        });
        let config = Config::new(address.parse().unwrap());
        let client = Client::try_from(patient_for(Duration::from_millis(300), config)).unwrap();
        assert_eq!(client.apiserver_version().await.unwrap().minor, "34");
        let long = Duration::from_secs(60);
        let asked = tokio::time::timeout(long, client.apiserver_version()).await;
        assert!(asked.expect("it waits for ever").is_err());
        silent.abort();
    }
}
