//! gRPC at its bounds: few descriptors, and clients that end their side amid a call.

use codexstore_api::grpc::SetRequest;
use prost::Message;
use tonic::Code;

use crate::grpc::{client, get, refused, set};
use crate::harness::{Place, runtime, some_gave_way, with_64_descriptors};
use crate::http2::{DATA, Http2};

#[test]
fn with_64_descriptors_and_200_idle_connections_a_good_client_is_served() {
    let place = Place::new();
    let s = with_64_descriptors(&place);
    let idle: Vec<Http2> = (0..200).map(|_| Http2::connect(&s, 65_535)).collect();
    let served = async || {
        let mut kv = client(&s).await;
        kv.set(set("good", "value")).await.unwrap();
        let found = kv.get(get("good")).await.unwrap().into_inner();
        assert_eq!(found.entry.unwrap().value, "value");
    };
    runtime().block_on(async {
        for _ in 0..20 {
            served().await;
        }
        some_gave_way(&s);
        drop(idle);
        served().await;
    });
}

/// A message as gRPC frames it.
fn framed(request: &SetRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

#[test]
fn who_ends_its_side_amid_a_call_is_ended_and_leaves_nothing_behind() {
    let place = Place::new();
    let s = place.ready(&["--max-requests", "1"]);
    let (whole, cut) = (framed(&set("whole", "v")), framed(&set("cut", "v")));
    for (message, flags) in [(&whole[..], 1), (&cut[..cut.len() - 1], 0), (&cut[..0], 0)] {
        let mut half = Http2::connect(&s, 65_535);
        half.call(1, b"/codexstore.v1.KV/Set");
        half.frame(DATA, flags, 1, message);
        half.half_close();
        half.until_end();
    }
    s.until("they are gone", |s| {
        s.get("/metrics")
            .text()
            .contains("codexstore_connections 1\n")
    });
    runtime().block_on(async {
        let mut kv = client(&s).await;
        // Whoever does not wait for the answer does not know whether it was done; but never by half.
        match kv.get(get("whole")).await {
            Ok(found) => assert_eq!(found.into_inner().entry.unwrap().value, "v"),
            Err(status) => refused(&status, Code::NotFound, "not-found"),
        }
        let status = kv.get(get("cut")).await.unwrap_err();
        refused(&status, Code::NotFound, "not-found");
        kv.set(set("cut", "later")).await.unwrap();
    });
}
