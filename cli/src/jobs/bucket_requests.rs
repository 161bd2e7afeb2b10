//! What requests to a bucket of S3 say, as a server hears them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use object_store::path::Path;
use object_store::signer::{Method, Signer as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::jobs::destination::Destination;

/// Method and target of a request, and its headers by their names in lower case.
type Heard = (String, BTreeMap<String, String>);

/// A server that takes whatever it is sent, and writes down how it was asked.
async fn server() -> (String, Arc<Mutex<Vec<Heard>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = request(&mut stream).await {
                    let body = answer(&request.0);
                    log.lock().unwrap().push(request);
                    let length = body.len();
                    let begins =
                        format!("HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: {length}");
                    let answer = format!("{begins}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, heard)
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<Heard> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        match line.trim() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let first = lines.first()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<_, _> = headers
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, headers))
}

fn answer(asked: &str) -> &'static str {
    match asked {
        asked if asked.contains("?uploads") => {
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        }
        asked if asked.starts_with("POST ") => {
            "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        }
        _ => "",
    }
}

fn access() -> Access {
    let key = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Access {
        credentials: Some(BTreeMap::from([
            key("AWS_ACCESS_KEY_ID", "me"),
            key("AWS_SECRET_ACCESS_KEY", "hush"),
        ])),
        ..Access::default()
    }
}

/// What is heard of an object that is sent at once and one that is sent in parts, besides what any request says.
async fn heard(s3: crd::S3) -> Vec<Heard> {
    let (address, heard) = server().await;
    let wanted = crd::Destination {
        s3: Some(crd::S3 {
            bucket: "backups".to_owned(),
            endpoint: Some(address),
            ..s3
        }),
        ..crd::Destination::default()
    };
    let destination = Destination::bucket(&wanted, &access()).unwrap();
    destination.put("shop/small", vec![1]).await.unwrap();
    let mut upload = destination.create("shop/large").unwrap();
    let large = Bytes::from(vec![7; 9 << 20]);
    upload.write(large).await.unwrap();
    upload.finish().await.unwrap();
    let mut all = std::mem::take(&mut *heard.lock().unwrap());
    for (_, headers) in &mut all {
        headers.retain(|name, _| name.starts_with("x-amz-server-side-encryption"));
    }
    all.sort();
    all
}

#[tokio::test]
async fn the_servers_own_encryption_is_asked_for_of_each_object_and_only_if_it_is_wanted() {
    use crd::ServerSideEncryption::{Aes256, Kms};
    const KIND: &str = "x-amz-server-side-encryption";
    const KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
    for (encryption, key, says) in [
        (None, None, vec![]),
        (Some(Aes256), None, vec![(KIND, "AES256")]),
        (Some(Kms), None, vec![(KIND, "aws:kms")]),
        (
            Some(Kms),
            Some("arn:aws:kms:eu-central-1:1:key/k"),
            vec![(KIND, "aws:kms"), (KEY, "arn:aws:kms:eu-central-1:1:key/k")],
        ),
    ] {
        let said = heard(crd::S3 {
            server_side_encryption: encryption,
            kms_key_id: key.map(str::to_owned),
            ..crd::S3::default()
        });
        let says: BTreeMap<_, _> = says
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let none = BTreeMap::new();
        // Of an upload in parts its beginning says it, and S3 refuses it anywhere else.
        let wanted = [
            ("POST /backups/shop/large?uploadId=u", &none),
            ("POST /backups/shop/large?uploads=", &says),
            ("PUT /backups/shop/large?partNumber=1&uploadId=u", &none),
            ("PUT /backups/shop/large?partNumber=2&uploadId=u", &none),
            ("PUT /backups/shop/small", &says),
        ];
        let said = said.await;
        let said: Vec<_> = said
            .iter()
            .map(|(what, how)| (what.as_str(), how))
            .collect();
        assert_eq!(said, wanted, "{encryption:?} {key:?}");
    }
}

#[tokio::test]
async fn the_bucket_is_part_of_the_path_or_of_the_host() {
    for (endpoint, in_host, says) in [
        (None, None, "https://backups.s3.eu-central-1.amazonaws.com/"),
        (
            None,
            Some(false),
            "https://s3.eu-central-1.amazonaws.com/backups/",
        ),
        (
            Some("http://s3.local:9000/"),
            None,
            "http://s3.local:9000/backups/",
        ),
        (
            Some("http://s3.local:9000/"),
            Some(true),
            "http://backups.s3.local:9000/",
        ),
        (
            Some("https://backups.s3.local"),
            Some(true),
            "https://backups.s3.local/",
        ),
    ] {
        let wanted = crd::S3 {
            bucket: "backups".to_owned(),
            region: Some("eu-central-1".to_owned()),
            endpoint: endpoint.map(str::to_owned),
            virtual_hosted_style: in_host,
            ..crd::S3::default()
        };
        let bucket = s3(&wanted, &access()).unwrap();
        let path = Path::from("shop/a");
        let url = bucket.signed_url(Method::GET, &path, Duration::from_mins(1));
        let url = url.await.unwrap();
        let at = format!("{says}shop/a?");
        assert!(url.as_str().starts_with(&at), "{endpoint:?}: {url}");
    }
}
