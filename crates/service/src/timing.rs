//! What a person with a browser's tools open sees of the time in the database.

use axum::{extract::Request, middleware::Next, response::Response};
use gozon_store::with_database_time;

/// A layer around a service's routes that adds the request's time in the database to
/// `Server-Timing`.
pub async fn database_timing(request: Request, next: Next) -> Response {
    let (mut response, waited) = with_database_time(next.run(request)).await;
    if !waited.is_zero() {
        gozon_http::add_timing(response.headers_mut(), "database", waited);
    }
    response
}
