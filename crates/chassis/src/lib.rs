//! What the HTTP side of every service shares: errors as problem+json, who the user is, request
//! bodies, pages, idempotency keys, group-committed writes, health, telemetry and serving.

mod answer;
mod edge;
mod fields;
mod health;
mod idempotency;
mod page;
mod patience;
mod problem;
mod serve;
mod tasks;
mod telemetry;
mod upkeep;
mod user;
mod writer;

pub use answer::{Answer, Answered};
pub use edge::{Edge, REQUEST_ID, RequestContext, edge, observed};
pub use fields::{BODY_LIMIT, FieldIssue, Fields};
pub use health::{Health, attached, health_routes, openapi_route, service_health};
pub use idempotency::{EXPIRING, IdempotencyKey, MIGRATIONS};
pub use page::{Page, PageQuery, Params};
pub use problem::{FieldError, PROBLEM_JSON, Problem};
pub use serve::{Limits, serve};
pub use tasks::{Stage, Tasks};
pub use telemetry::{Logs, Metrics};
pub use upkeep::upkeep;
pub use user::CurrentUser;
pub use writer::{Decided, UseCase, Writer};
