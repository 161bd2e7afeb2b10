//! Nothing that belongs to the user is ever told to anyone else.

use crate::harness::Place;

#[test]
fn keys_and_values_are_in_no_log_metric_status_error_or_file() {
    let place = Place::new();
    let secret = b"canary-secret-32-bytes-long-xxxx";
    place.keyring("id-1", &[("id-1", secret)]);
    let mut s = place.ready(&["--log-level", "trace"]);
    let mut told = String::new();
    let mut tell = |answer: crate::harness::Answer| {
        told.push_str(&answer.head);
        told.push_str(&answer.text());
    };
    tell(s.put("canary-key", b"canary-value"));
    tell(s.request(
        "PUT",
        "/v1/keys/canary-key",
        "If-None-Match: *\r\n",
        b"canary-value",
    ));
    tell(s.request(
        "PUT",
        "/v1/keys/canary-key?canary-parameter=1",
        "",
        b"canary-value",
    ));
    tell(s.put("canary-key%zz", b"canary-value"));
    tell(s.get("/v1/keys/canary-none"));
    tell(s.get("/canary-path"));
    for body in [
        r#"{"operations":[{"op":"canary-op","key":"canary-key"}]}"#,
        r#"{"operations":[{"op":"set","key":"canary-key","canary-field":1}]}"#,
        r#"{"operations":[{"op":"set","key":"canary-key","text":"canary-value"}],"preconditions":[{"key":"canary-key","absent":true}]}"#,
        "canary-value",
    ] {
        tell(s.request("POST", "/v1/batch", "", body.as_bytes()));
    }
    tell(s.send(b"canary-garbage canary-value\r\n\r\n"));
    tell(s.get("/metrics"));
    tell(s.get("/v1/status"));
    s.get("/v1/keys?prefix=canary&values=true");
    s.request("DELETE", "/v1/keys?prefix=canary", "", b"");
    s.put("canary-key", &b"canary-value".repeat(100));
    s.terminate();
    assert!(!told.contains("canary"), "{told}");
    let log = s.log();
    assert!(
        log.contains("request") && log.lines().count() > 20,
        "there is a log"
    );
    let line = log.lines().find(|line| line.contains("canary"));
    // hyper's and h2's own traces name what they parse; ours never do.
    assert!(line.is_none(), "{}", line.unwrap_or_default());
    for (name, content) in place.contents() {
        assert!(!content.windows(6).any(|w| w == b"canary"), "{name}");
    }
}
