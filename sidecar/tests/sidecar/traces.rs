//! Spans, at a real OpenTelemetry collector (tests/otel), which prints whole what it takes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tonic::metadata::MetadataValue;

use crate::grpc::{client, get, set};
use crate::harness::{Place, Sidecar, free, not_run, runtime};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that runs.
struct Collector {
    child: Child,
    printed: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A span as it was printed.
#[derive(Debug, Default)]
struct Printed {
    fields: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
}

impl Printed {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// The program; nothing where it is not built, which is a failure where CI=true.
    fn program() -> Option<PathBuf> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let program = cache?.join("codexstore-tools/otel-collector");
        if program.exists() {
            return Some(program);
        }
        let why = "there is no OpenTelemetry collector: tests/setup collector compiles it";
        not_run(why);
        None
    }

    /// Starts one that takes spans there.
    fn start(place: &Place, address: SocketAddr) -> Option<Collector> {
        let program = Collector::program()?;
        let config = place.path("collector.yaml");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{address}\"}}}}}}}}\n\
             exporters: {{debug: {{verbosity: detailed, sampling_initial: 1000000}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n\
             \x20 pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let printed = place.path("collector.log");
        let log = File::create(&printed).unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(config);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let collector = Collector { child, printed };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{}", collector.text());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(collector)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.printed).unwrap()
    }

    /// All spans that were printed, those of one request by the order of their start.
    fn spans(&self) -> Vec<Printed> {
        let mut spans: Vec<Printed> = Vec::new();
        let mut resource = true;
        for line in self.text().lines() {
            if line.starts_with("ResourceSpans #") {
                resource = true;
            } else if line.starts_with("Span #") {
                resource = false;
                spans.push(Printed::default());
            }
            let Some(span) = spans.last_mut().filter(|_| !resource) else {
                continue;
            };
            if let Some((name, value)) = line
                .strip_prefix("     -> ")
                .and_then(|l| l.split_once(": "))
            {
                let (_, value) = value.trim_end_matches(')').split_once('(').unwrap();
                span.attributes.insert(name.to_owned(), value.to_owned());
            } else if let Some((name, value)) = line.split_once(" : ") {
                span.fields
                    .insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
        spans
    }

    /// The only span of that name.
    #[track_caller]
    fn span(&self, name: &str) -> Printed {
        let mut found: Vec<_> = self.spans();
        found.retain(|span| span.field("Name") == name);
        assert_eq!(found.len(), 1, "{name} in {}", self.text());
        found.remove(0)
    }
}

fn start(place: &Place, address: SocketAddr, per_million: &str) -> Sidecar {
    let s = place.spawn(command(place, address, per_million));
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    s
}

fn command(place: &Place, address: SocketAddr, per_million: &str) -> Command {
    place.command(&[
        "--otlp-endpoint",
        &format!("http://{address}"),
        "--otlp-sampling-rate-per-million",
        per_million,
        "--namespace",
        "shop",
        "--pod-name",
        "web-0",
        "--store",
        "orders",
    ])
}

/// One that samples nothing by itself, and has time at its end for what it has to send, however busy the machine is.
fn patient(place: &Place, address: SocketAddr) -> Command {
    let mut command = command(place, address, "0");
    command.args(["--shutdown-timeout", "20s"]);
    command
}

fn parent(span: &str, flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{span}-{flags}\r\n")
}

/// A number of the metrics.
fn metric(s: &Sidecar, name: &str) -> u64 {
    let text = s.get("/metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {text}"))
        .parse()
        .unwrap()
}

const SENT: &str = "codexstore_spans_sent_total";
const QUEUE_FULL: &str = "codexstore_spans_dropped_total{reason=\"queue_full\"}";
const NOT_SENT: &str = "codexstore_spans_dropped_total{reason=\"not_sent\"}";

#[test]
fn requests_of_an_apps_trace_are_spans_under_it_and_tell_no_key_or_value() {
    let (place, address) = (Place::new(), free());
    let Some(collector) = Collector::start(&place, address) else {
        return;
    };
    let mut s = place.spawn(patient(&place, address));
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    let sampled = parent(PARENT, "01");
    let put = s.request("PUT", "/v1/keys/canary-key", &sampled, b"canary-value");
    assert_eq!(put.status, 201);
    s.request("GET", "/v1/keys/canary-none", &sampled, b"");
    s.request("canary", "/canary-path?canary=canary", &sampled, b"canary");
    s.request("POST", "/v1/batch", &sampled, b"{\"canary\": 1}");
    // What the app does not trace, and what comes without a trace.
    s.request("DELETE", "/v1/keys/canary-key", &parent(PARENT, "00"), b"");
    s.request("GET", "/v1/keys?prefix=canary", "", b"");
    s.redis("SET canary-key canary-value\r\nGET canary-key\r\n");
    runtime().block_on(async {
        let mut client = client(&s).await;
        let header: MetadataValue<_> = format!("00-{TRACE}-{PARENT}-01").parse().unwrap();
        let mut request = tonic::Request::new(set("canary-key", "canary-value"));
        request.metadata_mut().insert("traceparent", header.clone());
        client.set(request).await.unwrap();
        let mut request = tonic::Request::new(get("canary-none"));
        request.metadata_mut().insert("traceparent", header);
        client.get(request).await.unwrap_err();
    });
    // The end sends what waits.
    assert!(s.terminate().success());

    let put = collector.span("PUT /v1/keys/{key}");
    assert_eq!(put.field("Trace ID"), TRACE);
    assert_eq!(put.field("Parent ID"), PARENT);
    assert_eq!(put.field("Kind"), "Server");
    assert_eq!(put.attribute("http.response.status_code"), "201");
    assert_eq!(put.attribute("codexstore.operation"), "put");
    let set = collector.span("codexstore.v1.KV/Set");
    assert_eq!(set.field("Parent ID"), PARENT);
    assert_eq!(set.attribute("rpc.response.status_code"), "OK");
    let get = collector.span("codexstore.v1.KV/Get");
    assert_eq!(get.attribute("rpc.response.status_code"), "NOT_FOUND");
    let get = collector.span("GET /v1/keys/{key}");
    assert_eq!(get.attribute("http.response.status_code"), "404");
    assert_eq!(get.field("Status code"), "Unset");
    let other = collector.span("HTTP");
    assert_eq!(other.attribute("http.request.method"), "_OTHER");
    collector.span("POST /v1/batch");
    let spans = collector.spans();
    let commits = spans.iter().filter(|span| span.field("Name") == "commit");
    let mut parents: Vec<_> = commits.map(|span| span.field("Parent ID")).collect();
    parents.sort_unstable();
    let mut writes = [put.field("ID"), set.field("ID")];
    writes.sort_unstable();
    assert_eq!(parents, writes, "each write waited for the committer");
    assert!(spans.iter().all(|span| span.field("Trace ID") == TRACE));
    assert_eq!(spans.len(), 8, "nothing else is traced");

    let text = collector.text();
    for attribute in [
        "service.name: Str(codexstore)",
        "service.version: Str(0",
        "k8s.namespace.name: Str(shop)",
        "k8s.pod.name: Str(web-0)",
        "codexstore.store.name: Str(orders)",
    ] {
        assert!(text.contains(&format!("-> {attribute}")), "{attribute}");
    }
    assert!(!text.contains("canary"), "{text}");
    assert!(!text.contains("Y2FuYXJ5"), "neither in base64: {text}");
}

/// Platforms set the standard's variables in all containers of a pod, and mean the app: nothing in them, right or wrong, keeps
/// the sidecar from starting, and its spans go where its own flag says, as it says.
#[test]
fn what_a_platform_sets_for_the_app_neither_stops_the_sidecar_nor_its_spans() {
    let (place, address) = (Place::new(), free());
    let Some(collector) = Collector::start(&place, address) else {
        return;
    };
    let mut command = patient(&place, address);
    let broken = OsStr::from_bytes(b"\xff\xfe");
    for (name, value) in [
        ("ENDPOINT", "https://nowhere.invalid:1/v1/traces"),
        ("TRACES_ENDPOINT", "nowhere"),
        ("PROTOCOL", "http/protobuf"),
        ("TRACES_PROTOCOL", "http/json"),
        ("COMPRESSION", "gzip"),
        ("TRACES_COMPRESSION", "zstd"),
        ("TIMEOUT", "soon"),
        ("TRACES_TIMEOUT", "0"),
        ("HEADERS", "no header,=,a\u{1}b=c,d=%zz"),
        ("INSECURE", "false"),
        ("CERTIFICATE", "/nowhere/ca.crt"),
        ("CLIENT_CERTIFICATE", "/nowhere/tls.crt"),
        ("CLIENT_KEY", "/nowhere/tls.key"),
    ] {
        command.env(format!("OTEL_EXPORTER_OTLP_{name}"), value);
    }
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
        ("OTEL_SERVICE_NAME", "app"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=app,k8s.pod.name"),
    ] {
        command.env(name, value);
    }
    for broken_ones in [&[][..], &["COMPRESSION", "TRACES_HEADERS", "TIMEOUT"]] {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        let known = command.get_envs();
        again.envs(known.filter_map(|(name, value)| Some((name, value?))));
        for name in broken_ones {
            again.env(format!("OTEL_EXPORTER_OTLP_{name}"), broken);
        }
        let mut s = place.spawn(again);
        s.until("it is ready", |s| s.get("/readyz").status == 200);
        s.request("GET", "/v1/keys/k", &parent(PARENT, "01"), b"");
        assert!(s.terminate().success());
    }
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{}", collector.text());
    let whole = |span: &Printed| span.attribute("http.response.status_code") == "404";
    assert!(spans.iter().all(whole), "{spans:?}");
    let text = collector.text();
    assert!(text.contains("-> service.name: Str(codexstore)"), "{text}");
    assert!(!text.contains("Str(app)"), "{text}");
}

#[test]
fn of_requests_without_a_trace_as_many_begin_one_as_was_asked_for() {
    let (place, address) = (Place::new(), free());
    let Some(collector) = Collector::start(&place, address) else {
        return;
    };
    let s = start(&place, address, "1000000");
    let before = Instant::now();
    // In a pipeline: reads, writes, and what is refused.
    let answers = s.redis(
        "SET canary-key canary-value\r\nGET canary-key\r\nINCR canary-key\r\nMGET canary-key\r\ncanary canary\r\n\
         MULTI\r\nSET canary-key canary-value\r\nEXEC\r\nAPPEND canary-key canary\r\n",
    );
    assert_eq!(answers.lines().filter(|line| *line == "+OK").count(), 3);
    assert_eq!(s.get("/v1/keys/canary-key").status, 200);
    s.get("/healthz");
    s.until("all are sent", |s| {
        let text = s.get("/metrics").text();
        assert!(
            before.elapsed() < Duration::from_secs(20),
            "{text}\n{}",
            s.log()
        );
        ["APPEND", "GET /v1/keys/{key}", "EXEC"].iter().all(|name| {
            let spans = collector.spans();
            spans.iter().any(|span| span.field("Name") == *name)
        })
    });
    let incr = collector.span("INCR");
    assert_eq!(incr.attribute("db.system.name"), "redis");
    assert_eq!(incr.attribute("db.operation.name"), "INCR");
    assert_eq!(incr.attribute("db.response.status_code"), "ERR");
    assert_eq!(incr.attribute("codexstore.operation"), "put");
    for name in ["GET", "MGET", "MULTI", "EXEC", "redis"] {
        assert_eq!(collector.span(name).field("Kind"), "Server", "{name}");
    }
    let spans = collector.spans();
    let sets = spans.iter().filter(|span| span.field("Name") == "SET");
    assert_eq!(sets.count(), 2, "one of them is only queued");
    let roots: Vec<_> = spans
        .iter()
        .filter(|span| span.field("Parent ID").is_empty())
        .map(|span| span.field("Trace ID"))
        .collect();
    let own: std::collections::BTreeSet<_> = roots.iter().collect();
    assert_eq!(own.len(), roots.len(), "each has a trace of its own");
    let health = |span: &Printed| span.attribute("codexstore.operation") == "health";
    assert!(!spans.iter().any(health), "probes have none");
    assert!(!collector.text().contains("canary"), "{}", collector.text());
    assert_eq!(metric(&s, QUEUE_FULL) + metric(&s, NOT_SENT), 0);
    // Counted once the collector has answered, which is after it printed them.
    s.until("they are counted", |s| metric(s, SENT) >= 9);
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else_and_is_told_once() {
    let (place, address) = (Place::new(), free());
    let s = start(&place, address, "1000000");
    let answers = s.redis("PING\r\n".repeat(20_000));
    assert_eq!(answers.matches("+PONG").count(), 20_000);
    assert!(metric(&s, QUEUE_FULL) > 0, "the queue is bounded");
    assert_eq!(s.put("k", b"v").status, 201);
    // More than one batch, each tried more than once.
    s.until("batches are dropped and counted", |s| {
        metric(s, NOT_SENT) > 1024
    });
    let told = |s: &Sidecar, what: &str| s.log().matches(what).count();
    assert_eq!(told(&s, "does not take spans"), 1, "{}", s.log());
    assert_eq!(metric(&s, SENT), 0);
    let Some(collector) = Collector::start(&place, address) else {
        return;
    };
    s.until("it goes on", |s| {
        s.put("k", b"v");
        metric(s, SENT) > 0
    });
    s.until("it is told", |s| told(s, "takes spans again") == 1);
    assert!(!collector.spans().is_empty());
}

#[test]
fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let place = Place::new();
    // Its backlog takes connections, and nobody answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut s = start(&place, silent.local_addr().unwrap(), "1000000");
    assert_eq!(s.put("k", b"v").status, 201);
    let begun = Instant::now();
    assert!(s.terminate().success());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let log = s.log();
    assert!(!log.contains("was not closed in time"), "{log}");
    // Where it is known to be away, nobody waits for it.
    let (place, address) = (Place::new(), free());
    let mut command = command(&place, address, "1000000");
    command.args(["--shutdown-timeout", "20s"]);
    let mut s = place.spawn(command);
    s.until("it is ready", |s| s.get("/readyz").status == 200);
    s.put("k", b"v");
    s.until("it is away", |s| s.log().contains("does not take spans"));
    // Waiting for one that is silent would take the 5 s that there are for a batch.
    let _silent = TcpListener::bind(address).unwrap();
    s.put("k", b"v");
    let begun = Instant::now();
    assert!(s.terminate().success());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn without_a_collector_there_is_no_thread_and_no_metric_for_it() {
    let threads = |s: &Sidecar| -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", s.child.id())).unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("comm")).ok()
        };
        tasks.filter_map(name).collect()
    };
    let place = Place::new();
    let s = place.ready(&[]);
    s.request("PUT", "/v1/keys/k", &parent(PARENT, "01"), b"v");
    assert!(
        !threads(&s).contains(&"spans\n".to_owned()),
        "{:?}",
        threads(&s)
    );
    assert!(!s.get("/metrics").text().contains("codexstore_spans"));
    drop(s);
    let s = start(&place, free(), "0");
    // A thread takes its name when it first runs.
    s.until("the thread is there", |s| {
        threads(s).contains(&"spans\n".to_owned())
    });
    assert_eq!(metric(&s, QUEUE_FULL), 0);
}
