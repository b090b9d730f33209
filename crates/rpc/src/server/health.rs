//! `grpc.health.v1`, answered by what `/readyz` asks, and reflection.

use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use gozon_http::Health;
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    FILE_DESCRIPTOR_SET, HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as HealthService, HealthServer},
};
use tonic_reflection::server::Builder;

use crate::proto::DESCRIPTORS;

/// How often a watch looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Health and reflection of a process that serves `service`.
pub(super) fn routes(service: &'static str, health: Health) -> Router {
    let health = HealthServer::new(Server { service, health });
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name("grpc.health.v1.Health")
    };
    let mut routes = Router::new().route_service("/grpc.health.v1.Health/{method}", health);
    // Some clients ask for the older one only.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        routes = routes
            .route_service("/grpc.reflection.v1.ServerReflection/{method}", v1)
            .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", v1alpha);
    }
    routes
}

#[derive(Clone)]
struct Server {
    service: &'static str,
    health: Health,
}

impl Server {
    /// `None` if this process has no such service; the empty name means the process.
    async fn status(&self, service: &str) -> Option<ServingStatus> {
        if !service.is_empty() && service != self.service {
            return None;
        }
        let ready = self.health.missing().await.is_empty();
        Some(if ready { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[async_trait]
impl HealthService for Server {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.get_ref().service).await;
        let unknown = || Status::not_found("no such service");
        Ok(Response::new(response(status.ok_or_else(unknown)?)))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The status now and whenever it changes.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (server, service) = (self.clone(), request.into_inner().service);
        let statuses = stream::unfold(None, move |last: Option<ServingStatus>| {
            let (server, service) = (server.clone(), service.clone());
            async move {
                loop {
                    let status = server.status(&service).await;
                    let status = status.unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(status) {
                        return Some((Ok(response(status)), Some(status)));
                    }
                    sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(statuses.boxed()))
    }
}
