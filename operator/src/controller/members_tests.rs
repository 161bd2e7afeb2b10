use super::*;
use crate::controller::fixtures::{pod, store};
use codexstore_api::status::State;
use k8s_openapi::api::core::v1::{ContainerStateRunning, ContainerStateWaiting};

fn answered(state: State) -> Status {
    Status {
        state,
        revision: 7,
        keys: 3,
        bytes: 100,
        key_id: "20260101-abcd".into(),
        store_uid: "store-uid".into(),
        message: (state == State::KeyError).then(|| "wrong key".into()),
        ..Status::default()
    }
}

fn said(pod: Pod, status: Status) -> MemberStatus {
    report(pod, Some(Ok(status)))
}

fn report(pod: Pod, answer: Option<Result<Status, Unreachable>>) -> MemberStatus {
    Member {
        pod: Arc::new(pod),
        answer,
    }
    .report(&store(), "1.0", &[])
}

#[test]
fn a_member_is_what_it_says_it_is() {
    let ready = said(pod("web-0"), answered(State::Ready));
    assert!(ready.ready && !ready.outdated);
    assert_eq!((ready.keys, ready.revision), (Some(3), Some(7)));
    assert_eq!(ready.message, None);
    let failed = said(pod("web-0"), answered(State::KeyError));
    assert!(!failed.ready);
    assert_eq!(failed.state.as_deref(), Some("KeyError"));
    assert_eq!(failed.message.as_deref(), Some("wrong key"));
}

#[test]
fn an_unreachable_member_counts_as_ready_while_its_probe_succeeds() {
    let away = || Some(Err(Unreachable("its admin port is closed".into())));
    let mut probed = pod("web-0");
    set_sidecar(&mut probed, true, running());
    let member = report(probed, away());
    assert!(member.ready);
    assert_eq!(member.state.as_deref(), Some(UNREACHABLE));
    let mut silent = pod("web-0");
    set_sidecar(&mut silent, false, running());
    assert!(!report(silent, away()).ready);
}

#[tokio::test]
async fn without_credentials_a_running_member_is_unreachable_and_not_pending() {
    let mut probed = pod("web-0");
    set_sidecar(&mut probed, true, running());
    let pods = vec![Arc::new(probed), Arc::new(pod("web-1"))];
    let poller = Poller::new(1, Duration::from_secs(1));
    let all = poller.ask(pods, Err("no certificates")).await;
    let told: Vec<_> = all.iter().map(|m| m.report(&store(), "1.0", &[])).collect();
    assert!(told[0].ready);
    assert_eq!(told[0].state.as_deref(), Some(UNREACHABLE));
    assert!(
        told[0]
            .message
            .as_ref()
            .unwrap()
            .contains("no certificates")
    );
    assert_eq!(told[1].state.as_deref(), Some(PENDING));
}

#[test]
fn a_waiting_sidecar_is_pending_with_its_reason() {
    let mut waiting = pod("web-0");
    let state = ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some("ContainerCreating".into()),
            message: None,
        }),
        ..ContainerState::default()
    };
    set_sidecar(&mut waiting, false, state);
    assert!(!has_started(&waiting));
    let member = report(waiting, None);
    assert_eq!(member.state.as_deref(), Some(PENDING));
    assert!(member.message.unwrap().contains("ContainerCreating"));
}

#[test]
fn older_specs_operators_and_stores_are_outdated() {
    let outdated = |change: fn(&mut Pod)| {
        let mut pod = pod("web-0");
        change(&mut pod);
        said(pod, answered(State::Ready))
    };
    assert!(!outdated(|_| {}).outdated);
    let by_spec = outdated(|pod| {
        pod.annotations_mut()
            .insert(names::SPEC_HASH_ANNOTATION.into(), "old".into());
    });
    assert!(by_spec.outdated && by_spec.message.unwrap().contains("older spec"));
    let by_operator = outdated(|pod| {
        pod.annotations_mut()
            .insert(names::INJECTED_BY_ANNOTATION.into(), "0.9".into());
    });
    assert!(by_operator.outdated && by_operator.message.unwrap().contains("operator 0.9"));
    let mut status = answered(State::Ready);
    status.store_uid = "an-older-uid".into();
    assert!(said(pod("web-0"), status).outdated);
}

#[test]
fn a_pod_that_ends_is_not_ready() {
    let mut ending = pod("web-0");
    ending.metadata.deletion_timestamp = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
    );
    let member = said(ending, answered(State::Ready));
    assert!(!member.ready);
    assert_eq!(member.state.as_deref(), Some(TERMINATING));
}

#[test]
fn a_restarted_sidecar_has_started() {
    let mut pod = pod("web-0");
    set_sidecar(&mut pod, false, running());
    assert!(has_started(&pod));
}

fn running() -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning::default()),
        ..ContainerState::default()
    }
}

fn set_sidecar(pod: &mut Pod, ready: bool, state: ContainerState) {
    let status = pod.status.get_or_insert_default();
    status.init_container_statuses = Some(vec![ContainerStatus {
        name: names::CONTAINER.into(),
        ready,
        state: Some(state),
        ..ContainerStatus::default()
    }]);
}

mod over_the_wire {
    //! Asking a member as it is asked in a cluster: TCP, TLS 1.3 with certificates both ways, HTTP.

    use super::*;
    use crate::controller::fake_api::FakeApi;
    use crate::controller::fake_member::acceptor;
    use crate::controller::tls::{self, Certificates};
    use crate::metrics::Metrics;
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::{Response, service::service_fn};
    use k8s_openapi::api::core::v1::{PodStatus, Secret};
    use tokio::net::TcpListener;

    async fn made(api: &FakeApi, store: &CodexStore) -> (Credentials, Secret) {
        let made = tls::ensure(&api.client, store, &Metrics::default())
            .await
            .unwrap();
        let Certificates::Ready(credentials) = made else {
            unreachable!("no certificates: {made:?}")
        };
        let path = "/api/v1/namespaces/shop/secrets/cxs-orders-server";
        (
            credentials,
            serde_json::from_value(api.get(path).unwrap()).unwrap(),
        )
    }

    /// A member's admin listener with the certificate in `secret`, which answers `body`; returns its pod.
    async fn member(secret: &Secret, body: Vec<u8>) -> Pod {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(secret);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |_: Request<Incoming>| {
                let response = Response::new(Full::new(Bytes::from(body.clone())));
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        let mut pod = pod("web-0");
        let inits = pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
        inits[0].ports.as_mut().unwrap()[0].container_port = port.into();
        pod.status = Some(PodStatus {
            pod_ip: Some("127.0.0.1".into()),
            ..PodStatus::default()
        });
        set_sidecar(&mut pod, true, running());
        pod
    }

    async fn ask(pod: Pod, credentials: &Credentials) -> Result<Status, String> {
        let poller = Poller::new(1, Duration::from_secs(5));
        let mut all = poller.ask(vec![Arc::new(pod)], Ok(credentials)).await;
        all.remove(0)
            .answer
            .unwrap()
            .map_err(|Unreachable(why)| why)
    }

    fn body(pod_uid: &str) -> Vec<u8> {
        let status = Status {
            pod_uid: pod_uid.into(),
            ..answered(State::Ready)
        };
        serde_json::to_vec(&status).unwrap()
    }

    #[tokio::test]
    async fn a_member_of_the_store_answers() {
        let api = FakeApi::start().await;
        let (credentials, secret) = made(&api, &store()).await;
        let pod = member(&secret, body("web-0-uid")).await;
        assert_eq!(ask(pod, &credentials).await.unwrap().revision, 7);
    }

    #[tokio::test]
    async fn another_pod_at_the_address_is_not_taken_for_the_member() {
        let api = FakeApi::start().await;
        let (credentials, secret) = made(&api, &store()).await;
        let pod = member(&secret, body("another-uid")).await;
        assert!(
            ask(pod, &credentials)
                .await
                .unwrap_err()
                .contains("belongs to another pod")
        );
    }

    #[tokio::test]
    async fn a_member_of_another_store_is_not_believed() {
        let (api, other) = (FakeApi::start().await, FakeApi::start().await);
        let (credentials, _) = made(&api, &store()).await;
        let (_, secret) = made(&other, &store()).await;
        let pod = member(&secret, body("web-0-uid")).await;
        assert!(ask(pod, &credentials).await.unwrap_err().contains("TLS"));
    }

    #[tokio::test]
    async fn an_endless_or_silent_answer_is_cut_off() {
        let api = FakeApi::start().await;
        let (credentials, secret) = made(&api, &store()).await;
        let pod = member(&secret, vec![b' '; MAX_STATUS + 1]).await;
        assert!(ask(pod, &credentials).await.is_err());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut pod = member(&secret, body("web-0-uid")).await;
        let inits = pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
        let port = silent.local_addr().unwrap().port();
        inits[0].ports.as_mut().unwrap()[0].container_port = port.into();
        let poller = Poller::new(1, Duration::from_millis(100));
        let all = poller.ask(vec![Arc::new(pod)], Ok(&credentials)).await;
        let Some(Err(Unreachable(why))) = &all[0].answer else {
            unreachable!("it answered")
        };
        assert!(why.contains("NetworkPolicy"), "{why}");
    }
}
