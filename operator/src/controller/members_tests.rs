use super::*;
use crate::controller::fixtures::{pod, store};
use codexstore_api::status::State;
use k8s_openapi::api::core::v1::{ContainerStateRunning, ContainerStateWaiting};

fn answered(state: State) -> Option<Result<Status, Unreachable>> {
    Some(Ok(Status {
        state,
        revision: 7,
        keys: 3,
        bytes: 100,
        key_id: "20260101-abcd".into(),
        store_uid: "store-uid".into(),
        message: (state == State::KeyError).then(|| "wrong key".into()),
        ..Status::default()
    }))
}

fn report(pod: Pod, answer: Option<Result<Status, Unreachable>>) -> MemberStatus {
    Member {
        pod: Arc::new(pod),
        answer,
    }
    .report(&store(), "1.0")
}

#[test]
fn a_member_is_what_it_says_it_is() {
    let ready = report(pod("web-0"), answered(State::Ready));
    assert!(ready.ready && !ready.outdated);
    assert_eq!((ready.keys, ready.revision), (Some(3), Some(7)));
    assert_eq!(ready.message, None);
    let failed = report(pod("web-0"), answered(State::KeyError));
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
        report(pod, answered(State::Ready))
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
    let Some(Ok(mut status)) = answered(State::Ready) else {
        unreachable!()
    };
    status.store_uid = "an-older-uid".into();
    assert!(report(pod("web-0"), Some(Ok(status))).outdated);
}

#[test]
fn a_pod_that_ends_is_not_ready() {
    let mut ending = pod("web-0");
    ending.metadata.deletion_timestamp = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
    );
    let member = report(ending, answered(State::Ready));
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
