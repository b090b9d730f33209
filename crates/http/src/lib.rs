//! What REST needs: errors as problem+json, who the user is, request bodies, pages, health, telemetry
//! and serving. It knows no database, so that the gateway is built without one.

mod answer;
mod edge;
mod fields;
mod health;
mod http2;
mod idempotency_key;
mod page;
mod problem;
mod refusal;
mod request_metrics;
mod serve;
mod telemetry;
mod user;

pub use answer::{Answer, Answered, REPLAYED, Reply};
pub use edge::{Edge, REQUEST_ID, RequestContext, RestStatus, add_timing, edge};
pub use fields::{BODY_LIMIT, FieldIssue, Fields};
pub use health::{Health, health_routes, openapi_route};
pub use idempotency_key::{IDEMPOTENCY_KEY, IdempotencyKey};
pub use page::{Page, PageQuery, Params};
pub use problem::{FieldError, PROBLEM_JSON, Problem};
pub use serve::{Limits, serve};
pub use telemetry::{Logs, Metrics};
pub use user::CurrentUser;
