//! The standard health service: whether the store is open.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use codexstore_api::grpc::kv_server::SERVICE_NAME;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as Service;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::engine::Engine;
use crate::http::App;

/// How often a watch looks.
const EVERY: Duration = Duration::from_secs(1);

/// The service.
pub struct Health<E>(pub Arc<App<E>>);

/// The state of the whole process, for the empty name, or of the one service that has a state.
fn state<E: Engine>(app: &App<E>, service: &str) -> ServingStatus {
    let known = service.is_empty() || service == SERVICE_NAME;
    match known.then(|| app.engine.health().state.is_ready()) {
        None => ServingStatus::ServiceUnknown,
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl<E: Engine> Service for Health<E> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match state(&self.0, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no service of that name")),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (app, service) = (Arc::clone(&self.0), request.into_inner().service);
        let (states, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut told = None;
            let mut tick = tokio::time::interval(EVERY);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = states.closed() => return,
                }
                let now = state(&app, &service);
                if told.replace(now) != Some(now) && states.send(Ok(response(now))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
