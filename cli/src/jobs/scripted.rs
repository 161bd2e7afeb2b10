//! A server that answers by a script: a member, or the API server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use codexstore_api::header;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::cluster::Cluster;

/// Status, what is told in the header, and the body.
pub type Answer = (u16, Option<Value>, Vec<u8>);
/// What was asked, and the body.
pub type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A server of plain HTTP/1.1 that answers each request as it is told to.
pub async fn serve(
    answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static,
) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some((line, body)) = request(&mut stream).await {
                    log.lock().unwrap().push((line.clone(), body.clone()));
                    let (status, told, body) = answer(&line, &body);
                    let told = told.map(|told| {
                        let code = told["code"].as_str().unwrap_or_default().to_owned();
                        format!(
                            "{}: {told}\r\n{}: {code}\r\n",
                            header::ARCHIVE,
                            header::CODE
                        )
                    });
                    let length = match status {
                        204 => String::new(),
                        _ => format!("content-length: {}\r\n", body.len()),
                    };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{length}{}\r\n",
                        told.unwrap_or_default()
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(&body).await.unwrap();
                }
            });
        }
    });
    (address, asked)
}

/// A cluster whose API server answers each request with what `answer` makes of its first line.
pub async fn cluster(answer: impl Fn(&str) -> Value + Send + Sync + 'static) -> (Cluster, Asked) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (address, asked) =
        serve(move |line, _| (200, None, answer(line).to_string().into_bytes())).await;
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let cluster = Cluster {
        client: kube::Client::try_from(config).unwrap(),
        namespace: "shop".to_owned(),
    };
    (cluster, asked)
}

/// The events that were published there.
pub fn events(asked: &Asked) -> Vec<Value> {
    let asked = asked.lock().unwrap();
    let events = asked.iter().filter(|(line, _)| line.contains("/events"));
    events
        .map(|(_, body)| serde_json::from_str(body).unwrap())
        .collect()
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok().filter(|n| *n > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let first = first.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    Some((first, String::from_utf8(body).unwrap()))
}
