//! A connection to the service, and what comes back on it. It counts every byte, so that an answer
//! that breaks off is not mistaken for one that never began.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept open from one request to the next.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// No whole answer came.
#[derive(Debug)]
pub struct Broken {
    /// How many bytes of one did.
    pub received: usize,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        Ok(Client {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends a request, such as `POST /users`, with JSON as its body if there is one.
    pub async fn send(&mut self, what: &str, body: Option<Value>) -> io::Result<()> {
        self.send_with(what, "", body.map(|body| body.to_string()))
            .await
    }

    /// The same with more lines in the head, and a body that may be anything.
    pub async fn send_with(
        &mut self,
        what: &str,
        head: &str,
        body: Option<String>,
    ) -> io::Result<()> {
        let mut text = format!("{what} HTTP/1.1\r\nHost: test\r\n{head}");
        if let Some(body) = &body {
            if !head.contains("Content-Type") {
                text.push_str("Content-Type: application/json\r\n");
            }
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body.as_deref().unwrap_or_default());
        self.send_raw(&text).await
    }

    pub async fn send_raw(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }

    /// Waits for the answer to what was sent.
    pub async fn receive(&mut self) -> Result<Answer, Broken> {
        loop {
            if let Some((answer, length)) = parse(&self.received) {
                self.received.drain(..length);
                return Ok(answer);
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => {
                    let received = self.received.len();
                    return Err(Broken { received });
                }
            }
        }
    }

    pub async fn request(&mut self, what: &str, body: Option<Value>) -> Answer {
        self.send(what, body).await.unwrap();
        self.receive().await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), None).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.request(&format!("POST {path}"), Some(body)).await
    }

    /// Buys a car with an `Idempotency-Key`.
    pub async fn buy(&mut self, owner: i64, model: &str, key: &str) -> Answer {
        let what = format!("POST /users/{owner}/cars");
        let head = format!("Idempotency-Key: {key}\r\n");
        let body = serde_json::json!({ "model": model }).to_string();
        self.send_with(&what, &head, Some(body)).await.unwrap();
        self.receive().await.unwrap()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice: {self:?}");
        value
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The JSON of an answer with this status.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// The detail of an error with this status, in the form of RFC 9457.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let kind = self.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        let kind = problem["type"].as_str().unwrap_or_default();
        let own = kind.strip_prefix("urn:motorpool:");
        assert!(
            kind == "about:blank" || own.is_some_and(|own| !own.is_empty()),
            "{self:?}"
        );
        let title = problem["title"].as_str().unwrap_or_default();
        assert!(!title.is_empty(), "{self:?}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// The first answer among the bytes, if it is there to its end, and its length.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = head.parse(bytes) else {
        return None;
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<_> = (head.headers.iter())
        .map(|header| (header.name.to_lowercase(), text(header.value)))
        .collect();
    let status = head.code.unwrap();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = match (length, status) {
        (Some((_, length)), _) => length.parse().unwrap(),
        (None, 204) => 0,
        _ => panic!("an answer without a length: {headers:?}"),
    };
    let body = bytes.get(start..start + length)?.to_vec();
    let answer = Answer {
        status,
        headers,
        body,
    };
    Some((answer, start + length))
}
